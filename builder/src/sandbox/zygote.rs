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
use rustix::fs::{self, AtFlags, CWD, FileType, Mode};
use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::cgroup::{Group, Hits};
use super::child::{self, Descriptors};
use super::helper::Running;
use super::net::mechanism;
use super::seccomp;
use super::spec::{Report, SandboxNetwork, SandboxSpec, SetupFailure};
use crate::sys::mount::{self, Attributes};
use crate::sys::process::{Cloned, clone_into_namespaces, exit_now};
use crate::sys::seccomp::Program;
use crate::sys::userns::{self, Extent, IdMap};
use crate::sys::{message, process};

/// First argument that makes kiln a zygote.
pub const ARGUMENT: &str = "__zygote";

/// A message that asks whether connections can be redirected; with it comes the socket for the answer.
pub(super) const PROBE: &[u8] = b"probe";

/// First message to the zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Root of the store.
    pub store: String,
    /// Show the store through these ids (kiln is real root).
    pub idmap: Option<IdMap>,
    /// Soft and hard limit of open files for commands, where kiln has raised its own.
    pub open_files: Option<(u64, u64)>,
    /// Devices of the host that commands get nodes of their own for, since the host's belong to ids that no command
    /// has. With an id map only.
    pub devices: Vec<String>,
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
    /// Removed when this is dropped, which is after the command and all that it started are gone.
    group: Option<Group>,
    /// Brings its connections out.
    helper: Option<Running>,
}

