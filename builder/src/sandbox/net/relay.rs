//! One redirected connection: connecting outwards, then copying both ways with splice(2).
//!
//! Invariants:
//! - every descriptor is non-blocking and no call here waits;
//! - the end of one direction is passed on (half-close) once everything before it was written; an error on
//!   either side resets both, so neither end takes a broken stream for a complete one;
//! - a connection without data in flight holds two sockets and no pipe.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags};

/// Bytes asked for in one splice and the size that pipes are given where the kernel allows it.
const CHUNK_BYTES: usize = 512 * 1024;
/// Splices in one direction before other connections get their turn.
const ROUNDS: u32 = 16;
/// Empty pipes kept for the next connection that has data.
const SPARE_PIPES: usize = 8;

/// What a relay needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// An event on one of its sockets.
    Wait,
    /// Another turn without an event.
    Again,
    /// Nothing: both directions ended in order.
    Finished,
    /// To be reset.
    Broken,
}

/// A connection of the sandbox.
#[derive(Debug)]
pub(super) struct Relay {
    client: OwnedFd,
    upstream: Option<OwnedFd>,
    connected: bool,
    /// Destinations not tried yet.
    candidates: VecDeque<SocketAddr>,
    /// Counts the destinations tried, so that a deadline knows whether it is still meant.
    attempt: u32,
    outward: Flow,
    inward: Flow,
}

impl Relay {
    pub(super) fn new(client: OwnedFd, candidates: Vec<SocketAddr>) -> Self {
        // The sandbox's program chooses when to send; holding its bytes back again only adds delay.
        let _ = sockopt::set_tcp_nodelay(&client, true);
        Self {
            client,
            upstream: None,
            connected: false,
            candidates: candidates.into(),
            attempt: 0,
            outward: Flow::default(),
            inward: Flow::default(),
        }
    }

    pub(super) fn client(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }

    pub(super) fn upstream(&self) -> Option<BorrowedFd<'_>> {
        self.upstream.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn is_connecting(&self) -> bool {
        !self.connected
    }

    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Begins to connect to the next destination that does not fail at once. False: none is left.
    ///
    /// The new socket must be registered with epoll; the old one left it by being closed.
    pub(super) fn connect_next(&mut self) -> bool {
        self.upstream = None;
        while let Some(destination) = self.candidates.pop_front() {
            self.attempt = self.attempt.wrapping_add(1);
            if let Ok(socket) = begin_connect(destination) {
                self.upstream = Some(socket);
                return true;
            }
        }
        false
    }

    /// Looks whether the connection is made, after an event on the outer socket. `Err`: it failed.
    pub(super) fn finish_connect(&mut self) -> Result<(), Errno> {
        let Some(upstream) = &self.upstream else { return Err(Errno::NOTCONN) };
        sockopt::socket_error(upstream)??;
        // An event may come before the handshake is over; only then there is no peer yet.
        match rustix::net::getpeername(upstream) {
            Ok(Some(_)) => {
                self.connected = true;
                Ok(())
            }
            Ok(None) | Err(Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// True when one of the sockets has an error that nobody was told yet.
    pub(super) fn has_failed(&self) -> bool {
        [Some(&self.client), self.upstream.as_ref()]
            .into_iter()
            .flatten()
            .any(|socket| !matches!(sockopt::socket_error(socket), Ok(Ok(()))))
    }

    /// Copies what can be copied now.
    pub(super) fn pump(&mut self, pipes: &mut PipePool) -> Progress {
        let Some(upstream) = &self.upstream else { return Progress::Wait };
        if !self.connected {
            return Progress::Wait;
        }
        let outward = self.outward.pump(self.client.as_fd(), upstream.as_fd(), pipes);
        let inward = self.inward.pump(upstream.as_fd(), self.client.as_fd(), pipes);
        match (outward, inward) {
            (Err(_), _) | (_, Err(_)) => Progress::Broken,
            (Ok(FlowState::Ended), Ok(FlowState::Ended)) => Progress::Finished,
            (Ok(FlowState::Again), _) | (_, Ok(FlowState::Again)) => Progress::Again,
            _ => Progress::Wait,
        }
    }

    /// Closes both sides so that both peers see a reset.
    pub(super) fn reset(self) {
        for fd in [Some(&self.client), self.upstream.as_ref()].into_iter().flatten() {
            let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
        }
    }
}

fn begin_connect(destination: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if destination.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    match rustix::net::connect(&socket, &destination) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// How one direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlowState {
    Wait,
    Again,
    Ended,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Flow {
    /// Present while it holds data.
    pipe: Option<Pipe>,
    buffered_bytes: usize,
    /// The source sent its last byte.
    source_ended: bool,
    /// That was passed on.
    ended: bool,
}

impl Flow {
    fn pump(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        pipes: &mut PipePool,
    ) -> Result<FlowState, Errno> {
        if self.ended {
            return Ok(FlowState::Ended);
        }
        for _ in 0..ROUNDS {
            if self.buffered_bytes == 0 && !self.fill(from, pipes)? {
                return Ok(FlowState::Wait);
            }
            if self.source_ended && self.buffered_bytes == 0 {
                match rustix::net::shutdown(to, Shutdown::Write) {
                    Ok(()) | Err(Errno::NOTCONN) => {}
                    Err(errno) => return Err(errno),
                }
                self.ended = true;
                return Ok(FlowState::Ended);
            }
            if !self.drain(to, pipes)? {
                return Ok(FlowState::Wait);
            }
        }
        Ok(FlowState::Again)
    }

    /// Takes data from the source. False: there is none now.
    fn fill(&mut self, from: BorrowedFd<'_>, pipes: &mut PipePool) -> Result<bool, Errno> {
        if self.source_ended {
            return Ok(true);
        }
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => pipes.take()?,
        };
        // The pipe is empty, so EAGAIN can only mean that the socket is.
        match splice(from, pipe.write.as_fd(), CHUNK_BYTES) {
            Ok(0) => {
                self.source_ended = true;
                pipes.give_back(pipe);
                Ok(true)
            }
            Ok(count) => {
                self.buffered_bytes = count;
                self.pipe = Some(pipe);
                Ok(true)
            }
            Err(Errno::AGAIN) => {
                pipes.give_back(pipe);
                Ok(false)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Gives data to the destination. False: it takes no more now.
    fn drain(&mut self, to: BorrowedFd<'_>, pipes: &mut PipePool) -> Result<bool, Errno> {
        let Some(pipe) = self.pipe.take() else { return Ok(true) };
        while self.buffered_bytes > 0 {
            match splice(pipe.read.as_fd(), to, self.buffered_bytes) {
                Ok(0) => return Err(Errno::PIPE),
                Ok(count) => self.buffered_bytes = self.buffered_bytes.saturating_sub(count),
                Err(Errno::AGAIN) => {
                    self.pipe = Some(pipe);
                    return Ok(false);
                }
                Err(errno) => return Err(errno),
            }
        }
        pipes.give_back(pipe);
        Ok(true)
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> Result<usize, Errno> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    rustix::io::retry_on_intr(|| rustix::pipe::splice(from, None, to, None, length, flags))
}

/// An empty or filled pipe.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty pipes for reuse: making one for each burst of data would cost more than the copy.
#[derive(Debug, Default)]
pub(super) struct PipePool(Vec<Pipe>);

impl PipePool {
    fn take(&mut self) -> Result<Pipe, Errno> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused once the user's pipes are large in all (pipe-user-pages-soft): then it stays small.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, CHUNK_BYTES);
        Ok(Pipe { read, write })
    }

    fn give_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE_PIPES {
            self.0.push(pipe);
        }
    }
}
