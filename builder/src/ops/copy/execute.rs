//! Copying selected sources into a destination.
//!
//! Invariants:
//! - the destination rules are applied to one source after the other, each seeing what the earlier ones left;
//! - owner names are looked up once, in the destination as it is before anything is copied (semantics fact 23);
//! - directories get their metadata when everything is in them, so that writing does not change their times;
//! - `--link` needs no rule of its own: its destination is empty, so there are no links to follow (fact 10).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, FileType, Mode as FileMode, OFlags, Stat, Timespec, Timestamps};

use super::error::{CopyError, shown};
use super::mkdir::{DEFAULT_DIRECTORY_MODE, make_directories, set_up};
use super::place::{Metadata, Place, set_metadata, times_of};
use super::select::{Item, SelectOptions, SelectedEntry, select};
use super::tree::{SourceTree, base_name, clean, join, parent};
use crate::base::cancel::CancelToken;
use crate::base::events::Meter;
use crate::base::mode::Mode;
use crate::context::fingerprint::Attributes;
use crate::plan::graph::{CopySource, CopySpec, Unpack};
use crate::snapshot::accounts::resolve_chown;
use crate::sys::error::FsError;
use crate::sys::rootdir::{Last, RootDir};

/// Mode of a downloaded file (semantics fact 29).
const DOWNLOAD_MODE: u32 = 0o600;
/// Mode of a here-document (semantics fact 31).
const INLINE_MODE: u32 = 0o644;
/// Name of a download that has none (language.md 1.8).
const UNNAMED: &[u8] = b"__unnamed__";

/// Recognises and unpacks archives for ADD.
pub trait Archives {
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

/// Performs COPY or ADD in `dest`. `sources` are those of the spec, in its order.
pub fn execute(
    spec: &CopySpec,
    sources: &[ResolvedSource<'_>],
    dest: &RootDir,
    options: &CopyOptions<'_>,
) -> Result<(), CopyError> {
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
                place.clear()?;
                place.put_bytes(content.as_bytes(), &copier.metadata(INLINE_MODE, (0, 0), None))?;
            }
            _ => return Err(CopyError::Mismatch(index + 1)),
        }
    }
    Ok(())
}

struct Copier<'a> {
    dest: &'a RootDir,
    options: &'a CopyOptions<'a>,
    /// Clean.
    path: Vec<u8>,
    /// The destination was written with a final slash (semantics fact 5).
    into_directory: bool,
    owner: Option<(u32, u32)>,
    mode: Option<Mode>,
    /// Of directories that are made for the destination (semantics fact 17).
    directory_mode: u32,
}

/// A directory that is being filled.
struct Frame<'a> {
    /// Below the item.
    path: &'a [u8],
    /// In the tree.
    source_path: &'a [u8],
    source: OwnedFd,
    target: OwnedFd,
    finish: Finish<'a>,
}

/// What is set when a directory is full.
enum Finish<'a> {
    Everything(Metadata, &'a Attributes),
    /// The directory that the user named keeps its owner and mode (semantics fact 2).
    Times(Timestamps),
    Nothing,
}

