//! The thread that carries a sandbox's connections and DNS queries to the outside.
//!
//! Invariants:
//! - one thread and one epoll instance for each [`Proxy`]; while nothing happens the thread sleeps in the kernel
//!   and holds no memory but its stack;
//! - nothing on the thread blocks: every descriptor is non-blocking, every time limit is an epoll timeout;
//! - dropping the [`Proxy`] ends the thread and closes every descriptor before `drop` returns;
//! - a connection is opened only after [`Policy`] was asked about exactly the address that is connected to.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, sockopt};

use super::dns::{MAX_QUERIES, Outcome, Query};
use super::policy::Policy;
use super::relay::{PipePool, Progress, Relay};
use super::slots::{Place, Slots, Source};
use super::{Channels, NetError};
use crate::sys::netlink::{Family, RouteKind, Socket};

/// Time for one destination to answer. Linux would try for two minutes; the sandbox's program already takes
/// itself for connected and has only its own patience for the first answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Time until connections are accepted again after there were too many or descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections of one sandbox at a time; the others wait in the listener's queue. Each needs two descriptors, and
/// two or four more while data moves: a RUN must not be able to use up those of the whole build.
const MAX_CONNECTIONS: usize = 1024;
/// Connections accepted, or queries read, before others get their turn.
const BATCH: usize = 64;
/// Largest DNS message over UDP.
const MAX_DATAGRAM_BYTES: usize = 65_535;
const EVENTS: usize = 128;

/// Serves the network of one sandbox until it is dropped.
///
/// The process must ignore SIGPIPE, as Rust's runtime makes it: splice(2) to a socket whose peer has gone
/// raises it.
#[derive(Debug)]
pub struct Proxy {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts to serve `channels`, from the network namespace of the calling thread.
    pub fn start(channels: Channels, policy: Policy) -> Result<Self, NetError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| NetError::Socket { what: "that stops the proxy", source: errno.into() })?;
        let stop = Arc::new(stop);
        let server = Server::new(channels, policy, Arc::clone(&stop))
            .map_err(|source| NetError::Socket { what: "that waits for connections", source })?;
        let thread = std::thread::Builder::new()
            .name("sandbox-net".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || server.run())
            .map_err(|source| NetError::Thread { source })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic on the thread was reported there; the sandbox has no network after it.
            let _ = thread.join();
        }
    }
}

/// A deadline for connecting to one destination.
#[derive(Debug, Clone, Copy)]
struct ConnectDeadline {
    at: Instant,
    place: Place,
    attempt: u32,
}

struct Server {
    epoll: OwnedFd,
    listeners: Vec<OwnedFd>,
    dns_sockets: Vec<OwnedFd>,
    /// See [`Channels::direct`].
    direct: bool,
    policy: Policy,
    relays: Slots<Relay>,
    queries: Slots<Query>,
    pipes: PipePool,
    /// Relays that had more to copy than their turn allowed.
    ready: VecDeque<Place>,
    /// In order of time, since all wait equally long.
    connecting: VecDeque<ConnectDeadline>,
    /// Set while no connections are accepted.
    resume_accept_at: Option<Instant>,
    /// False while no queries are read because too many are open.
    reads_queries: bool,
    /// Opened when the first route is looked up.
    routes: Option<Socket>,
    buffer: Vec<u8>,
    _stop: Arc<OwnedFd>,
}

