//! Paths inside a root directory: the one place that resolves them.
//!
//! A [`RootDir`] is the root of an image's file system, a snapshot or a build context. Every path is resolved as
//! if that directory were `/`: absolute symlinks start there, `..` stops there. Nothing outside is ever opened.
//!
//! Invariants:
//! - resolution is by one component at a time with `O_PATH | O_NOFOLLOW`, so a tree that changes meanwhile can
//!   make a call fail but never lead it outside;
//! - `..` is answered from a stack of directories that were walked, never by the kernel;
//! - magic links are not followed (a link is only ever read as text).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::base::limits::MAX_SYMLINKS;
use crate::sys::error::FsError;

/// The root of a tree.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
}

/// What a walk does with the last component when it is a symlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Go where it leads.
    Follow,
    /// Stop at the link itself.
    Keep,
}

/// A directory inside a root and the name of an entry in it, which may not exist.
#[derive(Debug)]
pub struct Entry {
    /// The directory, with every symlink on the way resolved.
    pub dir: OwnedFd,
    /// The last component; empty when the path is the root itself.
    pub name: Vec<u8>,
    /// The path with every symlink before the last component resolved, without leading slash.
    pub real: Vec<u8>,
}

/// Called for each directory that a walk creates: the new directory and its resolved path.
pub type OnCreate<'a> = dyn FnMut(BorrowedFd<'_>, &[u8]) -> io::Result<()> + 'a;

struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// Directories from the root (exclusive) to where the walk stands.
    stack: Vec<(OwnedFd, Vec<u8>)>,
    links: usize,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.root, |(fd, _)| fd.as_fd())
    }

    fn real(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        for part in self.stack.iter().map(|(_, n)| n.as_slice()).chain([name]) {
            if !part.is_empty() {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
        path
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec)
}

impl RootDir {
    /// Opens a host directory as a root.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let fd = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| FsError::host("open directory", path, e))?;
        Ok(Self { fd })
    }

    /// Takes an open directory (or detached mount) as a root.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The root itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Another handle of the same root.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Walks to the directory that holds the last component. With `create`, missing directories on the way are
    /// made (mode 0755) and reported; with [`Last::Follow`] a symlink as last component is followed, also a
    /// dangling one, whose target is then the entry.
    pub fn entry(
        &self,
        path: &[u8],
        last: Last,
        create: Option<&mut OnCreate<'_>>,
    ) -> Result<Entry, FsError> {
        self.walk(path, last, create, &mut |_| {})
    }

    /// Like [`RootDir::entry`] without creating anything; `on_link` is told the resolved path of every symlink
    /// that is followed, so that a caller who hides part of the tree can hide links as well.
    pub fn entry_through(
        &self,
        path: &[u8],
        last: Last,
        on_link: &mut dyn FnMut(Vec<u8>),
    ) -> Result<Entry, FsError> {
        self.walk(path, last, None, on_link)
    }

    fn walk(
        &self,
        path: &[u8],
        last: Last,
        mut create: Option<&mut OnCreate<'_>>,
        on_link: &mut dyn FnMut(Vec<u8>),
    ) -> Result<Entry, FsError> {
        let fail = |action, e: Errno| FsError::image(action, path, e);
        let mut walk = Walk { root: self.fd.as_fd(), stack: Vec::new(), links: 0 };
        // Pending components, next one at the end.
        let mut pending: Vec<Vec<u8>> = components(path).rev().collect();
        while let Some(name) = pending.pop() {
            if name == b".." {
                walk.stack.pop();
                continue;
            }
            let is_last = pending.is_empty();
            let stat = match fs::statat(walk.here(), OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(stat),
                Err(Errno::NOENT) => None,
                Err(e) => return Err(fail("look up", e)),
            };
            let is_link = stat.as_ref().is_some_and(|s| FileType::from_raw_mode(s.st_mode).is_symlink());
            if is_link && !(is_last && last == Last::Keep) {
                walk.links += 1;
                if walk.links > MAX_SYMLINKS {
                    return Err(fail("follow", Errno::LOOP));
                }
                on_link(walk.real(&name));
                let target = fs::readlinkat(walk.here(), OsStr::from_bytes(&name), Vec::new())
                    .map_err(|e| fail("read link", e))?;
                let target = target.as_bytes();
                if target.first() == Some(&b'/') {
                    walk.stack.clear();
                }
                pending.extend(components(target).rev());
                continue;
            }
            if is_last {
                let real = walk.real(&name);
                let dir = clone_dir(walk.here()).map_err(|e| FsError::image("open directory", path, e))?;
                return Ok(Entry { dir, name, real });
            }
            if stat.is_none() {
                let Some(on_create) = create.as_deref_mut() else { return Err(fail("find", Errno::NOENT)) };
                fs::mkdirat(walk.here(), OsStr::from_bytes(&name), Mode::from_raw_mode(0o755))
                    .map_err(|e| fail("create directory in", e))?;
                let made = open_dir_at(walk.here(), &name).map_err(|e| fail("open directory", e))?;
                let real = walk.real(&name);
                on_create(made.as_fd(), &real).map_err(|e| FsError::image("set up directory", path, e))?;
                walk.stack.push((made, name));
                continue;
            }
            let next = open_dir_at(walk.here(), &name).map_err(|e| fail("enter", e))?;
            walk.stack.push((next, name));
        }
        // The path ended in the root, in `..` or in a link to a directory that is already on the stack.
        match walk.stack.pop() {
            Some((_, name)) => {
                let real = walk.real(&name);
                let dir = clone_dir(walk.here()).map_err(|e| FsError::image("open directory", path, e))?;
                Ok(Entry { dir, name, real })
            }
            None => {
                let dir =
                    clone_dir(self.fd.as_fd()).map_err(|e| FsError::image("open directory", path, e))?;
                Ok(Entry { dir, name: Vec::new(), real: Vec::new() })
            }
        }
    }

    /// An `O_PATH` handle of what `path` names.
    pub fn resolve(&self, path: &[u8], last: Last) -> Result<OwnedFd, FsError> {
        let entry = self.entry(path, last, None)?;
        entry.open(OFlags::PATH).map_err(|e| FsError::image("open", path, e))
    }

    /// The metadata of what `path` names; `None` when it does not exist.
    pub fn stat(&self, path: &[u8], last: Last) -> Result<Option<Stat>, FsError> {
        match self.entry(path, last, None).and_then(|e| e.stat().map_err(|e| FsError::image("stat", path, e)))
        {
            Ok(stat) => Ok(stat),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens a directory as a root of its own (symlinks followed inside this root).
    pub fn subdir(&self, path: &[u8]) -> Result<RootDir, FsError> {
        let entry = self.entry(path, Last::Follow, None)?;
        let fd = entry
            .open(OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|e| FsError::image("open directory", path, e))?;
        Ok(RootDir { fd })
    }

    /// Opens a regular file for reading (symlinks followed inside this root). Fifos and devices are refused, so
    /// that nothing blocks.
    pub fn open_file(&self, path: &[u8]) -> Result<File, FsError> {
        let entry = self.entry(path, Last::Follow, None)?;
        entry.open_regular().map_err(|e| FsError::image("open", path, e))
    }

    /// Reads a regular file of at most `limit` bytes; `None` when it does not exist.
    pub fn read_file(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, FsError> {
        use std::io::Read as _;
        let file = match self.open_file(path) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| FsError::image("read", path, e))?;
        if bytes.len() as u64 > limit {
            return Err(FsError::image("read", path, io::Error::other(format!("larger than {limit} bytes"))));
        }
        Ok(Some(bytes))
    }

    /// Makes a directory and its missing parents, following symlinks inside the root, dangling ones too. Returns
    /// the directory's resolved path.
    pub fn create_dir_all(
        &self,
        path: &[u8],
        on_create: &mut OnCreate<'_>,
    ) -> Result<(OwnedFd, Vec<u8>), FsError> {
        let entry = self.entry(path, Last::Follow, Some(&mut *on_create))?;
        if entry.name.is_empty() {
            return Ok((entry.dir, entry.real));
        }
        match fs::mkdirat(&entry.dir, OsStr::from_bytes(&entry.name), Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let made = open_dir_at(entry.dir.as_fd(), &entry.name)
                    .map_err(|e| FsError::image("open directory", path, e))?;
                on_create(made.as_fd(), &entry.real)
                    .map_err(|e| FsError::image("set up directory", path, e))?;
                Ok((made, entry.real))
            }
            Err(Errno::EXIST) => {
                let fd = open_dir_at(entry.dir.as_fd(), &entry.name)
                    .map_err(|e| FsError::image("open directory", path, e))?;
                Ok((fd, entry.real))
            }
            Err(e) => Err(FsError::image("create directory", path, e)),
        }
    }
}

impl Entry {
    /// Opens the entry itself, never through a symlink.
    pub fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let name: &[u8] = if self.name.is_empty() { b"." } else { &self.name };
        Ok(fs::openat(
            &self.dir,
            OsStr::from_bytes(name),
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// Metadata of the entry itself; `None` when there is none.
    pub fn stat(&self) -> io::Result<Option<Stat>> {
        let name: &[u8] = if self.name.is_empty() { b"." } else { &self.name };
        match fs::statat(&self.dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the entry for reading when it is a regular file.
    pub fn open_regular(&self) -> io::Result<File> {
        // What it is must be known before it is opened: opening a fifo waits for a writer, and opening a device does
        // what its driver likes (a watchdog starts to count).
        let found = self.open(OFlags::PATH)?;
        let kind = FileType::from_raw_mode(fs::fstat(&found)?.st_mode);
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(File::from(fs::open(proc_path(found.as_fd()), flags, Mode::empty())?))
    }
}

fn open_dir_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    fs::openat(
        dir,
        OsStr::from_bytes(name),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn clone_dir(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    dir.try_clone_to_owned()
}

/// A C string for a path component or a whole path; interior NUL bytes are an error.
pub fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "name holds a NUL byte"))
}

/// Names in a directory, sorted by bytes, without `.` and `..`.
pub fn sorted_names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    // The handle may be O_PATH: reading needs a real one.
    let fd = fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in fs::Dir::new(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A path that names the open file, for the few calls that have no descriptor form for `O_PATH` handles
/// (extended attributes before Linux 6.13).
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, RootDir) {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/f"), "inside").unwrap();
        std::fs::write(host.path().join("outside"), "outside").unwrap();
        symlink("/a/b", root.join("abs")).unwrap();
        symlink("../../../../outside", root.join("a/up")).unwrap();
        symlink(host.path().join("outside"), root.join("hostlink")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/not/there", root.join("dangling")).unwrap();
        let dir = RootDir::open(&root).unwrap();
        (host, dir)
    }

    #[test]
    fn links_stay_inside() {
        let (_host, root) = tree();
        assert_eq!(root.read_file(b"/abs/f", 100).unwrap().unwrap(), b"inside");
        assert_eq!(root.read_file(b"../../abs/../b/f", 100).unwrap().unwrap(), b"inside");
        assert!(root.read_file(b"a/up", 100).unwrap().is_none());
        assert!(root.read_file(b"hostlink", 100).unwrap().is_none());
        assert_eq!(root.resolve(b"loop", Last::Follow).unwrap_err().source.raw_os_error(), Some(40));
        assert!(root.resolve(b"loop", Last::Keep).is_ok());
    }

    #[test]
    fn followed_links_are_reported() {
        let (_host, root) = tree();
        let mut links = Vec::new();
        root.entry_through(b"abs/../up", Last::Follow, &mut |link| links.push(link)).unwrap();
        assert_eq!(links, [b"abs".to_vec(), b"a/up".to_vec()]);
    }

    #[test]
    fn missing_directories_are_made_inside() {
        let (host, root) = tree();
        let mut made = Vec::new();
        let (_, real) = root
            .create_dir_all(b"dangling/x", &mut |_, path| {
                made.push(String::from_utf8_lossy(path).into_owned());
                Ok(())
            })
            .unwrap();
        assert_eq!(real, b"not/there/x");
        assert_eq!(made, ["not", "not/there", "not/there/x"]);
        assert!(host.path().join("root/not/there/x").is_dir());
        assert!(root.create_dir_all(b"a/b/f/x", &mut |_, _| Ok(())).is_err());
    }

    #[test]
    fn entries_name_what_does_not_exist() {
        let (_host, root) = tree();
        let entry = root.entry(b"abs/new", Last::Follow, None).unwrap();
        assert_eq!((entry.name.as_slice(), entry.real.as_slice()), (&b"new"[..], &b"a/b/new"[..]));
        assert!(root.entry(b"gone/new", Last::Follow, None).is_err());
        assert!(root.entry(b"/", Last::Follow, None).unwrap().name.is_empty());
    }
}
