//! Whole trees out of kiln: as a tar (`--output type=tar`) and as a directory (`--output type=local`).
//!
//! Invariants:
//! - names mean nothing here: a file called `.wh.x` is an ordinary file;
//! - symlinks are copied, never followed, neither in the tree nor at the destination.

#[cfg(test)]
mod tests;

use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use super::diff::{Change, DiffError, Names, Scope, walk};
use super::node::{Metadata, Ownership, Place, file_type};
use super::warning::Warnings;
use super::written::Written;
use crate::layer::tar::{Entry, Kind, Writer};
use crate::sys::error::FsError;
use crate::sys::rootdir::{Last, RootDir};

/// A tree of a tar.
pub struct TarPart<'a> {
    /// The directory of the tar that it is put into; none when empty.
    pub directory: &'a str,
    /// A merged root file system.
    pub root: &'a RootDir,
    /// Files that come last, by name.
    pub beside: &'a [(String, Vec<u8>)],
}

/// Writes everything below the roots of `parts` as a tar: sorted, hard links kept, times in whole seconds and not later
/// than `epoch`. Returns the number of entries that are no files beside a tree.
pub fn write_tree_tar(
    parts: &[TarPart<'_>],
    epoch: Option<i64>,
    out: &mut dyn Write,
) -> Result<u64, DiffError> {
    let mut writer = Writer::new(out);
    let mtime_seconds = epoch.unwrap_or(0);
    let mut entries = 0;
    for TarPart { directory, root, beside } in parts {
        if !directory.is_empty() {
            entries += 1;
            let entry = Entry { mtime_seconds, ..Entry::new(directory.as_bytes(), Kind::Directory) };
            writer.append_empty(&entry)?;
        }
        let within = |name: &[u8]| match directory.is_empty() {
            true => name.to_vec(),
            false => [directory.as_bytes(), b"/", name].concat(),
        };
        walk(root, None, (Names::Plain, Scope::Upper), &Written::default(), &mut |change| {
            let Change { mut entry, data, .. } = change;
            entries += 1;
            entry.mtime_nanoseconds = 0;
            entry.mtime_seconds = epoch.map_or(entry.mtime_seconds, |epoch| entry.mtime_seconds.min(epoch));
            entry.path = within(&entry.path);
            // Targets of symlinks are texts, those of hard links names of the tar.
            if entry.kind == Kind::HardLink {
                entry.link = within(&entry.link);
            }
            match data {
                Some(file) => writer.append(&entry, file)?,
                None => writer.append_empty(&entry)?,
            }
            Ok(())
        })?;
        for (name, bytes) in *beside {
            let size = bytes.len() as u64;
            let entry = Entry { mtime_seconds, size, ..Entry::new(within(name.as_bytes()), Kind::File) };
            writer.append(&entry, &mut &bytes[..])?;
        }
    }
    writer.finish()?;
    Ok(entries)
}

/// To whom copied files belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owners {
    /// To the user that runs kiln.
    #[default]
    Caller,
    /// To whom they belong in the tree, as far as that is permitted; otherwise a warning.
    Keep,
}

/// How a tree is copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// To whom the copies belong.
    pub owners: Owners,
    /// Later times become this one, in seconds since 1970.
    pub epoch: Option<i64>,
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, directories and everything else.
    pub entries: u64,
    /// Bytes of regular files.
    pub file_bytes: u64,
    /// What was left out.
    pub warnings: Warnings,
}

/// Copies everything below `root` into the host directory `dest`, which is made when it does not exist. What is
/// there already stays, unless something of the tree has its name: directories are merged, everything else is
/// replaced. Extended attributes stay behind: they would say things about the host.
pub fn copy_tree(root: &RootDir, dest: &Path, options: &CopyOptions) -> Result<Copied, DiffError> {
    std::fs::create_dir_all(dest).map_err(|e| FsError::host("create directory", dest, e))?;
    let mut copier = Copier {
        dest: RootDir::open(dest)?,
        options,
        copied: Copied::default(),
        directories: Vec::new(),
        cached: None,
    };
    let warnings = walk(root, None, (Names::Plain, Scope::Upper), &Written::default(), &mut |change| {
        copier.copy(change)
    })?;
    copier.finish_directories()?;
    let mut copied = copier.copied;
    for warning in warnings.kept {
        copied.warnings.add(warning);
    }
    copied.warnings.dropped += warnings.dropped;
    Ok(copied)
}

