//! The zygote: a small single-threaded process that clones the children.
//!
//! Cloning from kiln itself would copy the page tables of a large process each time (engine-facts 1.8) and would have
//! to be async-signal-safe because of kiln's threads; here neither is the case.
//!
//! Invariants:
//! - it is kiln's own executable, started through a read-only mount of it, so that nothing inside a sandbox can
//!   open it for writing;
//! - its current directory is the store, seen through the id map when kiln is root;
//! - its standard input is the socket to kiln; when that closes, every child is killed and it ends.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::child::{self, Descriptors};
use super::seccomp;
use super::spec::{Report, SandboxNetwork, SandboxSpec, SetupFailure};
use crate::sys::mount::{self, Attributes};
use crate::sys::process::{Cloned, clone_into_namespaces, exit_now};
use crate::sys::seccomp::Program;
use crate::sys::userns::{self, IdMap};
use crate::sys::{message, process};

/// First argument that makes kiln a zygote.
pub const ARGUMENT: &str = "__zygote";

/// First message to the zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Root of the store.
    pub store: String,
    /// Show the store through these ids (kiln is real root).
    pub idmap: Option<IdMap>,
    /// Soft and hard limit of open files for commands, where kiln has raised its own.
    pub open_files: Option<(u64, u64)>,
}

/// Answer to [`Hello`]: an error text, or nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ready {
    pub error: Option<String>,
}

struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    report: OwnedFd,
}

/// Runs the zygote. Never returns.
pub fn main() -> ! {
    let status = match serve() {
        Ok(()) => 0,
        Err(error) => {
            // kiln sees the closed socket; this line is for whoever runs it by hand.
            eprintln!("kiln: the zygote stopped: {error}");
            1
        }
    };
    exit_now(status)
}

fn serve() -> io::Result<()> {
    // Terminal signals go to kiln alone, which decides what happens to the commands.
    let _ = rustix::process::setsid();
    // The socket comes as standard input because that survives exec; it must not reach the commands.
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    process::install_stdio(null.as_fd(), 0)?;
    let Some((hello, _)) = message::receive(&socket)? else { return Ok(()) };
    let hello: Hello = serde_json::from_slice(&hello)?;
    let prepared = prepare(&hello).and_then(|()| seccomp::default_program().map_err(io::Error::other));
    let error = prepared.as_ref().err().map(ToString::to_string);
    message::send(socket.as_fd(), &serde_json::to_vec(&Ready { error })?, &[])?;
    let Ok(filter) = prepared else { return Ok(()) };
    let mut children: BTreeMap<RawFd, Child> = BTreeMap::new();
    loop {
        let (mut requested, mut ended, mut abandoned) = (false, Vec::new(), Vec::new());
        {
            let mut fds = vec![PollFd::new(&socket, PollFlags::IN)];
            for child in children.values() {
                fds.push(PollFd::new(&child.pidfd, PollFlags::IN));
                fds.push(PollFd::new(&child.report, PollFlags::RDHUP));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            requested |= !fds[0].revents().is_empty();
            for (key, pair) in children.keys().zip(fds[1..].chunks(2)) {
                if !pair[0].revents().is_empty() {
                    ended.push(*key);
                } else if !pair[1].revents().is_empty() {
                    abandoned.push(*key);
                }
            }
        }
        for key in abandoned {
            if let Some(child) = children.get(&key) {
                let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
                let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
            }
            children.remove(&key);
        }
        for key in ended {
            if let Some(child) = children.remove(&key) {
                reap(&child);
            }
        }
        if requested {
            match message::receive(&socket)? {
                Some((_, fds)) => {
                    if let Some(child) = start(fds, &filter) {
                        children.insert(child.pidfd.as_raw_fd(), child);
                    }
                }
                None => {
                    for child in children.values() {
                        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
                    }
                    for child in children.values() {
                        let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
                    }
                    return Ok(());
                }
            }
        }
    }
}

/// Goes to the store, through an idmapped mount when kiln is real root.
fn prepare(hello: &Hello) -> io::Result<()> {
    if let Some((soft, hard)) = hello.open_files {
        process::set_limit(libc::RLIMIT_NOFILE, soft, hard)?;
    }
    if let Some(map) = &hello.idmap {
        #[allow(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNS)?;
        super::mounts::isolate()?;
        let namespace = userns::hold(map)?;
        let tree = mount::clone_path(Path::new(&hello.store), false)?;
        mount::set_attributes(
            tree.as_fd(),
            Attributes { idmap: Some(namespace.as_fd()), ..Attributes::default() },
        )
        .map_err(|e| {
            io::Error::new(
                e.kind(),
                format!(
                    "the file system of `{}` cannot be shown with shifted ids (idmapped mounts): {e}",
                    hello.store
                ),
            )
        })?;
        mount::attach_at(tree.as_fd(), Path::new(&hello.store))?;
    }
    Ok(rustix::process::chdir(hello.store.as_str())?)
}

fn reap(child: &Child) {
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
    let report = Report::Exited {
        code: status.as_ref().and_then(|s| s.exit_status()),
        signal: status.as_ref().and_then(|s| s.terminating_signal()),
    };
    send(&child.report, &report);
    let _ = child.pid;
}

fn send(socket: &OwnedFd, report: &Report) {
    if let Ok(bytes) = serde_json::to_vec(report) {
        // kiln may have lost interest meanwhile.
        let _ = message::send(socket.as_fd(), &bytes, &[]);
    }
}

fn start(fds: Vec<OwnedFd>, filter: &Program) -> Option<Child> {
    let mut fds = fds.into_iter();
    let (spec, report) = (fds.next()?, fds.next()?);
    let stdio = [fds.next()?, fds.next()?, fds.next()?];
    match clone(spec, &report, stdio, filter) {
        Ok((pid, pidfd)) => Some(Child { pid, pidfd, report }),
        Err(error) => {
            let failure = SetupFailure {
                step: "start a sandbox".to_owned(),
                message: error.to_string(),
                user_error: false,
                code: 1,
            };
            send(&report, &Report::SetupFailed(failure));
            send(&report, &Report::Exited { code: Some(1), signal: None });
            None
        }
    }
}

/// The kernel's word for too many namespaces is that of a full disk (user_namespaces(7)).
fn told(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ENOSPC) {
        return io::Error::other(
            "there may be no more user namespaces here; raise the limit: sysctl user.max_user_namespaces=15000",
        );
    }
    error
}

fn clone(
    spec: OwnedFd,
    report: &OwnedFd,
    stdio: [OwnedFd; 3],
    filter: &Program,
) -> io::Result<(Pid, OwnedFd)> {
    let spec: SandboxSpec = serde_json::from_reader(io::BufReader::new(std::fs::File::from(spec)))?;
    let (ours, go) = message::pair()?;
    let mut namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if spec.network != SandboxNetwork::Host {
        namespaces |= libc::CLONE_NEWNET;
    }
    let report = report.try_clone()?;
    // SAFETY: the zygote never starts a thread.
    match unsafe { clone_into_namespaces(namespaces) }.map_err(told)? {
        Cloned::Child => {
            drop(ours);
            child::run(&spec, &Descriptors { go, report, stdio }, filter)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(go);
            if let Err(error) = spec.ids.write_for(pid) {
                drop(ours);
                let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                return Err(io::Error::new(error.kind(), format!("cannot write the id maps: {error}")));
            }
            if let Err(error) = message::send(ours.as_fd(), b"go", &[]) {
                // Only a child that is gone already does not listen.
                let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                return Err(error);
            }
            Ok((pid, pidfd))
        }
    }
}
