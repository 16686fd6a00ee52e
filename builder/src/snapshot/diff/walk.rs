//! The walk over an upper directory beside the lower view.
//!
//! Invariants:
//! - the walk's stack is on the heap, so a deep tree cannot overflow the thread's;
//! - a directory is reported just before the first change in it, or at once when it changed itself;
//! - directories are entered by handle and name; nothing is followed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Stat};

use super::{Change, DiffError, Sink};
use crate::base::digest::Digest;
use crate::layer::tar::{Device, Entry, Kind};
use crate::layer::whiteout;
use crate::snapshot::node::{Place, carried_xattrs, file_type, is_opaque, is_whiteout, join, mtime};
use crate::snapshot::warning::{Warning, Warnings, display};
use crate::snapshot::written::Written;
use crate::sys::error::FsError;
use crate::sys::override_stat;
use crate::sys::rootdir::{RootDir, sorted_names};
use crate::sys::xattr;

/// Whether names that mean something in a layer are an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::snapshot) enum Names {
    /// `.wh.*` is refused.
    Layer,
    /// Names mean nothing.
    Plain,
}

/// What the upper directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::snapshot) enum Scope {
    /// What an overlay wrote: names that it lacks did not change.
    Upper,
    /// A merged view: names that it lacks are gone.
    Whole,
}

/// Longest path that is recorded (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;

/// Reports every change of `upper` against `lower`.
pub(in crate::snapshot) fn walk(
    upper: &RootDir,
    lower: Option<&RootDir>,
    (names, scope): (Names, Scope),
    written: &Written,
    sink: &mut Sink<'_>,
) -> Result<Warnings, DiffError> {
    let clone =
        |root: &RootDir| root.as_fd().try_clone_to_owned().map_err(|e| FsError::image("open", b"/", e));
    let whole = scope == Scope::Whole;
    let root =
        Frame::new(Entry::new("", Kind::Directory), clone(upper)?, lower.map(clone).transpose()?, whole)?;
    let mut walker = Walker {
        sink,
        written,
        names,
        warnings: Warnings::default(),
        listed: HashSet::from([Vec::new()]),
        inodes: HashMap::new(),
        stack: vec![root],
    };
    while let Some(frame) = walker.stack.last_mut() {
        match frame.names.next() {
            Some(name) => walker.name(&name)?,
            None => drop(walker.stack.pop()),
        }
    }
    Ok(walker.warnings)
}

/// A directory that is being walked.
struct Frame {
    entry: Entry,
    upper: OwnedFd,
    /// The directory of the lower view at the same path.
    lower: Option<OwnedFd>,
    /// Nothing of the lower directory is seen through this one.
    opaque: bool,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// The names of one inode.
#[derive(Default)]
struct Inode {
    /// The name under which its data is in the layer.
    reported: Option<Vec<u8>>,
    /// Names that did not change so far, each with the directories that it lies in.
    unchanged: Vec<(Entry, Vec<Entry>)>,
}

/// The bytes of a regular file that has to be in the layer.
enum Content {
    None,
    Unread(std::fs::File),
    Known(Digest),
}

struct Walker<'a, 'b> {
    sink: &'a mut Sink<'b>,
    written: &'a Written,
    names: Names,
    warnings: Warnings,
    /// Directories that were reported.
    listed: HashSet<Vec<u8>>,
    /// Of files with several names, by device and number.
    inodes: HashMap<(u64, u64), Inode>,
    stack: Vec<Frame>,
}

impl Frame {
    fn new(entry: Entry, upper: OwnedFd, lower: Option<OwnedFd>, opaque: bool) -> Result<Self, DiffError> {
        let list =
            |fd: &OwnedFd| sorted_names(fd.as_fd()).map_err(|e| FsError::image("list", &entry.path, e));
        let mut names = list(&upper)?;
        if let (true, Some(lower)) = (opaque, &lower) {
            let all: BTreeSet<_> = names.into_iter().chain(list(lower)?).collect();
            names = all.into_iter().collect();
        }
        Ok(Self { entry, upper, lower, opaque, names: names.into_iter() })
    }
}

impl Walker<'_, '_> {
    fn name(&mut self, name: &[u8]) -> Result<(), DiffError> {
        let Some(frame) = self.stack.last() else { return Ok(()) };
        let path = join(&frame.entry.path, name);
        let place = Place { dir: frame.upper.as_fd(), name, path: &path };
        let below = frame.lower.as_ref().map(|fd| Place { dir: fd.as_fd(), name, path: &path });
        let lower = match below {
            Some(below) => below.stat()?.map(|stat| (below, stat)),
            None => None,
        };
        let stat = match place.stat()? {
            Some(stat) if !is_whiteout(&stat) => stat,
            _ if lower.is_some() => return self.gone(name),
            _ => return Ok(()),
        };
        if path.len() > MAX_PATH_BYTES {
            return Err(DiffError::PathTooLong { path: display(&path) });
        }
        if self.names == Names::Layer && name.starts_with(whiteout::PREFIX) {
            return Err(DiffError::ReservedName { path: display(&path) });
        }
        let kind = file_type(&stat);
        if kind.is_socket() {
            self.warnings.add(Warning::Socket { path: display(&path) });
            return if lower.is_some() { self.gone(name) } else { Ok(()) };
        }
        let fd = place.open(OFlags::PATH)?;
        let stat = override_stat::effective(fd.as_fd(), stat).map_err(|e| attribute_error(&place, e))?;
        let entry = entry(place, fd.as_fd(), &stat, &path)?;
        if kind.is_dir() {
            let opaque = frame.opaque || is_opaque(fd.as_fd()).map_err(|e| attribute_error(&place, e))?;
            refuse_redirect(&place, fd.as_fd())?;
            let lower_fd = match &lower {
                Some((below, stat)) if file_type(stat).is_dir() => Some(below.open_dir()?),
                _ => None,
            };
            let changed = match (&lower, &lower_fd) {
                (Some((below, stat)), Some(fd)) => !same_metadata(&entry, below, fd.as_fd(), stat)?,
                _ => true,
            };
            let next = Frame::new(entry, fd, lower_fd, opaque)?;
            self.stack.push(next);
            return if changed { self.directories() } else { Ok(()) };
        }
        let changed = match &lower {
            Some((below, below_stat)) => !same_file(&entry, &place, &stat, below, below_stat)?,
            None => true,
        };
        let content = if changed && entry.kind == Kind::File && !self.is_reported(&stat) {
            match self.written.digest(&entry.path, entry.size) {
                Some(digest) => Content::Known(digest),
                None => {
                    refuse_metadata_only(&place, fd.as_fd())?;
                    Content::Unread(place.open_file()?)
                }
            }
        } else {
            Content::None
        };
        self.file(entry, &stat, changed, content)
    }

