//! One node of a tree: where it is, what it is, making and removing it.
//!
//! Invariants:
//! - a node is named by an open directory and one component, so no symlink is ever followed;
//! - metadata is set in the order owner, mode, attributes, time: a change of owner clears set-id bits and
//!   capabilities (chown(2), capabilities(7));
//! - data is written before all of that, because writing clears capabilities as well.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::warning::{Warning, Warnings, display};
use crate::layer::attributes;
use crate::layer::tar::{Device, Entry, Kind, Reader};
use crate::sys::error::FsError;
use crate::sys::override_stat;
use crate::sys::rootdir::{proc_path, sorted_names};
use crate::sys::xattr;

/// Marks a directory that hides what lower directories have (overlayfs documentation, "whiteouts and opaque
/// directories"; the `user.` form belongs to mounts with `userxattr`).
pub(super) const OPAQUE_XATTR: &[u8] = b"user.overlay.opaque";

/// What to do when an owner cannot be set because the id is not mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// Record what is not mapped ([`override_stat`]), and warn of what cannot be recorded: for trees of a store.
    #[default]
    Recorded,
    /// Keep the present owner and warn: for trees of the host.
    BestEffort,
}

/// Where a node is, or shall be.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) dir: BorrowedFd<'a>,
    /// One component; `.` for the directory itself.
    pub(super) name: &'a [u8],
    /// For messages.
    pub(super) path: &'a [u8],
}

/// Owner, mode, times and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Metadata {
    /// User 0, and a time that is the same on every machine.
    pub(super) fn of_root_user(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: (0, 0), xattrs: BTreeMap::new() }
    }

    pub(super) fn of_entry(entry: &Entry) -> Self {
        let carried = entry.xattrs.iter().filter(|(name, _)| attributes::is_carried(name));
        Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: (entry.mtime_seconds, entry.mtime_nanoseconds),
            xattrs: carried.map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }

    /// Of a node that exists. `fd` may be `O_PATH`.
    pub(super) fn of_node(fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<Self> {
        let stat = &override_stat::effective(fd, *stat)?;
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: mtime(stat),
            xattrs: carried_xattrs(fd, stat)?,
        })
    }
}

