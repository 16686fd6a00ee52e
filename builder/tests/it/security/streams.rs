//! What kiln was started with: a terminal, open directories, a session keyring.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use super::calls::call;
use super::{add_probe, facts_of, one, probe, run_probe};
use crate::project::{Project, skipped};

/// A project with the probe as an image, and the reference of the image.
fn with_image() -> (Project, String) {
    let project = Project::new();
    add_probe(&project);
    project.write("Buildfile", "FROM scratch\nCOPY probe /\nENV LD_LIBRARY_PATH=/lib\nWORKDIR /tmp\n");
    let mut command = project.build_command(["-o", "type=oci,tar=false,dest=layout"]);
    crate::project::Ended::of(&mut command).ok();
    let layout = format!("oci-layout:{}", project.path("layout").display());
    (project, layout)
}

/// The two ends of a new terminal.
fn terminal() -> (File, OwnedFd) {
    let (mut master, mut slave) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: both numbers live across the call, the rest is not asked for.
    let result = unsafe { libc::openpty(&raw mut master, &raw mut slave, none, none.cast(), none.cast()) };
    assert_eq!(result, 0, "openpty: {}", io::Error::last_os_error());
    // SAFETY: the call has just made them.
    unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
}

/// Runs the probe on a terminal that is the controlling one of kiln's session: what it found out, and how many bytes
/// wait to be read from the terminal afterwards. Standard output is the terminal as well, or a pipe.
fn on_a_terminal(piped: bool) -> (String, libc::c_int) {
    let (project, layout) = with_image();
    let (mut master, slave) = terminal();
    let set = format!("{}=1", probe::TERMINAL);
    let mut command = project.kiln(["run", "-e", &set, &layout]);
    command.args(probe::command("terminal"));
    let stream = || Stdio::from(slave.try_clone().expect("terminal"));
    command.stdin(stream()).stderr(stream());
    command.stdout(if piped { Stdio::piped() } else { stream() });
    // SAFETY: both calls are allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // As a shell has it: the terminal controls the session that kiln is in.
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().expect("kiln starts");
    let mut output = child.stdout.take();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    // The last writer of the terminal is this process, so the end is the child's. A pipe is read to its own end: who closes
    // it earlier takes it from under the last words.
    let reader = std::thread::spawn(move || {
        let mut read = |buffer: &mut [u8]| match &mut output {
            Some(pipe) => pipe.read(buffer),
            None => master.read(buffer),
        };
        while let Ok(count) = read(&mut buffer) {
            text.extend_from_slice(&buffer[..count]);
            if count == 0 || !piped && text.windows(11).any(|part| part == b"test result") {
                break;
            }
        }
        (text, master)
    });
    assert!(child.wait().expect("kiln ends").success());
    let mut waiting: libc::c_int = -1;
    // SAFETY: the number lives across the call.
    unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&slave), libc::FIONREAD, &raw mut waiting) };
    drop((slave, command));
    let (text, _master) = reader.join().expect("reader");
    (String::from_utf8_lossy(&text).into_owned(), waiting)
}

#[test]
fn nothing_can_be_typed_into_the_terminal() {
    // A terminal of its own: what the command types there is for nobody but itself.
    let (text, waiting) = on_a_terminal(false);
    assert_eq!(one(&facts_of(&text), "is-terminal"), "true", "{text}");
    assert_eq!(waiting, 0, "something was typed");
    // Kiln's own terminal as one of the streams: it is nobody's controlling terminal inside.
    let (text, waiting) = on_a_terminal(true);
    let facts = facts_of(&text);
    assert_eq!(one(&facts, "is-terminal"), "true", "{text}");
    for name in ["type", "steal", "type-again", "paste", "console"] {
        assert!(["EPERM", "EIO", "ENOTTY"].contains(&one(&facts, name)), "{name}: {}", one(&facts, name));
    }
    assert_eq!(one(&facts, "tty"), "ENXIO", "it has a controlling terminal");
    assert_eq!(waiting, 0, "something was typed");
}

#[test]
fn a_directory_is_no_standard_stream() {
    let (project, layout) = with_image();
    let mut command = project.kiln(["run", &layout]);
    command.args(probe::command("everything")).stdin(File::open(project.path(".")).expect("directory"));
    let ended = crate::project::Ended::of(&mut command);
    ended.fails(1, &["a directory cannot be a standard stream"]);
}

#[test]
fn keys_of_the_callers_session_stay_there() {
    let project = Project::new();
    add_probe(&project);
    let description = format!("kiln-it-{}", std::process::id());
    project.write(
        "Buildfile",
        format!(
            "FROM scratch\nCOPY probe /\nARG {}\nARG LD_LIBRARY_PATH=/lib\nWORKDIR /tmp\n{}{}",
            probe::KEYS,
            run_probe("", "keys"),
            run_probe("--security=insecure", "keys")
        ),
    );
    let key = std::ffi::CString::new(description.clone()).expect("text");
    let add = move || -> io::Result<()> {
        const JOIN: usize = 1;
        const SESSION: usize = -3isize as usize;
        call(libc::SYS_keyctl, [JOIN, 0, 0, 0, 0])?;
        let (kind, name) = (c"user".as_ptr() as usize, key.as_ptr() as usize);
        call(libc::SYS_add_key, [kind, name, c"v".as_ptr() as usize, 1, SESSION])
    };
    let possible = {
        let add = add.clone();
        std::thread::spawn(add).join().expect("thread")
    };
    if let Err(error) = possible {
        return skipped(&format!("no keys here: {error}"));
    }
    let flag = format!("{}={description}", probe::KEYS);
    let built = project.build_with(&["--build-arg", &flag, "--allow=security.insecure"], |command| {
        // SAFETY: only two system calls happen between fork and exec.
        unsafe { command.pre_exec(add) };
    });
    built.succeeds();
    let facts = facts_of(built.log());
    assert_eq!(facts["key"], ["EPERM", "ENOKEY"], "{}", built.log());
}
