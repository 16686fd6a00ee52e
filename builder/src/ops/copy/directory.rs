//! Copying what is in a directory.
//!
//! One thread walks the selected entries and makes directories, links and special files; regular files are copied by a few
//! threads, a handful at a time. What is small costs the kernel's time for each file, so this is nearly as many times faster
//! as there are processors.
//!
//! Invariants:
//! - directories get their metadata when everything is in them, so that writing does not change their times: with the
//!   last reference to their [`Frame`];
//! - a second name of a file is made after the first one is whole, so files with several names are copied by the walk;
//! - no path is touched by two threads; the directory is whole, or an error is known, when the call returns;
//! - descriptors are held for the directories on the way down and for those of the files that wait, which are bounded.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{self, FileType, Mode as FileMode, OFlags, Timestamps};

use super::error::{CopyError, shown};
use super::execute::{Copier, is_regular};
use super::place::{Metadata, Place, set_metadata, times_of};
use super::select::{Item, SelectedEntry};
use super::tree::{SourceTree, base_name, join, parent};
use crate::context::fingerprint::Attributes;
use crate::sys::error::FsError;
use crate::sys::rootdir::Last;

/// Fewer entries are copied by the walk alone.
const THREADS_FROM_ENTRIES: usize = 64;
/// More threads only wait for one another in the file system's journal.
const MAX_THREADS: usize = 4;
/// Files that a thread takes at once.
const BATCH_FILES: usize = 16;
/// Batches that may wait.
const MAX_BATCHES: usize = 16;

/// A directory that is being filled.
struct Frame<'a> {
    /// Below the item.
    path: &'a [u8],
    /// In the tree.
    source_path: &'a [u8],
    source: OwnedFd,
    target: OwnedFd,
    /// Made by this copy: no name in it is taken.
    new: bool,
    finish: Finish<'a>,
    /// Kept from being finished before this one.
    above: Option<Arc<Frame<'a>>>,
    copy: &'a Copy<'a>,
}

/// What is set when a directory is full.
enum Finish<'a> {
    Everything(Metadata, &'a Attributes),
    /// The directory that the user named keeps its owner and mode (semantics fact 2).
    Times(Timestamps),
    Nothing,
}

/// The copy of one item.
struct Copy<'a> {
    copier: &'a Copier<'a>,
    tree: &'a SourceTree<'a>,
    /// The resolved destination.
    real: Vec<u8>,
    /// The first error of any thread.
    failure: OnceLock<CopyError>,
}

/// Files of one directory.
struct Batch<'a> {
    frame: Arc<Frame<'a>>,
    entries: Vec<&'a SelectedEntry>,
}

