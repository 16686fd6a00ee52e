//! The sandbox's /etc/resolv.conf, made from the host's as BuildKit makes it (semantics fact 45), and the
//! nameservers that kiln itself asks on a sandbox's behalf.
//!
//! Invariants:
//! - parsing never fails: what is not understood is carried over, as libc's resolvers ignore it;
//! - a file for a private network names no server that only exists on the host (loopback, or an address with
//!   an interface's name in it).

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketType};

use super::{HOST_GATEWAY_V4, NetworkMode};

/// The host's file.
pub const HOST_PATH: &str = "/etc/resolv.conf";
/// The file in which systemd-resolved lists the servers behind its stub.
pub const SYSTEMD_PATH: &str = "/run/systemd/resolve/resolv.conf";

const SYSTEMD_STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// Used when the host names no server that a private network could use; the same as docker's.
const DEFAULT_SERVERS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844)),
];
const DNS_PORT: u16 = 53;
/// Largest file that is read; libc's resolvers use three servers and six search domains.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why the host's file, or a value of `--dns`, `--dns-search`, `--dns-option`, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResolvError {
    /// The file is there and cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system call said.
        #[source]
        source: io::Error,
    },
    /// A `--dns` that is no address.
    #[error("`{value}` is not the IP address of a nameserver")]
    Server {
        /// The value as given.
        value: String,
    },
    /// A `--dns-search` or `--dns-option` that would break the file.
    #[error("`{value}` cannot be written to resolv.conf: it is empty or has white space in it")]
    Word {
        /// The value as given.
        value: String,
    },
}

/// A nameserver: its address and, for a link-local one, the interface it is reached through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nameserver {
    /// The address.
    pub ip: IpAddr,
    /// Name or number of the interface, after the `%`.
    pub zone: Option<String>,
}

impl Nameserver {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('%') {
            None => Some(Self { ip: text.parse().ok()?, zone: None }),
            Some((ip, zone)) if !zone.is_empty() => {
                let ip: Ipv6Addr = ip.parse().ok()?;
                Some(Self { ip: ip.into(), zone: Some(zone.to_owned()) })
            }
            Some(_) => None,
        }
    }

    fn is_usable_elsewhere(&self) -> bool {
        self.zone.is_none() && !self.ip.to_canonical().is_loopback()
    }

    /// Where to send queries, from the host's namespace. `None` when the interface does not exist.
    fn socket_address(&self) -> Option<SocketAddr> {
        match (self.ip, &self.zone) {
            (IpAddr::V6(ip), Some(zone)) => {
                let scope = interface_index(zone)?;
                Some(SocketAddrV6::new(ip, DNS_PORT, 0, scope).into())
            }
            (ip, _) => Some(SocketAddr::new(ip, DNS_PORT)),
        }
    }
}

/// A parsed resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// In the order in which they are asked.
    pub nameservers: Vec<Nameserver>,
    /// Domains that short names are looked up in.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
    /// Lines with other keywords, carried over.
    pub other: Vec<String>,
}

/// Values of `--dns`, `--dns-search` and `--dns-option`. An empty list leaves the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsOverrides {
    /// `--dns`.
    pub nameservers: Vec<IpAddr>,
    /// `--dns-search`; a single `.` means none.
    pub search: Vec<String>,
    /// `--dns-option`.
    pub options: Vec<String>,
}

impl DnsOverrides {
    /// Checks the values of the three flags.
    pub fn parse(dns: &[String], search: &[String], options: &[String]) -> Result<Self, ResolvError> {
        let server = |value: &String| value.parse().map_err(|_| ResolvError::Server { value: value.clone() });
        let word = |value: &String| {
            let bad = value.is_empty() || value.chars().any(|c| c.is_whitespace() || c.is_control());
            if bad { Err(ResolvError::Word { value: value.clone() }) } else { Ok(value.clone()) }
        };
        Ok(Self {
            nameservers: dns.iter().map(server).collect::<Result<_, _>>()?,
            search: search.iter().map(word).collect::<Result<_, _>>()?,
            options: options.iter().map(word).collect::<Result<_, _>>()?,
        })
    }
}

/// What the host says about DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostDns {
    /// /etc/resolv.conf; empty where there is none.
    pub etc: ResolvConf,
    /// systemd-resolved's file, where [`HostDns::etc`] names only its stub and the file exists.
    pub systemd: Option<ResolvConf>,
}