    fn is_reported(&self, stat: &Stat) -> bool {
        stat.st_nlink > 1 && self.inodes.get(&inode(stat)).is_some_and(|inode| inode.reported.is_some())
    }

    /// Reports anything but a directory.
    fn file(&mut self, entry: Entry, stat: &Stat, changed: bool, content: Content) -> Result<(), DiffError> {
        if stat.st_nlink < 2 {
            return if changed { self.report(entry, content) } else { Ok(()) };
        }
        let known = self.inodes.entry(inode(stat)).or_default();
        if let Some(target) = &known.reported {
            let link = hard_link(entry, target);
            return self.report(link, Content::None);
        }
        if !changed {
            let parents = self.stack.iter().map(|frame| frame.entry.clone()).collect();
            known.unchanged.push((entry, parents));
            return Ok(());
        }
        known.reported = Some(entry.path.clone());
        let waiting = std::mem::take(&mut known.unchanged);
        let target = entry.path.clone();
        self.report(entry, content)?;
        for (entry, parents) in waiting {
            for parent in parents {
                self.directory(&parent)?;
            }
            (self.sink)(change(hard_link(entry, &target), Content::None))?;
        }
        Ok(())
    }

    /// Reports that the lower view's entry does not exist any more (semantics fact 79).
    fn gone(&mut self, name: &[u8]) -> Result<(), DiffError> {
        self.directories()?;
        let Some(frame) = self.stack.last() else { return Ok(()) };
        let path = join(&frame.entry.path, &whiteout::whiteout_name(name));
        let entry = Entry { mode: 0, ..Entry::new(path, Kind::File) };
        (self.sink)(Change { whiteout: true, ..change(entry, Content::None) })
    }

    fn report(&mut self, entry: Entry, content: Content) -> Result<(), DiffError> {
        self.directories()?;
        (self.sink)(change(entry, content))
    }

