//! The file systems of a sandbox. Runs in the child, before `pivot_root`.
//!
//! Invariants:
//! - a mount point inside the rootfs is found by [`RootDir`], so a symlink in the image never leads outside;
//! - a mount point that is missing everywhere is made and reported, so that kiln can take it out of the diff;
//! - no device node works but those that kiln shows: a cache mount has NODEV, overlays made here have it from the kernel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};

use super::child::{Failed, Step as _};
use super::emulate::Handler;
use super::spec::{SandboxDevice, SandboxLabels, SandboxMount, SandboxNetwork, SandboxSource, SandboxSpec};
use crate::sys::mount::{self, Attributes, Overlay};
use crate::sys::rootdir::{Last, RootDir};

/// Empty directories of the store that mounts are attached to before they go to their place.
const ROOT_SPOT: &str = "spots/root";
const SIDE_SPOT: &str = "spots/side";

/// Paths that show or change the host's hardware: hidden, as docker does by default.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/proc/sysrq-trigger",
];

/// Kernel settings: readable only, as docker does by default.
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What mounting gives besides a ready root.
pub(super) struct Mounted {
    /// The new root directory.
    pub root: RootDir,
    /// Mount points that were made in the upper directory, as resolved paths.
    pub made: Vec<String>,
    /// Listening sockets of `Socket` mounts.
    pub sockets: Vec<OwnedFd>,
}

/// Builds the whole tree and leaves it attached at a spot of the store.
pub(super) fn build(spec: &SandboxSpec) -> Result<Mounted, Failed> {
    let overlay = mount::overlay(&Overlay {
        lowers: spec.lowers.iter().map(String::as_str).collect(),
        upper: Some((&spec.upper.0, &spec.upper.1)),
        context: spec.labels.selinux_files.as_deref(),
    })
    .step("mount the root file system")?;
    mount::attach_at(overlay.as_fd(), Path::new(ROOT_SPOT)).step("attach the root file system")?;
    let root =
        RootDir::open(Path::new(ROOT_SPOT)).map_err(|e| Failed::new("open the root file system", &e))?;
    let mut mounted = Mounted { root, made: Vec::new(), sockets: Vec::new() };
    system(spec, &mut mounted)?;
    for device in &spec.devices {
        let step = format!("show the device `{}`", device.target);
        show_device(device, &mut mounted).step(&step)?;
    }
    for (target, content) in [("/etc/resolv.conf", &spec.resolv_conf), ("/etc/hosts", &spec.hosts)] {
        if let Some(content) = content {
            let source =
                SandboxSource::File { content: content.clone().into_bytes(), mode: 0o644, uid: 0, gid: 0 };
            let mount = SandboxMount { target: target.to_owned(), source, read_only: true };
            user(&mount, &spec.labels, &mut mounted)
                .map_err(|e| Failed::new(&format!("mount `{target}`"), &e))?;
        }
    }
    // After kiln's own files, so that a mount on or over one of them holds.
    for mount in &spec.mounts {
        let step = format!("mount `{}`", mount.target);
        user(mount, &spec.labels, &mut mounted).map_err(|e| Failed::new(&step, &e))?;
    }
    Ok(mounted)
}

fn system(spec: &SandboxSpec, mounted: &mut Mounted) -> Result<(), Failed> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let proc = mount::file_system("proc", &[], quiet).step("mount /proc")?;
    place(proc.as_fd(), "/proc", Kind::Directory, mounted).step("mount /proc")?;
    devices(spec, mounted).step("set up /dev")?;
    sys(spec, mounted).step("mount /sys")?;
    if !spec.insecure {
        restrict(mounted)?;
    }
    if let Some(handler) = &spec.handler {
        emulator(handler, mounted).step(&format!("register the emulator `{}`", handler.interpreter))?;
    }
    Ok(())
}

/// A list of handlers for this user namespace alone, with one handler. It lives as long as it is mounted.
fn emulator(handler: &Handler, mounted: &mut Mounted) -> io::Result<()> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let list = mount::file_system("binfmt_misc", &[], quiet)?;
    let register = fs::openat(&list, "register", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&register, handler.registration.as_bytes())?;
    // A mount with a writer does not become read-only.
    drop(register);
    let set = Some(MountAttrFlags::MOUNT_ATTR_RDONLY);
    mount::set_attributes(list.as_fd(), Attributes { set, ..Attributes::default() })?;
    place(list.as_fd(), "/proc/sys/fs/binfmt_misc", Kind::Directory, mounted)
}

