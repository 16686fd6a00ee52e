//! Extended attributes of open files.
//!
//! Invariants:
//! - only handles are named, never paths of an image, so nothing is followed;
//! - handles may be `O_PATH`: the calls go through `/proc/self/fd`, because the descriptor forms refuse those
//!   handles before Linux 6.13.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

use crate::sys::rootdir::proc_path;

/// Longest list of names, and longest value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_BYTES: usize = 64 * 1024;

/// Names of all attributes, sorted by bytes. Empty where the file system has none.
pub fn list(fd: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let path = proc_path(fd);
    // Most files have no attribute at all, or one with a short name.
    let mut short = [0u8; 256];
    let long;
    let names: &[u8] = match fs::listxattr(path.as_str(), &mut short[..]) {
        Ok(size) => &short[..size.min(short.len())],
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            let mut buffer = vec![0u8; MAX_BYTES];
            let size = fs::listxattr(path.as_str(), &mut buffer[..])?;
            buffer.truncate(size);
            long = buffer;
            &long
        }
        Err(e) => return Err(e.into()),
    };
    let mut names: Vec<Vec<u8>> =
        names.split(|b| *b == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort_unstable();
    Ok(names)
}

/// The value of an attribute; `None` when the file does not have it.
pub fn get(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let path = proc_path(fd);
    let name = OsStr::from_bytes(name);
    let mut short = [0u8; 256];
    match fs::getxattr(path.as_str(), name, &mut short[..]) {
        Ok(size) => Ok(Some(short[..size.min(short.len())].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(Errno::RANGE) => {
            let mut buffer = vec![0u8; MAX_BYTES];
            match fs::getxattr(path.as_str(), name, &mut buffer[..]) {
                Ok(size) => {
                    buffer.truncate(size);
                    Ok(Some(buffer))
                }
                Err(Errno::NODATA) => Ok(None),
                Err(e) => Err(e.into()),
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// Sets an attribute.
pub fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(fs::setxattr(proc_path(fd), OsStr::from_bytes(name), value, XattrFlags::empty())?)
}

/// Takes an attribute away; it is no error when the file does not have it.
pub fn remove(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match fs::removexattr(proc_path(fd), OsStr::from_bytes(name)) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::os::fd::AsFd as _;

    #[test]
    fn attributes_of_handles_without_access() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let fd = fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let fd = fd.as_fd();
        if let Err(e) = set(fd, b"user.b", b"1") {
            eprintln!("SKIPPED: the temporary directory has no user attributes: {e}");
            return;
        }
        let long = vec![7; 2000];
        set(fd, b"user.a", &long).unwrap();
        assert_eq!(list(fd).unwrap(), [b"user.a".to_vec(), b"user.b".to_vec()]);
        assert_eq!(get(fd, b"user.a").unwrap().unwrap(), long);
        assert_eq!(get(fd, b"user.none").unwrap(), None);
        remove(fd, b"user.a").unwrap();
        remove(fd, b"user.a").unwrap();
        for n in 0..20 {
            set(fd, format!("user.quite-a-long-name-{n:02}").as_bytes(), b"").unwrap();
        }
        assert_eq!(list(fd).unwrap().len(), 21);
    }

    #[test]
    fn links_have_attributes_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
        let open = |name| {
            fs::open(dir.path().join(name), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .unwrap()
        };
        if set(open("f").as_fd(), b"user.a", b"1").is_err() {
            eprintln!("SKIPPED: the temporary directory has no user attributes");
            return;
        }
        assert_eq!(get(open("l").as_fd(), b"user.a").unwrap(), None);
    }
}
