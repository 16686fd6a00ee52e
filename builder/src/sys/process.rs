//! Processes: clone into namespaces, exec, and the few per-process settings that have no safe wrapper.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use rustix::process::Pid;

/// Result of [`clone_into_namespaces`].
#[derive(Debug)]
pub enum Cloned {
    /// This is the child.
    Child,
    /// This is the parent.
    Parent {
        /// The child.
        pid: Pid,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
}

/// `clone3` with new namespaces (`CLONE_NEW*` flags). The child gets a copy of this process, like `fork`.
///
/// # Safety
/// The calling process must have exactly one thread: the child goes on with a copy of the heap, and any lock held
/// by another thread would stay locked for ever.
pub unsafe fn clone_into_namespaces(namespaces: libc::c_int) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args (no stack, no flags).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (namespaces as u32 as u64) | (libc::CLONE_PIDFD as u64);
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: no CLONE_VM, so the child has its own copy of everything; `args` and `pidfd` outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just stored a fresh descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid =
                Pid::from_raw(pid as i32).ok_or_else(|| io::Error::other("clone3 gave no process id"))?;
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Replaces the program. Returns only on failure.
pub fn exec(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const libc::c_char>>()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both vectors end in a null pointer and every other pointer is a NUL-terminated string that lives
    // across the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on as close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: marking descriptors close-on-exec takes none away from their owners in this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `fd` this process' descriptor `number` (0, 1 or 2), not close-on-exec.
pub fn install_stdio(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: 0, 1 and 2 are never owned by an OwnedFd in a process that calls this.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends this process at once, without destructors or exit handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Lets go of the session keyring and takes an empty one, for this process and all that it starts (keyctl(2)).
pub fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for a keyring without one; nothing else is passed.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
    match io::Error::last_os_error() {
        _ if result >= 0 => Ok(()),
        // No keys in this kernel, or a filter around kiln that keeps them from every command too.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        error => Err(error),
    }
}

/// Asks for `SIGKILL` when the parent dies.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// Makes `fd` the controlling terminal of this session leader.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(fd)?)
}

/// Soft and hard limit of open files that this process was started with, once they were raised.
static OPEN_FILES: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the soft limit of open files to the hard one: a stack of hundreds of layers, and many steps at a time, take
/// more than the usual 1024.
pub fn raise_open_files() -> io::Result<()> {
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let (soft, hard) = (before.current.unwrap_or(u64::MAX), before.maximum.unwrap_or(u64::MAX));
    set_limit(OPEN_FILES_LIMIT, hard, hard)?;
    OPEN_FILES.get_or_init(|| (soft, hard));
    Ok(())
}

/// The limits before [`raise_open_files`]; commands get these, as many programs close every descriptor that they
/// might have.
pub fn original_open_files() -> Option<(u64, u64)> {
    OPEN_FILES.get().copied()
}

/// `RLIMIT_NOFILE`.
#[allow(clippy::unnecessary_cast, reason = "the C libraries disagree about the type")]
pub const OPEN_FILES_LIMIT: u32 = libc::RLIMIT_NOFILE as u32;

/// The number of a resource limit (`RLIMIT_*`) by the name that `--ulimit` gives it.
#[allow(clippy::unnecessary_cast, reason = "the C libraries disagree about the type")]
pub fn limit_number(name: &str) -> Option<u32> {
    let number = match name {
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        _ => return None,
    };
    Some(number as u32)
}

/// Sets a resource limit by number (`RLIMIT_*`).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` lives across the call and is only read.
    let result = unsafe { libc::setrlimit64(resource as _, &raw const limit) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