fn restrict(mounted: &Mounted) -> Result<(), Failed> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = &mounted.root;
    for path in READ_ONLY {
        let Ok(fd) = root.resolve(path.as_bytes(), Last::Keep) else { continue };
        let read_only = || -> io::Result<()> {
            let copy = mount::clone_tree(fd.as_fd(), true)?;
            let set = Some(MountAttrFlags::MOUNT_ATTR_RDONLY);
            mount::set_attributes(
                copy.as_fd(),
                Attributes { set, recursive: true, ..Attributes::default() },
            )?;
            mount::attach(copy.as_fd(), fd.as_fd())
        };
        read_only().step(&format!("make {path} read-only"))?;
    }
    let null = root.resolve(b"/dev/null", Last::Keep).map_err(|e| Failed::new("open /dev/null", &e))?;
    for path in MASKED {
        let Ok(fd) = root.resolve(path.as_bytes(), Last::Keep) else { continue };
        let mask = || -> io::Result<()> {
            let cover = if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode).is_dir() {
                mount::file_system(
                    "tmpfs",
                    &[("mode", "0755"), ("size", "0")],
                    quiet | MountAttrFlags::MOUNT_ATTR_RDONLY,
                )?
            } else {
                mount::clone_tree(null.as_fd(), false)?
            };
            mount::attach(cover.as_fd(), fd.as_fd())
        };
        mask().step(&format!("hide {path}"))?;
    }
    Ok(())
}

fn sys(spec: &SandboxSpec, mounted: &mut Mounted) -> io::Result<()> {
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    // sysfs belongs to the network namespace: with the host's it cannot be mounted anew, only bound.
    let sysfs = if spec.network == SandboxNetwork::Host {
        let copy = mount::clone_path(Path::new("/sys"), true)?;
        mount::set_attributes(
            copy.as_fd(),
            Attributes { set: Some(flags), private: true, recursive: true, ..Attributes::default() },
        )?;
        copy
    } else {
        mount::file_system("sysfs", &[], flags)?
    };
    place(sysfs.as_fd(), "/sys", Kind::Directory, mounted)
}

fn devices(spec: &SandboxSpec, mounted: &mut Mounted) -> io::Result<()> {
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev =
        mount::file_system("tmpfs", &labelled(&[("mode", "0755"), ("size", "65536k")], &spec.labels), flags)?;
    place(dev.as_fd(), "/dev", Kind::Directory, mounted)?;
    let dir = mounted.root.subdir(b"/dev").map_err(io::Error::other)?;
    for name in DEVICES {
        let node = mount::clone_path(&Path::new("/dev").join(name), false)?;
        // With the host's ids (`--userns=host`) the node is the host's own and its owner is root inside: nobody but
        // the host may change its mode. Writing to a device is not writing to its file system.
        if fs::fstat(&node)?.st_uid == 0 {
            let set = Some(MountAttrFlags::MOUNT_ATTR_RDONLY);
            mount::set_attributes(node.as_fd(), Attributes { set, ..Attributes::default() })?;
        }
        let file = fs::openat(
            dir.as_fd(),
            name,
            OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o666),
        )?;
        mount::attach(node.as_fd(), file.as_fd())?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
        ("core", "/proc/kcore"),
    ] {
        fs::symlinkat(target, dir.as_fd(), name)?;
    }
    let size = spec.shm_size_bytes.to_string();
    let quiet = flags | MountAttrFlags::MOUNT_ATTR_NODEV;
    let terminal_group = spec.ids.gids.iter().any(|e| e.inside <= 5 && e.count > 5 - e.inside);
    let mut pts = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    if terminal_group {
        pts.push(("gid", "5"));
    }
    let shm = labelled(&[("mode", "1777"), ("size", size.as_str())], &spec.labels);
    for (name, kind, options) in
        [("pts", "devpts", &pts[..]), ("shm", "tmpfs", &shm[..]), ("mqueue", "mqueue", &[][..])]
    {
        let attributes = if name == "pts" { flags } else { quiet };
        let mount = mount::file_system(kind, options, attributes)?;
        fs::mkdirat(dir.as_fd(), name, Mode::from_raw_mode(0o755))?;
        let target =
            fs::openat(dir.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        mount::attach(mount.as_fd(), target.as_fd())?;
    }
    Ok(())
}

