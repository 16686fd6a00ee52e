//! Locks on single bytes of a file, held by an open file and not by a process (`F_OFD_SETLK`, fcntl(2)).
//!
//! Invariants:
//! - a lock ends with the last descriptor of its open file, so with its process, however that dies;
//! - two open files of one process exclude each other as those of two processes do;
//! - a lock takes no space on the disk, so it can be had when the disk is full.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

/// An open file whose byte locks end when it is dropped, also while a process that is just being started (between fork
/// and exec) has a copy of its descriptor.
#[derive(Debug)]
pub struct LockFile(pub File);

impl Deref for LockFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing it does the rest.
        let _ = release_all(&self.0);
    }
}

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

/// Who has which bytes of which files, as it was at one moment, as far as this process may look into others. The kernel
/// names no owner of such locks; it tells of each open file which it holds (`/proc/PID/fdinfo`, proc_pid_fdinfo(5)).
///
/// Looking into a process takes its rights (ptrace(2), PTRACE_MODE_READ): inside a user namespace of its own a process
/// sees nothing of the user's others, not even of those that are in another such namespace.
#[derive(Debug, Default)]
pub struct Locks(Vec<Held>);

#[derive(Debug)]
struct Held {
    pid: u32,
    inode: u64,
    first: u64,
    last: u64,
}

impl Locks {
    /// Looks at all processes but this one.
    pub fn look() -> io::Result<Self> {
        let own = std::process::id();
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Gone meanwhile, or somebody else's.
            let Ok(descriptors) = fs::read_dir(entry.path().join("fdinfo")) else { continue };
            for descriptor in descriptors.flatten().filter(|_| pid != own) {
                let text = fs::read_to_string(descriptor.path()).unwrap_or_default();
                all.extend(text.lines().filter_map(|line| Held::parse(pid, line)));
            }
        }
        Ok(Self(all))
    }

    /// Processes that had a lock on the byte at `offset`, sorted.
    pub fn holders(&self, file: &File, offset: u64) -> io::Result<Vec<u32>> {
        let inode = file.metadata()?.ino();
        let of_byte = |held: &&Held| held.inode == inode && (held.first..=held.last).contains(&offset);
        let mut pids: Vec<u32> = self.0.iter().filter(of_byte).map(|held| held.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }
}

impl Held {
    /// Reads a line `lock: 1: OFDLCK ADVISORY READ -1 00:2a:INODE FIRST LAST` of an fdinfo.
    fn parse(pid: u32, line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.strip_prefix("lock:")?.split_whitespace().collect();
        let [_, "OFDLCK", _, _, _, file, first, last] = fields[..] else { return None };
        Some(Self {
            pid,
            inode: file.rsplit(':').next()?.parse().ok()?,
            first: first.parse().ok()?,
            last: if last == "EOF" { u64::MAX } else { last.parse().ok()? },
        })
    }
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
    fn what_the_kernel_tells_of_a_lock() {
        let line = "lock:\t1: OFDLCK  ADVISORY  READ -1 fe:01:123 5 9";
        let held = Held::parse(7, line).unwrap();
        assert_eq!((held.pid, held.inode, held.first, held.last), (7, 123, 5, 9));
        assert_eq!(Held::parse(7, &line.replace('9', "EOF")).unwrap().last, u64::MAX);
        assert!(Held::parse(7, &line.replace("OFDLCK", "POSIX")).is_none());
        assert!(Held::parse(7, "pos:\t0").is_none());
    }

    #[test]
    fn open_files_exclude_each_other_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let open = || {
            let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
            LockFile(opened.unwrap())
        };
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
