//! One layer into its overlayfs directory.
//!
//! Invariants: see the parent module. The cached parent directory is dropped whenever a name may have changed what
//! it leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::lower::{Found, Lower};
use super::{Applied, ApplyError, Maker, Ownership, outside};
use crate::base::limits::MAX_SYMLINKS;
use crate::layer::tar::{Device, Entry, Kind, Reader};
use crate::layer::whiteout::{Meaning, meaning};
use crate::snapshot::node::{Metadata, OPAQUE_XATTR, Place, file_type, is_whiteout, join, normalise};
use crate::snapshot::warning::display;
use crate::sys::error::FsError;
use crate::sys::rootdir::{Last, RootDir, sorted_names};
use crate::sys::xattr;

struct Layer<'a> {
    root: &'a RootDir,
    lower: Lower<'a>,
    maker: Maker,
    /// Directories of this layer that hide the lower ones.
    opaque: BTreeSet<Vec<u8>>,
    /// Times that directories shall have at the end.
    times: BTreeMap<Vec<u8>, (i64, u32)>,
    implied: BTreeSet<Vec<u8>>,
    /// Devices that could not be made; links to them are left out as well.
    skipped: BTreeSet<Vec<u8>>,
    /// The directory that the last entry was put in.
    cached: Option<Parent>,
    whiteouts: u64,
}

/// A directory of this layer.
struct Parent {
    /// The path as entries spell it.
    stated: Vec<Vec<u8>>,
    /// The path with symlinks resolved.
    real: Vec<Vec<u8>>,
    fd: OwnedFd,
}

/// Whether missing directories are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    /// Only those that lower layers have; otherwise there is nothing to be deleted.
    MakeIfLower,
}

pub(super) fn apply(reader: impl Read, dir: &RootDir, parents: &[RootDir]) -> Result<Applied, ApplyError> {
    let mut layer = Layer {
        root: dir,
        lower: Lower(parents),
        maker: Maker::new(Ownership::Recorded),
        opaque: BTreeSet::new(),
        times: BTreeMap::new(),
        implied: BTreeSet::new(),
        skipped: BTreeSet::new(),
        cached: None,
        whiteouts: 0,
    };
    layer.inherit_root()?;
    let mut reader = Reader::new(BufReader::with_capacity(64 * 1024, reader));
    let mut entries = 0;
    while let Some(entry) = reader.next_entry()? {
        entries += 1;
        layer.entry(&entry, &mut reader)?;
    }
    reader.drain()?;
    layer.set_times()?;
    Ok(Applied {
        entries,
        file_bytes: layer.maker.file_bytes,
        whiteouts: layer.whiteouts,
        implied: layer.implied.into_iter().collect(),
        warnings: layer.maker.warnings,
    })
}

