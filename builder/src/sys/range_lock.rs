//! Locks on single bytes of a file, held by an open file and not by a process (`F_OFD_SETLK`, fcntl(2)).
//!
//! Invariants:
//! - a lock ends with the last descriptor of its open file, so with its process, however that dies;
//! - two open files of one process exclude each other as those of two processes do;
//! - a lock takes no space on the disk, so it can be had when the disk is full.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// What is wanted of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Shared,
    Exclusive,
    Nothing,
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

/// Gives all bytes of the file free.
pub fn release_all(file: &File) -> io::Result<()> {
    let mut request = request(0, Wanted::Nothing)?;
    // Up to whatever the end is.
    request.l_len = 0;
    call(file, libc::F_OFD_SETLK, &mut request)
}

/// Whether another open file has a lock on the byte at `offset`.
pub fn is_held(file: &File, offset: u64) -> io::Result<bool> {
    let mut request = request(offset, Wanted::Exclusive)?;
    call(file, libc::F_OFD_GETLK, &mut request)?;
    Ok(request.l_type != libc::F_UNLCK as libc::c_short)
}

/// Processes, as far as this one may look into them, that have a lock on the byte at `offset`. The kernel names no owner
/// of such locks; it tells of each open file which it holds (`/proc/PID/fdinfo`, proc_pid_fdinfo(5)).
pub fn holders(file: &File, offset: u64) -> io::Result<Vec<u32>> {
    let inode = file.metadata()?.ino();
    let own = std::process::id();
    let mut holders = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Gone meanwhile, or somebody else's.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fdinfo")) else { continue };
        let holds = |path: PathBuf| fs::read_to_string(path).is_ok_and(|text| tells_of(&text, inode, offset));
        if pid != own && descriptors.flatten().any(|descriptor| holds(descriptor.path())) {
            holders.push(pid);
        }
    }
    holders.sort_unstable();
    Ok(holders)
}

/// Whether an fdinfo has a line `lock: 1: OFDLCK ADVISORY READ -1 00:2a:INODE FIRST LAST` about the byte.
fn tells_of(fdinfo: &str, inode: u64, offset: u64) -> bool {
    fdinfo.lines().filter_map(|line| line.strip_prefix("lock:")).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "OFDLCK", _, _, _, file, first, last] = fields[..] else { return false };
        let of_file = file.rsplit(':').next().and_then(|text| text.parse().ok()) == Some(inode);
        let from = first.parse::<u64>().is_ok_and(|first| first <= offset);
        of_file && from && (last == "EOF" || last.parse::<u64>().is_ok_and(|last| offset <= last))
    })
}

fn lock(file: &File, offset: u64, wanted: Wanted, command: libc::c_int) -> io::Result<()> {
    call(file, command, &mut request(offset, wanted)?)
}

fn request(offset: u64, wanted: Wanted) -> io::Result<libc::flock> {
    let kind = match wanted {
        Wanted::Shared => libc::F_RDLCK,
        Wanted::Exclusive => libc::F_WRLCK,
        Wanted::Nothing => libc::F_UNLCK,
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
        assert!(is_held(&fourth, 7).unwrap() && is_held(&fourth, 8).unwrap());
        release_all(&third).unwrap();
        assert!(!is_held(&fourth, 7).unwrap() && !is_held(&fourth, 8).unwrap());
    }
}
