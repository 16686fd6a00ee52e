//! Netlink by hand: message building, one-shot transactions, and the few rtnetlink requests that a
//! sandbox's network needs.
//!
//! Invariants:
//! - every request asks for an acknowledgement and every acknowledgement is read before a call returns;
//! - kernel answers are parsed with bounds: a short or malformed answer is an error, never a panic;
//! - nothing here is kept between calls except the socket that the caller owns.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Index of `lo`: the kernel creates it first in every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK_INDEX: u32 = 1;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
/// Create the object if it does not exist.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// Fail if the object exists.
pub(crate) const NLM_F_EXCL: u16 = 0x200;
/// Add to the end of a list of objects.
pub(crate) const NLM_F_APPEND: u16 = 0x800;
/// Take the place of an object that exists.
const NLM_F_REPLACE: u16 = 0x100;
/// List all objects.
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket of this kind, or sending or receiving failed.
    #[error("cannot talk to the kernel over netlink while trying to {action}")]
    Transport {
        /// What was asked for.
        action: &'static str,
        /// What the system call said.
        #[source]
        source: io::Error,
    },
    /// The kernel understood the request and refused it.
    #[error("the kernel refused to {action}")]
    Refused {
        /// What was asked for.
        action: &'static str,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The answer does not have the form that the protocol promises.
    #[error("the kernel's netlink answer is malformed while trying to {action}")]
    Malformed {
        /// What was asked for.
        action: &'static str,
    },
}

impl NetlinkError {
    /// The error number of the kernel, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Transport { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Malformed { .. } => None,
        }
    }
}

/// Which netlink subsystem a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    /// nf_tables.
    Netfilter,
}

/// What the kernel does with packets to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sent to somebody else.
    Unicast,
    /// Delivered to this machine: one of its own addresses.
    Local,
    /// Broadcast, anycast or multicast.
    Group,
    /// No route, or one that refuses.
    None,
}

/// A request of one or more messages, built in one buffer and sent in one datagram.
#[derive(Debug, Default)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    /// Where the message under construction starts.
    start: usize,
    /// What each message does, in order of its sequence number; `None` is not acknowledged.
    actions: Vec<Option<&'static str>>,
}

impl Request {
    /// Starts a message that the kernel acknowledges.
    pub(crate) fn message(&mut self, action: &'static str, kind: u16, flags: u16, body: &[u8]) {
        self.begin(Some(action), kind, flags | NLM_F_ACK, body);
    }

    /// Starts a message that is not acknowledged.
    pub(crate) fn silent_message(&mut self, kind: u16, body: &[u8]) {
        self.begin(None, kind, 0, body);
    }

