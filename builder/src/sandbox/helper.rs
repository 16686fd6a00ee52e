//! A program that connects a sandbox's network namespace to the host (pasta, slirp4netns), run by the zygote.
//!
//! Invariants:
//! - the program has the sandbox's user namespace: it is root there and nobody on the host, and needs no more;
//! - it finds the network namespace by a file of the zygote's own mount namespace, since it may not look into `/proc`
//!   of the command's process;
//! - it ends with its command: dropping [`Running`] kills it and takes the file away;
//! - no port is forwarded in either direction, and the host's loopback is not mapped to any address.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::UnshareFlags;

use super::net::mechanism::{Helper, Kind};
use crate::sys::{mount, userns};

/// Directory of the store where the zygote mounts files for namespaces.
pub(super) const NAMESPACE_SPOT: &str = "spots/net";
/// Most that is kept of what a program says.
const MAX_WORDS_BYTES: u64 = 4096;

/// A running program.
pub(super) struct Running {
    name: &'static str,
    pidfd: OwnedFd,
    errors: File,
    spot: PathBuf,
}

impl Running {
    /// Starts the program for the namespaces of `pid`. The first one prepares this process' mount namespace.
    pub(super) fn start(helper: &Helper, pid: Pid, number: u64) -> io::Result<Self> {
        if number == 0 {
            prepare()?;
        }
        let proc = PathBuf::from(format!("/proc/{}/ns", pid.as_raw_nonzero()));
        let spot = Path::new(NAMESPACE_SPOT).join(number.to_string());
        File::create(&spot)?;
        let namespace = mount::clone_path(&proc.join("net"), false)?;
        mount::attach_at(namespace.as_fd(), &spot)?;
        let users = rustix::fs::open(proc.join("user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let errors = File::from(memfd_create("kiln-network", MemfdFlags::CLOEXEC)?);
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let arguments = arguments(helper, &spot.display().to_string())?;
        let program = CString::new(helper.program.as_str())?;
        let stdio = [null.as_fd(), null.as_fd(), errors.as_fd()];
        let pidfd = userns::spawn_inside(users.as_fd(), &program, &arguments, stdio)?;
        Ok(Self { name: helper.kind.name(), pidfd, errors, spot })
    }

    /// Readable once the program has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// What it said last, for people.
    pub(super) fn words(&mut self) -> String {
        let mut bytes = Vec::new();
        let read =
            self.errors.rewind().and_then(|()| (&self.errors).take(MAX_WORDS_BYTES).read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // pasta talks to a syslog that it cannot reach from where it is.
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.contains("to syslog")).collect();
        let said = lines.join("; ");
        match read {
            Ok(_) if !said.is_empty() => format!("{} ended: {said}", self.name),
            _ => format!("{} ended", self.name),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        let _ = unmount(&self.spot, UnmountFlags::DETACH);
        let _ = std::fs::remove_file(&self.spot);
    }
}

/// A mount namespace of the zygote's own (it has one already where ids are shifted) and a place for files in it.
fn prepare() -> io::Result<()> {
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    super::mounts::isolate()?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let tmpfs = mount::file_system("tmpfs", &[("mode", "0755")], flags)?;
    mount::attach_at(tmpfs.as_fd(), Path::new(NAMESPACE_SPOT))
}

fn arguments(helper: &Helper, namespace: &str) -> io::Result<Vec<CString>> {
    let fixed: &[&str] = match helper.kind {
        // IPv4 only: IPv6 would bring the host's link-local network with it.
        Kind::Pasta => &[
            "--foreground",
            "--quiet",
            "--config-net",
            "--ipv4-only",
            "--no-map-gw",
            "--tcp-ports=none",
            "--udp-ports=none",
            "--tcp-ns=none",
            "--udp-ns=none",
            "--no-dhcp",
            "--no-dhcpv6",
            "--no-ndp",
            "--no-ra",
            "--netns-only",
            "--netns",
        ],
        _ => &[
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--enable-seccomp",
            "--netns-type=path",
        ],
    };
    let last: &[&str] = if helper.kind == Kind::Pasta { &[] } else { &["tap0"] };
    let mut words = vec![helper.kind.name()];
    words.extend(fixed);
    words.push(namespace);
    words.extend(last);
    words.into_iter().map(|word| Ok(CString::new(word)?)).collect()
}