impl Server {
    fn new(channels: Channels, policy: Policy, stop: Arc<OwnedFd>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut listeners = vec![channels.v4.tcp];
        let mut dns_sockets = vec![channels.v4.dns];
        if let Some(v6) = channels.v6 {
            listeners.push(v6.tcp);
            dns_sockets.push(v6.dns);
        }
        watch(&epoll, stop.as_fd(), Source::Stop, Place::fixed(0), EventFlags::IN)?;
        for (sockets, source) in [(&listeners, Source::Listener), (&dns_sockets, Source::DnsSocket)] {
            for (index, socket) in sockets.iter().enumerate() {
                // What was made in the sandbox's process may have lost the flag on its way.
                rustix::io::ioctl_fionbio(socket, true)?;
                watch(&epoll, socket.as_fd(), source, Place::fixed(index as u32), EventFlags::IN)?;
            }
        }
        Ok(Self {
            epoll,
            listeners,
            dns_sockets,
            direct: channels.direct,
            policy,
            relays: Slots::new(),
            queries: Slots::new(),
            pipes: PipePool::default(),
            ready: VecDeque::new(),
            connecting: VecDeque::new(),
            resume_accept_at: None,
            reads_queries: true,
            routes: None,
            buffer: Vec::new(),
            _stop: stop,
        })
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // Only a closed or foreign descriptor could be the reason.
                Err(_) => return,
            }
            for event in events.drain(..) {
                let (source, place) = Place::from_token(event.data.u64());
                match source {
                    Source::Stop => return,
                    Source::Listener => self.accept(place.index()),
                    Source::DnsSocket => self.read_queries(place.index()),
                    Source::Client | Source::Upstream => self.advance(place, event.flags),
                    Source::DnsQuery => self.answer(place),
                }
            }
            // Those that are added meanwhile wait for the next turn.
            for _ in 0..self.ready.len() {
                if let Some(place) = self.ready.pop_front() {
                    self.pump(place);
                }
            }
            self.pass_deadlines(Instant::now());
        }
    }

    /// How long to wait for events; `None` is until there is one.
    fn timeout(&self) -> Option<Timespec> {
        if !self.ready.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let next_query = self.queries.iter().map(|(_, query)| query.deadline).min();
        let next_connect = self.connecting.front().map(|deadline| deadline.at);
        let at = [next_query, next_connect, self.resume_accept_at].into_iter().flatten().min()?;
        let left = at.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ })
    }

    fn pass_deadlines(&mut self, now: Instant) {
        while let Some(deadline) = self.connecting.front().copied().filter(|deadline| deadline.at <= now) {
            self.connecting.pop_front();
            let waits = self
                .relays
                .get_mut(deadline.place)
                .is_some_and(|relay| relay.is_connecting() && relay.attempt() == deadline.attempt);
            if waits {
                self.connect(deadline.place);
            }
        }
        let late: Vec<Place> =
            self.queries.iter().filter(|(_, query)| query.deadline <= now).map(|(place, _)| place).collect();
        for place in late {
            self.ask(place);
        }
        if self.resume_accept_at.is_some_and(|at| at <= now) {
            self.resume_accept_at = None;
            self.set_interest(Source::Listener, EventFlags::IN);
        }
    }

    // Connections.

    fn accept(&mut self, listener: usize) {
        for _ in 0..BATCH {
            if self.relays.len() >= MAX_CONNECTIONS {
                return self.pause_accept();
            }
            let Some(socket) = self.listeners.get(listener) else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(socket, flags) {
                Ok(client) => self.open(client, listener),
                Err(Errno::AGAIN) => return,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return self.pause_accept();
                }
                // The connection ended before it was accepted.
                Err(_) => {}
            }
        }
    }

    /// Looks away from the listeners for a while: they stay readable and would keep the thread turning.
    fn pause_accept(&mut self) {
        self.set_interest(Source::Listener, EventFlags::empty());
        self.resume_accept_at = Some(Instant::now() + ACCEPT_PAUSE);
    }

    /// Decides about a new connection and begins to connect outwards.
    fn open(&mut self, client: OwnedFd, listener: usize) {
        let destination =
            if self.direct { own_address(&client) } else { original_destination(&client, listener) };
        let Some(destination) = destination else {
            return Relay::new(client, Vec::new()).reset();
        };
        let routes = &mut self.routes;
        let candidates = match self.policy.route(destination, |ip| route_kind(routes, ip)) {
            Ok(candidates) => candidates,
            Err(refusal) => {
                self.policy.report(destination, refusal);
                return Relay::new(client, Vec::new()).reset();
            }
        };
        let place = self.relays.insert(Relay::new(client, candidates));
        let watched = match self.relays.get_mut(place) {
            Some(relay) => watch_relay(&self.epoll, relay.client(), Source::Client, place),
            None => return,
        };
        match watched {
            Ok(()) => self.connect(place),
            Err(_) => self.reset(place),
        }
    }

    /// Connects to the next destination, or resets when there is none.
    fn connect(&mut self, place: Place) {
        let Some(relay) = self.relays.get_mut(place) else { return };
        let begun = relay.connect_next()
            && relay
                .upstream()
                .is_some_and(|socket| watch_relay(&self.epoll, socket, Source::Upstream, place).is_ok());
        if !begun {
            return self.reset(place);
        }
        let attempt = relay.attempt();
        self.connecting.push_back(ConnectDeadline { at: Instant::now() + CONNECT_TIMEOUT, place, attempt });
    }

    /// Goes on with a relay after an event on one of its sockets.
    fn advance(&mut self, place: Place, flags: EventFlags) {
        let Some(relay) = self.relays.get_mut(place) else { return };
        if relay.is_connecting() {
            match relay.finish_connect() {
                // A client that was reset has nobody left to connect for; one that has ended its sending
                // may still wait for an answer.
                Ok(()) if relay.is_connecting() => {
                    if relay.has_failed() {
                        self.reset(place);
                    }
                    return;
                }
                Ok(()) => {}
                Err(_) => return self.connect(place),
            }
        }
        self.pump(place);
        // After the data that came before the error. The event alone proves nothing: it may be about an
        // earlier attempt to connect.
        let failed = flags.contains(EventFlags::ERR)
            && self.relays.get_mut(place).is_some_and(|relay| relay.has_failed());
        if failed {
            self.reset(place);
        }
    }

    fn pump(&mut self, place: Place) {
        let Some(relay) = self.relays.get_mut(place) else { return };
        match relay.pump(&mut self.pipes) {
            Progress::Wait => {}
            Progress::Again => {
                if !self.ready.contains(&place) {
                    self.ready.push_back(place);
                }
            }
            Progress::Finished => drop(self.relays.remove(place)),
            Progress::Broken => self.reset(place),
        }
    }

    fn reset(&mut self, place: Place) {
        if let Some(relay) = self.relays.remove(place) {
            relay.reset();
        }
    }

    // DNS.

    fn read_queries(&mut self, listener: usize) {
        for _ in 0..BATCH {
            if self.queries.len() >= MAX_QUERIES {
                self.reads_queries = false;
                self.set_interest(Source::DnsSocket, EventFlags::empty());
                return;
            }
            self.buffer.resize(MAX_DATAGRAM_BYTES, 0);
            let Some(socket) = self.dns_sockets.get(listener) else { return };
            let (count, client) =
                match rustix::net::recvfrom(socket, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                    Ok((count, _, client)) => (count, client),
                    Err(Errno::AGAIN) => return,
                    // An ICMP error about an earlier answer whose client has gone.
                    Err(_) => continue,
                };
            let message = self.buffer.get(..count).unwrap_or_default();
            let client = client.and_then(|client| SocketAddr::try_from(client).ok());
            if let Some(query) = client.and_then(|client| Query::new(listener, client, message)) {
                let place = self.queries.insert(query);
                self.ask(place);
            }
        }
    }

    /// Asks the next nameserver, or gives up.
    fn ask(&mut self, place: Place) {
        let Some(query) = self.queries.get_mut(place) else { return };
        while query.ask_next(&self.policy.nameservers, Instant::now()) {
            let watched = query
                .socket()
                .is_some_and(|fd| watch(&self.epoll, fd, Source::DnsQuery, place, EventFlags::IN).is_ok());
            if watched {
                return;
            }
        }
        if let Some(query) = self.queries.remove(place) {
            let (listener, client) = (query.listener, query.client);
            self.reply(listener, client, &query.give_up());
        }
    }

    fn answer(&mut self, place: Place) {
        let Some(query) = self.queries.get_mut(place) else { return };
        self.buffer.resize(MAX_DATAGRAM_BYTES, 0);
        match query.receive(&mut self.buffer) {
            Outcome::Wait => {}
            Outcome::Failed => self.ask(place),
            Outcome::Answer(message) => {
                let (listener, client) = (query.listener, query.client);
                self.queries.remove(place);
                self.reply(listener, client, &message);
            }
        }
    }

    fn reply(&mut self, listener: usize, client: SocketAddr, message: &[u8]) {
        if let Some(socket) = self.dns_sockets.get(listener) {
            // Lost like any datagram when it cannot be sent; the client asks again.
            let _ = rustix::net::sendto(socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &client);
        }
        if !self.reads_queries && self.queries.len() < MAX_QUERIES {
            self.reads_queries = true;
            self.set_interest(Source::DnsSocket, EventFlags::IN);
        }
    }

    /// Changes what is waited for on all sockets made inside the namespace that are of one kind.
    fn set_interest(&self, source: Source, flags: EventFlags) {
        let sockets = if source == Source::Listener { &self.listeners } else { &self.dns_sockets };
        for (index, socket) in sockets.iter().enumerate() {
            let data = EventData::new_u64(Place::fixed(index as u32).token(source));
            let _ = epoll::modify(&self.epoll, socket, data, flags);
        }
    }
}