impl Layer<'_> {
    /// The uppermost layer's root directory is the one that a merged mount shows.
    fn inherit_root(&mut self) -> Result<(), ApplyError> {
        let metadata = match self.lower.0.first() {
            None => Metadata::of_root_user(0o755),
            Some(parent) => {
                let place = Place { dir: parent.as_fd(), name: b".", path: b"/" };
                let stat = place.stat()?.ok_or_else(|| place.fail("look up", Errno::NOENT))?;
                of_node(place, &stat)?
            }
        };
        let root = Place { dir: self.root.as_fd(), name: b".", path: b"/" };
        self.times.insert(Vec::new(), metadata.mtime);
        self.maker.set(root, &metadata)
    }

    fn entry<R: Read>(&mut self, entry: &Entry, data: &mut Reader<R>) -> Result<(), ApplyError> {
        let components = normalise(&entry.path).ok_or_else(|| outside(&entry.path))?;
        let Some((name, parents)) = components.split_last() else { return self.root_entry(entry) };
        for parent in parents {
            match meaning(parent) {
                Meaning::Ordinary => {}
                Meaning::Bookkeeping => return Ok(()),
                _ => return Err(ApplyError::Whiteout { path: display(&entry.path) }),
            }
        }
        match meaning(name) {
            Meaning::Ordinary => self.ordinary(entry, parents, name, data),
            Meaning::Removed(name) => self.removed(entry, parents, name),
            Meaning::Opaque => self.hide(entry, parents),
            Meaning::Bookkeeping => Ok(()),
            Meaning::Invalid => Err(ApplyError::Whiteout { path: display(&entry.path) }),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        if entry.kind != Kind::Directory {
            return Err(ApplyError::Root { path: display(&entry.path) });
        }
        let place = Place { dir: self.root.as_fd(), name: b".", path: b"/" };
        let metadata = Metadata::of_entry(entry);
        place.clear_xattrs()?;
        self.times.insert(Vec::new(), metadata.mtime);
        self.maker.set(place, &metadata)
    }

    fn ordinary<R: Read>(
        &mut self,
        entry: &Entry,
        parents: &[Vec<u8>],
        name: &[u8],
        data: &mut Reader<R>,
    ) -> Result<(), ApplyError> {
        if entry.kind == Kind::HardLink {
            return self.hard_link(entry, parents, name);
        }
        let Some(parent) = self.parent(entry, parents, Missing::Make)? else { return Ok(()) };
        let place = Place { dir: parent.fd.as_fd(), name, path: &entry.path };
        let real = with(&parent.real, name);
        let path = real.join(&b'/');
        let metadata = Metadata::of_entry(entry);
        let found = place.stat()?;
        let is_dir = found.as_ref().is_some_and(|stat| file_type(stat).is_dir());
        if entry.kind == Kind::Directory && is_dir {
            place.clear_xattrs()?;
            self.maker.set(place, &metadata)?;
        } else {
            if let Some(stat) = &found {
                self.forget(place, stat, &path)?;
            }
            if !self.maker.make(place, entry, &metadata, data)? {
                self.skipped.insert(path.clone());
            }
            if entry.kind == Kind::Directory && found.is_some() && self.lower_dir(&real)? {
                // What was here so far had hidden the lower directory; its content must not come back.
                self.make_opaque(place.open_dir()?.as_fd(), &real)?;
            }
        }
        if entry.kind == Kind::Directory {
            self.implied.remove(&path);
            self.times.insert(path, metadata.mtime);
        }
        // A new directory or symlink may stand where so far a lower layer's one was followed.
        let changed = replaces_way(found.as_ref()) || matches!(entry.kind, Kind::Directory | Kind::Symlink);
        self.cached = if changed { None } else { Some(parent) };
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, parents: &[Vec<u8>], name: &[u8]) -> Result<(), ApplyError> {
        let no_target =
            || ApplyError::LinkTarget { path: display(&entry.path), target: display(&entry.link) };
        let to_directory =
            || ApplyError::LinkToDirectory { path: display(&entry.path), target: display(&entry.link) };
        let target = normalise(&entry.link).ok_or_else(|| outside(&entry.link))?;
        let (target_name, target_parents) = target.split_last().ok_or_else(to_directory)?;
        let target_dir = self.parent(entry, target_parents, Missing::MakeIfLower)?.ok_or_else(no_target)?;
        let target = Place { dir: target_dir.fd.as_fd(), name: target_name, path: &entry.link };
        let target_real = with(&target_dir.real, target_name);
        match target.stat()? {
            Some(stat) if is_whiteout(&stat) => return Err(no_target()),
            Some(stat) if file_type(&stat).is_dir() => return Err(to_directory()),
            Some(_) => {}
            None if self.skipped.contains(&target_real.join(&b'/')) => return Ok(()),
            None => {
                let found = self.find_lower(&target_real)?.ok_or_else(no_target)?;
                if file_type(&found.stat).is_dir() {
                    return Err(to_directory());
                }
                self.copy_up(target, &found)?;
            }
        }
        let Some(parent) = self.parent(entry, parents, Missing::Make)? else { return Ok(()) };
        let real = with(&parent.real, name);
        if real == target_real {
            return Ok(());
        }
        let place = Place { dir: parent.fd.as_fd(), name, path: &entry.path };
        if let Some(stat) = place.stat()? {
            self.forget(place, &stat, &real.join(&b'/'))?;
        }
        place.make_hard_link(target)?;
        // The link may be one to a symlink.
        self.cached = None;
        Ok(())
    }

    /// A whiteout of one name.
    fn removed(&mut self, entry: &Entry, parents: &[Vec<u8>], name: &[u8]) -> Result<(), ApplyError> {
        let Some(parent) = self.parent(entry, parents, Missing::MakeIfLower)? else { return Ok(()) };
        let place = Place { dir: parent.fd.as_fd(), name, path: &entry.path };
        self.delete(place, &with(&parent.real, name))?;
        self.cached = Some(parent);
        Ok(())
    }

    /// Hides what lower layers have at a path; what this layer has there stays.
    fn delete(&mut self, place: Place<'_>, real: &[Vec<u8>]) -> Result<(), ApplyError> {
        match place.stat()? {
            Some(stat) if file_type(&stat).is_dir() => {
                if self.lower_dir(real)? {
                    self.make_opaque(place.open_dir()?.as_fd(), real)?;
                }
            }
            // A file or an earlier whiteout hides it already.
            Some(_) => {}
            None => {
                if self.find_lower(real)?.is_some() {
                    place.make_whiteout()?;
                    self.whiteouts += 1;
                }
            }
        }
        Ok(())
    }

    /// An opaque whiteout.
    fn hide(&mut self, entry: &Entry, parents: &[Vec<u8>]) -> Result<(), ApplyError> {
        if parents.is_empty() {
            // Overlayfs merges roots whatever their attributes say, so each name is hidden by itself.
            let root = self.root;
            for name in self.lower.root_names()? {
                let place = Place { dir: root.as_fd(), name: &name, path: &entry.path };
                self.delete(place, std::slice::from_ref(&name))?;
            }
            self.cached = None;
            return Ok(());
        }
        let Some(parent) = self.parent(entry, parents, Missing::MakeIfLower)? else { return Ok(()) };
        if self.lower_dir(&parent.real)? {
            self.make_opaque(parent.fd.as_fd(), &parent.real)?;
        }
        self.cached = None;
        Ok(())
    }

    /// The directory of this layer at a path, made as far as it does not exist. `None` when it is not wanted.
    fn parent(
        &mut self,
        entry: &Entry,
        stated: &[Vec<u8>],
        missing: Missing,
    ) -> Result<Option<Parent>, ApplyError> {
        if let Some(cached) = self.cached.take_if(|cached| cached.stated == stated) {
            return Ok(Some(cached));
        }
        let root = self.root.try_clone().map_err(|e| FsError::image("open", b"/", e))?;
        let mut stack: Vec<(OwnedFd, Vec<u8>)> = Vec::new();
        let mut pending: Vec<Vec<u8>> = stated.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                stack.pop();
                continue;
            }
            let here = stack.last().map_or(root.as_fd(), |(fd, _)| fd.as_fd());
            let mut real: Vec<Vec<u8>> = stack.iter().map(|(_, name)| name.clone()).collect();
            real.push(name.clone());
            let path = real.join(&b'/');
            let place = Place { dir: here, name: &name, path: &path };
            let target = match self.step(entry, place, &real, missing)? {
                Step::Into(fd) => {
                    stack.push((fd, name));
                    continue;
                }
                Step::Nothing => return Ok(None),
                Step::Follow(target) => target,
            };
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(FsError::image("follow", &entry.path, Errno::LOOP).into());
            }
            if target.starts_with(b"/") {
                stack.clear();
            }
            let parts = target.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
            pending.extend(parts.rev().map(<[u8]>::to_vec));
        }
        let real = stack.iter().map(|(_, name)| name.clone()).collect();
        let fd = match stack.pop() {
            Some((fd, _)) => fd,
            None => root.as_fd().try_clone_to_owned().map_err(|e| FsError::image("open", b"/", e))?,
        };
        Ok(Some(Parent { stated: stated.to_vec(), real, fd }))
    }

    /// One component of the way to a directory.
    fn step(
        &mut self,
        entry: &Entry,
        place: Place<'_>,
        real: &[Vec<u8>],
        missing: Missing,
    ) -> Result<Step, ApplyError> {
        let own = place.stat()?;
        let deleted = own.as_ref().is_some_and(is_whiteout);
        match own {
            Some(stat) if file_type(&stat).is_dir() => return Ok(Step::Into(place.open_dir()?)),
            Some(stat) if file_type(&stat).is_symlink() => return Ok(Step::Follow(place.read_link()?)),
            Some(_) if !deleted => {
                return Err(ApplyError::NotADirectory {
                    path: display(&entry.path),
                    parent: display(place.path),
                });
            }
            _ => {}
        }
        let lower = if deleted { None } else { self.find_lower(real)? };
        let metadata = match &lower {
            Some(found) if file_type(&found.stat).is_symlink() => {
                return Ok(Step::Follow(found.place(place.path).read_link()?));
            }
            Some(found) if file_type(&found.stat).is_dir() => of_node(found.place(place.path), &found.stat)?,
            _ if missing == Missing::MakeIfLower => return Ok(Step::Nothing),
            _ => Metadata::of_root_user(0o755),
        };
        if let Some(stat) = own.filter(|_| deleted) {
            place.remove(&stat)?;
        }
        let fd = place.make_dir()?;
        self.maker.set(place, &metadata)?;
        if deleted && self.lower_dir(real)? {
            self.make_opaque(fd.as_fd(), real)?;
        }
        self.times.insert(place.path.to_vec(), metadata.mtime);
        self.implied.insert(place.path.to_vec());
        Ok(Step::Into(fd))
    }

    /// What lower layers have at a path, unless this layer hides it.
    fn find_lower(&self, real: &[Vec<u8>]) -> Result<Option<Found>, ApplyError> {
        if !self.opaque.is_empty() {
            let mut path = Vec::new();
            for name in real.split_last().map_or(&[][..], |(_, parents)| parents) {
                path = join(&path, name);
                if self.opaque.contains(&path) {
                    return Ok(None);
                }
            }
        }
        Ok(self.lower.find(real)?)
    }

    fn lower_dir(&self, real: &[Vec<u8>]) -> Result<bool, ApplyError> {
        Ok(self.find_lower(real)?.is_some_and(|found| file_type(&found.stat).is_dir()))
    }

    fn make_opaque(&mut self, dir: BorrowedFd<'_>, real: &[Vec<u8>]) -> Result<(), ApplyError> {
        let path = real.join(&b'/');
        xattr::set(dir, OPAQUE_XATTR, b"y").map_err(|e| FsError::image("mark as opaque", &path, e))?;
        // Overlayfs shows whiteouts of directories that it does not merge.
        remove_whiteouts(dir, &path)?;
        if self.opaque.insert(path) {
            self.whiteouts += 1;
        }
        Ok(())
    }

    /// Removes a node of this layer and what is known about it.
    fn forget(&mut self, place: Place<'_>, stat: &Stat, path: &[u8]) -> Result<(), ApplyError> {
        place.remove(stat)?;
        if file_type(stat).is_dir() {
            let below = [path, b"/"].concat();
            let gone = |other: &Vec<u8>| other == path || other.starts_with(&below);
            self.times.retain(|other, _| !gone(other));
            self.implied.retain(|other| !gone(other));
            self.opaque.retain(|other| !gone(other));
        }
        Ok(())
    }

    /// Copies a file of a lower layer into this one, as overlayfs does before it changes one.
    fn copy_up(&mut self, place: Place<'_>, found: &Found) -> Result<(), ApplyError> {
        let source = found.place(place.path);
        let metadata = of_node(source, &found.stat)?;
        let stat = source.counted(&found.stat)?;
        let kind = match file_type(&stat) {
            FileType::RegularFile => {
                let mut copy = place.make_file()?;
                std::io::copy(&mut source.open_file()?, &mut copy).map_err(|e| place.fail("copy", e))?;
                return self.maker.set(place, &metadata);
            }
            FileType::Symlink => {
                place.make_symlink(&source.read_link()?)?;
                return self.maker.set(place, &metadata);
            }
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            _ => Kind::Fifo,
        };
        let number = stat.st_rdev;
        let device = Device { major: rustix::fs::major(number), minor: rustix::fs::minor(number) };
        if place.make_special(kind, device, self.maker.ownership, &mut self.maker.warnings)? {
            self.maker.set(place, &metadata)?;
        }
        Ok(())
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

enum Step {
    Into(OwnedFd),
    Follow(Vec<u8>),
    Nothing,
}

impl Found {
    fn place<'a>(&'a self, path: &'a [u8]) -> Place<'a> {
        Place { dir: self.dir.as_fd(), name: &self.name, path }
    }
}

fn of_node(place: Place<'_>, stat: &Stat) -> Result<Metadata, ApplyError> {
    let fd = place.open(OFlags::PATH)?;
    Metadata::of_node(fd.as_fd(), stat).map_err(|e| place.fail("read attributes of", e).into())
}

/// True when what was at a name may have been on the way to other names.
fn replaces_way(found: Option<&Stat>) -> bool {
    found.is_some_and(|stat| matches!(file_type(stat), FileType::Directory | FileType::Symlink))
}

fn with(parents: &[Vec<u8>], name: &[u8]) -> Vec<Vec<u8>> {
    parents.iter().cloned().chain([name.to_vec()]).collect()
}

/// Removes the whiteouts in and below a directory of the layer.
fn remove_whiteouts(dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), FsError> {
    let mut stack = vec![dir.try_clone_to_owned().map_err(|e| FsError::image("open", path, e))?];
    while let Some(dir) = stack.pop() {
        for name in sorted_names(dir.as_fd()).map_err(|e| FsError::image("list", path, e))? {
            let place = Place { dir: dir.as_fd(), name: &name, path };
            match place.stat()? {
                Some(stat) if is_whiteout(&stat) => place.remove(&stat)?,
                Some(stat) if file_type(&stat).is_dir() => stack.push(place.open_dir()?),
                _ => {}
            }
        }
    }
    Ok(())
}
