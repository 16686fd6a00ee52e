//! nf_tables by hand: one atomic batch that makes a namespace's outgoing traffic end at kiln's sockets.
//!
//! Invariants:
//! - a table is created whole or not at all (an nf_tables batch is a transaction);
//! - TCP, and UDP to port 53, that leave the namespace are redirected to loopback; everything else that would
//!   leave is refused at once with an ICMP port-unreachable, so nothing ever waits for an answer;
//! - traffic of the namespace with itself (loopback, its own address) is untouched.
//!
//! What each table holds (`nft list ruleset` inside the namespace shows the same):
//!
//! | chain | hook | rule | why |
//! |---|---|---|---|
//! | `redirect` | nat output | loopback, own address: accept | servers that a RUN starts for itself |
//! | | | link-local, 0.0.0.0/8, multicast: accept | never forwarded; `refuse` answers, so connect fails at once |
//! | | | tcp: redirect | to the listener |
//! | | | udp port 53: redirect | to the DNS forwarder |
//! | `refuse` | filter input, where the packets arrive | loopback, own address: accept | includes what was redirected |
//! | | | tcp: reject with a reset | link-local and such |
//! | | | everything else: reject with port-unreachable | no hang for QUIC, NTP, ping |
//!
//! `refuse` is not at the output hook because a packet refused there makes send(2) fail with EPERM, which
//! programs do not expect; at the input hook, which packets reach because every address is routed to the
//! namespace itself, the refusal comes back as from a far machine.

use std::net::IpAddr;

use super::netlink::{Family, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NetlinkError, Request, Socket};

const TABLE: &str = "kiln";
const REDIRECT_CHAIN: &str = "redirect";
const REFUSE_CHAIN: &str = "refuse";

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;

const HOOK_INPUT: u32 = 1;
const HOOK_OUTPUT: u32 = 3;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const ACCEPT: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const COMPARE_EQUAL: u32 = 0;
const COMPARE_AT_MOST: u32 = 3;
const COMPARE_AT_LEAST: u32 = 5;
const META_L4PROTO: u32 = 16;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const REJECT_ICMP: u32 = 0;
const REJECT_TCP_RESET: u32 = 1;
const DNS_PORT: u16 = 53;

/// Where the traffic of one address family goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// The namespace's own address; also chooses the family.
    pub own_address: IpAddr,
    /// Loopback port of the TCP listener.
    pub tcp_port: u16,
    /// Loopback port of the DNS forwarder's socket.
    pub dns_port: u16,
}

/// Creates the tables for `redirects`, one per address family, in one transaction.
///
/// Needs CAP_NET_ADMIN in the user namespace that owns the network namespace.
pub fn install_redirects(redirects: &[Redirect]) -> Result<(), NetlinkError> {
    let socket = Socket::open(Family::Netfilter)?;
    let mut request = Request::default();
    request.silent_message(BATCH_BEGIN, &generic_header(0, SUBSYSTEM));
    for redirect in redirects {
        Ruleset { request: &mut request, redirect, v4: redirect.own_address.is_ipv4() }.write();
    }
    request.silent_message(BATCH_END, &generic_header(0, SUBSYSTEM));
    socket.transact(&request)
}

/// True for the errors by which a kernel without nf_tables, NAT or one of the expressions shows itself.
pub fn is_missing(error: &NetlinkError) -> bool {
    error.errno().is_some_and(|errno| {
        [libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::ENOENT, libc::EINVAL]
            .contains(&errno)
    })
}

/// struct nfgenmsg: family, version, resource id (big endian).
fn generic_header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// Writes the table of one address family.
struct Ruleset<'a> {
    request: &'a mut Request,
    redirect: &'a Redirect,
    v4: bool,
}

