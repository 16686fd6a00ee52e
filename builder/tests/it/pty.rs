//! A program at a terminal: a pseudo-terminal of a given size, what is typed into it, and what comes out.
//!
//! Invariants: waiting ends when what is waited for has come; the patience is for a hanging program only.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// A program that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running program at a terminal.
pub struct Session {
    child: Child,
    master: File,
    /// Kept, so that its modes can be read after the program has ended.
    slave: Option<OwnedFd>,
    chunks: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    /// Up to where [`Session::wait_for`] has looked.
    looked: usize,
}

impl Session {
    /// Starts `command` at a terminal of this size.
    pub fn start(command: &mut Command, rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        unlockpt(&master).expect("unlocked");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("its other end");
        tcsetwinsize(&slave, size(rows, columns)).expect("a size");
        let stdio = || Stdio::from(slave.try_clone().expect("a copy"));
        let child =
            command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("the program starts");
        let master = File::from(master);
        let mut reader = master.try_clone().expect("a copy");
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        // `command` still has its copies of the other end, which would keep it open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child, master, slave: Some(slave), chunks, seen: Vec::new(), looked: 0 }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Waits until `text` comes out, behind what was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let rest = &self.seen[self.looked..];
            if let Some(at) = rest.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.looked += at + text.len();
                return;
            }
            match self.chunks.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(_) => panic!("`{text}` did not come: {}", String::from_utf8_lossy(&self.seen)),
            }
        }
    }

    /// What has come out so far, up to what was waited for.
    pub fn seen(&self) -> &[u8] {
        &self.seen[..self.looked]
    }

    /// Gives the terminal another size, and tells the program.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, size(rows, columns)).expect("a size");
        self.signal(rustix::process::Signal::WINCH);
    }

    /// Gives the terminal another size while the program stands still, as a terminal does that takes one event after
    /// another. How much had come out before.
    #[track_caller]
    pub fn resize_at_rest(&mut self, rows: u16, columns: u16) -> usize {
        /// A command to the terminal that no program here gives.
        const MARK: &[u8] = b"\x1b]7777;\x1b\\";
        self.signal(rustix::process::Signal::STOP);
        let end = Instant::now() + PATIENCE;
        while !self.is_stopped() {
            assert!(Instant::now() < end, "the program does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        // What the program wrote comes out before what is written now.
        let slave = self.slave.as_ref().expect("open");
        rustix::io::write(slave, MARK).expect("the terminal takes output");
        loop {
            if let Some(at) = self.seen.windows(MARK.len()).position(|window| window == MARK) {
                self.seen.drain(at..at + MARK.len());
                tcsetwinsize(&self.master, size(rows, columns)).expect("a size");
                self.signal(rustix::process::Signal::CONT);
                self.signal(rustix::process::Signal::WINCH);
                self.looked = at;
                return at;
            }
            let chunk = self.chunks.recv_timeout(end.saturating_duration_since(Instant::now()));
            self.seen.extend(chunk.expect("the mark comes out"));
        }
    }

    /// Whether all its threads stand still.
    fn is_stopped(&self) -> bool {
        let tasks =
            std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the program is there");
        tasks.flatten().all(|task| {
            // A thread that has just ended has no state.
            let text = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            text.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the program is there");
    }

    /// The modes of the terminal.
    pub fn modes(&self) -> Termios {
        tcgetattr(self.slave.as_ref().expect("open")).expect("modes")
    }

    /// Waits for the program's end, with the terminal still open.
    pub fn wait_end(&mut self) {
        // What it writes at its end must not fill the terminal.
        while self.child.try_wait().expect("it is there").is_none() {
            if let Ok(chunk) = self.chunks.recv_timeout(Duration::from_millis(20)) {
                self.seen.extend(chunk);
            }
        }
    }

    /// Waits for the program's end: its exit code, and all that came out.
    pub fn end(mut self) -> (Option<i32>, Vec<u8>) {
        self.wait_end();
        let status = self.child.wait().expect("it ends");
        drop(self.slave.take());
        // The reader ends when the terminal's last owner is gone.
        while let Ok(chunk) = self.chunks.recv_timeout(PATIENCE) {
            self.seen.extend(chunk);
        }
        (status.code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A test that failed on its way leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
