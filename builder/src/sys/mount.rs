//! The new mount API (fsopen, fsmount, open_tree, mount_setattr, move_mount).
//!
//! Invariants:
//! - a mount is built detached and attached with one call, so nothing half-made is ever visible;
//! - a detached mount dies with its last descriptor: kill -9 leaves nothing behind;
//! - overlay is always mounted with `userxattr`, so that the same directories serve root and rootless runs; it also
//!   implies `redirect_dir=nofollow` and `metacopy=off` (the kernel refuses to be told so as well). With `index`
//!   off, an upper directory is a plain diff (semantics 82);
//! - device nodes of an image cannot be opened through an overlay, not by kiln either: opening some does something.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// An overlay to be mounted. Paths are relative to the current directory of the process, or absolute.
#[derive(Debug, Clone, Default)]
pub struct Overlay<'a> {
    /// Lower directories, uppermost first.
    pub lowers: Vec<&'a str>,
    /// Upper and work directory; a read-only overlay has none and needs at least two lowers.
    pub upper: Option<(&'a str, &'a str)>,
    /// SELinux context of all files.
    pub context: Option<&'a str>,
}

/// Mounts an overlay, detached.
///
/// # Errors
/// The kernel's answer, with the kernel's own explanation from the context's log when it gives one.
pub fn overlay(overlay: &Overlay<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configure = || -> io::Result<OwnedFd> {
        fsconfig_set_string(&context, "source", "kiln")?;
        for lower in &overlay.lowers {
            fsconfig_set_string(&context, "lowerdir+", *lower)?;
        }
        if let Some((upper, work)) = overlay.upper {
            fsconfig_set_string(&context, "upperdir", upper)?;
            fsconfig_set_string(&context, "workdir", work)?;
            // An upper is garbage until its result is committed, so syncing it on unmount is wasted.
            fsconfig_set_flag(&context, "volatile")?;
        }
        if let Some(label) = overlay.context {
            fsconfig_set_string(&context, "context", label)?;
        }
        fsconfig_set_flag(&context, "userxattr")?;
        for (key, value) in [("index", "off"), ("xino", "off")] {
            fsconfig_set_string(&context, key, value)?;
        }
        fsconfig_create(&context)?;
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, overlay.upper.is_none());
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    };
    configure().map_err(|error| explain(&context, error))
}

/// A new file system of a kind that needs no device, detached. An empty value sets a flag.
pub fn file_system(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configure = || -> io::Result<OwnedFd> {
        for (key, value) in options {
            if value.is_empty() {
                fsconfig_set_flag(&context, *key)?;
            } else {
                fsconfig_set_string(&context, *key, *value)?;
            }
        }
        fsconfig_create(&context)?;
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    };
    configure().map_err(|error| explain(&context, error))
}

/// Adds what the kernel logged about a failed mount.
fn explain(context: &OwnedFd, error: io::Error) -> io::Error {
    let mut text = String::new();
    let mut buffer = [0u8; 512];
    while let Ok(count) = rustix::io::read(context, &mut buffer) {
        if count == 0 {
            break;
        }
        let line = String::from_utf8_lossy(&buffer[..count]);
        text.push_str(if text.is_empty() { "" } else { "; " });
        text.push_str(line.trim_end());
    }
    if text.is_empty() { error } else { io::Error::new(error.kind(), format!("{error} ({text})")) }
}

/// A detached copy of the mount at an open file, optionally with all mounts below it.
pub fn clone_tree(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(fd, "", flags)?)
}

/// A detached copy of the mount at a host path.
pub fn clone_path(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, path, flags)?)
}

/// Attaches a detached mount at an open file or directory.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Attaches a detached mount at a path relative to the current directory.
pub fn attach_at(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    Ok(move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// What [`set_attributes`] changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// Attributes to set.
    pub set: Option<MountAttrFlags>,
    /// Show ids through this user namespace.
    pub idmap: Option<BorrowedFd<'a>>,
    /// Make the mount private.
    pub private: bool,
    /// Also everything below.
    pub recursive: bool,
}

/// `mount_setattr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes attributes of the mount at an open file (`mount_setattr(2)`, Linux 5.12).
pub fn set_attributes(fd: BorrowedFd<'_>, change: Attributes<'_>) -> io::Result<()> {
    let mut attr = MountAttr {
        attr_set: change.set.map_or(0, |flags| u64::from(flags.bits())),
        attr_clr: 0,
        propagation: if change.private { libc::MS_PRIVATE } else { 0 },
        userns_fd: 0,
    };
    if let Some(namespace) = change.idmap {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = namespace.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives across the call and its size is given; the kernel
    // only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// This program's own executable as something that can be executed but not opened for writing, so that a command
/// cannot change it through `/proc/self/exe` (CVE-2019-5736): a read-only detached mount of the file, or a sealed
/// copy in memory where it cannot be mounted (deleted since, or on a file system that refuses).
pub fn own_executable() -> io::Result<OwnedFd> {
    // By path, not through the magic link: after entering a mount namespace the link still leads to the old one,
    // whose mounts cannot be cloned.
    let path = rustix::fs::readlink("/proc/self/exe", Vec::new())?;
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    let mounted = clone_path(path, false).and_then(|mount| {
        let same = |a: &rustix::fs::Stat, b: &rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        if !same(&rustix::fs::fstat(&mount)?, &rustix::fs::stat("/proc/self/exe")?) {
            return Err(io::Error::other("another file has taken the executable's place"));
        }
        let set = Some(MountAttrFlags::MOUNT_ATTR_RDONLY);
        set_attributes(mount.as_fd(), Attributes { set, ..Attributes::default() })?;
        Ok(mount)
    });
    mounted.or_else(|_| sealed_copy())
}

fn sealed_copy() -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let memory = memfd_create("kiln", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = std::fs::File::from(memory);
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut memory)?;
    fcntl_add_seals(&memory, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memory.into())
}