struct Copier<'a> {
    dest: RootDir,
    options: &'a CopyOptions,
    copied: Copied,
    /// Directories get their mode at the end: until then this user must be able to write into them.
    directories: Vec<(Vec<u8>, Metadata)>,
    /// The directory of the last entry.
    cached: Option<(Vec<u8>, OwnedFd)>,
}

impl Copier<'_> {
    fn copy(&mut self, change: Change) -> Result<(), DiffError> {
        let Change { entry, data, .. } = change;
        let split = entry.path.iter().rposition(|b| *b == b'/');
        let (parent, name) = match split {
            Some(at) => (entry.path.get(..at), entry.path.get(at + 1..)),
            None => (Some(&b""[..]), Some(&entry.path[..])),
        };
        let (parent, name) = (parent.unwrap_or_default(), name.unwrap_or_default());
        let dir = match self.cached.take_if(|(path, _)| path == parent) {
            Some((_, dir)) => dir,
            // Every component is a directory that was made or found as one before.
            None => self.dest.resolve(parent, Last::Keep)?,
        };
        let place = Place { dir: dir.as_fd(), name, path: &entry.path };
        self.make(place, &entry, data)?;
        self.copied.entries += 1;
        self.cached = Some((parent.to_vec(), dir));
        Ok(())
    }

    fn make(
        &mut self,
        place: Place<'_>,
        entry: &Entry,
        data: Option<std::fs::File>,
    ) -> Result<(), DiffError> {
        let metadata = self.metadata(entry);
        if let Some(stat) = place.stat()? {
            if entry.kind == Kind::Directory && file_type(&stat).is_dir() {
                // An earlier copy may have left it read-only; its own mode comes at the end.
                place.open_to_owner(&stat)?;
                self.directories.push((entry.path.clone(), metadata));
                return Ok(());
            }
            place.remove(&stat)?;
        }
        match entry.kind {
            Kind::Directory => {
                place.make_dir()?;
                self.directories.push((entry.path.clone(), metadata));
                return Ok(());
            }
            Kind::File => {
                let mut copy = place.make_file()?;
                if let Some(mut data) = data {
                    self.copied.file_bytes +=
                        std::io::copy(&mut data, &mut copy).map_err(|e| place.fail("copy", e))?;
                }
            }
            Kind::Symlink => place.make_symlink(&entry.link)?,
            Kind::HardLink => {
                let target = self.dest.entry(&entry.link, Last::Keep, None)?;
                let target = Place { dir: target.dir.as_fd(), name: &target.name, path: &entry.link };
                // Missing when it is a device that could not be made.
                return match target.stat()? {
                    Some(_) => Ok(place.make_hard_link(target)?),
                    None => Ok(()),
                };
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                if !place.make_special(
                    entry.kind,
                    entry.device,
                    Ownership::BestEffort,
                    &mut self.copied.warnings,
                )? {
                    return Ok(());
                }
            }
        }
        place.set_metadata(&metadata, Ownership::BestEffort, &mut self.copied.warnings)?;
        Ok(())
    }

    fn metadata(&self, entry: &Entry) -> Metadata {
        let mut metadata = Metadata::of_entry(entry);
        metadata.xattrs.clear();
        if self.options.owners == Owners::Caller {
            metadata.uid = rustix::process::geteuid().as_raw();
            metadata.gid = rustix::process::getegid().as_raw();
        }
        if let Some(epoch) = self.options.epoch.filter(|epoch| *epoch < metadata.mtime.0) {
            metadata.mtime = (epoch, 0);
        }
        metadata
    }

    fn finish_directories(&mut self) -> Result<(), DiffError> {
        // Deepest first: a directory may become one that nobody may enter.
        for (path, metadata) in std::mem::take(&mut self.directories).into_iter().rev() {
            let entry = self.dest.entry(&path, Last::Keep, None)?;
            let place = Place { dir: entry.dir.as_fd(), name: &entry.name, path: &path };
            place.set_metadata(&metadata, Ownership::BestEffort, &mut self.copied.warnings)?;
        }
        Ok(())
    }
}
