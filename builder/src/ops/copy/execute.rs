//! Copying selected sources into a destination.
//!
//! Invariants:
//! - the destination rules are applied to one source after the other, each seeing what the earlier ones left;
//! - owner names are looked up once, in the destination as it is before anything is copied (semantics fact 23);
//! - the digest that is kept for a file is that of the bytes that were written, not of what was read earlier;
//! - `--link` needs no rule of its own: its destination is empty, so there are no links to follow (fact 10).

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, OFlags, Stat, Timespec, Timestamps};

use super::error::CopyError;
use super::mkdir::{DEFAULT_DIRECTORY_MODE, make_directories, set_up};
use super::place::{Metadata, Place, times_of};
use super::select::{Item, SelectOptions, select};
use super::tree::{SourceTree, base_name, clean, join, parent};
use crate::base::cancel::CancelToken;
use crate::base::events::Meter;
use crate::base::mode::Mode;
use crate::plan::graph::{CopySource, CopySpec, Unpack};
use crate::snapshot::accounts::resolve_chown;
use crate::snapshot::written::Written;
use crate::sys::error::FsError;
use crate::sys::rootdir::{Last, RootDir};

/// Mode of a downloaded file (semantics fact 29).
const DOWNLOAD_MODE: u32 = 0o600;
/// Mode of a here-document (semantics fact 31).
const INLINE_MODE: u32 = 0o644;
/// Name of a download that has none (language.md 1.8).
const UNNAMED: &[u8] = b"__unnamed__";

/// Recognises and unpacks archives for ADD.
pub trait Archives: Sync {
    /// Whether the content is that of an archive, packed or not (semantics fact 27). The position of the file
    /// does not matter afterwards.
    fn is_archive(&self, file: &File) -> io::Result<bool>;