/// The node itself is bound, so it needs a file to be bound to.
fn show_device(device: &SandboxDevice, mounted: &mut Mounted) -> io::Result<()> {
    let node = mount::clone_path(Path::new(&device.source), false)?;
    place(node.as_fd(), &device.target, Kind::File, mounted)
}

/// Options of a file system made here, with the context that the host's SELinux wants to see on its files.
fn labelled<'a>(options: &[(&'a str, &'a str)], labels: &'a SandboxLabels) -> Vec<(&'a str, &'a str)> {
    let mut options = options.to_vec();
    options.extend(labels.selinux_files.as_deref().map(|context| ("context", context)));
    options
}

fn user(spec: &SandboxMount, labels: &SandboxLabels, mounted: &mut Mounted) -> io::Result<()> {
    let (mount, kind) = match &spec.source {
        SandboxSource::Layers { lowers, upper, path } => layers(lowers, upper.as_ref(), path, labels)?,
        SandboxSource::Directory { path } => {
            let fd = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let mount = mount::clone_tree(fd.as_fd(), false)?;
            // This is the host's file system, where device nodes work, and an image may have filled the directory.
            let set = Some(MountAttrFlags::MOUNT_ATTR_NODEV);
            mount::set_attributes(mount.as_fd(), Attributes { set, ..Attributes::default() })?;
            (mount, Kind::Directory)
        }
        SandboxSource::HostFile { path } => (mount::clone_path(Path::new(path), false)?, Kind::File),
        SandboxSource::Tmpfs { size_bytes } => {
            let size = size_bytes.map(|size| size.to_string());
            let mut options = vec![("mode", "1777")];
            options.extend(size.as_deref().map(|size| ("size", size)));
            let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            (mount::file_system("tmpfs", &labelled(&options, labels), flags)?, Kind::Directory)
        }
        SandboxSource::File { content, mode, uid, gid } => {
            let fill = |dir: BorrowedFd<'_>| -> io::Result<()> {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = fs::openat(dir, "file", flags, Mode::from_raw_mode(0o600))?;
                let mut file = std::fs::File::from(file);
                io::Write::write_all(&mut file, content)?;
                fs::fchown(&file, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
                Ok(fs::fchmod(&file, Mode::from_raw_mode(*mode))?)
            };
            (on_tmpfs(labels, fill)?, Kind::File)
        }
        SandboxSource::Socket { mode, uid, gid } => {
            let mut socket = None;
            let fill = |dir: BorrowedFd<'_>| -> io::Result<()> {
                let path = format!("{}/file", crate::sys::rootdir::proc_path(dir));
                let listener = std::os::unix::net::UnixListener::bind(path)?;
                let owner = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                fs::chownat(dir, "file", owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
                fs::chmodat(dir, "file", Mode::from_raw_mode(*mode), AtFlags::empty())?;
                socket = Some(OwnedFd::from(listener));
                Ok(())
            };
            let mount = on_tmpfs(labels, fill)?;
            mounted.sockets.extend(socket);
            (mount, Kind::File)
        }
    };
    if spec.read_only {
        let set = Some(MountAttrFlags::MOUNT_ATTR_RDONLY);
        mount::set_attributes(mount.as_fd(), Attributes { set, ..Attributes::default() })?;
    }
    refuse_proc(&mounted.root, &spec.target)?;
    place(mount.as_fd(), &spec.target, kind, mounted)
}

/// Nothing may be put over the kernel's files about processes, neither by the Buildfile nor by a symlink of the image:
/// kiln itself writes there (labels), as do programs that drop privileges. Other runtimes refuse it too.
fn refuse_proc(root: &RootDir, target: &str) -> io::Result<()> {
    // A parent that is missing is not in /proc, where none can be made.
    let Ok(entry) = root.entry(target.as_bytes(), Last::Follow, None) else { return Ok(()) };
    let is_proc = |fd: BorrowedFd<'_>| fs::fstatfs(fd).is_ok_and(|stat| stat.f_type == fs::PROC_SUPER_MAGIC);
    if is_proc(entry.dir.as_fd()) || entry.open(OFlags::PATH).is_ok_and(|point| is_proc(point.as_fd())) {
        return Err(io::Error::other("it is inside /proc, where nothing can be mounted"));
    }
    Ok(())
}

