//! Answers the calls of a command that its user namespace is too small for.
//!
//! Where kiln is an ordinary user, most ids have no mapping and nobody may make devices. The second filter of the sandbox
//! ([`super::seccomp::handover`]) hands such calls to kiln, which records what was wanted (`sys::override_stat`), so that the
//! layer says it.
//!
//! Invariants:
//! - a thread may do here what it might do as the same user of a large enough namespace: without CAP_CHOWN, or CAP_MKNOD, in
//!   the sandbox's own user namespace the kernel itself answers; and without CAP_DAC_OVERRIDE, since kiln's thread enters
//!   every directory;
//! - paths are walked as the thread would, below its root and from its working directory, by a thread of kiln that has gone
//!   to that root and whose root is no other thread's;
//! - whatever cannot be found out about a caller, the kernel answers: the command is no worse off than without all this.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::seccomp::handover::{self, Kind, Target};
use crate::sys::override_stat::{self, Ids, Owner};
use crate::sys::seccomp::{self, Answer, Call};

const CAP_CHOWN: u64 = 1 << 0;
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_MKNOD: u64 = 1 << 27;
/// `PATH_MAX`.
const MAX_PATH_BYTES: usize = 4096;

/// The thread that answers. It ends with the last process that the filter is on.
pub(super) struct Supervisor {
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Begins to answer what comes from `listener`.
    /// `namespace` is the user namespace of the sandbox.
    pub(super) fn start(listener: OwnedFd, namespace: &OwnedFd) -> io::Result<Self> {
        let namespace = identity(namespace)?;
        let (stop, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (its_stop, its_lost) = (Arc::clone(&stop), Arc::clone(&lost));
        let thread = std::thread::Builder::new().name("calls".to_owned()).spawn(move || {
            // When this cannot be had, calls wait in vain unless the listener goes: then they fail with ENOSYS.
            if let Ok(answering) = Answering::new(namespace, &its_lost) {
                answering.serve(&listener, &its_stop);
            }
        })?;
        Ok(Self { stop, lost, thread: Some(thread) })
    }

    /// Ends it. Gives how many owners of symlinks and the like could not be kept.
    pub(super) fn finish(mut self) -> u64 {
        self.end();
        self.lost.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end();
    }
}

struct Answering<'a> {
    /// /proc as kiln sees it.
    processes: OwnedFd,
    /// The sandbox's user namespace.
    namespace: (u64, u64),
    /// kiln's root directory.
    home: OwnedFd,
    ids: &'static Ids,
    lost: &'a AtomicU64,
}

/// Why a call is not answered here.
enum Refusal {
    /// It is the kernel's business.
    Kernel,
    Failed(Errno),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

impl<'a> Answering<'a> {
    fn new(namespace: (u64, u64), lost: &'a AtomicU64) -> io::Result<Self> {
        // This thread goes to the roots of others.
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::FS)?;
        rustix::process::umask(Mode::empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let processes = fs::open("/proc", flags, Mode::empty())?;
        let home = fs::open("/", flags, Mode::empty())?;
        Ok(Self { processes, namespace, home, ids: Ids::current(), lost })
    }