fn watch(
    epoll: &OwnedFd,
    fd: BorrowedFd<'_>,
    source: Source,
    place: Place,
    flags: EventFlags,
) -> rustix::io::Result<()> {
    epoll::add(epoll, fd, EventData::new_u64(place.token(source)), flags)
}

/// Watches a socket of a relay: every change of its state is one event, since a relay always does all it can.
fn watch_relay(epoll: &OwnedFd, fd: BorrowedFd<'_>, source: Source, place: Place) -> rustix::io::Result<()> {
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    watch(epoll, fd, source, place, flags)
}

/// Where the sandbox's program meant to connect. `None` when it connected to the listener itself.
fn original_destination(client: &OwnedFd, listener: usize) -> Option<SocketAddr> {
    // The order of `Channels`: the second listener is the IPv6 one.
    let destination: SocketAddr = if listener == 0 {
        sockopt::ip_original_dst(client).ok()?.into()
    } else {
        sockopt::ipv6_original_dst(client).ok()?.into()
    };
    (own_address(client)? != destination).then_some(destination)
}

fn own_address(client: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(client).ok()?).ok()
}

/// What the host's kernel does with packets to `ip`. Unknown counts as local, which is the careful answer.
fn route_kind(routes: &mut Option<Socket>, ip: IpAddr) -> RouteKind {
    if routes.is_none() {
        *routes = Socket::open(Family::Route).ok();
    }
    let kind = routes.as_ref().map(|socket| socket.route_kind(ip));
    match kind {
        Some(Ok(kind)) => kind,
        _ => {
            // An answer that came too late would be taken for the next one's.
            *routes = None;
            RouteKind::Local
        }
    }
}
