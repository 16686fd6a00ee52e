//! WORKDIR's directory, and making directories of an image in general.
//!
//! Invariants:
//! - an existing directory is left as it is (semantics fact 34);
//! - symlinks on the way are followed inside the root, dangling ones too: their targets are made.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Mode as FileMode, OFlags};

use super::error::{CopyError, shown};
use super::tree::clean;
use crate::plan::graph::MkdirSpec;
use crate::snapshot::accounts::{OwnerError, resolve_chown};
use crate::sys::override_stat;
use crate::sys::rootdir::{Last, RootDir};

/// Mode of directories that nobody gave a mode.
pub(super) const DEFAULT_DIRECTORY_MODE: u32 = 0o755;

/// Makes the directory of a WORKDIR with its missing parents: mode 0755, owned by the current user (semantics
/// fact 34). As with `--chown`, a number alone is user and group. A user name that is not known counts as root
/// here: it is an error only for a RUN (fact 40).
pub fn mkdir(spec: &MkdirSpec, dest: &RootDir) -> Result<(), CopyError> {
    let owner = match resolve_chown(dest, &spec.user) {
        Ok(owner) => owner,
        Err(OwnerError::File(e)) => return Err(OwnerError::File(e).into()),
        Err(_) => (0, 0),
    };
    make_directories(dest, spec.path.as_bytes(), DEFAULT_DIRECTORY_MODE, owner)?;
    Ok(())
}

/// Makes a directory with its missing parents; gives it and its resolved path.
pub(super) fn make_directories(
    dest: &RootDir,
    path: &[u8],
    mode: u32,
    owner: (u32, u32),
) -> Result<(OwnedFd, Vec<u8>), CopyError> {
    let made = dest.create_dir_all(path, &mut |fd, _| set_up(fd, mode, owner));
    made.map_err(|e| match e.kind() {
        io::ErrorKind::NotADirectory => {
            CopyError::Obstacle { path: shown(path), obstacle: shown(&obstacle(dest, path)) }
        }
        _ => e.into(),
    })
}

/// Gives a new directory its owner and mode.
pub(super) fn set_up(fd: BorrowedFd<'_>, mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
    // The handle is O_PATH, which cannot be changed.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = fs::openat(fd, ".", flags, FileMode::empty())?;
    override_stat::set_owner(directory.as_fd(), &fs::fstat(&directory)?, uid, gid)?;
    fs::fchmod(&directory, FileMode::from_raw_mode(mode))?;
    Ok(())
}

/// The first part of `path` that is there and no directory; the whole when there is none.
fn obstacle(dest: &RootDir, path: &[u8]) -> Vec<u8> {
    let path = clean(path);
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for end in ends.chain([path.len()]) {
        let part = path.get(..end).unwrap_or_default();
        let stat = dest.stat(part, Last::Follow).ok().flatten();
        if stat.is_some_and(|stat| !FileType::from_raw_mode(stat.st_mode).is_dir()) {
            return part.to_vec();
        }
    }
    path
}