    /// Adds an attribute to the message started last.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self.close_message();
    }

    /// Adds a big-endian number, the form of nf_tables.
    pub(crate) fn attribute_be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Adds a text with the terminating zero.
    pub(crate) fn attribute_text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Adds an attribute whose value is the attributes that `fill` adds.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - at) as u16;
        if let Some(slot) = self.bytes.get_mut(at..at + 2) {
            slot.copy_from_slice(&length.to_ne_bytes());
        }
        self.close_message();
    }

    fn begin(&mut self, action: Option<&'static str>, kind: u16, flags: u16, body: &[u8]) {
        self.actions.push(action);
        self.start = self.bytes.len();
        // The sequence number is the position, counted from 1, so that an answer names its request.
        let sequence = self.actions.len() as u32;
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(body);
        self.pad();
        self.close_message();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn close_message(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        if let Some(slot) = self.bytes.get_mut(self.start..self.start + 4) {
            slot.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// A netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open(family: Family) -> Result<Self, NetlinkError> {
        let action = "open a netlink socket";
        let protocol = match family {
            // NETLINK_ROUTE is 0, the protocol that a socket has by default.
            Family::Route => None,
            Family::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .map_err(|errno| NetlinkError::Transport { action, source: errno.into() })?;
        // The kernel answers while it handles the request; the limit only turns a bug into an error.
        rustix::net::sockopt::set_socket_timeout(
            &fd,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_secs(5)),
        )
        .map_err(|errno| NetlinkError::Transport { action, source: errno.into() })?;
        Ok(Self { fd })
    }

    /// Sends `request` and waits until each of its messages is acknowledged. The first refusal wins.
    pub(crate) fn transact(&self, request: &Request) -> Result<(), NetlinkError> {
        let first = request.actions.iter().flatten().next().copied().unwrap_or("send nothing");
        self.send(request, first)?;
        let mut waiting = request.actions.iter().flatten().count();
        let mut refusal = None;
        let mut buffer = vec![0u8; 32 * 1024];
        while waiting > 0 {
            let received = self.receive(&mut buffer, first)?;
            for answer in Answers::new(received) {
                let answer = answer.ok_or(NetlinkError::Malformed { action: first })?;
                let Some(code) = answer.error_code() else { continue };
                let action = request
                    .actions
                    .get((answer.sequence as usize).wrapping_sub(1))
                    .copied()
                    .flatten()
                    // nf_tables answers to the start of a batch when the batch as a whole is refused.
                    .unwrap_or(first);
                let whole_batch = code != 0
                    && !matches!(
                        request.actions.get((answer.sequence as usize).wrapping_sub(1)),
                        Some(Some(_))
                    );
                if code != 0 && refusal.is_none() {
                    let source = io::Error::from_raw_os_error(code.saturating_neg());
                    refusal = Some(NetlinkError::Refused { action, source });
                }
                // A refused batch is answered once, the messages in it are not looked at.
                waiting = if whole_batch { 0 } else { waiting.saturating_sub(1) };
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn send(&self, request: &Request, action: &'static str) -> Result<(), NetlinkError> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| {
            rustix::net::sendto(&self.fd, &request.bytes, SendFlags::empty(), &kernel)
        })
        .map_err(|errno| NetlinkError::Transport { action, source: errno.into() })?;
        Ok(())
    }

    fn receive<'b>(&self, buffer: &'b mut [u8], action: &'static str) -> Result<&'b [u8], NetlinkError> {
        let (length, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()))
                .map_err(|errno| NetlinkError::Transport { action, source: errno.into() })?;
        buffer.get(..length).ok_or(NetlinkError::Malformed { action })
    }

    /// Asks what the kernel would do with packets to `address`. Needs no privilege.
    pub fn route_kind(&self, address: IpAddr) -> Result<RouteKind, NetlinkError> {
        let action = "look up a route";
        let mut request = Request::default();
        let (family, bits) = family_and_bits(address);
        // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
        request.begin(Some(action), RTM_GETROUTE, 0, &[family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        request.attribute(1, &octets(address)); // RTA_DST
        self.send(&request, action)?;
        let mut buffer = vec![0u8; 8 * 1024];
        let received = self.receive(&mut buffer, action)?;
        let Some(Some(answer)) = Answers::new(received).next() else {
            return Err(NetlinkError::Malformed { action });
        };
        match answer.error_code() {
            Some(code) if is_no_route(code.saturating_neg()) => Ok(RouteKind::None),
            Some(code) => Err(NetlinkError::Refused {
                action,
                source: io::Error::from_raw_os_error(code.saturating_neg()),
            }),
            None if answer.kind != RTM_NEWROUTE => Err(NetlinkError::Malformed { action }),
            None => match answer.body.get(7).copied() {
                Some(1) => Ok(RouteKind::Unicast),
                Some(2) => Ok(RouteKind::Local),
                Some(3..=5) => Ok(RouteKind::Group),
                Some(_) => Ok(RouteKind::None),
                None => Err(NetlinkError::Malformed { action }),
            },
        }
    }

    /// Brings `lo` up. Needs CAP_NET_ADMIN in the namespace.
    pub fn bring_loopback_up(&self) -> Result<(), NetlinkError> {
        let mut request = Request::default();
        // struct ifinfomsg: family, pad, type(u16), index(i32), flags(u32), change(u32).
        let mut body = vec![0u8; 4];
        body.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
        body.extend_from_slice(&1u32.to_ne_bytes()); // IFF_UP
        body.extend_from_slice(&1u32.to_ne_bytes());
        request.message("bring the loopback interface up", RTM_NEWLINK, 0, &body);
        self.transact(&request)
    }

    /// Gives `lo` an address.
    pub fn give_loopback_address(&self, address: IpAddr) -> Result<(), NetlinkError> {
        let mut request = Request::default();
        add_loopback_address(&mut request, address);
        self.transact(&request)
    }

    /// Makes packets to a network fail at once with "no route to host".
    pub fn refuse_network(&self, address: IpAddr, prefix_bits: u8) -> Result<(), NetlinkError> {
        let mut request = Request::default();
        let (family, _) = family_and_bits(address);
        // Table main, protocol boot, scope universe, type unreachable.
        let body = [family, prefix_bits, 0, 0, 254, 3, 0, 7, 0, 0, 0, 0];
        request.message("refuse a network", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body);
        request.attribute(1, &octets(address)); // RTA_DST
        self.transact(&request)
    }

    /// The addresses of all interfaces of the namespace. Needs no privilege.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, NetlinkError> {
        let action = "list this machine's addresses";
        let malformed = || NetlinkError::Malformed { action };
        let mut request = Request::default();
        request.begin(Some(action), RTM_GETADDR, NLM_F_DUMP, &[0; 8]);
        self.send(&request, action)?;
        let mut addresses = Vec::new();
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            for answer in Answers::new(self.receive(&mut buffer, action)?) {
                let answer = answer.ok_or_else(malformed)?;
                match answer.kind {
                    NLMSG_DONE => return Ok(addresses),
                    NLMSG_ERROR => return Err(malformed()),
                    RTM_NEWADDR => addresses.extend(address_of(answer.body)),
                    _ => {}
                }
            }
        }
    }

    /// Gives `lo` an address and routes every address of the same family to the namespace itself.
    ///
    /// The route is a `local` one. IPv6 turns a unicast default route over `lo` into one that refuses
    /// (`fib6_is_reject`), and IPv4 drops what such a route sends before a filter could answer it.
    pub fn route_everything_over_loopback(&self, address: IpAddr) -> Result<(), NetlinkError> {
        let mut request = Request::default();
        let (family, _) = family_and_bits(address);
        let value = octets(address);
        add_loopback_address(&mut request, address);

        // Table main, protocol boot, type local; the scope is that of a host and only IPv4 has scopes.
        let scope = if address.is_ipv4() { 254 } else { 0 };
        request.message(
            "add the default route",
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_EXCL,
            &[family, 0, 0, 0, 254, 3, scope, 2, 0, 0, 0, 0],
        );
        request.attribute(4, &LOOPBACK_INDEX.to_ne_bytes()); // RTA_OIF
        request.attribute(7, &value); // RTA_PREFSRC
        self.transact(&request)
    }
}

/// Adds a message that gives `lo` an address.
fn add_loopback_address(request: &mut Request, address: IpAddr) {
    let (family, bits) = family_and_bits(address);
    let value = octets(address);
    // struct ifaddrmsg: family, prefixlen, flags, scope, index(u32). 0x02 = IFA_F_NODAD.
    let mut body = vec![family, bits, 0x02, 0];
    body.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    request.message("give the loopback interface an address", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body);
    request.attribute(1, &value); // IFA_ADDRESS
    request.attribute(2, &value); // IFA_LOCAL
}

/// The address in a message about one: IFA_LOCAL where there is one (a peer's is in IFA_ADDRESS then).
fn address_of(body: &[u8]) -> Option<IpAddr> {
    let mut attributes = body.get(8..)?;
    let mut found = None;
    while let (Some(length), Some(kind)) = (attributes.get(..2), attributes.get(2..4)) {
        let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
        let kind = u16::from_ne_bytes(kind.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind == 2 || (kind == 1 && found.is_none()) {
            found = match value.len() {
                4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
                16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
                _ => found,
            };
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn is_no_route(errno: i32) -> bool {
    [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL].contains(&errno)
}

fn family_and_bits(address: IpAddr) -> (u8, u8) {
    match address {
        IpAddr::V4(_) => (AF_INET, Ipv4Addr::BITS as u8),
        IpAddr::V6(_) => (AF_INET6, Ipv6Addr::BITS as u8),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// One message of the kernel.
struct Answer<'b> {
    kind: u16,
    sequence: u32,
    body: &'b [u8],
}

impl Answer<'_> {
    /// The code of an acknowledgement: 0 or a negative error number. `None` for other messages.
    fn error_code(&self) -> Option<i32> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let code: [u8; 4] = self.body.get(..4)?.try_into().ok()?;
        Some(i32::from_ne_bytes(code))
    }
}

/// The messages in one datagram; a malformed one is `None` and the last.
struct Answers<'b> {
    rest: &'b [u8],
}

impl<'b> Answers<'b> {
    fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    fn take(&mut self) -> Option<Answer<'b>> {
        let length = u32::from_ne_bytes(self.rest.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(self.rest.get(4..6)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(self.rest.get(8..12)?.try_into().ok()?);
        let body = self.rest.get(HEADER_BYTES..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, sequence, body })
    }
}

impl<'b> Iterator for Answers<'b> {
    type Item = Option<Answer<'b>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let answer = self.take();
        if answer.is_none() {
            self.rest = &[];
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_aligned_and_lengths_are_right() {
        let mut request = Request::default();
        request.message("a", 1, 0, &[1, 2]);
        request.nested(5, |inner| {
            inner.attribute_text(1, "ab");
            inner.attribute(2, &[9]);
        });
        request.silent_message(7, &[]);
        assert_eq!(request.bytes.len() % 4, 0);
        let parsed: Vec<_> = Answers::new(&request.bytes).map(|a| a.expect("well formed")).collect();
        assert_eq!(parsed.len(), 2);
        assert_eq!((parsed[0].kind, parsed[0].sequence), (1, 1));
        assert_eq!((parsed[1].kind, parsed[1].sequence), (7, 2));
        // Body of 2 bytes padded to 4, then the nest: 4 + (4 + "ab\0" padded to 4) + (4 + 1 padded to 4).
        assert_eq!(parsed[0].body.len(), 4 + 4 + 8 + 8);
        assert_eq!(parsed[0].body[4..8], [20, 0, 5, 0x80]);
    }

    #[test]
    fn malformed_answers_end_the_iteration() {
        for bytes in [&[1u8][..], &[0; 16], &[200, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]] {
            let answers: Vec<_> = Answers::new(bytes).collect();
            assert_eq!(answers.len(), 1);
            assert!(answers[0].is_none());
        }
    }

    #[test]
    fn loopback_is_among_the_addresses() {
        let socket = Socket::open(Family::Route).expect("netlink needs no privilege");
        let addresses = socket.addresses().expect("answer");
        assert!(addresses.contains(&IpAddr::from([127, 0, 0, 1])), "{addresses:?}");
    }

    #[test]
    fn own_addresses_are_local_routes() {
        let socket = Socket::open(Family::Route).expect("netlink needs no privilege");
        let kind = socket.route_kind(IpAddr::from([127, 0, 0, 1])).expect("answer");
        assert_eq!(kind, RouteKind::Local);
    }
}