    /// Reports the directories that the walk stands in, as far as they were not yet.
    fn directories(&mut self) -> Result<(), DiffError> {
        // Mostly all but the last few are reported already.
        let unlisted = self.stack.iter().rposition(|frame| self.listed.contains(&frame.entry.path));
        let from = unlisted.map_or(0, |at| at + 1);
        let entries: Vec<Entry> =
            self.stack.get(from..).unwrap_or_default().iter().map(|frame| frame.entry.clone()).collect();
        for entry in entries {
            self.directory(&entry)?;
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), DiffError> {
        if self.listed.insert(entry.path.clone()) {
            (self.sink)(change(entry.clone(), Content::None))?;
        }
        Ok(())
    }
}

fn change(entry: Entry, content: Content) -> Change {
    let (data, digest) = match content {
        Content::None => (None, None),
        Content::Unread(file) => (Some(file), None),
        Content::Known(digest) => (None, Some(digest)),
    };
    Change { entry, data, digest, whiteout: false }
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn hard_link(entry: Entry, target: &[u8]) -> Entry {
    Entry { kind: Kind::HardLink, link: target.to_vec(), size: 0, device: Device::default(), ..entry }
}

fn entry(place: Place<'_>, fd: BorrowedFd<'_>, stat: &Stat, path: &[u8]) -> Result<Entry, DiffError> {
    let kind = match file_type(stat) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        _ => Kind::File,
    };
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    let number = if is_device { stat.st_rdev } else { 0 };
    let (mtime_seconds, mtime_nanoseconds) = mtime(stat);
    Ok(Entry {
        path: path.to_vec(),
        kind,
        // The kernel reports 0777 for every symlink; file systems of other systems may not (semantics fact 100).
        mode: if kind == Kind::Symlink { 0o777 } else { stat.st_mode & 0o7777 },
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_seconds,
        mtime_nanoseconds,
        size: if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        link: if kind == Kind::Symlink { place.read_link()? } else { Vec::new() },
        device: Device { major: rustix::fs::major(number), minor: rustix::fs::minor(number) },
        xattrs: carried_xattrs(fd, stat).map_err(|e| attribute_error(&place, e))?,
    })
}

/// Mode, owner and attributes, as the lower view has them.
fn same_metadata(
    entry: &Entry,
    below: &Place<'_>,
    fd: BorrowedFd<'_>,
    stat: &Stat,
) -> Result<bool, DiffError> {
    let stat = &override_stat::effective(fd, *stat).map_err(|e| attribute_error(below, e))?;
    Ok(entry.mode == stat.st_mode & 0o7777
        && (entry.uid, entry.gid) == (stat.st_uid, stat.st_gid)
        && entry.xattrs == carried_xattrs(fd, stat).map_err(|e| attribute_error(below, e))?)
}

/// True when a copy-up changed nothing (semantics fact 81).
fn same_file(
    entry: &Entry,
    place: &Place<'_>,
    stat: &Stat,
    below: &Place<'_>,
    lower: &Stat,
) -> Result<bool, DiffError> {
    let kind = file_type(stat);
    let is_device = kind.is_char_device() || kind.is_block_device();
    let lower = &below.counted(lower)?;
    if kind != file_type(lower)
        || stat.st_size != lower.st_size
        || mtime(stat) != mtime(lower)
        || (is_device && stat.st_rdev != lower.st_rdev)
    {
        return Ok(false);
    }
    let fd = below.open(OFlags::PATH)?;
    if !same_metadata(entry, below, fd.as_fd(), lower)? {
        return Ok(false);
    }
    if kind.is_symlink() {
        return Ok(entry.link == below.read_link()?);
    }
    // Times that were set by hand have no nanoseconds, so they prove nothing.
    if kind.is_file() && mtime(stat).1 == 0 && !same_inode(stat, lower) {
        return same_bytes(place, below);
    }
    Ok(true)
}

/// True when two merged views show one file of a layer that they share. Devices differ from mount to mount, but all
/// layers lie on one file system, which has no two inodes of one number and one time of change.
fn same_inode(stat: &Stat, lower: &Stat) -> bool {
    stat.st_ino == lower.st_ino
        && (stat.st_ctime, stat.st_ctime_nsec) == (lower.st_ctime, lower.st_ctime_nsec)
}

fn same_bytes(one: &Place<'_>, other: &Place<'_>) -> Result<bool, DiffError> {
    const CHUNK_BYTES: u64 = 64 * 1024;
    let (mut first, mut second) = (one.open_file()?, other.open_file()?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        first.by_ref().take(CHUNK_BYTES).read_to_end(&mut a).map_err(|e| one.fail("read", e))?;
        second.by_ref().take(CHUNK_BYTES).read_to_end(&mut b).map_err(|e| other.fail("read", e))?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}

/// A directory that overlayfs renamed leaves its content in a lower layer, where the walk does not see it
/// (semantics fact 82).
fn refuse_redirect(place: &Place<'_>, fd: BorrowedFd<'_>) -> Result<(), DiffError> {
    match xattr::get(fd, b"user.overlay.redirect").map_err(|e| attribute_error(place, e))? {
        None => Ok(()),
        Some(_) => Err(DiffError::Redirected { path: display(place.path) }),
    }
}

fn refuse_metadata_only(place: &Place<'_>, fd: BorrowedFd<'_>) -> Result<(), DiffError> {
    match xattr::get(fd, b"user.overlay.metacopy").map_err(|e| attribute_error(place, e))? {
        None => Ok(()),
        Some(_) => Err(DiffError::MetadataOnly { path: display(place.path) }),
    }
}

fn attribute_error(place: &Place<'_>, error: std::io::Error) -> FsError {
    place.fail("read attributes of", error)
}
