//! The network of a RUN (design 'Sandbox / Network', engine-facts 2c).
//!
//! A RUN has a network namespace of its own with nothing but `lo` in it. In the private mode nftables rules
//! inside that namespace redirect outgoing TCP and DNS to sockets that are made inside it and handed to kiln,
//! which connects to the real destination from the host's namespace ([`proxy`]) and copies in both directions.
//! The kernel's TCP is on both sides and no privilege on the host is needed.
//!
//! Invariants:
//! - [`configure_namespace`] runs in the new namespace before capabilities are dropped; nothing else here does;
//! - the sandbox cannot reach a destination that [`policy::Policy`] refuses, whatever it does to the rules in
//!   its namespace: the decision is made by kiln for each connection, on the address that is connected to;
//! - what is not TCP or DNS is refused by the kernel at once, it never hangs.
//!
//! Limits, all of them consequences of the form: no ICMP and no UDP except DNS; `connect` succeeds before the
//! real destination was tried, so a dead destination shows as a reset of the connection instead of a refusal.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::sys::netlink::{Family, NetlinkError, RouteKind, Socket};
use crate::sys::nft::{self, Redirect};

mod dns;
pub mod hosts;
pub mod mechanism;
pub mod policy;
pub mod proxy;
mod relay;
pub mod resolv;
mod slots;

pub use policy::{DenyRule, Policy, Refusal};
pub use proxy::Proxy;

/// The namespace's own IPv4 address. 192.0.0.0/29 is set aside for the two ends of a translated link
/// (RFC 6333, section 5.7), so it cannot be anybody's destination.
pub const NAMESPACE_ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The address that `host-gateway` stands for when the host may be reached.
pub const HOST_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// The namespace's own IPv6 address: unique local (RFC 4193), so that resolvers sort IPv4 first where both
/// would do (RFC 6724, rules 5 and 6).
pub const NAMESPACE_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd6b, 0x696c, 0x6e00, 0, 0, 0, 0, 2);

const DNS_PORT: u16 = 53;

/// Which network a RUN gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// `--network=default`: a private namespace whose TCP and DNS go through kiln.
    Private {
        /// Whether IPv6 destinations are offered. Give the answer of [`host_has_ipv6`]: a program that sees
        /// IPv6 where the host has none would connect, be reset, and not try IPv4.
        ipv6: bool,
    },
    /// `--network=none`: a private namespace with loopback only.
    None,
    /// `--network=host`: the host's namespace; there is nothing to configure.
    Host,
}

