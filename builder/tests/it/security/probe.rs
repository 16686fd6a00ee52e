//! What runs inside a sandbox and prints facts: lines `fact NAME VALUE`.
//!
//! Each of these is a test of this program that does nothing unless its variable is set, which only a Buildfile does.

use std::fs;
use std::io;
use std::net::{SocketAddr as IpSocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::calls::{self, errno_name};

/// What to look for: `canary-path|abstract-name|process-id|udp-address|tcp-address,…`.
pub const TARGETS: &str = "KILN_IT_PROBE";
/// Set for [`terminal`].
pub const TERMINAL: &str = "KILN_IT_TERMINAL";
/// Set for [`keys`]: the description of a key.
pub const KEYS: &str = "KILN_IT_KEYS";
/// Set for [`deep`].
pub const DEEP: &str = "KILN_IT_DEEP";

/// The command that runs one of these tests.
pub fn command(test: &str) -> [String; 5] {
    ["/probe", "--exact", &format!("security::probe::{test}"), "--nocapture", "--test-threads=1"]
        .map(str::to_owned)
}

fn say(name: &str, value: &str) {
    println!("fact {name} {value}");
}

fn outcome(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "done".to_owned(),
        Err(error) => {
            error.raw_os_error().map_or_else(|| error.to_string(), |number| errno_name(number).to_owned())
        }
    }
}

#[test]
fn everything() {
    let Ok(targets) = std::env::var(TARGETS) else { return };
    let [canary, socket, pid, udp, tcp] = &targets.split('|').collect::<Vec<_>>()[..] else {
        panic!("{targets}")
    };
    own_state();
    kernel_files();
    devices();
    let address = SocketAddr::from_abstract_name(socket).expect("name");
    say("abstract", &outcome(UnixStream::connect_addr(&address).map(drop)));
    for address in tcp.split(',') {
        let to: IpSocketAddr = address.parse().expect("address");
        say(&format!("tcp/{address}"), &outcome(talk(&to)));
    }
    let sent = UdpSocket::bind("0.0.0.0:0").and_then(|own| own.send_to(b"from inside", udp));
    say("udp", &outcome(sent.map(drop)));
    for (name, result) in calls::on_process(pid.parse().expect("process id")) {
        say(&format!("outside-{name}"), &outcome(result));
    }
    say("outside-status", &outcome(fs::read(format!("/proc/{pid}/status")).map(drop)));
    for (name, result) in calls::forbidden() {
        say(&format!("call-{name}"), &outcome(result));
    }
    let unlike = calls::unlike_docker();
    say("unlike-docker", &if unlike.is_empty() { "nothing".to_owned() } else { unlike.join("; ") });
    // Last, for they change this process' root.
    host_files(canary);
}