impl Copier<'_> {
    fn copy_item(&self, tree: &SourceTree<'_>, item: &Item, unpack: bool) -> Result<(), CopyError> {
        if item.is_directory() {
            return self.copy_directory(tree, item);
        }
        let entry = tree.root.entry(&item.path, Last::Keep, None)?;
        let open = || entry.open_regular().map_err(|e| FsError::image("open", &item.path, e));
        if unpack && is_regular(&item.stat) && self.unpack(open()?, &item.name)? {
            return Ok(());
        }
        let (directory, name, path) = self.file_place(&item.name)?;
        let place = Place { directory: directory.as_fd(), name: &name, path: &path };
        place.clear()?;
        let metadata = self.metadata_of(tree, &item.stat);
        match FileType::from_raw_mode(item.stat.st_mode) {
            FileType::RegularFile => place.put_file(Some(&open()?), &metadata),
            FileType::Socket => place.put_file(None, &metadata),
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
        place.clear()?;
        place.put_file(Some(&copy().map_err(fail)?), &self.metadata(DOWNLOAD_MODE, (0, 0), Some(times)))
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

    fn make_directories(&self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>), CopyError> {
        make_directories(self.dest, path, self.directory_mode, self.owner.unwrap_or_default())
    }

    /// Copies what is in a directory; the directory that receives it only takes over its times (semantics facts
    /// 1, 2 and 4).
    fn copy_directory(&self, tree: &SourceTree<'_>, item: &Item) -> Result<(), CopyError> {
        let existing = self.dest.stat(&self.path, Last::Follow)?;
        if existing.is_some_and(|stat| !FileType::from_raw_mode(stat.st_mode).is_dir()) {
            return Err(CopyError::NonDirectory { path: shown(&self.path) });
        }
        let (target, real) = self.make_directories(&self.path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = fs::openat(&target, ".", flags, FileMode::empty())
            .map_err(|e| FsError::image("open directory", &real, e))?;
        let source = open_source(tree, &item.path)?;
        let mut frames = vec![Frame {
            path: b"",
            source_path: &item.path,
            source,
            target,
            finish: Finish::Times(times_of(&item.stat)),
        }];
        let mut links = HashMap::new();
        for entry in &item.entries {
            self.check_cancelled()?;
            let above = parent(&entry.path);
            while frames.len() > 1 && frames.last().is_some_and(|frame| frame.path != above) {
                self.finish(frames.pop(), &real)?;
            }
            let Some(frame) = frames.last() else { break };
            if let Some(next) = self.copy_entry(tree, entry, frame, &real, &mut links)? {
                frames.push(next);
            }
        }
        while let Some(frame) = frames.pop() {
            self.finish(Some(frame), &real)?;
        }
        Ok(())
    }

    /// Copies one entry; gives the frame of a directory.
    fn copy_entry<'e>(
        &self,
        tree: &SourceTree<'_>,
        entry: &'e SelectedEntry,
        frame: &Frame<'_>,
        real: &[u8],
        links: &mut HashMap<(u64, u64), Vec<u8>>,
    ) -> Result<Option<Frame<'e>>, CopyError> {
        let path = join(real, &entry.path);
        let name = base_name(&entry.path);
        let place = Place { directory: frame.target.as_fd(), name, path: &path };
        let metadata = self.metadata_of(tree, &entry.stat);
        let kind = FileType::from_raw_mode(entry.stat.st_mode);
        if kind.is_dir() {
            let (target, new) = place.enter()?;
            let finish = if new || !entry.implied {
                // Nested directories that exist take over everything (semantics fact 3).
                Finish::Everything(metadata, &entry.attributes)
            } else {
                fs::fchmod(&target, FileMode::from_raw_mode(entry.stat.st_mode & 0o7777))
                    .map_err(|e| FsError::image("chmod", &path, e))?;
                Finish::Nothing
            };
            let direct = join(frame.source_path, name) == entry.source;
            let source = if direct {
                open_directory_at(frame.source.as_fd(), name)
                    .map_err(|e| FsError::image("open directory", &entry.source, e))?
            } else {
                open_source(tree, &entry.source)?
            };
            let (path, source_path) = (entry.path.as_slice(), entry.source.as_slice());
            return Ok(Some(Frame { path, source_path, source, target, finish }));
        }
        place.clear()?;
        match kind {
            FileType::RegularFile => self.copy_file(entry, frame, place, &metadata, links)?,
            FileType::Symlink => place.put_link(&entry.target, &metadata)?,
            FileType::Socket => place.put_file(None, &metadata)?,
            _ => place.put_special(&entry.stat, &metadata)?,
        }
        Ok(None)
    }

    /// Copies a regular file, or links it to the copy of another name of it (semantics fact 24).
    fn copy_file(
        &self,
        entry: &SelectedEntry,
        frame: &Frame<'_>,
        place: Place<'_>,
        metadata: &Metadata,
        links: &mut HashMap<(u64, u64), Vec<u8>>,
    ) -> Result<(), CopyError> {
        if entry.stat.st_nlink > 1 {
            let key = (entry.stat.st_dev, entry.stat.st_ino);
            if let Some(first) = links.get(&key) {
                let first = self.dest.entry(first, Last::Keep, None)?;
                return place.put_hard_link(first.dir.as_fd(), &first.name);
            }
            links.insert(key, place.path.to_vec());
        }
        let source = open_regular_at(frame.source.as_fd(), base_name(&entry.source))
            .map_err(|e| FsError::image("open", &entry.source, e))?;
        place.put_file(Some(&source), metadata)?;
        if let Some(meter) = self.options.meter {
            meter.add(u64::try_from(entry.stat.st_size).unwrap_or(0));
        }
        Ok(())
    }

    fn finish(&self, frame: Option<Frame<'_>>, real: &[u8]) -> Result<(), CopyError> {
        let Some(frame) = frame else { return Ok(()) };
        let done = match frame.finish {
            Finish::Everything(metadata, attributes) => {
                set_metadata(frame.target.as_fd(), &metadata, attributes)
            }
            Finish::Times(times) => fs::futimens(&frame.target, &times),
            Finish::Nothing => Ok(()),
        };
        Ok(done.map_err(|e| FsError::image("set metadata of", &join(real, frame.path), e))?)
    }

    fn metadata_of(&self, tree: &SourceTree<'_>, stat: &Stat) -> Metadata {
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

    fn check_cancelled(&self) -> Result<(), CopyError> {
        if self.options.cancel.is_cancelled() { Err(CopyError::Cancelled) } else { Ok(()) }
    }
}

/// The name of a file that comes from no tree, without any directory.
fn own_name(name: &str) -> Vec<u8> {
    let name = clean(name.as_bytes());
    let name = base_name(&name);
    if name.is_empty() { UNNAMED.to_vec() } else { name.to_vec() }
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file()
}

fn open_source(tree: &SourceTree<'_>, path: &[u8]) -> Result<OwnedFd, CopyError> {
    let entry = tree.root.entry(path, Last::Keep, None)?;
    let opened = entry.open(OFlags::PATH | OFlags::DIRECTORY);
    Ok(opened.map_err(|e| FsError::image("open directory", path, e))?)
}

fn open_directory_at(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(directory, OsStr::from_bytes(name), flags, FileMode::empty())?)
}

/// Opens a file for reading unless it has become something else meanwhile.
fn open_regular_at(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    // O_NONBLOCK: a fifo in its place must not block.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(directory, OsStr::from_bytes(name), flags, FileMode::empty())?;
    if !is_regular(&fs::fstat(&fd)?) {
        return Err(io::Error::other("it is no regular file any more"));
    }
    Ok(File::from(fd))
}
