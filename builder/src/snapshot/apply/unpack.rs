//! An archive into a directory of an existing root: `ADD archive.tar /dest/` (language.md 1.7, semantics facts 27
//! and 28).
//!
//! Invariants:
//! - names are taken literally: there are no whiteouts here;
//! - an entry replaces what has its name, symlinks too; only a directory on a directory keeps the content;
//! - symlinks on the way to an entry are followed inside the root; hard links lead to files below the destination.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::{ApplyError, Maker, outside};
use crate::layer::tar::{Entry, Kind, Reader};
use crate::snapshot::node::{Metadata, Ownership, Place, file_type, join, normalise};
use crate::snapshot::warning::{Warnings, display};
use crate::sys::error::FsError;
use crate::sys::rootdir::{Last, RootDir};

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnpackOptions {
    /// Owner of everything, in place of what the archive says; also of directories that are made.
    pub chown: Option<(u32, u32)>,
    /// What becomes of owners that are not mapped.
    pub ownership: Ownership,
    /// What an entry `./` means.
    pub top: Top,
}

/// What an archive's entry for its own top directory means for the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Top {
    /// Nothing: the destination keeps what it has.
    #[default]
    Keep,
    /// The destination gets its owner, mode, attributes and time.
    Set,
}

/// What became of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// The archive was closed by its two empty blocks, as every archive should be; one that was cut between two
    /// entries is not.
    pub closed: bool,
    /// Bytes of regular files.
    pub file_bytes: u64,
    /// What was left out.
    pub warnings: Warnings,
}

struct Unpacker<'a> {
    root: &'a RootDir,
    /// The destination, with symlinks resolved.
    dest: Vec<u8>,
    owner: Option<(u32, u32)>,
    top: Top,
    maker: Maker,
    /// The directory that the last entry was put in: as stated, opened, and resolved.
    cached: Option<(Vec<u8>, OwnedFd, Vec<u8>)>,
    times: BTreeMap<Vec<u8>, (i64, u32)>,
    /// Devices that could not be made; links to them are left out as well.
    skipped: BTreeSet<Vec<u8>>,
}