/// Why a sandbox has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel lacks nf_tables, NAT, or one of the expressions that are needed.
    #[error(
        "this kernel cannot redirect connections with nftables (nf_tables, nft_nat, nft_redir and nft_reject \
         are needed); use --network=none or --network=host"
    )]
    NftMissing {
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
    /// Another netlink request failed.
    #[error("cannot configure the network namespace")]
    Netlink {
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
    /// A socket could not be made.
    #[error("cannot make the socket {what} of a sandbox network")]
    Socket {
        /// Which one.
        what: &'static str,
        /// What the system call said.
        #[source]
        source: io::Error,
    },
    /// The wrong number of descriptors was received for the channels.
    #[error("a sandbox network has 2 or 4 sockets, {count} were received")]
    ChannelCount {
        /// How many came.
        count: usize,
    },
    /// The program that should connect the namespace did not.
    #[error("the network was not connected in time")]
    NoRoute,
    /// The thread that serves the network could not be started.
    #[error("cannot start the thread that serves a sandbox network")]
    Thread {
        /// What the system call said.
        #[source]
        source: io::Error,
    },
}

impl From<NetlinkError> for NetError {
    fn from(source: NetlinkError) -> Self {
        Self::Netlink { source }
    }
}

/// The sockets of one address family that were made inside the namespace.
#[derive(Debug)]
pub struct FamilyChannels {
    /// Listens on loopback; redirected connections arrive here.
    pub tcp: OwnedFd,
    /// Bound to loopback; redirected DNS queries arrive here.
    pub dns: OwnedFd,
}

/// What connects kiln to the inside of a network namespace.
#[derive(Debug)]
pub struct Channels {
    /// Always there.
    pub v4: FamilyChannels,
    /// Where IPv6 is offered and the kernel has it.
    pub v6: Option<FamilyChannels>,
    /// Nothing is redirected: the sockets are a nameserver at [`NAMESPACE_ADDRESS_V4`] and all else goes another way.
    pub direct: bool,
}

impl Channels {
    /// The descriptors in the order that [`Channels::from_fds`] expects, for sending over a unix socket.
    pub fn into_fds(self) -> Vec<OwnedFd> {
        let mut fds = vec![self.v4.tcp, self.v4.dns];
        fds.extend(self.v6.into_iter().flat_map(|v6| [v6.tcp, v6.dns]));
        fds
    }

    /// Puts together what [`Channels::into_fds`] took apart.
    pub fn from_fds(fds: Vec<OwnedFd>, direct: bool) -> Result<Self, NetError> {
        let count = fds.len();
        let mut fds = fds.into_iter();
        let mut family = || Some(FamilyChannels { tcp: fds.next()?, dns: fds.next()? });
        match (count, family(), family()) {
            (2, Some(v4), None) => Ok(Self { v4, v6: None, direct }),
            (4, Some(v4), Some(v6)) => Ok(Self { v4, v6: Some(v6), direct }),
            _ => Err(NetError::ChannelCount { count }),
        }
    }
}

/// Configures the network namespace of the calling process.
///
/// Call it in the child that was cloned into the new namespace, while it still has CAP_NET_ADMIN there and
/// before seccomp is loaded. [`Channels`] go to the kiln process, which starts a [`Proxy`] with them.
pub fn configure_namespace(mode: NetworkMode) -> Result<Option<Channels>, NetError> {
    let ipv6 = match mode {
        NetworkMode::Host => return Ok(None),
        NetworkMode::None => {
            Socket::open(Family::Route)?.bring_loopback_up()?;
            return Ok(None);
        }
        NetworkMode::Private { ipv6 } => ipv6,
    };
    let route = Socket::open(Family::Route)?;
    route.bring_loopback_up()?;
    route.route_everything_over_loopback(NAMESPACE_ADDRESS_V4.into())?;
    let (v4, redirect_v4) = open_family(NAMESPACE_ADDRESS_V4.into())?;
    let mut redirects = vec![redirect_v4];

    // A kernel without IPv6, or one where it is switched off, has no `::1` to bind to.
    let mut v6 = None;
    if ipv6 && let Ok((channels, redirect)) = open_family(NAMESPACE_ADDRESS_V6.into()) {
        route.route_everything_over_loopback(NAMESPACE_ADDRESS_V6.into())?;
        redirects.push(redirect);
        v6 = Some(channels);
    }
    nft::install_redirects(&redirects).map_err(|source| {
        if nft::is_missing(&source) { NetError::NftMissing { source } } else { NetError::Netlink { source } }
    })?;
    Ok(Some(Channels { v4, v6, direct: false }))
}

/// What a namespace that a program connects to the host must not reach, with the number of leading bits: link-local
/// addresses, where clouds keep credentials, and the host's own.
pub fn kept_from_helpers() -> Result<Vec<(IpAddr, u8)>, NetError> {
    let mut networks = vec![(IpAddr::from([169, 254, 0, 0]), 16)];
    let own = Socket::open(Family::Route)?.addresses()?;
    let own = own.into_iter().filter(|ip| !ip.is_loopback());
    let single = own.chain(policy::METADATA_SERVICES).filter(IpAddr::is_ipv4);
    networks.extend(single.map(|ip| (ip, 32)));
    Ok(networks)
}

/// Waits until a program has given the namespace of the calling process a default route.
pub fn wait_for_helper(patience: Duration) -> Result<(), NetError> {
    let somewhere = IpAddr::from([8, 8, 8, 8]);
    let route = Socket::open(Family::Route)?;
    let begin = Instant::now();
    while route.route_kind(somewhere)? != RouteKind::Unicast {
        if begin.elapsed() > patience {
            return Err(NetError::NoRoute);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Configures what a program leaves open in the network namespace of the calling process: `refused` networks, and
/// sockets for a nameserver. Called as [`configure_namespace`] is.
pub fn configure_helped(refused: &[(IpAddr, u8)]) -> Result<Channels, NetError> {
    let route = Socket::open(Family::Route)?;
    route.bring_loopback_up()?;
    route.give_loopback_address(NAMESPACE_ADDRESS_V4.into())?;
    for (network, bits) in refused {
        route.refuse_network(*network, *bits)?;
    }
    let (tcp, _) = bound_socket(NAMESPACE_ADDRESS_V4.into(), DNS_PORT, SocketType::STREAM, "for TCP")?;
    rustix::net::listen(&tcp, 128)
        .map_err(|errno| NetError::Socket { what: "for TCP", source: errno.into() })?;
    let (dns, _) = bound_socket(NAMESPACE_ADDRESS_V4.into(), DNS_PORT, SocketType::DGRAM, "for DNS")?;
    Ok(Channels { v4: FamilyChannels { tcp, dns }, v6: None, direct: true })
}

/// True when the calling process's network namespace has a route to the IPv6 internet.
///
/// Looks at routes only and sends nothing.
pub fn host_has_ipv6() -> bool {
    // Any global unicast address will do: 2000::/3 is what is routed.
    let somewhere = IpAddr::from([0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888]);
    Socket::open(Family::Route)
        .and_then(|socket| socket.route_kind(somewhere))
        .is_ok_and(|kind| kind == RouteKind::Unicast)
}

fn open_family(own_address: IpAddr) -> Result<(FamilyChannels, Redirect), NetError> {
    let loopback: IpAddr =
        if own_address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let (tcp, tcp_port) = bound_socket(loopback, 0, SocketType::STREAM, "for TCP")?;
    // As many as the kernel's limit (net.core.somaxconn) lets wait.
    rustix::net::listen(&tcp, 4096)
        .map_err(|errno| NetError::Socket { what: "for TCP", source: errno.into() })?;
    let (dns, dns_port) = bound_socket(loopback, 0, SocketType::DGRAM, "for DNS")?;
    Ok((FamilyChannels { tcp, dns }, Redirect { own_address, tcp_port, dns_port }))
}

fn bound_socket(
    ip: IpAddr,
    port: u16,
    kind: SocketType,
    what: &'static str,
) -> Result<(OwnedFd, u16), NetError> {
    let open = || -> rustix::io::Result<(OwnedFd, u16)> {
        let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, kind, flags, None)?;
        rustix::net::bind(&fd, &SocketAddr::new(ip, port))?;
        let address = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
        Ok((fd, address.port()))
    };
    open().map_err(|errno| NetError::Socket { what, source: errno.into() })
}

#[cfg(test)]
mod tests;
