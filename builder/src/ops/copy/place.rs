//! Writing single files, links and directories into a destination.
//!
//! Invariants:
//! - names are always relative to an open directory and never followed when they are symlinks;
//! - metadata is set in the order owner, mode, times, attributes: changing the owner clears set-id bits and
//!   capabilities (semantics fact 19);
//! - a name that exists is removed first unless it is a directory (semantics facts 7 and 8).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc;

use rustix::fs::{self, AtFlags, FileType, Mode as FileMode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::error::{CopyError, shown};
use crate::base::digest::Digest;
use crate::context::fingerprint::{Attributes, attributes};
use crate::sys::copy_file::{Copied, copy_file};
use crate::sys::error::FsError;
use crate::sys::override_stat;

/// Files from this size on are hashed on a thread of their own.
const HASH_BESIDE_FROM_BYTES: u64 = 4 * 1024 * 1024;

/// What a new file or directory is to look like.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) times: Option<Timestamps>,
}

/// A name in an open directory, with its path for messages.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
    pub(super) path: &'a [u8],
}

/// Access and modification time of a source.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

impl Place<'_> {
    fn os_name(&self) -> &OsStr {
        OsStr::from_bytes(self.name)
    }

    fn fail(&self, action: &'static str, error: impl Into<io::Error>) -> CopyError {
        FsError::image(action, shown(self.path).as_bytes(), error).into()
    }

    /// Removes what has the name, and tells whether there was something; a directory is an error.
    pub(super) fn clear(&self) -> Result<bool, CopyError> {
        match fs::statat(self.directory, self.os_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                Err(CopyError::Directory { path: shown(self.path) })
            }
            Ok(_) => fs::unlinkat(self.directory, self.os_name(), AtFlags::empty())
                .map(|()| true)
                .map_err(|e| self.fail("replace", e)),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(self.fail("look up", e)),
        }
    }

    /// Makes a regular file with the bytes and attributes of `source`. Gives the number of bytes, and their digest unless
    /// the file system copied them.
    pub(super) fn put_file(
        &self,
        source: &File,
        metadata: &Metadata,
    ) -> Result<(u64, Option<Digest>), CopyError> {
        let file = self.create_file()?;
        let copied = copy_and_hash(source, &file).map_err(|e| self.fail("write", e))?;
        let extended = attributes(source).unwrap_or_default();
        set_metadata(file.as_fd(), metadata, &extended).map_err(|e| self.fail("set metadata of", e))?;
        Ok(copied)
    }

    /// Makes an empty regular file.
    pub(super) fn put_empty(&self, metadata: &Metadata) -> Result<(), CopyError> {
        self.put_bytes(b"", metadata)
    }

    /// Makes a regular file with these bytes.
    pub(super) fn put_bytes(&self, bytes: &[u8], metadata: &Metadata) -> Result<(), CopyError> {
        let mut file = self.create_file()?;
        io::Write::write_all(&mut file, bytes).map_err(|e| self.fail("write", e))?;
        set_metadata(file.as_fd(), metadata, &Attributes::new()).map_err(|e| self.fail("set metadata of", e))
    }

    fn create_file(&self) -> Result<File, CopyError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(self.directory, self.os_name(), flags, FileMode::from_raw_mode(0o600));
        Ok(File::from(fd.map_err(|e| self.fail("create", e))?))
    }

    /// Makes a symlink.
    pub(super) fn put_link(&self, target: &[u8], metadata: &Metadata) -> Result<(), CopyError> {
        fs::symlinkat(OsStr::from_bytes(target), self.directory, self.os_name())
            .map_err(|e| self.fail("create link", e))?;
        self.set_own_metadata(metadata)
    }

    /// Makes a second name of the file `name` in `directory`.
    pub(super) fn put_hard_link(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), CopyError> {
        let name = OsStr::from_bytes(name);
        fs::linkat(directory, name, self.directory, self.os_name(), AtFlags::empty())
            .map_err(|e| self.fail("create hard link", e))
    }

    /// Makes a fifo or device like `stat`.
    pub(super) fn put_special(&self, stat: &Stat, metadata: &Metadata) -> Result<(), CopyError> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let device =
            if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) { stat.st_rdev } else { 0 };
        let mode = FileMode::from_raw_mode(0o600);
        match fs::mknodat(self.directory, self.os_name(), kind, mode, device) {
            Ok(()) => {}
            // In a user namespace no devices can be made (mknod(2)).
            Err(Errno::PERM) if device != 0 => {
                let file = self.create_file()?;
                override_stat::record_device(file.as_fd(), kind, device)
                    .map_err(|e| self.fail("record the device", e))?;
            }
            Err(e) => return Err(self.fail("create special file", e)),
        }
        self.set_own_metadata(metadata)
    }

    /// Sets the metadata of something that cannot be opened.
    fn set_own_metadata(&self, metadata: &Metadata) -> Result<(), CopyError> {
        let own = AtFlags::SYMLINK_NOFOLLOW;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(self.directory, self.os_name(), flags, FileMode::empty())
            .map_err(|e| self.fail("open", e))?;
        let stat = fs::fstat(&fd).map_err(|e| self.fail("stat", e))?;
        let (uid, gid) = metadata.owner;
        override_stat::set_owner(fd.as_fd(), &stat, uid, gid).map_err(|e| self.fail("chown", e))?;
        if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
            let mode = FileMode::from_raw_mode(metadata.mode);
            fs::chmodat(self.directory, self.os_name(), mode, AtFlags::empty())
                .map_err(|e| self.fail("chmod", e))?;
        }
        if let Some(times) = &metadata.times {
            fs::utimensat(self.directory, self.os_name(), times, own)
                .map_err(|e| self.fail("set times of", e))?;
        }
        Ok(())
    }

    /// Makes or opens a directory; tells whether it is new. What is there and no directory, a symlink to one
    /// included, is an error.
    pub(super) fn enter(&self) -> Result<(OwnedFd, bool), CopyError> {
        // Its mode is set when everything is in it.
        let new = match fs::mkdirat(self.directory, self.os_name(), FileMode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(self.fail("create directory", e)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(self.directory, self.os_name(), flags, FileMode::empty()) {
            Ok(fd) => Ok((fd, new)),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(CopyError::NonDirectory { path: shown(self.path) }),
            Err(e) => Err(self.fail("open directory", e)),
        }
    }
}

/// Copies and hashes; what is large is hashed beside the writing.
fn copy_and_hash(source: &File, target: &File) -> io::Result<(u64, Option<Digest>)> {
    let hashed = |copied: Copied, hasher: Sha256| {
        let digest = Digest::from_bytes(hasher.finalize().into());
        (copied.bytes, copied.shown.then_some(digest))
    };
    if source.metadata()?.len() < HASH_BESIDE_FROM_BYTES {
        let mut hasher = Sha256::new();
        let copied = copy_file(source, target, &mut |bytes| hasher.update(bytes))?;
        return Ok(hashed(copied, hasher));
    }
    std::thread::scope(|scope| {
        // A few buffers: enough that neither side waits for the other all the time.
        let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(8);
        let hash = move || {
            let mut hasher = Sha256::new();
            receiver.into_iter().for_each(|bytes| hasher.update(bytes));
            hasher
        };
        let hasher = std::thread::Builder::new().name("hash".to_owned()).spawn_scoped(scope, hash)?;
        let copied = copy_file(source, target, &mut |bytes| {
            // The other end lives until this one is dropped.
            let _ = sender.send(bytes.to_vec());
        });
        drop(sender);
        let hasher = hasher.join().map_err(|_| io::Error::other("the hashing thread ended early"))?;
        Ok(hashed(copied?, hasher))
    })
}

/// Sets owner, mode, times and attributes, in this order. Attributes are best effort (semantics fact 20).
pub(super) fn set_metadata(
    fd: BorrowedFd<'_>,
    metadata: &Metadata,
    attributes: &Attributes,
) -> io::Result<()> {
    let (uid, gid) = metadata.owner;
    override_stat::set_owner(fd, &fs::fstat(fd)?, uid, gid)?;
    fs::fchmod(fd, FileMode::from_raw_mode(metadata.mode))?;
    if let Some(times) = &metadata.times {
        fs::futimens(fd, times)?;
    }
    for (name, value) in attributes {
        // A file system without them, or no right to set capabilities: the copy is still good.
        let _ = fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty());
    }
    Ok(())
}