/// Unpacks the uncompressed archive `reader` into the directory `dest` of `root`, which is made when it does not
/// exist (mode 0755). The whole of `reader` is read.
pub fn unpack_archive(
    reader: impl Read,
    root: &RootDir,
    dest: &[u8],
    options: &UnpackOptions,
) -> Result<Unpacked, ApplyError> {
    let mut unpacker = Unpacker {
        root,
        dest: Vec::new(),
        owner: options.chown,
        top: options.top,
        maker: Maker::new(options.ownership),
        cached: None,
        times: BTreeMap::new(),
        skipped: BTreeSet::new(),
    };
    unpacker.dest = unpacker.directory(dest)?.1;
    let mut reader = Reader::new(BufReader::with_capacity(64 * 1024, reader));
    while let Some(entry) = reader.next_entry()? {
        unpacker.entry(&entry, &mut reader)?;
    }
    let closed = reader.saw_end_marker();
    reader.drain()?;
    unpacker.set_times()?;
    Ok(Unpacked { closed, file_bytes: unpacker.maker.file_bytes, warnings: unpacker.maker.warnings })
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &Entry, data: &mut Reader<R>) -> Result<(), ApplyError> {
        let components = normalise(&entry.path).ok_or_else(|| outside(&entry.path))?;
        let Some((name, parents)) = components.split_last() else {
            return match entry.kind {
                Kind::Directory if self.top == Top::Set => self.set_top(entry),
                Kind::Directory => Ok(()),
                _ => Err(ApplyError::Root { path: display(&entry.path) }),
            };
        };
        let stated = parents.join(&b'/');
        let (stated, dir, real) = match self.cached.take_if(|(path, ..)| *path == stated) {
            Some(cached) => cached,
            None => {
                let (dir, real) = self.directory(&join(&self.dest, &stated))?;
                (stated, dir, real)
            }
        };
        let place = Place { dir: dir.as_fd(), name, path: &entry.path };
        let changed = self.put(entry, place, &join(&real, name), data)?;
        self.cached = if changed { None } else { Some((stated, dir, real)) };
        Ok(())
    }

    /// `./` for the destination itself.
    fn set_top(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        let metadata = Metadata::of_entry(entry);
        let dest = self.dest.clone();
        let (dir, _) = self.directory(&dest)?;
        self.times.insert(dest, metadata.mtime);
        self.maker.set(Place { dir: dir.as_fd(), name: b".", path: b"/" }, &metadata)
    }

    /// Makes the node. True when what a path leads to may be another directory now.
    fn put<R: Read>(
        &mut self,
        entry: &Entry,
        place: Place<'_>,
        path: &[u8],
        data: &mut Reader<R>,
    ) -> Result<bool, ApplyError> {
        if entry.kind == Kind::HardLink {
            return self.hard_link(entry, place, path);
        }
        let mut metadata = Metadata::of_entry(entry);
        if let Some((uid, gid)) = self.owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        let found = place.stat()?;
        let is_dir = found.as_ref().is_some_and(|stat| file_type(stat).is_dir());
        if entry.kind == Kind::Directory {
            self.times.insert(path.to_vec(), metadata.mtime);
            if is_dir {
                self.maker.set(place, &metadata)?;
                return Ok(false);
            }
        }
        let replaced = self.replace(place, path)?;
        if !self.maker.make(place, entry, &metadata, data)? {
            self.skipped.insert(path.to_vec());
        }
        Ok(replaced || entry.kind == Kind::Symlink)
    }

    fn hard_link(&mut self, entry: &Entry, place: Place<'_>, path: &[u8]) -> Result<bool, ApplyError> {
        let (link, target) = (display(&entry.path), display(&entry.link));
        let components = normalise(&entry.link).ok_or_else(|| outside(&entry.link))?;
        if components.is_empty() {
            return Err(ApplyError::LinkToDirectory { path: link, target });
        }
        let full = join(&self.dest, &components.join(&b'/'));
        let found = match self.root.entry(&full, Last::Keep, None) {
            Ok(found) => found,
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                return Err(ApplyError::LinkTarget { path: link, target });
            }
            Err(e) => return Err(e.into()),
        };
        let source = Place { dir: found.dir.as_fd(), name: &found.name, path: &entry.link };
        match source.stat()? {
            None if self.skipped.contains(&found.real) => return Ok(false),
            None => return Err(ApplyError::LinkTarget { path: link, target }),
            Some(stat) if file_type(&stat).is_dir() => {
                return Err(ApplyError::LinkToDirectory { path: link, target });
            }
            Some(_) => {}
        }
        if found.real == path {
            return Ok(false);
        }
        let replaced = self.replace(place, path)?;
        place.make_hard_link(source)?;
        Ok(replaced)
    }

    /// Removes what has the name. True when that was a directory or a symlink.
    fn replace(&mut self, place: Place<'_>, path: &[u8]) -> Result<bool, ApplyError> {
        let Some(stat) = place.stat()? else { return Ok(false) };
        place.remove(&stat)?;
        let kind = file_type(&stat);
        if kind.is_dir() {
            let below = [path, b"/"].concat();
            self.times.retain(|other, _| other != path && !other.starts_with(&below));
        }
        Ok(kind.is_dir() || kind.is_symlink())
    }

    /// Opens a directory of the root, making it as far as it does not exist.
    fn directory(&mut self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>), ApplyError> {
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let ownership = self.maker.ownership;
        let mut warnings = std::mem::take(&mut self.maker.warnings);
        let mut set_up = |dir: BorrowedFd<'_>, path: &[u8]| {
            let place = Place { dir, name: b".", path };
            let stat = rustix::fs::fstat(dir)?;
            let now = crate::snapshot::node::mtime(&stat);
            let metadata = Metadata { uid, gid, mtime: now, ..Metadata::of_root_user(0o755) };
            place.set_metadata(&metadata, ownership, &mut warnings).map_err(|e: FsError| e.source)
        };
        let result = self.root.create_dir_all(path, &mut set_up);
        self.maker.warnings = warnings;
        Ok(result?)
    }

    fn set_times(&mut self) -> Result<(), ApplyError> {
        for (path, time) in std::mem::take(&mut self.times) {
            let entry = self.root.entry(&path, Last::Keep, None)?;
            let name: &[u8] = if entry.name.is_empty() { b"." } else { &entry.name };
            Place { dir: entry.dir.as_fd(), name, path: &path }.set_mtime(time)?;
        }
        Ok(())
    }
}
