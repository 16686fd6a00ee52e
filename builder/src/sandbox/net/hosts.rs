//! The sandbox's /etc/hosts (semantics fact 44) and the values of `--add-host`.
//!
//! Invariants:
//! - the text depends only on the arguments;
//! - nothing that came from the user can add a line of its own: names are checked before they are written.

use std::fmt::Write as _;
use std::net::IpAddr;

/// What `host-gateway` looks like in a value.
const HOST_GATEWAY: &str = "host-gateway";
/// Longest host name (RFC 1123, section 2.1).
const MAX_NAME_BYTES: usize = 255;

/// Why a value of `--add-host`, or a host name, was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostsError {
    /// Neither `=` nor `:` in it.
    #[error("`{value}` is not a host and its address, write `name:ip` or `name=ip`")]
    NoSeparator {
        /// The value as given.
        value: String,
    },
    /// The part before the separator.
    #[error("`{value}` has no valid host name before its address")]
    Name {
        /// The value as given.
        value: String,
    },
    /// The part after the separator.
    #[error("`{address}` in `{value}` is not an IP address, give one or `host-gateway`")]
    Address {
        /// The value as given.
        value: String,
        /// The part that is wrong.
        address: String,
    },
    /// `host-gateway` where nothing leads to the host.
    #[error("`{name}` cannot be given the address `host-gateway`: this network has no way to the host")]
    NoGateway {
        /// The host name.
        name: String,
    },
}

/// The address of an extra host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtraAddress {
    /// As given.
    Ip(IpAddr),
    /// The address by which the sandbox reaches the host.
    HostGateway,
}

/// One value of `--add-host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: ExtraAddress,
}

impl ExtraHost {
    /// Reads `name:ip`, `name=ip` and `name:[ip]`, with `host-gateway` for an address as docker has it.
    pub fn parse(value: &str) -> Result<Self, HostsError> {
        // `=` first: a name has none, while `:` is part of IPv6 addresses.
        let (name, address) = value
            .split_once('=')
            .or_else(|| value.split_once(':'))
            .ok_or_else(|| HostsError::NoSeparator { value: value.to_owned() })?;
        if !is_host_name(name) {
            return Err(HostsError::Name { value: value.to_owned() });
        }
        let address = if address == HOST_GATEWAY {
            ExtraAddress::HostGateway
        } else {
            let bracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let ip = match bracketed {
                Some(inner) => inner.parse().ok().filter(IpAddr::is_ipv6),
                None => address.parse().ok(),
            };
            ExtraAddress::Ip(ip.ok_or_else(|| HostsError::Address {
                value: value.to_owned(),
                address: address.to_owned(),
            })?)
        };
        Ok(Self { name: name.to_owned(), address })
    }
}

/// The content of /etc/hosts: the sandbox's own names, then the extra hosts in the order given.
///
/// `gateway` is what `host-gateway` stands for; the same address must be the policy's `host_gateway`.
pub fn hosts_file(
    hostname: &str,
    extra: &[ExtraHost],
    gateway: Option<IpAddr>,
) -> Result<String, HostsError> {
    if !is_host_name(hostname) {
        return Err(HostsError::Name { value: hostname.to_owned() });
    }
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra {
        if !is_host_name(&host.name) {
            return Err(HostsError::Name { value: host.name.clone() });
        }
        let ip = match host.address {
            ExtraAddress::Ip(ip) => ip,
            ExtraAddress::HostGateway => {
                gateway.ok_or_else(|| HostsError::NoGateway { name: host.name.clone() })?
            }
        };
        let _ = writeln!(text, "{ip}\t{}", host.name);
    }
    Ok(text)
}

/// Letters, digits, `-`, `_` and `.`: what resolvers take, and nothing that ends a field or a line.
fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || byte >= 0x80)
        && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_docker_reads_them() {
        let ip = |text: &str| ExtraAddress::Ip(text.parse().expect("address"));
        for (value, name, address) in [
            ("a:10.0.0.1", "a", ip("10.0.0.1")),
            ("a.b-c_d=10.0.0.1", "a.b-c_d", ip("10.0.0.1")),
            ("a:::1", "a", ip("::1")),
            ("a:2001:db8::2", "a", ip("2001:db8::2")),
            ("a=[::1]", "a", ip("::1")),
            ("a:[2001:db8::2]", "a", ip("2001:db8::2")),
            ("a:host-gateway", "a", ExtraAddress::HostGateway),
            ("a=host-gateway", "a", ExtraAddress::HostGateway),
        ] {
            assert_eq!(ExtraHost::parse(value), Ok(ExtraHost { name: name.to_owned(), address }), "{value}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        for value in [
            "nohost",
            "",
            ":1.2.3.4",
            "=1.2.3.4",
            "a:",
            "a:1.2.3",
            "a:1.2.3.4.5",
            "a:[1.2.3.4]",
            "a:[::1",
            "a b:1.2.3.4",
            "a\nb:1.2.3.4",
            "a:gateway",
            "a=1.2.3.4\n5.6.7.8 b",
            "#a:1.2.3.4",
            "a\u{2028}:1.2.3.4",
        ] {
            let error = ExtraHost::parse(value).expect_err(value);
            assert!(error.to_string().contains(value), "{error}");
        }
    }

    #[test]
    fn file_has_own_names_first() {
        let extra =
            ["db:10.0.0.5", "me:host-gateway", "six=::5"].map(|v| ExtraHost::parse(v).expect("valid"));
        let gateway = Some(IpAddr::from([192, 0, 0, 1]));
        assert_eq!(
            hosts_file("buildkitsandbox", &extra, gateway).as_deref(),
            Ok("127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                10.0.0.5\tdb\n192.0.0.1\tme\n::5\tsix\n")
        );
        assert_eq!(hosts_file("h", &extra, None), Err(HostsError::NoGateway { name: "me".to_owned() }));
        assert!(hosts_file("a b", &[], None).is_err());
    }
}