    /// Unpacks `file` into `directory`, the resolved path of an existing directory inside `root`. With `owner`
    /// everything belongs to it instead of to whom the archive says (semantics fact 28).
    fn unpack(
        &self,
        file: File,
        root: &RootDir,
        directory: &[u8],
        owner: Option<(u32, u32)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Takes nothing for an archive: for COPY.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoArchives;

impl Archives for NoArchives {
    fn is_archive(&self, _file: &File) -> io::Result<bool> {
        Ok(false)
    }

    fn unpack(
        &self,
        _file: File,
        _root: &RootDir,
        _directory: &[u8],
        _owner: Option<(u32, u32)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

/// What a copy needs beside its spec.
#[derive(Clone)]
pub struct CopyOptions<'a> {
    /// Asked for every file when the spec wants archives unpacked.
    pub archives: &'a dyn Archives,
    /// Stops the copy between two files.
    pub cancel: CancelToken,
    /// Counts the bytes of files.
    pub meter: Option<&'a Meter>,
}

impl Default for CopyOptions<'_> {
    fn default() -> Self {
        Self { archives: &NoArchives, cancel: CancelToken::new(), meter: None }
    }
}

/// Where the files of a [`CopySource`] are.
pub enum ResolvedSource<'a> {
    /// For [`CopySource::Path`].
    Tree(SourceTree<'a>),
    /// For [`CopySource::Download`].
    Download {
        /// The body.
        file: File,
        /// Last component of the URL's path.
        name: String,
        /// `Last-Modified` in seconds since 1970, else 0 (semantics fact 29).
        mtime_seconds: i64,
    },
    /// For [`CopySource::Inline`], whose content is in the spec.
    Inline,
}

/// Performs COPY or ADD in `dest`. `sources` are those of the spec, in its order. Gives the digests of the files that were
/// copied.
pub fn execute(
    spec: &CopySpec,
    sources: &[ResolvedSource<'_>],
    dest: &RootDir,
    options: &CopyOptions<'_>,
) -> Result<Written, CopyError> {
    let owner = spec.chown.as_deref().map(|chown| resolve_chown(dest, chown)).transpose()?;
    let mode = spec.chmod.as_deref().map(Mode::parse).transpose()?;
    let copier = Copier {
        dest,
        options,
        path: clean(spec.destination.as_bytes()),
        into_directory: spec.destination.ends_with('/') || spec.destination.ends_with("/."),
        directory_mode: mode
            .as_ref()
            .and_then(Mode::of_created_directories)
            .unwrap_or(DEFAULT_DIRECTORY_MODE),
        owner,
        mode,
        written: Mutex::default(),
    };
    let select_options = SelectOptions { parents: spec.parents, exclude: &spec.exclude };
    for (index, source) in spec.sources.iter().enumerate() {
        match (source, sources.get(index)) {
            (CopySource::Path { path, .. }, Some(ResolvedSource::Tree(tree))) => {
                for item in &select(tree, path, select_options)?.items {
                    copier.check_cancelled()?;
                    copier.copy_item(tree, item, spec.unpack != Unpack::Never)?;
                }
            }
            (CopySource::Download { .. }, Some(ResolvedSource::Download { file, name, mtime_seconds })) => {
                copier.copy_download(file, name, *mtime_seconds, spec.unpack == Unpack::Always)?
            }
            (CopySource::Inline { name, content }, Some(ResolvedSource::Inline)) => {
                let (directory, name, path) = copier.file_place(&own_name(name))?;
                let place = Place { directory: directory.as_fd(), name: &name, path: &path };
                copier.clear(place)?;
                place.put_bytes(content.as_bytes(), &copier.metadata(INLINE_MODE, (0, 0), None))?;
            }
            _ => return Err(CopyError::Mismatch(index + 1)),
        }
    }
    Ok(copier.written.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Copies into one destination.
pub(super) struct Copier<'a> {
    pub(super) dest: &'a RootDir,
    pub(super) options: &'a CopyOptions<'a>,
    /// Clean.
    pub(super) path: Vec<u8>,
    /// The destination was written with a final slash (semantics fact 5).
    into_directory: bool,
    owner: Option<(u32, u32)>,
    mode: Option<Mode>,
    /// Of directories that are made for the destination (semantics fact 17).
    directory_mode: u32,
    written: Mutex<Written>,
}

impl Copier<'_> {
    fn copy_item(&self, tree: &SourceTree<'_>, item: &Item, unpack: bool) -> Result<(), CopyError> {
        if item.is_directory() {
            return super::directory::copy_directory(self, tree, item);
        }
        let entry = tree.root.entry(&item.path, Last::Keep, None)?;
        let open = || entry.open_regular().map_err(|e| FsError::image("open", &item.path, e));
        if unpack && is_regular(&item.stat) && self.unpack(open()?, &item.name)? {
            return Ok(());
        }
        let (directory, name, path) = self.file_place(&item.name)?;
        let place = Place { directory: directory.as_fd(), name: &name, path: &path };
        self.clear(place)?;
        let metadata = self.metadata_of(tree, &item.stat);
        match FileType::from_raw_mode(item.stat.st_mode) {
            FileType::RegularFile => self.put_file(place, &open()?, &metadata),
            FileType::Socket => place.put_empty(&metadata),
            _ => place.put_special(&item.stat, &metadata),
        }
    }

    fn copy_download(
        &self,
        file: &File,
        name: &str,
        mtime_seconds: i64,
        unpack: bool,
    ) -> Result<(), CopyError> {
        let name = own_name(name);
        let fail = |e: io::Error| FsError::image("read", &name, e);
        // The caller's position must not matter, nor be changed for a second use.
        let copy = || {
            let mut copy = file.try_clone()?;
            copy.rewind()?;
            Ok(copy)
        };
        if unpack && self.unpack(copy().map_err(fail)?, &name)? {
            return Ok(());
        }
        let time = Timespec { tv_sec: mtime_seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        let (directory, target_name, path) = self.file_place(&name)?;
        let place = Place { directory: directory.as_fd(), name: &target_name, path: &path };
        self.clear(place)?;
        self.put_file(place, &copy().map_err(fail)?, &self.metadata(DOWNLOAD_MODE, (0, 0), Some(times)))
    }

    /// Unpacks an archive into a directory named as the destination (semantics facts 27 and 28); false when it is
    /// none.
    fn unpack(&self, mut file: File, name: &[u8]) -> Result<bool, CopyError> {
        let fail = |e: io::Error| FsError::image("read", name, e);
        if !self.options.archives.is_archive(&file).map_err(fail)? {
            return Ok(false);
        }
        file.rewind().map_err(fail)?;
        let (_, directory) =
            make_directories(self.dest, &self.path, DEFAULT_DIRECTORY_MODE, self.owner.unwrap_or_default())?;
        // It may put anything in the place of anything.
        self.written().forget_all();
        let unpacked = self.options.archives.unpack(file, self.dest, &directory, self.owner);
        let name = || String::from_utf8_lossy(name).into_owned();
        unpacked.map_err(|source| CopyError::Archive { name: name(), source })?;
        Ok(true)
    }

    /// Where a file called `name` goes: into the destination when that is a directory, else under the
    /// destination's own name (semantics fact 6). Symlinks of the destination are followed inside its root (fact
    /// 9), missing parents are made (fact 17).
    fn file_place(&self, name: &[u8]) -> Result<(OwnedFd, Vec<u8>, Vec<u8>), CopyError> {
        if self.into_directory || self.path.is_empty() {
            self.make_directories(&self.path)?;
        } else {
            self.make_directories(parent(&self.path))?;
        }
        let owner = self.owner.unwrap_or_default();
        // The destination may be a dangling symlink whose target needs parents, too.
        let entry = self.dest.entry(
            &self.path,
            Last::Follow,
            Some(&mut |fd, _| set_up(fd, self.directory_mode, owner)),
        )?;
        let fail = |e| FsError::image("look up", &entry.real, e);
        let stat = entry.stat().map_err(fail)?;
        if !stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir()) {
            return Ok((entry.dir, entry.name, entry.real));
        }
        let directory = entry.open(OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
        Ok((directory, name.to_vec(), join(&entry.real, name)))
    }

    pub(super) fn make_directories(&self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>), CopyError> {
        make_directories(self.dest, path, self.directory_mode, self.owner.unwrap_or_default())
    }

    /// Makes the name free.
    pub(super) fn clear(&self, place: Place<'_>) -> Result<(), CopyError> {
        if place.clear()? {
            self.written().forget(place.path);
        }
        Ok(())
    }

    /// Copies a regular file and keeps its digest.
    pub(super) fn put_file(
        &self,
        place: Place<'_>,
        source: &File,
        metadata: &Metadata,
    ) -> Result<(), CopyError> {
        let (bytes, digest) = place.put_file(source, metadata)?;
        if let Some(digest) = digest {
            self.written().put(place.path.to_vec(), bytes, digest);
        }
        Ok(())
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn metadata_of(&self, tree: &SourceTree<'_>, stat: &Stat) -> Metadata {
        let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
        let mode = stat.st_mode & 0o7777;
        let mode = self.mode.as_ref().map_or(mode, |change| change.apply(mode, is_directory));
        let owner = self.owner.unwrap_or_else(|| tree.owner(stat));
        Metadata { mode, owner, times: Some(times_of(stat)) }
    }

    /// Metadata of a file that comes from no tree.
    fn metadata(&self, mode: u32, owner: (u32, u32), times: Option<Timestamps>) -> Metadata {
        let mode = self.mode.as_ref().map_or(mode, |change| change.apply(mode, false));
        Metadata { mode, owner: self.owner.unwrap_or(owner), times }
    }

    pub(super) fn check_cancelled(&self) -> Result<(), CopyError> {
        if self.options.cancel.is_cancelled() { Err(CopyError::Cancelled) } else { Ok(()) }
    }
}

/// The name of a file that comes from no tree, without any directory.
fn own_name(name: &str) -> Vec<u8> {
    let name = clean(name.as_bytes());
    let name = base_name(&name);
    if name.is_empty() { UNNAMED.to_vec() } else { name.to_vec() }
}

pub(super) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file()
}