/// A path in a stack of layers, as a detached mount of its own.
fn layers(
    lowers: &[String],
    upper: Option<&(String, String)>,
    path: &str,
    labels: &SandboxLabels,
) -> io::Result<(OwnedFd, Kind)> {
    let overlay = mount::overlay(&Overlay {
        lowers: lowers.iter().map(String::as_str).collect(),
        upper: upper.map(|(upper, work)| (upper.as_str(), work.as_str())),
        context: labels.selinux_files.as_deref(),
    })?;
    // Cloning a part of a detached mount needs Linux 6.15; attached ones could always be cloned.
    mount::attach_at(overlay.as_fd(), Path::new(SIDE_SPOT))?;
    let part = || -> io::Result<(OwnedFd, Kind)> {
        let view = RootDir::open(Path::new(SIDE_SPOT)).map_err(io::Error::other)?;
        let fd = view
            .resolve(path.as_bytes(), Last::Follow)
            .map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
        let kind = if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode).is_dir() {
            Kind::Directory
        } else {
            Kind::File
        };
        Ok((mount::clone_tree(fd.as_fd(), false)?, kind))
    };
    let result = part();
    unmount(SIDE_SPOT, UnmountFlags::DETACH)?;
    result
}

/// A fresh tmpfs with one file named `file`; gives a mount of just that file.
fn on_tmpfs(
    labels: &SandboxLabels,
    fill: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let tmpfs = mount::file_system("tmpfs", &labelled(&[("mode", "0700")], labels), flags)?;
    mount::attach_at(tmpfs.as_fd(), Path::new(SIDE_SPOT))?;
    let make = || -> io::Result<OwnedFd> {
        let dir = fs::open(SIDE_SPOT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        fill(dir.as_fd())?;
        let file =
            fs::openat(&dir, "file", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        mount::clone_tree(file.as_fd(), false)
    };
    let result = make();
    unmount(SIDE_SPOT, UnmountFlags::DETACH)?;
    result
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// Attaches a detached mount at a path of the new root, making the mount point when there is none.
fn place(mount: BorrowedFd<'_>, target: &str, kind: Kind, mounted: &mut Mounted) -> io::Result<()> {
    let other = |e: crate::sys::error::FsError| io::Error::new(e.kind(), e.to_string());
    let mut made = Vec::new();
    let entry = mounted
        .root
        .entry(
            target.as_bytes(),
            Last::Follow,
            Some(&mut |_, path| {
                made.push(String::from_utf8_lossy(path).into_owned());
                Ok(())
            }),
        )
        .map_err(other)?;
    let there = entry.stat()?.map(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
    match (there, kind) {
        (Some(true), Kind::File) => {
            return Err(io::Error::other(
                "what is to be mounted is a file, but there is a directory; give the path of a file in it",
            ));
        }
        (Some(false), Kind::Directory) => {
            return Err(io::Error::other(
                "what is to be mounted is a directory, but there is a file; give another path",
            ));
        }
        _ => {}
    }
    if there.is_none() {
        let name = std::ffi::OsStr::new(std::str::from_utf8(&entry.name).map_err(io::Error::other)?);
        match kind {
            Kind::Directory => fs::mkdirat(&entry.dir, name, Mode::from_raw_mode(0o755))?,
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                drop(fs::openat(&entry.dir, name, flags, Mode::from_raw_mode(0o644))?);
            }
        }
        made.push(String::from_utf8_lossy(&entry.real).into_owned());
    }
    mounted.made.append(&mut made);
    let point = entry.open(OFlags::PATH)?;
    mount::attach(mount, point.as_fd())
}

/// Makes the assembled tree this process' root and lets go of everything else.
pub(super) fn enter_root() -> io::Result<()> {
    rustix::process::chdir(ROOT_SPOT)?;
    // With equal arguments the old root ends up on top of the new one and is then detached (pivot_root(2)).
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Stops mount events from travelling between this mount namespace and the one it was copied from.
pub(super) fn isolate() -> io::Result<()> {
    let root = fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    mount::set_attributes(
        root.as_fd(),
        Attributes { private: true, recursive: true, ..Attributes::default() },
    )
}
