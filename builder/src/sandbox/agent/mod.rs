//! SSH agents for `RUN --mount=type=ssh`: an agent of the client's passed on, or keys held in memory.
//!
//! Invariants:
//! - a command can list keys and have things signed, and nothing else: no key is added, removed or locked through the
//!   socket, whoever answers behind it. Only `raw=true` passes everything on, because its user said so;
//! - private keys stay in kiln's memory: what enters the sandbox is a socket;
//! - a message is read only when its length is within [`protocol::MAX_MESSAGE_BYTES`].

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod container;
mod keys;
mod protocol;

pub use keys::{KeyError, KeyRing};

/// Who answers behind a socket.
#[derive(Debug, Clone)]
pub enum Agent {
    /// Another agent.
    Socket {
        /// Its socket.
        path: PathBuf,
        /// Pass everything on, whatever it is.
        raw: bool,
    },
    /// kiln itself.
    Keys(Arc<KeyRing>),
}

/// Serves listening sockets from a sandbox, each by its agent, until the result is dropped.
pub fn serve(sockets: Vec<OwnedFd>, agents: &[Agent]) -> Box<dyn Send> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut servers = Vec::new();
    for (socket, agent) in sockets.into_iter().zip(agents) {
        let (stop, agent) = (stop.clone(), agent.clone());
        servers.push(std::thread::spawn(move || accept(&UnixListener::from(socket), &agent, &stop)));
    }
    Box::new(Servers { stop, servers })
}

struct Servers {
    stop: Arc<AtomicBool>,
    servers: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for server in self.servers.drain(..) {
            let _ = server.join();
        }
    }
}

fn accept(listener: &UnixListener, agent: &Agent, stop: &AtomicBool) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    while !stop.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((inside, _)) => {
                let agent = agent.clone();
                // Ends with the connection, which ends with the sandbox.
                std::thread::spawn(move || {
                    // A connection that cannot be served is closed, which is what a client of a dead agent sees.
                    let _ = inside.set_nonblocking(false).and_then(|()| connection(inside, &agent));
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(_) => return,
        }
    }
}

fn connection(inside: UnixStream, agent: &Agent) -> io::Result<()> {
    match agent {
        Agent::Keys(keys) => answer(inside, |message| Ok(protocol::answer(keys, message))),
        Agent::Socket { path, raw: true } => relay(inside, path),
        Agent::Socket { path, raw: false } => {
            let mut outside = UnixStream::connect(path)?;
            answer(inside, |message| {
                if !protocol::is_harmless(message) {
                    return Ok(protocol::FAILURE.to_vec());
                }
                protocol::write(&mut outside, message)?;
                protocol::read(&mut outside)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            })
        }
    }
}

/// Answers message after message until the client ends.
fn answer(mut inside: UnixStream, mut each: impl FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<()> {
    while let Some(message) = protocol::read(&mut inside)? {
        let reply = each(&message)?;
        protocol::write(&mut inside, &reply)?;
    }
    Ok(())
}

fn relay(inside: UnixStream, agent: &Path) -> io::Result<()> {
    let outside = UnixStream::connect(agent)?;
    let (mut from, mut to) = (inside.try_clone()?, outside.try_clone()?);
    let up = std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut from, mut to) = (outside, inside);
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = up.join();
    Ok(())
}

#[cfg(test)]
mod tests;