/// Connects and waits for a byte. kiln takes a connection before it decides about it, so connecting alone says nothing:
/// a refused one is closed without a byte.
fn talk(to: &IpSocketAddr) -> std::io::Result<()> {
    use std::io::{Error, ErrorKind, Read as _};
    let mut stream = TcpStream::connect_timeout(to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    match stream.read(&mut [0])? {
        0 => Err(Error::from_raw_os_error(libc::ECONNRESET)),
        1 => Ok(()),
        _ => Err(Error::from(ErrorKind::Other)),
    }
}

fn own_state() {
    for fd in fs::read_dir("/proc/self/fd").expect("descriptors").flatten() {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        say("fd", &format!("{}={}", fd.file_name().display(), target.display()));
    }
    for line in fs::read_to_string("/proc/self/status").expect("status").lines() {
        if let Some((name, value)) = line.split_once(":\t")
            && (name.starts_with("Cap") || ["NoNewPrivs", "Seccomp"].contains(&name))
        {
            say(name, value);
        }
    }
    for line in fs::read_to_string("/proc/self/uid_map").expect("map").lines() {
        say("uid_map", &line.split_whitespace().collect::<Vec<_>>().join(","));
    }
    for (name, _) in std::env::vars() {
        say("env", &name);
    }
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let ids = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count();
    say("processes", &ids.to_string());
    // The standard streams are kiln's pipes: they can be opened again, and lead nowhere.
    say("stdout-again", &outcome(fs::File::options().write(true).open("/dev/stdout").map(drop)));
    say("stdout-above", &outcome(fs::read_dir("/proc/self/fd/1/..").map(drop)));
}

/// Tries to open everything of the kernel's for writing.
fn kernel_files() {
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sysrq-trigger",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/oom_score_adj",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/notify_on_release",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/cgroup.subtree_control",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/power/state",
    ] {
        let text: &[u8] = match path {
            "/proc/sys/kernel/modprobe" => b"/tmp/x",
            "/proc/self/oom_score_adj" => b"-1000",
            _ => b"1",
        };
        let write = |mut file: fs::File| io::Write::write_all(&mut file, text);
        say(&format!("write{path}"), &outcome(fs::File::options().write(true).open(path).and_then(write)));
    }
    let (mut tried, mut open) = (0, Vec::new());
    let all = ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/sys"]
        .into_iter()
        .flat_map(walkdir::WalkDir::new);
    let top = walkdir::WalkDir::new("/proc").max_depth(1);
    // Not the walk's own idea of what something is: what is hidden still has the kind that it had.
    let is_file = |entry: &walkdir::DirEntry| entry.metadata().is_ok_and(|found| found.is_file());
    for entry in all.chain(top).flatten().filter(is_file) {
        tried += 1;
        if fs::File::options().write(true).open(entry.path()).is_ok() {
            open.push(entry.path().display().to_string());
        }
    }
    say("kernel-files", &tried.to_string());
    say("kernel-files-open", &if open.is_empty() { "none".to_owned() } else { open.join(",") });
    // What is hidden is an empty directory or the null device.
    for path in ["/proc/kcore", "/proc/keys", "/proc/interrupts", "/proc/timer_list", "/proc/sysrq-trigger"] {
        if let Ok(found) = fs::symlink_metadata(path) {
            say(&format!("hidden{path}"), if found.file_type().is_char_device() { "yes" } else { "no" });
        }
    }
}

fn devices() {
    for path in [
        "/dev/mem",
        "/dev/kmsg",
        "/dev/sda",
        "/dev/vda",
        "/dev/loop0",
        "/dev/fuse",
        "/dev/kvm",
        "/proc/kcore",
    ] {
        let read = fs::File::open(path).and_then(|mut f| io::Read::read(&mut f, &mut [0; 16]));
        let result = match read {
            Ok(0) => Err(io::Error::other("empty")),
            other => other.map(drop),
        };
        say(&format!("read{path}"), &outcome(result));
    }
    let walk = walkdir::WalkDir::new("/dev").min_depth(1).sort_by_file_name();
    for entry in walk.into_iter().flatten() {
        say("dev", &entry.path().display().to_string());
    }
    // Theirs are the host's, which a command must not change.
    for name in ["null", "zero", "tty"] {
        let mode = fs::metadata(format!("/dev/{name}")).expect("device").permissions();
        say(&format!("chmod-{name}"), &outcome(fs::set_permissions(format!("/dev/{name}"), mode)));
        let node = fs::metadata(format!("/dev/{name}")).expect("device");
        say(&format!("owner-{name}"), &node.uid().to_string());
    }
}

