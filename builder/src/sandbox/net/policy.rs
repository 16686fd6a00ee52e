//! Which destinations a RUN may connect to.
//!
//! Invariants:
//! - the host's loopback, link-local, unspecified, multicast and broadcast addresses are never reached, in
//!   IPv4, IPv6 or the one written as the other; the only way to the host's loopback is
//!   [`Policy::host_gateway`], which somebody must have set;
//! - the host's other addresses are refused unless [`Policy::allow_host`]: a service bound to 0.0.0.0 is
//!   reachable through them just as through loopback, and whoever started it did not think of builds;
//! - decisions are made on addresses, at the moment of the connection, so DNS cannot change them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::sys::netlink::RouteKind;

/// The instance metadata services of clouds that are at other than link-local addresses, which are refused as such.
/// They give the same credentials.
pub(super) const METADATA_SERVICES: [IpAddr; 6] = [
    // Amazon.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    // Google.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
    // Scaleway.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042)),
    // Alibaba.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure's agent service, which hands out what a machine is provisioned with.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Oracle.
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Destinations that are refused beside those that always are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenyRule {
    /// An address of the network.
    pub network: IpAddr,
    /// How many leading bits of the address count; more than the address has means all.
    pub prefix_bits: u8,
    /// The ports; all when `None`.
    pub ports: Option<RangeInclusive<u16>>,
}

impl DenyRule {
    fn matches(&self, destination: SocketAddr) -> bool {
        let in_network = match (self.network, destination.ip()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix_bits.min(32));
                network.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix_bits.min(128));
                network.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            _ => false,
        };
        in_network && self.ports.as_ref().is_none_or(|ports| ports.contains(&destination.port()))
    }
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A loopback address: the host's, seen from where kiln connects.
    Loopback,
    /// 169.254.0.0/16 or fe80::/10, where clouds keep credentials.
    LinkLocal,
    /// An instance metadata service at another address.
    Metadata,
    /// Unspecified, multicast, broadcast or reserved.
    NotUnicast,
    /// One of the host's own addresses.
    HostAddress,
    /// A [`DenyRule`].
    Denied,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "it is a loopback address",
            Self::LinkLocal => "it is a link-local address",
            Self::Metadata => "it is an instance metadata service",
            Self::NotUnicast => "it is not a unicast address",
            Self::HostAddress => "it is an address of this host",
            Self::Denied => "a rule denies it",
        })
    }
}

/// Told of each connection that was refused.
pub type RefusalHandler = Arc<dyn Fn(SocketAddr, Refusal) + Send + Sync>;

/// What a sandbox may connect to and who answers its DNS queries.
#[derive(Clone, Default)]
pub struct Policy {
    /// Asked in this order, from the host's namespace: a stub on the host's loopback is fine. Give what
    /// [`super::resolv::HostDns::upstream_servers`] returns.
    pub nameservers: Vec<SocketAddr>,
    /// Connections to this address go to the host's loopback. `None`: there is no way to it.
    pub host_gateway: Option<IpAddr>,
    /// Whether the host's own addresses other than loopback may be reached.
    pub allow_host: bool,
    /// Further refusals.
    pub deny: Vec<DenyRule>,
    /// Called on the proxy's thread, must not block.
    pub on_refusal: Option<RefusalHandler>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("nameservers", &self.nameservers)
            .field("host_gateway", &self.host_gateway)
            .field("allow_host", &self.allow_host)
            .field("deny", &self.deny)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// Where a connection to `destination` goes: addresses to try in order, or why it is refused.
    ///
    /// `route_kind` asks the host's kernel about an address. TCP to port 53 goes to [`Policy::nameservers`]
    /// as UDP does, so that a truncated answer is completed by the server that gave it.
    pub(super) fn route(
        &self,
        destination: SocketAddr,
        route_kind: impl FnOnce(IpAddr) -> RouteKind,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        // The scope of an IPv6 address belongs to the namespace it was used in.
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        if self.deny.iter().any(|rule| rule.matches(destination)) {
            return Err(Refusal::Denied);
        }
        if self.host_gateway.is_some_and(|gateway| gateway == destination.ip()) {
            let loopback: IpAddr =
                if destination.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            return Ok(vec![SocketAddr::new(loopback, destination.port())]);
        }
        refuse_special(destination.ip())?;
        if destination.port() == 53 && !self.nameservers.is_empty() {
            return Ok(self.nameservers.clone());
        }
        // After port 53: at one of these addresses Azure has its nameserver as well.
        if METADATA_SERVICES.contains(&destination.ip()) {
            return Err(Refusal::Metadata);
        }
        match route_kind(destination.ip()) {
            RouteKind::Local if !self.allow_host => Err(Refusal::HostAddress),
            RouteKind::Group => Err(Refusal::NotUnicast),
            RouteKind::Local | RouteKind::Unicast | RouteKind::None => Ok(vec![destination]),
        }
    }

    pub(super) fn report(&self, destination: SocketAddr, refusal: Refusal) {
        if let Some(handler) = &self.on_refusal {
            handler(destination, refusal);
        }
    }
}

