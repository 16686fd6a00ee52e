//! Lower layers' directories as overlayfs merges them, without a mount.
//!
//! Invariants: nothing is followed; a whiteout or an opaque directory ends the search in the layers below it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::Stat;

use crate::snapshot::node::{Place, file_type, is_opaque, is_whiteout};
use crate::sys::error::FsError;
use crate::sys::rootdir::{RootDir, sorted_names};

/// Directories of the layers below one, uppermost first.
#[derive(Clone, Copy)]
pub(super) struct Lower<'a>(pub(super) &'a [RootDir]);

/// Something that the lower layers have.
pub(super) struct Found {
    /// The directory of the layer that decides, and the name in it.
    pub(super) dir: OwnedFd,
    pub(super) name: Vec<u8>,
    pub(super) stat: Stat,
}

impl Lower<'_> {
    /// What is at the path of these components, none of them a symlink.
    pub(super) fn find(&self, components: &[Vec<u8>]) -> Result<Option<Found>, FsError> {
        let Some((last, parents)) = components.split_last() else { return Ok(None) };
        let path = components.join(&b'/');
        let mut dirs: Option<Vec<OwnedFd>> = None;
        for name in parents {
            let next = match &dirs {
                None => merge(self.0.iter().map(RootDir::as_fd), name, &path)?,
                Some(dirs) => merge(dirs.iter().map(|dir| dir.as_fd()), name, &path)?,
            };
            if next.is_empty() {
                return Ok(None);
            }
            dirs = Some(next);
        }
        match &dirs {
            None => first(self.0.iter().map(RootDir::as_fd), last, &path),
            Some(dirs) => first(dirs.iter().map(|dir| dir.as_fd()), last, &path),
        }
    }

    /// The names that the merged root directory has.
    pub(super) fn root_names(&self) -> Result<Vec<Vec<u8>>, FsError> {
        let mut names = BTreeSet::new();
        for root in self.0 {
            names.extend(sorted_names(root.as_fd()).map_err(|e| FsError::image("list", b"/", e))?);
        }
        let mut kept = Vec::new();
        for name in names {
            if self.find(std::slice::from_ref(&name))?.is_some() {
                kept.push(name);
            }
        }
        Ok(kept)
    }
}

/// The directories called `name` that are merged into one.
fn merge<'a>(
    dirs: impl Iterator<Item = BorrowedFd<'a>>,
    name: &[u8],
    path: &[u8],
) -> Result<Vec<OwnedFd>, FsError> {
    let mut merged = Vec::new();
    for dir in dirs {
        let place = Place { dir, name, path };
        match place.stat()? {
            None => {}
            Some(stat) if file_type(&stat).is_dir() => {
                let fd = place.open_dir()?;
                let opaque = is_opaque(fd.as_fd()).map_err(|e| place.fail("read an attribute of", e))?;
                merged.push(fd);
                if opaque {
                    break;
                }
            }
            // Whatever else hides what is below it.
            Some(_) => break,
        }
    }
    Ok(merged)
}

/// The uppermost thing called `name`.
fn first<'a>(
    dirs: impl Iterator<Item = BorrowedFd<'a>>,
    name: &[u8],
    path: &[u8],
) -> Result<Option<Found>, FsError> {
    for dir in dirs {
        let place = Place { dir, name, path };
        match place.stat()? {
            None => {}
            Some(stat) if is_whiteout(&stat) => return Ok(None),
            Some(stat) => {
                let dir = dir.try_clone_to_owned().map_err(|e| place.fail("open the directory of", e))?;
                return Ok(Some(Found { dir, name: name.to_vec(), stat }));
            }
        }
    }
    Ok(None)
}
