//! Signals of the kiln process: blocked everywhere, taken by those that wait for them.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};

/// Signals that end kiln.
const TERMINATION: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// Says that the terminal has another size; ignored unless [`window_changes`] is asked for.
const WINDOW: [libc::c_int; 1] = [libc::SIGWINCH];

/// Blocks SIGINT, SIGTERM, SIGHUP and SIGWINCH in this thread and all threads made from it later. Call before any thread
/// exists.
pub fn block_termination() -> io::Result<()> {
    change(libc::SIG_BLOCK)
}

/// Undoes [`block_termination`] in this thread (for a child that is about to exec).
pub fn unblock_termination() -> io::Result<()> {
    change(libc::SIG_UNBLOCK)
}

/// Becomes readable when the terminal's size changes. Only where [`block_termination`] was called.
pub fn window_changes() -> io::Result<OwnedFd> {
    let set = set(&WINDOW);
    // SAFETY: `set` is initialised and only read; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes what made [`window_changes`] readable.
pub fn drain(changes: BorrowedFd<'_>) {
    let mut buffer = [0u8; 4 * size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(changes, &mut buffer).is_ok_and(|count| count > 0) {}
}

fn set(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: an all-zero set is valid memory for sigemptyset, which initialises it; the signal numbers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

fn change(how: libc::c_int) -> io::Result<()> {
    let all: Vec<libc::c_int> = TERMINATION.into_iter().chain(WINDOW).collect();
    let set = set(&all);
    // SAFETY: `set` is initialised; the old mask is not asked for.
    let error = unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Waits for one of the blocked signals and returns its number.
pub fn wait_termination() -> io::Result<i32> {
    let set = set(&TERMINATION);
    let mut signal = 0;
    // SAFETY: `set` is initialised and `signal` lives across the call.
    let error = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
    if error == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Sets every signal back to its default: Rust's runtime ignores SIGPIPE, by which commands expect to be killed, and
/// whoever started kiln may ignore others (`nohup`, a shell's background jobs).
pub fn default_dispositions() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition and no handler of ours exists; the signals that have no disposition
        // (SIGKILL, SIGSTOP, the C library's own) are refused, which changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