/// Every way to a file of the host that the probe knows.
fn host_files(canary: &str) {
    say("canary", &outcome(fs::read(canary).map(drop)));
    for (name, prefix) in [
        ("root-of-1", "/proc/1/root"),
        ("root-of-self", "/proc/self/root"),
        ("directory-of-1", "/proc/1/cwd/../../../../../.."),
        ("above", "/../../../.."),
        ("above-proc", "/proc/../../.."),
        ("through-a-descriptor", "/proc/self/fd/0/../../.."),
        ("through-a-thread", "/proc/thread-self/root/.."),
    ] {
        say(&format!("canary-{name}"), &outcome(fs::read(format!("{prefix}{canary}")).map(drop)));
    }
    for (name, target) in [
        ("link", canary.to_owned()),
        ("link-up", format!("../../../../..{canary}")),
        ("link-of-1", format!("/proc/1/root{canary}")),
    ] {
        let link = format!("/tmp/{name}");
        symlink(target, &link).expect("symlink");
        say(&format!("canary-{name}"), &outcome(fs::read(&link).map(drop)));
    }
    // The escape from chroot(2): a directory that stays open outside of the new root.
    let above = fs::File::open("/").expect("root");
    fs::create_dir("/tmp/jail").expect("directory");
    let out = || -> io::Result<()> {
        std::os::unix::fs::chroot("/tmp/jail")?;
        calls::call(libc::SYS_fchdir, [above.as_raw_fd() as usize, 0, 0, 0, 0])?;
        (0..50).try_for_each(|_| std::env::set_current_dir(".."))?;
        fs::read(canary.trim_start_matches('/')).map(drop)
    };
    say("canary-chroot", &outcome(out()));
}

/// On a terminal (`kiln run`): nothing can be typed into it.
#[test]
fn terminal() {
    if std::env::var_os(TERMINAL).is_none() {
        return;
    }
    let request = |number: libc::c_ulong, argument: usize| {
        // SAFETY: every request gets a number, or a pointer to a byte that lives for ever.
        let result = unsafe { libc::ioctl(0, number as _, argument) };
        outcome(if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) })
    };
    static TYPED: [u8; 2] = [3, b'x'];
    say("is-terminal", &std::io::IsTerminal::is_terminal(&io::stdin()).to_string());
    for (name, number, argument) in [
        ("type", libc::TIOCSTI, &raw const TYPED[1] as usize),
        ("steal", libc::TIOCSCTTY, 1),
        ("type-again", libc::TIOCSTI, &raw const TYPED[1] as usize),
        ("paste", libc::TIOCLINUX, &raw const TYPED[0] as usize),
        ("console", libc::TIOCCONS, 0),
    ] {
        say(name, &request(number, argument));
    }
    say("tty", &outcome(fs::File::open("/dev/tty").map(drop)));
}

/// Looks for a key of the session that kiln was started in.
#[test]
fn keys() {
    let Ok(description) = std::env::var(KEYS) else { return };
    let description = std::ffi::CString::new(description).expect("text");
    const SEARCH: usize = 10;
    const SESSION: usize = -3isize as usize;
    let arguments = [SEARCH, SESSION, c"user".as_ptr() as usize, description.as_ptr() as usize, 0];
    say("key", &outcome(calls::call(libc::SYS_keyctl, arguments)));
}

/// Leaves behind what a walk over a snapshot has to cope with.
#[test]
fn odd_things() {
    if std::env::var_os(DEEP).is_none() {
        return;
    }
    fs::create_dir("/odd").expect("directory");
    drop(UnixListener::bind("/odd/socket").expect("socket"));
    symlink("/etc/shadow", "/odd/link").expect("symlink");
    fs::write("/odd/\n\x1b[31m", "x").expect("odd name");
    fs::hard_link("/odd/\n\x1b[31m", "/odd/\u{202e}").expect("another");
    drop(UnixListener::bind("/odd/\x1b[31msocket").expect("socket"));
    // A device that overlayfs would take for a deleted file.
    let node = (libc::S_IFCHR | 0o600) as usize;
    let made = calls::call(
        libc::SYS_mknodat,
        [libc::AT_FDCWD as usize, c"/odd/whiteout".as_ptr() as usize, node, 0, 0],
    );
    say("whiteout", &outcome(made));
}

/// Directories nested deeper than any path can name.
#[test]
fn deep() {
    let Ok(depth) = std::env::var(DEEP) else { return };
    std::env::set_current_dir("/deep").expect("directory");
    for _ in 0..depth.parse::<u32>().expect("number") {
        fs::create_dir("d").expect("directory");
        std::env::set_current_dir("d").expect("directory");
    }
    assert!(!Path::new("/deep/none").exists());
    say("deep", "done");
}