impl Ruleset<'_> {
    fn write(&mut self) {
        let header = self.header();
        self.request.message("create an nftables table", NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL, &header);
        self.request.attribute_text(1, TABLE);
        self.chain(REDIRECT_CHAIN, "nat", HOOK_OUTPUT, PRIORITY_DSTNAT);
        self.chain(REFUSE_CHAIN, "filter", HOOK_INPUT, PRIORITY_FILTER);

        self.accept_own(REDIRECT_CHAIN);
        self.accept_unroutable();
        let redirect = *self.redirect;
        self.rule(REDIRECT_CHAIN, |rule| {
            rule.match_protocol(TCP);
            rule.redirect_to(redirect.tcp_port);
        });
        self.rule(REDIRECT_CHAIN, |rule| {
            rule.match_protocol(UDP);
            rule.load_payload(BASE_TRANSPORT, 2, 2);
            rule.compare(COMPARE_EQUAL, &DNS_PORT.to_be_bytes());
            rule.redirect_to(redirect.dns_port);
        });
        self.accept_own(REFUSE_CHAIN);
        let port_unreachable = if self.v4 { 3 } else { 4 };
        // TCP takes an ICMP error for a passing trouble while it connects; a reset ends the attempt.
        self.rule(REFUSE_CHAIN, |rule| {
            rule.match_protocol(TCP);
            rule.reject(REJECT_TCP_RESET, 0);
        });
        self.rule(REFUSE_CHAIN, |rule| rule.reject(REJECT_ICMP, port_unreachable));
    }

    fn header(&self) -> [u8; 4] {
        generic_header(if self.v4 { 2 } else { 10 }, 0)
    }

    fn chain(&mut self, name: &str, kind: &str, hook_number: u32, priority: i32) {
        let header = self.header();
        self.request.message("create an nftables chain", NEW_CHAIN, NLM_F_CREATE | NLM_F_EXCL, &header);
        self.request.attribute_text(1, TABLE);
        self.request.attribute_text(3, name);
        self.request.nested(4, |hook| {
            hook.attribute_be32(1, hook_number);
            hook.attribute(2, &priority.to_be_bytes());
        });
        self.request.attribute_be32(5, ACCEPT);
        self.request.attribute_text(7, kind);
    }

    fn rule(&mut self, chain: &str, fill: impl FnOnce(&mut Rule<'_>)) {
        let header = self.header();
        self.request.message("add an nftables rule", NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, &header);
        self.request.attribute_text(1, TABLE);
        self.request.attribute_text(2, chain);
        self.request.nested(4, |expressions| fill(&mut Rule { request: expressions }));
    }

    /// Accepts traffic to loopback and to the namespace's own address.
    fn accept_own(&mut self, chain: &str) {
        let own = self.redirect.own_address;
        match own {
            IpAddr::V4(address) => {
                self.accept_destination(chain, &[(COMPARE_EQUAL, &[127])]);
                self.accept_destination(chain, &[(COMPARE_EQUAL, &address.octets())]);
            }
            IpAddr::V6(address) => {
                let mut loopback = [0u8; 16];
                loopback[15] = 1;
                self.accept_destination(chain, &[(COMPARE_EQUAL, &loopback)]);
                self.accept_destination(chain, &[(COMPARE_EQUAL, &address.octets())]);
            }
        }
    }

    /// Lets through to `refuse` what kiln never forwards.
    fn accept_unroutable(&mut self) {
        let chain = REDIRECT_CHAIN;
        if self.v4 {
            self.accept_destination(chain, &[(COMPARE_EQUAL, &[0])]);
            self.accept_destination(chain, &[(COMPARE_EQUAL, &[169, 254])]);
            self.accept_destination(chain, &[(COMPARE_AT_LEAST, &[224])]);
        } else {
            self.accept_destination(
                chain,
                &[(COMPARE_AT_LEAST, &[0xfe, 0x80]), (COMPARE_AT_MOST, &[0xfe, 0xbf])],
            );
            self.accept_destination(chain, &[(COMPARE_EQUAL, &[0xff])]);
        }
    }

    /// Accepts packets whose destination address starts with bytes that pass every comparison.
    fn accept_destination(&mut self, chain: &str, comparisons: &[(u32, &[u8])]) {
        let offset = if self.v4 { 16 } else { 24 };
        self.rule(chain, |rule| {
            for (operator, value) in comparisons {
                rule.load_payload(BASE_NETWORK, offset, value.len() as u32);
                rule.compare(*operator, value);
            }
            rule.accept();
        });
    }
}

/// Writes the expressions of one rule.
struct Rule<'a> {
    request: &'a mut Request,
}

impl Rule<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Request)) {
        self.request.nested(1, |element| {
            element.attribute_text(1, name);
            element.nested(2, fill);
        });
    }

    fn match_protocol(&mut self, protocol: u8) {
        self.expression("meta", |data| {
            data.attribute_be32(1, REGISTER_1);
            data.attribute_be32(2, META_L4PROTO);
        });
        self.compare(COMPARE_EQUAL, &[protocol]);
    }

    fn load_payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |data| {
            data.attribute_be32(1, REGISTER_1);
            data.attribute_be32(2, base);
            data.attribute_be32(3, offset);
            data.attribute_be32(4, length);
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |data| {
            data.attribute_be32(1, REGISTER_1);
            data.attribute_be32(2, operator);
            data.nested(3, |inner| inner.attribute(1, value));
        });
    }

    fn accept(&mut self) {
        self.expression("immediate", |data| {
            data.attribute_be32(1, REGISTER_VERDICT);
            data.nested(2, |inner| inner.nested(2, |verdict| verdict.attribute_be32(1, ACCEPT)));
        });
    }

    fn redirect_to(&mut self, port: u16) {
        self.expression("immediate", |data| {
            data.attribute_be32(1, REGISTER_1);
            data.nested(2, |inner| inner.attribute(1, &port.to_be_bytes()));
        });
        self.expression("redir", |data| data.attribute_be32(1, REGISTER_1));
    }

    fn reject(&mut self, kind: u32, code: u8) {
        self.expression("reject", |data| {
            data.attribute_be32(1, kind);
            data.attribute(2, &[code]);
        });
    }
}