    fn serve(&self, listener: &OwnedFd, stop: &AtomicBool) {
        let Ok(patience) = Timespec::try_from(Duration::from_millis(100)) else { return };
        loop {
            let mut fds = [PollFd::new(listener, PollFlags::IN)];
            match poll(&mut fds, Some(&patience)) {
                Ok(0) if stop.load(Ordering::Relaxed) => return,
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            if !fds[0].revents().contains(PollFlags::IN) {
                // The last process is gone.
                return;
            }
            let call = match seccomp::receive(listener.as_fd()) {
                Ok(Some(call)) => call,
                Ok(None) => continue,
                Err(_) => return,
            };
            let answer = match self.answer(listener, &call) {
                Ok(()) => Answer::Done,
                Err(Refusal::Kernel) => Answer::Kernel,
                Err(Refusal::Failed(error)) => Answer::Failed(error.raw_os_error()),
            };
            if seccomp::answer(listener.as_fd(), &call, answer).is_err() {
                return;
            }
        }
    }

    fn answer(&self, listener: &OwnedFd, call: &Call) -> Result<(), Refusal> {
        let kind = handover::kind(call.arch, call.number).ok_or(Refusal::Kernel)?;
        let caller = Caller::find(&self.processes, call.thread).map_err(|_| Refusal::Kernel)?;
        // Capabilities of a namespace that it has made itself are none of the sandbox's.
        if caller.link("ns/user").map_err(io::Error::from).and_then(|own| identity(&own)).ok()
            != Some(self.namespace)
        {
            return Err(Refusal::Kernel);
        }
        let (Kind::Owner { of, .. } | Kind::Node { of, .. }) = kind;
        let at = caller.target(of, call)?;
        // From here on what was found is the caller's, and not that of a later thread with its number.
        if !seccomp::still_waits(listener.as_fd(), call) {
            return Err(Refusal::Kernel);
        }
        match kind {
            Kind::Owner { user, .. } => {
                let id = |index: usize| call.arguments.get(index).map_or(u32::MAX, |value| *value as u32);
                self.change_owner(&caller, &at, id(user), id(user + 1))
            }
            Kind::Node { mode, .. } => {
                let argument = |index: usize| call.arguments.get(index).copied().unwrap_or_default() as u32;
                make_node(&self.home, &caller, &at, argument(mode), argument(mode + 1))
            }
        }
    }

    fn change_owner(&self, caller: &Caller, at: &At, user: u32, group: u32) -> Result<(), Refusal> {
        caller.must_have(CAP_CHOWN | CAP_DAC_OVERRIDE)?;
        let node = match &at.path {
            None => at.base.try_clone()?,
            Some(path) => {
                let follow = if at.follow { OFlags::empty() } else { OFlags::NOFOLLOW };
                let flags = OFlags::PATH | OFlags::CLOEXEC | follow;
                caller.inside(&self.home, &at.base, || fs::openat(CWD, path, flags, Mode::empty()))?
            }
        };
        let found = fs::fstat(&node)?;
        let now = override_stat::effective(node.as_fd(), found)?;
        // Who changes one of the two only may name the other as it is shown (busybox does).
        let nobody = self.ids.nobody();
        let keeps_user = user == u32::MAX || user == nobody.0 && found.st_uid == nobody.0;
        let keeps_group = group == u32::MAX || group == nobody.1 && found.st_gid == nobody.1;
        let (user, group) =
            (if keeps_user { now.st_uid } else { user }, if keeps_group { now.st_gid } else { group });
        if override_stat::set_owner_in(self.ids, node.as_fd(), &found, user, group)? == Owner::Lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Device and number of an open file.
fn identity(file: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Makes what stands for a device.
fn make_node(home: &OwnedFd, caller: &Caller, at: &At, mode: u32, device: u32) -> Result<(), Refusal> {
    caller.must_have(CAP_MKNOD | CAP_DAC_OVERRIDE)?;
    let kind = FileType::from_raw_mode(mode);
    // Of another user it would not count; the device 0:0 the kernel makes for everybody.
    if (caller.user, caller.group) != (0, 0) || device == 0 {
        return Err(Refusal::Kernel);
    }
    let path = at.path.as_ref().ok_or(Refusal::Kernel)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode & 0o7777 & !caller.umask);
    let file = caller.inside(home, &at.base, || fs::openat(CWD, path, flags, mode))?;
    // As the call has it (`new_decode_dev` of the kernel).
    let (major, minor) = ((device & 0xf_ff00) >> 8, device & 0xff | (device >> 12) & 0xf_ff00);
    if let Err(error) = override_stat::record_device(file.as_fd(), kind, fs::makedev(major, minor)) {
        let _ = caller.inside(home, &at.base, || fs::unlinkat(CWD, path, AtFlags::empty()));
        return Err(error.into());
    }
    Ok(())
}

/// The thread that makes a call.
struct Caller {
    /// Its directory in /proc.
    directory: OwnedFd,
    capabilities: u64,
    /// Its ids for file systems.
    user: u32,
    group: u32,
    umask: u32,
}

/// What a call works on.
struct At {
    /// The node itself, or the directory that the path begins in.
    base: OwnedFd,
    path: Option<OsString>,
    follow: bool,
}

impl Caller {
    fn find(processes: &OwnedFd, thread: u32) -> io::Result<Self> {
        if thread == 0 {
            return Err(Errno::SRCH.into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::openat(processes, thread.to_string(), flags, Mode::empty())?;
        let status = fs::openat(&directory, "status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let status = io::read_to_string(File::from(status))?;
        let facts = Facts::parse(&status).ok_or(Errno::INVAL)?;
        let Facts { capabilities, user, group, umask } = facts;
        Ok(Self { directory, capabilities, user, group, umask })
    }

    fn must_have(&self, capabilities: u64) -> Result<(), Refusal> {
        if self.capabilities & capabilities == capabilities { Ok(()) } else { Err(Refusal::Kernel) }
    }

    /// One of its links in /proc, opened.
    fn link(&self, name: &str) -> Result<OwnedFd, Errno> {
        fs::openat(&self.directory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    fn directory_of(&self, descriptor: u64) -> Result<OwnedFd, Errno> {
        // The kernel looks at the lower half.
        if descriptor as i32 == libc::AT_FDCWD { self.link("cwd") } else { self.descriptor(descriptor) }
    }

    fn descriptor(&self, number: u64) -> Result<OwnedFd, Errno> {
        match self.link(&format!("fd/{}", number as i32)) {
            Err(Errno::NOENT) => Err(Errno::BADF),
            opened => opened,
        }
    }

    fn target(&self, target: Target, call: &Call) -> Result<At, Refusal> {
        let argument = |index: usize| call.arguments.get(index).copied().unwrap_or_default();
        match target {
            Target::Descriptor => {
                let node = self.descriptor(argument(0))?;
                Ok(At { base: node, path: None, follow: false })
            }
            Target::Path { follow } => {
                let path = self.path(argument(0))?;
                Ok(At { base: self.link("cwd")?, path: Some(path), follow })
            }
            Target::At { flags } => {
                let flags = flags.map_or(0, |index| argument(index) as i32);
                if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
                    return Err(Refusal::Failed(Errno::INVAL));
                }
                let path = self.path(argument(1))?;
                let base = self.directory_of(argument(0))?;
                let itself = path.is_empty() && flags & libc::AT_EMPTY_PATH != 0;
                let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
                Ok(At { base, path: (!itself).then_some(path), follow })
            }
        }
    }

    /// A string of its memory.
    fn path(&self, address: u64) -> Result<OsString, Refusal> {
        let memory = fs::openat(&self.directory, "mem", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|_| Refusal::Kernel)?;
        let (memory, mut path) = (File::from(memory), Vec::new());
        let mut chunk = [0; 256];
        while path.len() < MAX_PATH_BYTES {
            // What follows the end of the string may not be there: not over the end of a page at once.
            let at = address.wrapping_add(path.len() as u64);
            let left = chunk.len().min((MAX_PATH_BYTES as u64 - at % MAX_PATH_BYTES as u64) as usize);
            let read = memory.read_at(&mut chunk[..left], at).map_err(|_| Refusal::Failed(Errno::FAULT))?;
            if read == 0 {
                return Err(Refusal::Failed(Errno::FAULT));
            }
            let part = chunk.get(..read).unwrap_or_default();
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                path.extend_from_slice(part.get(..end).unwrap_or_default());
                return Ok(OsString::from_vec(path));
            }
            path.extend_from_slice(part);
        }
        Err(Refusal::Failed(Errno::NAMETOOLONG))
    }

    /// Does something at the caller's root and in a directory, and comes back to `home`.
    fn inside<T>(
        &self,
        home: &OwnedFd,
        directory: &OwnedFd,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Refusal> {
        let enter = |root: &OwnedFd| {
            rustix::process::fchdir(root)?;
            rustix::process::chroot(".")
        };
        let root = self.link("root").map_err(|_| Refusal::Kernel)?;
        let done = match enter(&root) {
            Ok(()) => Ok(rustix::process::fchdir(directory).and_then(|()| act())),
            Err(_) => Err(Refusal::Kernel),
        };
        // /proc/self means this thread only in its own root.
        enter(home)?;
        Ok(done??)
    }
}

/// What /proc/PID/status says.
struct Facts {
    capabilities: u64,
    user: u32,
    group: u32,
    umask: u32,
}

impl Facts {
    fn parse(status: &str) -> Option<Self> {
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim())
        };
        // Real, effective, saved, and that for file systems.
        let id = |name: &str| value(name)?.split_whitespace().nth(3)?.parse().ok();
        Some(Self {
            capabilities: u64::from_str_radix(value("CapEff")?, 16).ok()?,
            user: id("Uid")?,
            group: id("Gid")?,
            umask: u32::from_str_radix(value("Umask")?, 8).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_a_thread() {
        let status = "Name:\tx\nUmask:\t0027\nState:\tR\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t00000000a80425fb\n";
        let facts = Facts::parse(status).unwrap();
        assert_eq!((facts.user, facts.group, facts.umask), (4, 8, 0o027));
        assert_eq!(facts.capabilities & (CAP_MKNOD | CAP_DAC_OVERRIDE), CAP_MKNOD | CAP_DAC_OVERRIDE);
        assert!(Facts::parse("Uid:\t1\t2\t3\t4\n").is_none());
    }

    #[test]
    fn strings_of_a_process_end_with_its_memory() {
        let own = Caller {
            directory: fs::open("/proc/self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap(),
            capabilities: 0,
            user: 0,
            group: 0,
            umask: 0,
        };
        let text = format!("{}\0rest", "a/".repeat(700));
        let path = own.path(text.as_ptr() as u64).ok().unwrap();
        assert_eq!(path.len(), 1400);
        let long = vec![b'a'; 3 * MAX_PATH_BYTES];
        assert!(matches!(own.path(long.as_ptr() as u64), Err(Refusal::Failed(Errno::NAMETOOLONG))));
        assert!(matches!(own.path(16), Err(Refusal::Failed(Errno::FAULT))));
    }
}