impl HostDns {
    /// Reads the host's files. A missing one is an empty one.
    pub fn load() -> Result<Self, ResolvError> {
        Self::load_from(Path::new(HOST_PATH), Path::new(SYSTEMD_PATH))
    }

    fn load_from(etc: &Path, systemd: &Path) -> Result<Self, ResolvError> {
        let etc = read(etc)?.unwrap_or_default();
        let stub_only = matches!(etc.nameservers.as_slice(), [only] if only.ip == SYSTEMD_STUB);
        let systemd = if stub_only { read(systemd)? } else { None };
        Ok(Self { etc, systemd })
    }

    /// The file of a sandbox.
    pub fn for_sandbox(&self, mode: NetworkMode, overrides: &DnsOverrides) -> ResolvConf {
        let on_host = mode == NetworkMode::Host;
        let mut conf = if on_host { &self.etc } else { self.systemd.as_ref().unwrap_or(&self.etc) }.clone();
        if !overrides.search.is_empty() {
            conf.search = overrides.search.iter().filter(|domain| *domain != ".").cloned().collect();
        }
        if !overrides.options.is_empty() {
            conf.options.clone_from(&overrides.options);
        }
        if !overrides.nameservers.is_empty() {
            // The host's loopback is out of reach, but kiln asks whichever server was named, so any address will do that
            // leads out of the sandbox.
            let private = matches!(mode, NetworkMode::Private { .. });
            let outward =
                |ip: &IpAddr| if private && ip.is_loopback() { HOST_GATEWAY_V4.into() } else { *ip };
            conf.nameservers = plain(&overrides.nameservers.iter().map(outward).collect::<Vec<_>>());
            return conf;
        }
        if !on_host {
            conf.nameservers.retain(Nameserver::is_usable_elsewhere);
        }
        // Whichever server is asked, kiln asks the host's; but the sandbox must be able to send the question.
        let reachable = |ip: &IpAddr| mode != NetworkMode::Private { ipv6: false } || ip.is_ipv4();
        conf.nameservers.retain(|server| reachable(&server.ip));
        if conf.nameservers.is_empty() {
            conf.nameservers = plain(&DEFAULT_SERVERS);
        }
        conf
    }

    /// The servers that kiln asks for a sandbox: those of `--dns`, else the host's own, with its stub if
    /// it has one (kiln asks from the host's namespace), else the defaults.
    pub fn upstream_servers(&self, overrides: &DnsOverrides) -> Vec<SocketAddr> {
        let chosen = if overrides.nameservers.is_empty() {
            self.etc.nameservers.clone()
        } else {
            plain(&overrides.nameservers)
        };
        let addresses: Vec<SocketAddr> = chosen.iter().filter_map(Nameserver::socket_address).collect();
        if addresses.is_empty() {
            DEFAULT_SERVERS.map(|ip| SocketAddr::new(ip, DNS_PORT)).to_vec()
        } else {
            addresses
        }
    }
}

