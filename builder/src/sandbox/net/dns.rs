//! The DNS forwarder: queries that were redirected out of a sandbox are asked of the host's nameservers.
//!
//! Invariants:
//! - messages pass through unchanged; only the answer "nobody answered" (SERVFAIL) is made here;
//! - each query has an outer socket of its own, connected and on a random port, so answers cannot be mixed up
//!   and a forged one must guess port and id as with any resolver;
//! - a query is answered within [`TOTAL_TIME`], before the usual resolvers' 5 seconds are over;
//! - at most [`MAX_QUERIES`] are open; more wait in the socket's buffer.
//!
//! Answers that were cut off (TC) make the client ask over TCP; that connection goes to the same nameservers
//! ([`super::policy::Policy`]).

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Queries in flight for one sandbox; each holds a socket.
pub(super) const MAX_QUERIES: usize = 128;
/// Time until a query that nobody answers is answered with SERVFAIL.
pub(super) const TOTAL_TIME: Duration = Duration::from_millis(4500);
/// Nameservers that are asked, as many as libc's resolvers use (`MAXNS`).
const MAX_SERVERS: usize = 3;
const HEADER_BYTES: usize = 12;
const SERVER_FAILURE: u8 = 2;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// A query that waits for its answer.
#[derive(Debug)]
pub(super) struct Query {
    /// The socket inside the namespace that it came from, by number.
    pub(super) listener: usize,
    /// Who asked.
    pub(super) client: SocketAddr,
    /// When the next server is asked.
    pub(super) deadline: Instant,
    message: Vec<u8>,
    socket: Option<OwnedFd>,
    /// How many times a server was asked.
    attempts: usize,
    /// A refusal by a server, given to the client when nobody knows better.
    refusal: Option<Vec<u8>>,
}

/// What came of looking at a query's socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing yet.
    Wait,
    /// This is the answer.
    Answer(Vec<u8>),
    /// This server will not answer.
    Failed,
}

impl Query {
    /// `None` when `message` is not a query.
    pub(super) fn new(listener: usize, client: SocketAddr, message: &[u8]) -> Option<Self> {
        // Header: id, then the bit that tells responses from queries first in the third byte.
        let is_query = message.len() >= HEADER_BYTES && message.get(2)? & 0x80 == 0;
        is_query.then(|| Self {
            listener,
            client,
            deadline: Instant::now(),
            message: message.to_vec(),
            socket: None,
            attempts: 0,
            refusal: None,
        })
    }

    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Asks the next server. False: there is none left to ask.
    pub(super) fn ask_next(&mut self, servers: &[SocketAddr], now: Instant) -> bool {
        self.socket = None;
        let servers = servers.get(..MAX_SERVERS).unwrap_or(servers);
        // A single server is asked twice, because datagrams get lost.
        let limit = servers.len().max(2);
        while self.attempts < limit {
            let Some(server) = servers.get(self.attempts % servers.len().max(1)) else { return false };
            self.attempts += 1;
            if let Ok(socket) = send_query(*server, &self.message) {
                self.socket = Some(socket);
                self.deadline = now + TOTAL_TIME / limit as u32;
                return true;
            }
        }
        false
    }

    /// Looks for the answer on the socket.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Outcome {
        loop {
            let Some(socket) = &self.socket else { return Outcome::Failed };
            let received = rustix::io::retry_on_intr(|| {
                rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT).map(|(count, _)| count)
            });
            match received {
                Ok(count) => {
                    let message = buffer.get(..count).unwrap_or_default();
                    if !is_answer_to(message, &self.message) {
                        continue;
                    }
                    if is_refusal(message) {
                        self.refusal = Some(message.to_vec());
                        return Outcome::Failed;
                    }
                    return Outcome::Answer(message.to_vec());
                }
                Err(Errno::AGAIN) => return Outcome::Wait,
                // The server's port is closed or the server cannot be reached.
                Err(_) => return Outcome::Failed,
            }
        }
    }

    /// What the client is told when no server answered.
    pub(super) fn give_up(self) -> Vec<u8> {
        self.refusal.unwrap_or_else(|| server_failure(&self.message))
    }
}

fn send_query(server: SocketAddr, message: &[u8]) -> Result<OwnedFd, Errno> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &server)?;
    rustix::net::send(&socket, message, SendFlags::NOSIGNAL)?;
    Ok(socket)
}

fn is_answer_to(answer: &[u8], query: &[u8]) -> bool {
    answer.len() >= HEADER_BYTES
        && answer.get(..2) == query.get(..2)
        && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

/// True for answers after which libc's resolvers ask the next server.
fn is_refusal(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| [SERVER_FAILURE, NOT_IMPLEMENTED, REFUSED].contains(&(flags & 0x0f)))
}

/// A SERVFAIL answer to `query` (RFC 1035, section 4.1): its header and question, nothing else.
fn server_failure(query: &[u8]) -> Vec<u8> {
    let mut answer = vec![0u8; HEADER_BYTES];
    if let (Some(id), Some(slot)) = (query.get(..2), answer.get_mut(..2)) {
        slot.copy_from_slice(id);
    }
    // A response; opcode and "recursion desired" as asked; recursion available; the code.
    let asked = query.get(2).copied().unwrap_or(0);
    answer[2] = 0x80 | (asked & 0x79);
    answer[3] = 0x80 | SERVER_FAILURE;
    if query.get(4..6) == Some(&[0, 1])
        && let Some(end) = question_end(query)
        && let Some(question) = query.get(HEADER_BYTES..end)
    {
        answer[5] = 1;
        answer.extend_from_slice(question);
    }
    answer
}

/// Where the first question ends; `None` when it is malformed.
fn question_end(query: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*query.get(at)?);
        // A question's name has no compression: there is nothing before it to point at.
        if length > 63 {
            return None;
        }
        at += 1 + length;
        if length == 0 {
            let end = at + 4;
            return (query.len() >= end).then_some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01";

    fn anybody() -> SocketAddr {
        "192.0.0.2:1000".parse().expect("address")
    }

    #[test]
    fn server_failure_repeats_id_and_question() {
        let mut query = QUERY.to_vec();
        query.extend_from_slice(b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"); // EDNS, after the question
        query[11] = 1;
        let answer = server_failure(&query);
        assert_eq!(answer[..12], [0x12, 0x34, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer[12..], QUERY[12..]);
        assert!(is_answer_to(&answer, &query) && is_refusal(&answer));
    }

    #[test]
    fn malformed_questions_are_left_out() {
        for end in HEADER_BYTES..QUERY.len() {
            let answer = server_failure(&QUERY[..end]);
            assert_eq!((answer.len(), answer[5]), (HEADER_BYTES, 0), "{end}");
        }
        let mut pointer = QUERY.to_vec();
        pointer[12] = 0xc0;
        assert_eq!(server_failure(&pointer).len(), HEADER_BYTES);
    }

    #[test]
    fn only_queries_are_taken() {
        assert!(Query::new(0, anybody(), QUERY).is_some());
        assert!(Query::new(0, anybody(), &QUERY[..11]).is_none());
        assert!(Query::new(0, anybody(), &server_failure(QUERY)).is_none());
    }

    #[test]
    fn without_servers_the_query_fails_at_once() {
        let mut query = Query::new(0, anybody(), QUERY).expect("a query");
        assert!(!query.ask_next(&[], Instant::now()));
        assert_eq!(query.give_up(), server_failure(QUERY));
    }
}
