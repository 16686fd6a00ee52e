//! Where files are copied from: a root, what is hidden in it, and whose files they count as.
//!
//! Invariants:
//! - what the filter hides does not exist: not by name, not through a symlink, not in a directory;
//! - files of a local context belong to 0:0 (semantics fact 21).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use kiln_grammar::suggest;
use rustix::fs::{FileType, Stat};

use super::error::{CopyError, shown};
use crate::context::local::{LocalContext, PathFilter};
use crate::sys::error::FsError;
use crate::sys::override_stat;
use crate::sys::rootdir::{Entry, Last, RootDir, sorted_names};

/// Most names of a directory that are compared with one that is missing.
const MAX_NEIGHBOURS: usize = 2000;

/// A tree of source files.
pub struct SourceTree<'a> {
    /// Its root.
    pub root: RootDir,
    /// What is hidden (the ignore file of a local context).
    pub filter: Option<&'a dyn PathFilter>,
    /// A directory of the client: owners of the host mean nothing.
    pub local: bool,
}

/// Something that was found in a tree, symlinks followed.
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) stat: Stat,
}

impl<'a> SourceTree<'a> {
    /// The visible part of a local context.
    pub fn local(context: &'a LocalContext) -> io::Result<Self> {
        Ok(Self { root: context.root.try_clone()?, filter: context.filter(), local: true })
    }

    /// The file system of a stage, an image or a git checkout.
    pub fn of(root: RootDir) -> Self {
        Self { root, filter: None, local: false }
    }

    /// Who a file counts as owned by.
    pub fn owner(&self, stat: &Stat) -> (u32, u32) {
        if self.local { (0, 0) } else { (stat.st_uid, stat.st_gid) }
    }

    /// What something counts as where it stands for what could not be made; `name` is in `directory`.
    pub(super) fn counted(&self, directory: BorrowedFd<'_>, name: &[u8], stat: Stat) -> io::Result<Stat> {
        if self.local {
            return Ok(stat);
        }
        override_stat::effective_at(directory, OsStr::from_bytes(name), stat)
    }

    pub(super) fn hides(&self, path: &[u8]) -> bool {
        !path.is_empty() && self.filter.is_some_and(|filter| filter.hides(path))
    }

    pub(super) fn may_show_below(&self, directory: &[u8]) -> bool {
        self.filter.is_none_or(|filter| filter.may_show_below(directory))
    }

    /// What `path` names, symlinks followed inside the root (semantics fact 12); `None` when there is nothing, or
    /// nothing to be seen. A hidden directory is found when something below it may be visible.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<Found>, CopyError> {
        let mut hidden_link = false;
        let entry = self.root.entry_through(path, Last::Follow, &mut |link| hidden_link |= self.hides(&link));
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let stat = entry.stat().map_err(|e| FsError::image("stat", path, e))?;
        let Some(stat) = stat else { return Ok(None) };
        let name = if entry.name.is_empty() { b"." } else { entry.name.as_slice() };
        let stat = self
            .counted(entry.dir.as_fd(), name, stat)
            .map_err(|e| FsError::image("read attributes of", path, e))?;
        let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
        if hidden_link || self.hides(&entry.real) && !(is_directory && self.may_show_below(&entry.real)) {
            return Ok(None);
        }
        Ok(Some(Found { entry, stat }))
    }

    /// The error for a source that was named but is not there.
    pub(super) fn not_found(&self, path: &[u8]) -> CopyError {
        let mut places = vec![path.to_vec()];
        let mut exists = false;
        if let Ok(entry) = self.root.entry_through(path, Last::Follow, &mut |link| places.push(link)) {
            exists = matches!(entry.stat(), Ok(Some(_)));
            places.push(entry.real);
        }
        let reason = |path: &Vec<u8>| self.filter.and_then(|filter| filter.reason(path));
        let hidden_by = if exists { places.iter().find_map(reason) } else { None };
        let near = if hidden_by.is_none() { self.near(path) } else { None };
        CopyError::NotFound { path: shown(path), hidden_by, near }
    }

    /// The visible path beside `path` whose name is nearest, without a slash in front, as it would be written.
    fn near(&self, path: &[u8]) -> Option<String> {
        let directory = parent(path);
        let names = sorted_names(self.root.subdir(directory).ok()?.as_fd()).ok()?;
        if names.len() > MAX_NEIGHBOURS {
            return None;
        }
        let visible = names.into_iter().filter(|name| !self.hides(&join(directory, name)));
        let names: Vec<String> = visible.filter_map(|name| String::from_utf8(name).ok()).collect();
        let wanted = std::str::from_utf8(base_name(path)).ok()?;
        let near = suggest::closest(wanted, names.iter().map(String::as_str))?;
        String::from_utf8(join(directory, near.as_bytes())).ok()
    }
}

fn is_absent(error: &FsError) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// `path` without `.`, `..` and needless slashes, relative; `..` stops at the root (language.md 1.8).
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// `base/name`, where an empty base is the root.
pub(super) fn join(base: &[u8], name: &[u8]) -> Vec<u8> {
    if base.is_empty() || name.is_empty() {
        return [base, name].concat();
    }
    [base, b"/", name].concat()
}

/// The last component of a clean path.
pub(super) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// A clean path without its last component.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').and_then(|end| path.get(..end)).unwrap_or_default()
}