/// Copies what is in a directory; the directory that receives it only takes over its times (semantics facts 1, 2 and 4).
pub(super) fn copy_directory(
    copier: &Copier<'_>,
    tree: &SourceTree<'_>,
    item: &Item,
) -> Result<(), CopyError> {
    let existing = copier.dest.stat(&copier.path, Last::Follow)?;
    if existing.is_some_and(|stat| !FileType::from_raw_mode(stat.st_mode).is_dir()) {
        return Err(CopyError::NonDirectory { path: shown(&copier.path) });
    }
    let (target, real) = copier.make_directories(&copier.path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = fs::openat(&target, ".", flags, FileMode::empty())
        .map_err(|e| FsError::image("open directory", &real, e))?;
    let copy = Copy { copier, tree, real, failure: OnceLock::new() };
    let first = Arc::new(Frame {
        path: b"",
        source_path: &item.path,
        source: open_source(tree, &item.path)?,
        target,
        new: false,
        finish: Finish::Times(times_of(&item.stat)),
        above: None,
        copy: &copy,
    });
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let walked = if processors == 1 || item.entries.len() < THREADS_FROM_ENTRIES {
        copy.walk(first, &item.entries, &mut |batch| copy.files(batch))
    } else {
        copy.beside(first, &item.entries, processors.min(MAX_THREADS))
    };
    walked?;
    match copy.failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl<'a> Copy<'a> {
    /// Walks on this thread while others copy the files.
    fn beside(
        &'a self,
        first: Arc<Frame<'a>>,
        entries: &'a [SelectedEntry],
        threads: usize,
    ) -> Result<(), CopyError> {
        std::thread::scope(|scope| {
            let (sender, receiver): (SyncSender<Batch<'a>>, Receiver<Batch<'a>>) = sync_channel(MAX_BATCHES);
            // Guards the receiving end: one idle thread waits in it, the others for the lock.
            let receiver = Arc::new(Mutex::new(receiver));
            for _ in 0..threads {
                let receiver = Arc::clone(&receiver);
                let work = move || {
                    loop {
                        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(batch) = next else { return };
                        if let Err(error) = self.files(batch) {
                            let _ = self.failure.set(error);
                        }
                    }
                };
                std::thread::Builder::new()
                    .name("copy".to_owned())
                    .spawn_scoped(scope, work)
                    .map_err(|e| FsError::image("start a thread to copy", &self.real, e))?;
            }
            // The threads hold the only receiving ends: when they are gone, sending fails instead of waiting for ever.
            drop(receiver);
            self.walk(first, entries, &mut |batch| {
                let lost = || io::Error::other("a thread that copies files ended early");
                sender.send(batch).map_err(|_| FsError::image("copy", &self.real, lost()).into())
            })
        })
    }

    /// Goes through the entries; files of a directory are handed on together.
    fn walk(
        &'a self,
        first: Arc<Frame<'a>>,
        entries: &'a [SelectedEntry],
        send: &mut dyn FnMut(Batch<'a>) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let mut links = HashMap::new();
        let mut waiting: Vec<&SelectedEntry> = Vec::new();
        let mut frame = first;
        for entry in entries {
            self.copier.check_cancelled()?;
            if self.failure.get().is_some() {
                return Ok(());
            }
            let above = parent(&entry.path);
            let mut next = Arc::clone(&frame);
            while next.path != above
                && let Some(outer) = &next.above
            {
                next = Arc::clone(outer);
            }
            if next.path != frame.path || waiting.len() == BATCH_FILES {
                send_waiting(&frame, &mut waiting, send)?;
            }
            frame = next;
            match FileType::from_raw_mode(entry.stat.st_mode) {
                FileType::Directory => {
                    send_waiting(&frame, &mut waiting, send)?;
                    frame = Arc::new(self.enter(entry, &frame)?);
                }
                FileType::RegularFile if entry.stat.st_nlink == 1 => waiting.push(entry),
                _ => self.other(entry, &frame, &mut links)?,
            }
        }
        send_waiting(&frame, &mut waiting, send)
    }

    /// Makes or enters a directory.
    fn enter(&'a self, entry: &'a SelectedEntry, above: &Arc<Frame<'a>>) -> Result<Frame<'a>, CopyError> {
        let path = join(&self.real, &entry.path);
        let name = base_name(&entry.path);
        let (target, new) = Place { directory: above.target.as_fd(), name, path: &path }.enter()?;
        let finish = if new || !entry.implied {
            // Nested directories that exist take over everything (semantics fact 3).
            Finish::Everything(self.copier.metadata_of(self.tree, &entry.stat), &entry.attributes)
        } else {
            fs::fchmod(&target, FileMode::from_raw_mode(entry.stat.st_mode & 0o7777))
                .map_err(|e| FsError::image("chmod", &path, e))?;
            Finish::Nothing
        };
        let source = if join(above.source_path, name) == entry.source {
            open_directory_at(above.source.as_fd(), name)
                .map_err(|e| FsError::image("open directory", &entry.source, e))?
        } else {
            open_source(self.tree, &entry.source)?
        };
        let (path, source_path) = (entry.path.as_slice(), entry.source.as_slice());
        let above = Some(Arc::clone(above));
        Ok(Frame { path, source_path, source, target, new, finish, above, copy: self })
    }

    /// Copies anything that the walk copies itself.
    fn other(
        &self,
        entry: &SelectedEntry,
        frame: &Frame<'_>,
        links: &mut HashMap<(u64, u64), Vec<u8>>,
    ) -> Result<(), CopyError> {
        let path = join(&self.real, &entry.path);
        let place = Place { directory: frame.target.as_fd(), name: base_name(&entry.path), path: &path };
        self.copier.clear(place)?;
        let metadata = self.copier.metadata_of(self.tree, &entry.stat);
        match FileType::from_raw_mode(entry.stat.st_mode) {
            // Linked to the copy of another name of it (semantics fact 24).
            FileType::RegularFile => {
                let key = (entry.stat.st_dev, entry.stat.st_ino);
                if let Some(first) = links.get(&key) {
                    let first = self.copier.dest.entry(first, Last::Keep, None)?;
                    return place.put_hard_link(first.dir.as_fd(), &first.name);
                }
                links.insert(key, place.path.to_vec());
                self.file(entry, frame, place)
            }
            FileType::Symlink => place.put_link(&entry.target, &metadata),
            FileType::Socket => place.put_empty(&metadata),
            _ => place.put_special(&entry.stat, &metadata),
        }
    }

    /// Copies files that have one name each.
    fn files(&self, batch: Batch<'_>) -> Result<(), CopyError> {
        for entry in batch.entries {
            self.copier.check_cancelled()?;
            if self.failure.get().is_some() {
                return Ok(());
            }
            let path = join(&self.real, &entry.path);
            let directory = batch.frame.target.as_fd();
            let place = Place { directory, name: base_name(&entry.path), path: &path };
            if !batch.frame.new {
                self.copier.clear(place)?;
            }
            self.file(entry, &batch.frame, place)?;
        }
        Ok(())
    }

    fn file(&self, entry: &SelectedEntry, frame: &Frame<'_>, place: Place<'_>) -> Result<(), CopyError> {
        let source = open_regular_at(frame.source.as_fd(), base_name(&entry.source))
            .map_err(|e| FsError::image("open", &entry.source, e))?;
        let metadata = self.copier.metadata_of(self.tree, &entry.stat);
        self.copier.put_file(place, &source, &metadata)?;
        if let Some(meter) = self.copier.options.meter {
            meter.add(u64::try_from(entry.stat.st_size).unwrap_or(0));
        }
        Ok(())
    }
}

fn send_waiting<'a>(
    frame: &Arc<Frame<'a>>,
    waiting: &mut Vec<&'a SelectedEntry>,
    send: &mut dyn FnMut(Batch<'a>) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    if waiting.is_empty() {
        return Ok(());
    }
    send(Batch { frame: Arc::clone(frame), entries: std::mem::take(waiting) })
}

impl Frame<'_> {
    fn finish(&self) {
        let done = match &self.finish {
            // Nobody looks at what is not whole.
            _ if self.copy.failure.get().is_some() => Ok(()),
            Finish::Everything(metadata, attributes) => {
                set_metadata(self.target.as_fd(), metadata, attributes)
            }
            Finish::Times(times) => fs::futimens(&self.target, times).map_err(io::Error::from),
            Finish::Nothing => Ok(()),
        };
        if let Err(error) = done {
            let error = FsError::image("set metadata of", &join(&self.copy.real, self.path), error);
            let _ = self.copy.failure.set(error.into());
        }
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        self.finish();
        // Not by the drops of the fields, which would need stack for every level of a deep tree.
        let mut above = self.above.take();
        while let Some(mut frame) = above.and_then(Arc::into_inner) {
            above = frame.above.take();
        }
    }
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