/// Directory of the store where the nodes of [`Hello::devices`] are, numbered from 0.
pub(super) const DEVICE_SPOT: &str = "spots/devices";

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
    // A command without a seccomp filter must not possess the keys of the session that kiln was started in.
    process::new_session_keyring()?;
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
    let mut counters = Counters::default();
    loop {
        let (mut requested, mut ended, mut abandoned, mut unhelped) =
            (false, Vec::new(), Vec::new(), Vec::new());
        {
            let mut fds = vec![PollFd::new(&socket, PollFlags::IN)];
            for child in children.values() {
                fds.push(PollFd::new(&child.pidfd, PollFlags::IN));
                fds.push(PollFd::new(&child.report, PollFlags::RDHUP));
            }
            let helped = children.iter().filter_map(|(key, child)| Some((*key, child.helper.as_ref()?)));
            let helpers: Vec<RawFd> = helped.clone().map(|(key, _)| key).collect();
            helped.for_each(|(_, helper)| fds.push(PollFd::from_borrowed_fd(helper.pidfd(), PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            requested |= !fds[0].revents().is_empty();
            let (pairs, rest) = fds[1..].split_at(2 * children.len());
            unhelped.extend(
                helpers.iter().zip(rest).filter(|(_, fd)| !fd.revents().is_empty()).map(|(key, _)| *key),
            );
            for (key, pair) in children.keys().zip(pairs.chunks(2)) {
                if !pair[0].revents().is_empty() {
                    ended.push(*key);
                } else if !pair[1].revents().is_empty() {
                    abandoned.push(*key);
                }
            }
        }
        for key in unhelped {
            if let Some(child) = children.get_mut(&key) {
                lose_network(child);
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
                Some((what, fds)) if what == PROBE => probe(&fds, hello.idmap.as_ref()),
                Some((_, fds)) => {
                    if let Some(child) = start(fds, &filter, &mut counters) {
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

/// Tries whether connections can be redirected, and says so on the socket that came along.
fn probe(fds: &[OwnedFd], map: Option<&IdMap>) {
    let Some(report) = fds.first() else { return };
    let tried =
        map.cloned().map_or_else(IdMap::of_current_namespace, Ok).and_then(|map| mechanism::probe(&map));
    let said = match tried {
        Ok(Ok(())) => String::new(),
        Ok(Err(reason)) => reason,
        Err(error) => error.to_string(),
    };
    send(report, &Report::Probed(said));
}

/// Ends a command whose connections nobody brings out any more.
fn lose_network(child: &mut Child) {
    let Some(mut helper) = child.helper.take() else { return };
    let failure = SetupFailure {
        step: "keep the network connected".to_owned(),
        message: helper.words(),
        user_error: false,
        code: 1,
    };
    send(&child.report, &Report::SetupFailed(failure));
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
}

/// Goes to the store, through an idmapped mount when kiln is real root.
fn prepare(hello: &Hello) -> io::Result<()> {
    if let Some((soft, hard)) = hello.open_files {
        process::set_limit(process::OPEN_FILES_LIMIT, soft, hard)?;
    }
    if let Some(map) = &hello.idmap {
        #[allow(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNS)?;
        super::mounts::isolate()?;
        let namespace = userns::hold(map)?;
        let tree = mount::clone_path(Path::new(&hello.store), false)?;
        mount::set_attributes(
            tree.as_fd(),
            Attributes {
                set: Some(MountAttrFlags::MOUNT_ATTR_NODEV),
                idmap: Some(namespace.as_fd()),
                ..Attributes::default()
            },
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
        make_devices(&hello.devices, &Path::new(&hello.store).join(DEVICE_SPOT), map)?;
    }
    Ok(rustix::process::chdir(hello.store.as_str())?)
}

/// Device nodes like the host's, but owned by root of the sandboxes, on a tmpfs of this mount namespace.
fn make_devices(devices: &[String], spot: &Path, map: &IdMap) -> io::Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let root = |extents: &[Extent]| extents.iter().find(|e| e.inside == 0).map(|e| e.outside);
    let (Some(uid), Some(gid)) = (root(&map.uids), root(&map.gids)) else {
        return Err(io::Error::other("the id map has no root"));
    };
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tmpfs = mount::file_system("tmpfs", &[("mode", "0755")], flags)?;
    mount::attach_at(tmpfs.as_fd(), spot)?;
    for (number, device) in devices.iter().enumerate() {
        let stat = fs::stat(device.as_str())?;
        let (node, mode) = (spot.join(number.to_string()), Mode::from_raw_mode(stat.st_mode & 0o777));
        fs::mknodat(CWD, &node, FileType::from_raw_mode(stat.st_mode), mode, stat.st_rdev)?;
        fs::chmodat(CWD, &node, mode, AtFlags::empty())?;
        let owner = (Some(fs::Uid::from_raw(uid)), Some(fs::Gid::from_raw(gid)));
        fs::chownat(CWD, &node, owner.0, owner.1, AtFlags::empty())?;
    }
    Ok(())
}

fn reap(child: &Child) {
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
    let report = Report::Exited {
        code: status.as_ref().and_then(|s| s.exit_status()),
        signal: status.as_ref().and_then(|s| s.terminating_signal()),
        hits: child.group.as_ref().map(Group::hits).unwrap_or_default(),
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

/// How many of a kind there were; each gets a name of its own.
#[derive(Default)]
struct Counters {
    groups: u64,
    helpers: u64,
}

fn start(fds: Vec<OwnedFd>, filter: &Program, counters: &mut Counters) -> Option<Child> {
    let mut fds = fds.into_iter();
    let (spec, report) = (fds.next()?, fds.next()?);
    let stdio = [fds.next()?, fds.next()?, fds.next()?];
    let read = || -> io::Result<SandboxSpec> {
        Ok(serde_json::from_reader(io::BufReader::new(std::fs::File::from(spec)))?)
    };
    let begin = || -> io::Result<(Pid, OwnedFd, Option<Group>, Option<Running>)> {
        let spec = read()?;
        let group = match &spec.group {
            Some(group) => {
                counters.groups += 1;
                Some(Group::create(group, counters.groups - 1).map_err(io::Error::other)?)
            }
            None => None,
        };
        let (pid, pidfd, helper) = clone(&spec, &report, stdio, filter, group.as_ref(), counters)?;
        Ok((pid, pidfd, group, helper))
    };
    match begin() {
        Ok((pid, pidfd, group, helper)) => Some(Child { pid, pidfd, report, group, helper }),
        Err(error) => {
            let failure = SetupFailure {
                step: "start a sandbox".to_owned(),
                message: error.to_string(),
                user_error: false,
                code: 1,
            };
            send(&report, &Report::SetupFailed(failure));
            send(&report, &Report::Exited { code: Some(1), signal: None, hits: Hits::default() });
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
    spec: &SandboxSpec,
    report: &OwnedFd,
    stdio: [OwnedFd; 3],
    filter: &Program,
    group: Option<&Group>,
    counters: &mut Counters,
) -> io::Result<(Pid, OwnedFd, Option<Running>)> {
    let (ours, go) = message::pair()?;
    // The child makes its cgroup namespace itself, once it is in its group: that is where the namespace begins.
    let mut namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    if spec.network != SandboxNetwork::Host {
        namespaces |= libc::CLONE_NEWNET;
    }
    let report = report.try_clone()?;
    // SAFETY: the zygote never starts a thread.
    match unsafe { clone_into_namespaces(namespaces) }.map_err(told)? {
        Cloned::Child => {
            drop(ours);
            child::run(spec, &Descriptors { go, report, stdio }, filter)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(go);
            let mut set_up = || -> io::Result<Option<Running>> {
                if let Some(group) = group {
                    group.add(pid).map_err(io::Error::other)?;
                }
                spec.ids.write_for(pid).map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot write the id maps: {error}"))
                })?;
                let Some(helper) = &spec.helper else { return Ok(None) };
                let running = Running::start(&helper.helper, pid, counters.helpers)?;
                counters.helpers += 1;
                Ok(Some(running))
            };
            let helper = match set_up() {
                Ok(helper) => helper,
                Err(error) => {
                    drop(ours);
                    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                    return Err(error);
                }
            };
            if let Err(error) = message::send(ours.as_fd(), b"go", &[]) {
                // Only a child that is gone already does not listen.
                let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                return Err(error);
            }
            Ok((pid, pidfd, helper))
        }
    }
}