impl ResolvConf {
    /// Reads the form described in resolv.conf(5). The last `search` or `domain` wins, options add up.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut conf = Self::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            let mut words = line.split_whitespace();
            let Some(keyword) = words.next().filter(|_| !line.starts_with(['#', ';'])) else { continue };
            let values: Vec<String> = words.map(str::to_owned).collect();
            match (keyword, values.as_slice()) {
                ("nameserver" | "domain" | "search" | "options", []) => {}
                ("nameserver", [server, ..]) => conf.nameservers.extend(Nameserver::parse(server)),
                ("domain" | "search", _) => conf.search = values,
                ("options", _) => conf.options.extend(values),
                _ => conf.other.push(line.to_owned()),
            }
        }
        conf
    }

    /// The same with one nameserver in place of all.
    #[must_use]
    pub fn with_server(mut self, ip: IpAddr) -> Self {
        self.nameservers = plain(&[ip]);
        self
    }

    /// The file's text, in the order that docker writes.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for server in &self.nameservers {
            let _ = match &server.zone {
                Some(zone) => writeln!(text, "nameserver {}%{zone}", server.ip),
                None => writeln!(text, "nameserver {}", server.ip),
            };
        }
        for (keyword, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                let _ = writeln!(text, "{keyword} {}", values.join(" "));
            }
        }
        for line in &self.other {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

fn plain(addresses: &[IpAddr]) -> Vec<Nameserver> {
    addresses.iter().map(|ip| Nameserver { ip: *ip, zone: None }).collect()
}

fn read(path: &Path) -> Result<Option<ResolvConf>, ResolvError> {
    let fail = |source| ResolvError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(fail)?;
    Ok(Some(ResolvConf::parse(&bytes)))
}

fn interface_index(zone: &str) -> Option<u32> {
    if let Ok(index) = zone.parse() {
        return Some(index);
    }
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(socket, zone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: NetworkMode = NetworkMode::Private { ipv6: false };

    fn host(etc: &str, systemd: Option<&str>) -> HostDns {
        let folder = tempfile::tempdir().expect("temp dir");
        let (etc_path, systemd_path) = (folder.path().join("etc"), folder.path().join("systemd"));
        std::fs::write(&etc_path, etc).expect("write");
        if let Some(text) = systemd {
            std::fs::write(&systemd_path, text).expect("write");
        }
        HostDns::load_from(&etc_path, &systemd_path).expect("load")
    }

    fn sandbox_text(host: &HostDns, mode: NetworkMode) -> String {
        host.for_sandbox(mode, &DnsOverrides::default()).to_text()
    }

    const DEFAULTS: &str = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n\
        nameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n";

    #[test]
    fn everything_but_comments_is_carried_over() {
        let text = "# c\n; c\n\nnameserver 10.0.0.1 extra\nnameserver bad\nnameserver\ndomain old\n\
            search a.example b.example\noptions ndots:2\noptions edns0\nsortlist 1.2.3.4\n  nameserver 10.0.0.2\n";
        assert_eq!(
            sandbox_text(&host(text, None), PRIVATE),
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:2 edns0\n\
             sortlist 1.2.3.4\n"
        );
    }

    #[test]
    fn servers_of_the_host_only_are_dropped() {
        let some =
            host("nameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 9.9.9.9\n", None);
        assert_eq!(sandbox_text(&some, PRIVATE), "nameserver 9.9.9.9\n");
        assert_eq!(
            sandbox_text(&host("nameserver 127.0.0.1\nsearch x\n", None), PRIVATE),
            format!("{DEFAULTS}search x\n")
        );
        assert_eq!(sandbox_text(&host("", None), PRIVATE), DEFAULTS);
    }

    #[test]
    fn systemd_stub_is_looked_through() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let resolved = host(stub, Some("nameserver 192.168.1.1\nsearch lan\n"));
        assert_eq!(sandbox_text(&resolved, PRIVATE), "nameserver 192.168.1.1\nsearch lan\n");
        assert_eq!(
            sandbox_text(&resolved, NetworkMode::Host),
            "nameserver 127.0.0.53\nsearch lan\noptions edns0 trust-ad\n"
        );
        let servers = resolved.upstream_servers(&DnsOverrides::default());
        assert_eq!(servers, ["127.0.0.53:53".parse().expect("address")]);
        let two = host("nameserver 127.0.0.53\nnameserver 1.1.1.1\n", Some("nameserver 192.168.1.1\n"));
        assert_eq!(sandbox_text(&two, PRIVATE), "nameserver 1.1.1.1\n");
        assert_eq!(
            sandbox_text(&host(stub, None), PRIVATE),
            format!("{DEFAULTS}search lan\noptions edns0 trust-ad\n")
        );
    }

    #[test]
    fn overrides_win() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let overrides =
            DnsOverrides::parse(&words(&["127.0.0.1", "::2"]), &words(&["."]), &words(&["ndots:5"]))
                .expect("valid");
        let conf = host("nameserver 1.1.1.1\nsearch a\noptions b\n", None);
        assert_eq!(
            conf.for_sandbox(PRIVATE, &overrides).to_text(),
            "nameserver 192.0.0.1\nnameserver ::2\noptions ndots:5\n"
        );
        assert_eq!(conf.upstream_servers(&overrides).len(), 2);
        assert!(DnsOverrides::parse(&words(&["dns.example"]), &[], &[]).is_err());
        assert!(DnsOverrides::parse(&[], &words(&["a b"]), &[]).is_err());
        assert!(DnsOverrides::parse(&[], &[], &words(&["a\nnameserver"])).is_err());
    }

    #[test]
    fn upstream_servers_fall_back_to_defaults_and_know_zones() {
        assert_eq!(host("", None).upstream_servers(&DnsOverrides::default()).len(), 4);
        let zoned = host("nameserver fe80::1%7\nnameserver fe80::1%no-such-interface\n", None);
        let servers = zoned.upstream_servers(&DnsOverrides::default());
        assert_eq!(servers, [SocketAddr::from(SocketAddrV6::new("fe80::1".parse().expect("ip"), 53, 0, 7))]);
    }
}
