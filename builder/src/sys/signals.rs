//! Signals of the kiln process: blocked everywhere, taken by one thread that waits for them.

use std::io;

/// Blocks SIGINT, SIGTERM and SIGHUP in this thread and all threads made from it later. Call before any thread
/// exists.
pub fn block_termination() -> io::Result<()> {
    change(libc::SIG_BLOCK)
}

/// Undoes [`block_termination`] in this thread (for a child that is about to exec).
pub fn unblock_termination() -> io::Result<()> {
    change(libc::SIG_UNBLOCK)
}

fn set() -> libc::sigset_t {
    // SAFETY: an all-zero set is valid memory for sigemptyset, which initialises it; the signal numbers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

fn change(how: libc::c_int) -> io::Result<()> {
    let set = set();
    // SAFETY: `set` is initialised; the old mask is not asked for.
    let error = unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Waits for one of the blocked signals and returns its number.
pub fn wait_termination() -> io::Result<i32> {
    let set = set();
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