/// Refuses the addresses that are refused whatever the policy says.
fn refuse_special(ip: IpAddr) -> Result<(), Refusal> {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() => Err(Refusal::Loopback),
        IpAddr::V4(ip) if ip.is_link_local() => Err(Refusal::LinkLocal),
        // Linux connects 0.0.0.0 to itself; 240/4 and broadcast are nobody's address.
        IpAddr::V4(ip) if ip.octets()[0] == 0 || ip.octets()[0] >= 224 => Err(Refusal::NotUnicast),
        IpAddr::V4(_) => Ok(()),
        IpAddr::V6(ip) if ip.is_loopback() => Err(Refusal::Loopback),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err(Refusal::LinkLocal),
        // ::/96 is unspecified, loopback, or the retired IPv4-compatible form.
        IpAddr::V6(ip) if ip.is_multicast() || ip.segments()[..6] == [0; 6] => Err(Refusal::NotUnicast),
        IpAddr::V6(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(policy: &Policy, destination: &str, kind: RouteKind) -> Result<Vec<SocketAddr>, Refusal> {
        policy.route(destination.parse().expect("address"), |_| kind)
    }

    #[test]
    fn special_addresses_are_refused_in_every_spelling() {
        let policy = Policy { allow_host: true, ..Policy::default() };
        for (address, refusal) in [
            ("127.0.0.1:80", Refusal::Loopback),
            ("127.255.0.9:53", Refusal::Loopback),
            ("[::1]:80", Refusal::Loopback),
            ("[::ffff:127.0.0.1]:80", Refusal::Loopback),
            ("169.254.169.254:80", Refusal::LinkLocal),
            ("[::ffff:169.254.169.254]:80", Refusal::LinkLocal),
            ("[fe80::1]:80", Refusal::LinkLocal),
            ("[fe80::1%3]:80", Refusal::LinkLocal),
            ("[fd00:ec2::254]:80", Refusal::Metadata),
            ("[fd20:ce::254]:80", Refusal::Metadata),
            ("[fd00:42::42]:80", Refusal::Metadata),
            ("100.100.100.200:80", Refusal::Metadata),
            ("168.63.129.16:32526", Refusal::Metadata),
            ("[::ffff:168.63.129.16]:80", Refusal::Metadata),
            ("192.0.0.192:80", Refusal::Metadata),
            ("0.0.0.0:80", Refusal::NotUnicast),
            ("0.1.2.3:80", Refusal::NotUnicast),
            ("[::]:80", Refusal::NotUnicast),
            ("[::7f00:1]:80", Refusal::NotUnicast),
            ("[::ffff:0.0.0.0]:80", Refusal::NotUnicast),
            ("224.0.0.1:80", Refusal::NotUnicast),
            ("255.255.255.255:80", Refusal::NotUnicast),
            ("[ff02::1]:80", Refusal::NotUnicast),
        ] {
            assert_eq!(route(&policy, address, RouteKind::Local), Err(refusal), "{address}");
        }
    }

    #[test]
    fn host_addresses_need_permission() {
        let mut policy = Policy::default();
        assert_eq!(route(&policy, "10.1.2.3:80", RouteKind::Local), Err(Refusal::HostAddress));
        assert!(route(&policy, "10.1.2.3:80", RouteKind::Unicast).is_ok());
        policy.allow_host = true;
        assert!(route(&policy, "10.1.2.3:80", RouteKind::Local).is_ok());
        assert_eq!(route(&policy, "10.1.2.255:80", RouteKind::Group), Err(Refusal::NotUnicast));
    }

    #[test]
    fn gateway_maps_to_loopback_and_port_53_to_nameservers() {
        let server: SocketAddr = "127.0.0.53:53".parse().expect("address");
        let policy = Policy {
            nameservers: vec![server],
            host_gateway: Some(super::super::HOST_GATEWAY_V4.into()),
            ..Policy::default()
        };
        let gateway = route(&policy, "192.0.0.1:8080", RouteKind::Unicast);
        assert_eq!(gateway, Ok(vec!["127.0.0.1:8080".parse().expect("address")]));
        assert_eq!(route(&policy, "8.8.8.8:53", RouteKind::Unicast), Ok(vec![server]));
        assert_eq!(route(&policy, "168.63.129.16:53", RouteKind::Unicast), Ok(vec![server]));
        assert_eq!(route(&policy, "127.0.0.1:53", RouteKind::Local), Err(Refusal::Loopback));
    }

    #[test]
    fn deny_rules_match_prefix_and_port() {
        let rule = |network: &str, prefix_bits, ports| DenyRule {
            network: network.parse().expect("address"),
            prefix_bits,
            ports,
        };
        let policy = Policy {
            deny: vec![
                rule("10.0.0.0", 8, None),
                rule("2001:db8::", 32, Some(80..=81)),
                rule("9.9.9.9", 200, None),
            ],
            ..Policy::default()
        };
        for (address, denied) in [
            ("10.255.0.1:1", true),
            ("[::ffff:10.0.0.1]:1", true),
            ("11.0.0.1:1", false),
            ("[2001:db8::5]:80", true),
            ("[2001:db8::5]:82", false),
            ("[2001:db9::5]:80", false),
            ("9.9.9.9:1", true),
            ("9.9.9.8:1", false),
        ] {
            let expected = denied.then_some(Refusal::Denied);
            assert_eq!(route(&policy, address, RouteKind::Unicast).err(), expected, "{address}");
        }
        let everything = Policy { deny: vec![rule("0.0.0.0", 0, None)], ..Policy::default() };
        assert_eq!(route(&everything, "1.2.3.4:5", RouteKind::Unicast), Err(Refusal::Denied));
    }
}
