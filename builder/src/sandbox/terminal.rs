//! A terminal for an interactive command: made in the sandbox's own devpts, and relayed to the terminal of kiln's user.
//!
//! ```text
//! user's terminal (raw) ◀──stdin, stdout──▶ relay thread ◀──master──▶ devpts of the sandbox ◀──▶ command
//! ```
//!
//! The command never holds a descriptor of the user's own terminal, into which it could push input for the shell that
//! kiln was started from (`TIOCSTI`).
//!
//! Invariants:
//! - whatever ends kiln but SIGKILL finds the user's terminal as it was: [`restore`] is called by the relay's end, by its
//!   destructor and by whoever ends the process at a signal;
//! - everything that the command wrote before its end is passed on.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, Uid, fchown, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    InputModes, OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use serde::{Deserialize, Serialize};

use crate::sys::signals;

/// A terminal that a command gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxTerminal {
    /// Rows; 0 when unknown.
    pub rows: u16,
    /// Columns; 0 when unknown.
    pub columns: u16,
    /// Erasing takes whole characters of UTF-8.
    pub utf8: bool,
}

/// How the user's terminal was before it became raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal of kiln's user, when kiln reads from one and writes to one.
pub fn of_user() -> Option<SandboxTerminal> {
    let stdin = rustix::stdio::stdin();
    if !isatty(stdin) || !isatty(rustix::stdio::stdout()) {
        return None;
    }
    let size = tcgetwinsize(stdin).ok()?;
    let utf8 = tcgetattr(stdin).ok()?.input_modes.contains(InputModes::IUTF8);
    Some(SandboxTerminal { rows: size.ws_row, columns: size.ws_col, utf8 })
}

/// Gives the user's terminal its modes back, if they were changed.
pub fn restore() {
    if let Some(saved) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that went away needs nothing.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &saved);
    }
}

/// Makes a terminal in the devpts at `/dev/pts`: its two ends, kiln's first. It belongs to `user`.
pub(super) fn make(terminal: SandboxTerminal, user: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    // In a namespace of a single id there is nobody else whom it could belong to.
    let _ = fchown(&theirs, Some(Uid::from_raw(user)), None);
    let mut modes = tcgetattr(&theirs)?;
    modes.input_modes.set(InputModes::IUTF8, terminal.utf8);
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    tcsetwinsize(&theirs, size(terminal.rows, terminal.columns))?;
    Ok((ours, theirs))
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Passes bytes and sizes on between the user's terminal and a command's.
pub(super) struct Relay {
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Makes the user's terminal raw and begins.
    pub(super) fn start(master: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&master)?;
        fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
        let changes = signals::window_changes()?;
        let output = rustix::stdio::stdout().try_clone_to_owned()?;
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        SAVED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(before);
        let mut relay = Self { thread: None };
        tcsetattr(stdin, OptionalActions::Now, &raw)?;
        let pump = move || pump(&File::from(master), &changes, &mut File::from(output));
        relay.thread = Some(std::thread::Builder::new().name("terminal".to_owned()).spawn(pump)?);
        Ok(relay)
    }

    /// Waits until everything that the command wrote is on the screen. Call when every process that has the command's
    /// terminal is gone.
    pub(super) fn finish(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        restore();
    }
}

/// Copies until nobody has the command's terminal any more.
fn pump(mut master: &File, changes: &OwnedFd, output: &mut File) {
    let stdin = rustix::stdio::stdin();
    let mut buffer = vec![0; 16 * 1024];
    // Typed, and not yet taken by the command's terminal.
    let mut typed: Vec<u8> = Vec::new();
    let mut is_open = true;
    loop {
        let wanted = if typed.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut fds = vec![PollFd::new(master, wanted), PollFd::new(changes, PollFlags::IN)];
        if is_open && typed.is_empty() {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        let (from_command, resized, from_user) = (ready(0), ready(1), ready(2));
        if resized {
            signals::drain(changes.as_fd());
            if let Ok(size) = tcgetwinsize(stdin) {
                let _ = tcsetwinsize(master, size);
            }
        }
        if from_user {
            match rustix::io::read(stdin, &mut buffer) {
                Ok(count) if count > 0 => typed.extend_from_slice(&buffer[..count]),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                _ => is_open = false,
            }
        }
        if !typed.is_empty()
            && let Ok(count) = master.write(&typed)
        {
            typed.drain(..count);
        }
        if from_command {
            match master.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    // A screen that went away ends nothing: the user's signals do.
                    let _ = output.write_all(&buffer[..count]);
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // EIO: the last one who had it is gone.
                _ => return,
            }
        }
    }
}