/// The attributes of a node that a layer carries, in the layer's form.
pub(super) fn carried_xattrs(fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut carried = BTreeMap::new();
    // Linux allows `user.*` and file capabilities on these two only (xattr(7)).
    if !matches!(file_type(stat), FileType::RegularFile | FileType::Directory) {
        return Ok(carried);
    }
    for name in xattr::list(fd)? {
        if attributes::is_carried(&name)
            && let Some(value) = xattr::get(fd, &name)?
        {
            let value = attributes::canonical_value(&name, value);
            carried.insert(name, value);
        }
    }
    Ok(carried)
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn mtime(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// True for the device that stands for a deleted name in overlayfs.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat).is_char_device() && stat.st_rdev == 0
}

/// True when a directory of an overlay layer hides what is below it.
pub(super) fn is_opaque(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(xattr::get(fd, OPAQUE_XATTR)?.is_some_and(|value| value == b"y"))
}

impl<'a> Place<'a> {
    pub(super) fn fail(&self, action: &'static str, error: impl Into<io::Error>) -> FsError {
        FsError::image(action, self.path, error)
    }

    fn name(&self) -> &'a OsStr {
        OsStr::from_bytes(self.name)
    }

    pub(super) fn stat(&self) -> Result<Option<Stat>, FsError> {
        match fs::statat(self.dir, self.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.fail("look up", e)),
        }
    }

    /// What the node counts as where it stands for something that could not be made; `stat` is what was found.
    pub(super) fn counted(&self, stat: &Stat) -> Result<Stat, FsError> {
        override_stat::effective_at(self.dir, self.name(), *stat)
            .map_err(|e| self.fail("read attributes of", e))
    }

    /// Opens the node itself.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd, FsError> {
        fs::openat(self.dir, self.name(), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| self.fail("open", e))
    }

    pub(super) fn open_dir(&self) -> Result<OwnedFd, FsError> {
        self.open(OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens a regular file for reading.
    pub(super) fn open_file(&self) -> Result<File, FsError> {
        // In a cache mount that a command uses meanwhile a device may have taken the file's place, which must not be
        // opened: it is looked at first, and then that very node is opened.
        let found = self.open(OFlags::PATH)?;
        let stat = fs::fstat(&found).map_err(|e| self.fail("stat", e))?;
        if !file_type(&stat).is_file() {
            return Err(self.fail("read", io::Error::other("it is no regular file any more")));
        }
        fs::open(proc_path(found.as_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
            .map_err(|e| self.fail("open", e))
    }

    pub(super) fn read_link(&self) -> Result<Vec<u8>, FsError> {
        let target =
            fs::readlinkat(self.dir, self.name(), Vec::new()).map_err(|e| self.fail("read link", e))?;
        Ok(target.into_bytes())
    }

    /// Makes a directory that only its owner may enter until its metadata is set.
    pub(super) fn make_dir(&self) -> Result<OwnedFd, FsError> {
        fs::mkdirat(self.dir, self.name(), Mode::from_raw_mode(0o700))
            .map_err(|e| self.fail("create directory", e))?;
        self.open_dir()
    }

    pub(super) fn make_whiteout(&self) -> Result<(), FsError> {
        fs::mknodat(self.dir, self.name(), FileType::CharacterDevice, Mode::empty(), fs::makedev(0, 0))
            .map_err(|e| self.fail("mark as deleted", e))
    }

    pub(super) fn make_symlink(&self, target: &[u8]) -> Result<(), FsError> {
        fs::symlinkat(OsStr::from_bytes(target), self.dir, self.name())
            .map_err(|e| self.fail("create symlink", e))
    }

    /// Makes a hard link to `target`, which is not followed.
    pub(super) fn make_hard_link(&self, target: Place<'_>) -> Result<(), FsError> {
        fs::linkat(target.dir, target.name(), self.dir, self.name(), AtFlags::empty())
            .map_err(|e| self.fail("create hard link", e))
    }

    /// Makes a device or fifo, or what stands for a device where recording is wanted. False when it has to be left out.
    pub(super) fn make_special(
        &self,
        kind: Kind,
        device: Device,
        ownership: Ownership,
        warnings: &mut Warnings,
    ) -> Result<bool, FsError> {
        let kind = match kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if kind.is_char_device() && device == Device::default() {
            warnings.add(Warning::WhiteoutDevice { path: display(self.path), device });
            return Ok(false);
        }
        let number = fs::makedev(device.major, device.minor);
        match fs::mknodat(self.dir, self.name(), kind, Mode::from_raw_mode(0o600), number) {
            Ok(()) => Ok(true),
            // In a user namespace no devices can be made (mknod(2)).
            Err(Errno::PERM) if kind != FileType::Fifo && ownership == Ownership::Recorded => {
                let file = self.make_file()?;
                override_stat::record_device(file.as_fd(), kind, number)
                    .map_err(|e| self.fail("record the device", e))?;
                Ok(true)
            }
            Err(Errno::PERM) if kind != FileType::Fifo => {
                warnings.add(Warning::DeviceNotPermitted { path: display(self.path) });
                Ok(false)
            }
            Err(e) => Err(self.fail("create device", e)),
        }
    }

    /// Makes an empty regular file, open for writing.
    pub(super) fn make_file(&self) -> Result<File, FsError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(self.dir, self.name(), flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|e| self.fail("create file", e))
    }

    /// Sets owner, mode, attributes and time of the node.
    pub(super) fn set_metadata(
        &self,
        metadata: &Metadata,
        ownership: Ownership,
        warnings: &mut Warnings,
    ) -> Result<(), FsError> {
        let fd = self.open(OFlags::PATH)?;
        let stat = fs::fstat(&fd).map_err(|e| self.fail("stat", e))?;
        let (uid, gid) = (metadata.uid, metadata.gid);
        if ownership == Ownership::Recorded {
            let owner = override_stat::set_owner(fd.as_fd(), &stat, uid, gid);
            if owner.map_err(|e| self.fail("change the owner of", e))? == override_stat::Owner::Lost {
                warnings.add(Warning::Owner { path: display(self.path), uid, gid });
            }
        } else if (stat.st_uid, stat.st_gid) != (uid, gid) {
            let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            match fs::chownat(&fd, "", user, group, AtFlags::EMPTY_PATH) {
                Ok(()) => {}
                // Not mapped in this user namespace, or not allowed.
                Err(Errno::INVAL | Errno::PERM) if ownership == Ownership::BestEffort => {
                    warnings.add(Warning::Owner { path: display(self.path), uid, gid });
                }
                Err(e) => return Err(self.fail("change the owner of", e)),
            }
        }
        if !file_type(&stat).is_symlink() {
            fs::chmod(proc_path(fd.as_fd()), Mode::from_raw_mode(metadata.mode))
                .map_err(|e| self.fail("change the mode of", e))?;
            for (name, value) in &metadata.xattrs {
                if let Err(e) = xattr::set(fd.as_fd(), name, value) {
                    self.attribute_failed(name, e, warnings)?;
                }
            }
        }
        self.set_mtime(metadata.mtime)
    }

    /// Lets the owner of a directory change what is in it. Another user's directory stays as it is.
    pub(super) fn open_to_owner(&self, stat: &Stat) -> Result<(), FsError> {
        if stat.st_mode & 0o700 == 0o700 {
            return Ok(());
        }
        let fd = self.open_dir()?;
        match fs::chmod(proc_path(fd.as_fd()), Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700)) {
            Ok(()) | Err(Errno::PERM) => Ok(()),
            Err(e) => Err(self.fail("change the mode of", e)),
        }
    }

    /// Attributes are kept as far as the file system and our rights allow (semantics fact 28).
    fn attribute_failed(
        &self,
        name: &[u8],
        error: io::Error,
        warnings: &mut Warnings,
    ) -> Result<(), FsError> {
        match Errno::from_io_error(&error) {
            Some(Errno::NOTSUP | Errno::PERM | Errno::INVAL) => {
                warnings.add(Warning::Attribute {
                    path: display(self.path),
                    name: display(name),
                    reason: error.to_string(),
                });
                Ok(())
            }
            _ => Err(self.fail("set an extended attribute of", error)),
        }
    }

    /// Takes away the attributes that a layer carries, before other ones are set.
    pub(super) fn clear_xattrs(&self) -> Result<(), FsError> {
        let fd = self.open(OFlags::PATH)?;
        let fail = |e| self.fail("remove an extended attribute of", e);
        for name in xattr::list(fd.as_fd()).map_err(fail)? {
            if attributes::is_carried(&name) {
                xattr::remove(fd.as_fd(), &name).map_err(fail)?;
            }
        }
        Ok(())
    }

    pub(super) fn set_mtime(&self, (seconds, nanoseconds): (i64, u32)) -> Result<(), FsError> {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        fs::utimensat(self.dir, self.name(), &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.fail("set the time of", e))
    }

    /// Removes the node with everything below it.
    pub(super) fn remove(&self, stat: &Stat) -> Result<(), FsError> {
        if !file_type(stat).is_dir() {
            return fs::unlinkat(self.dir, self.name(), AtFlags::empty()).map_err(|e| self.fail("remove", e));
        }
        // Directories that are being emptied, outermost first: a stack of its own, because the tree may be deep.
        let mut stack = vec![Emptied::open(*self)?];
        while let Some(top) = stack.last_mut() {
            let next = top.names.next();
            let Some(name) = next else {
                let Some(done) = stack.pop() else { break };
                let parent = stack.last().map_or(self.dir, |top| top.fd.as_fd());
                fs::unlinkat(parent, OsStr::from_bytes(&done.name), AtFlags::REMOVEDIR)
                    .map_err(|e| self.fail("remove directory", e))?;
                continue;
            };
            let child = Place { dir: top.fd.as_fd(), name: &name, path: self.path };
            match child.stat()? {
                Some(stat) if file_type(&stat).is_dir() => {
                    let deeper = Emptied::open(child)?;
                    stack.push(deeper);
                }
                Some(stat) => child.remove(&stat)?,
                None => {}
            }
        }
        Ok(())
    }
}

/// A directory that is being emptied.
struct Emptied {
    fd: OwnedFd,
    name: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Emptied {
    fn open(place: Place<'_>) -> Result<Self, FsError> {
        let fd = place.open_dir()?;
        let names = sorted_names(fd.as_fd()).map_err(|e| place.fail("list", e))?.into_iter();
        Ok(Self { fd, name: place.name.to_vec(), names })
    }
}

/// Writes data to a new file, keeping holes.
pub(super) fn write_data<R: Read>(
    file: &File,
    data: &mut Reader<R>,
    buffer: &mut Vec<u8>,
) -> io::Result<u64> {
    const BUFFER_BYTES: usize = 256 * 1024;
    buffer.resize(BUFFER_BYTES, 0);
    let (mut position, mut end) = (0u64, 0u64);
    loop {
        let hole = data.take_hole();
        position += hole;
        if hole > 0 {
            continue;
        }
        let read = match data.read(buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if read == 0 {
            break;
        }
        file.write_all_at(buffer.get(..read).unwrap_or_default(), position)?;
        position += read as u64;
        end = position;
    }
    if position > end {
        file.set_len(position)?;
    }
    Ok(position)
}

/// The components of an entry's path as a layer or archive states it: `.` and empty ones dropped, `..` taken back.
/// `None` when it leads above the root or is longer than Linux can name.
pub(super) fn normalise(path: &[u8]) -> Option<Vec<Vec<u8>>> {
    /// `PATH_MAX`; also bounds how deep a tree can become.
    const MAX_PATH_BYTES: usize = 4096;
    if path.len() > MAX_PATH_BYTES {
        return None;
    }
    let mut components: Vec<Vec<u8>> = Vec::new();
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop()?;
            }
            _ => components.push(component.to_vec()),
        }
    }
    Some(components)
}

/// Adds a component to a path without leading slash.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}
