//! Locks on single bytes of a file, held by an open file and not by a process (`F_OFD_SETLK`, fcntl(2)).
//!
//! Invariants:
//! - a lock ends with the last descriptor of its open file, so with its process, however that dies;
//! - two open files of one process exclude each other as those of two processes do;
//! - a lock takes no space on the disk, so it can be had when the disk is full.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// What is wanted of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Shared,
    Exclusive,
}

/// Takes a shared lock on the byte at `offset`, waiting for whoever has it for itself.
pub fn share(file: &File, offset: u64) -> io::Result<()> {
    loop {
        match lock(file, offset, Wanted::Shared, libc::F_OFD_SETLKW) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Takes the byte at `offset` for itself, unless another open file has a lock on it.
pub fn try_exclude(file: &File, offset: u64) -> io::Result<bool> {
    match lock(file, offset, Wanted::Exclusive, libc::F_OFD_SETLK) {
        Ok(()) => Ok(true),
        // POSIX allows either for a lock that somebody holds.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EAGAIN)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether another open file has a lock on the byte at `offset`.
pub fn is_held(file: &File, offset: u64) -> io::Result<bool> {
    let mut request = request(offset, Wanted::Exclusive)?;
    call(file, libc::F_OFD_GETLK, &mut request)?;
    Ok(request.l_type != libc::F_UNLCK as libc::c_short)
}

fn lock(file: &File, offset: u64, wanted: Wanted, command: libc::c_int) -> io::Result<()> {
    call(file, command, &mut request(offset, wanted)?)
}

fn request(offset: u64, wanted: Wanted) -> io::Result<libc::flock> {
    let kind = match wanted {
        Wanted::Shared => libc::F_RDLCK,
        Wanted::Exclusive => libc::F_WRLCK,
    };
    // SAFETY: `flock` is plain integers, for which zero is a value; `l_pid` has to be zero for these commands.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    request.l_start =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    request.l_len = 1;
    Ok(request)
}

fn call(file: &File, command: libc::c_int, request: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the structure is valid for the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(request)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_exclude_each_other_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let open =
            || File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let (one, other, third) = (open(), open(), open());
        share(&one, 7).unwrap();
        share(&one, u64::MAX >> 2).unwrap();
        share(&other, 7).unwrap();
        assert!(!try_exclude(&third, 7).unwrap() && is_held(&third, 7).unwrap());
        assert!(try_exclude(&third, 8).unwrap() && !is_held(&third, 9).unwrap());
        drop(one);
        assert!(!try_exclude(&third, 7).unwrap(), "the other one still has it");
        drop(other);
        assert!(try_exclude(&third, 7).unwrap());
        let fourth = open();
        assert!(is_held(&fourth, 7).unwrap());
        drop(third);
        assert!(!is_held(&fourth, 8).unwrap());
    }
}
