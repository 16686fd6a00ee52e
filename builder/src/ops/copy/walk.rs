//! What is selected below a directory.
//!
//! A tree is read one directory after the other, by several threads when there are enough of them, and put together
//! afterwards, in the order of names. Neither takes stack for depth.
//!
//! Invariants:
//! - the result does not depend on the number of threads;
//! - the most recently found directory is read first, so that the descriptors that are open follow the tree's depth;
//! - a directory whose path is longer than any path may be is an error: nothing below it could be named.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kiln_grammar::ignore::Matcher;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::error::CopyError;
use super::select::{SelectedEntry, may_lead_to};
use super::tree::{SourceTree, join};
use crate::context::fingerprint::{Attributes, attributes};
use crate::sys::error::FsError;

/// `PATH_MAX` without its final zero.
pub(super) const LONGEST_PATH_BYTES: usize = 4095;
/// Directories that wait before a second thread is worth starting.
const PARALLEL_FROM_DIRECTORIES: usize = 8;
/// Threads that read one tree. More wait for one another in the kernel.
const MAX_THREADS: usize = 4;
/// For the names of a directory, as many as one system call gives.
const NAMES_BUFFER_BYTES: usize = 32 * 1024;

/// Collects what is below a directory.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) tree: &'a SourceTree<'a>,
    pub(super) exclude: Option<&'a Matcher>,
    /// Only what matches, and the pattern's text.
    pub(super) include: Option<(&'a Matcher, &'a [u8])>,
}

/// A directory that is still to be read.
struct Task {
    /// Where its scan goes.
    slot: usize,
    /// It is a name in this directory, or, without a name, this directory.
    parent: Arc<OwnedFd>,
    name: Vec<u8>,
    /// Its path in the tree.
    source: Vec<u8>,
    /// Its path below the item.
    below: Vec<u8>,
}

/// What was found in one directory, in the order of names.
#[derive(Default)]
struct Scan {
    /// Of the directory itself.
    attributes: Attributes,
    nodes: Vec<Node>,
    /// Something that is not hidden is in it, beside what its directories hold.
    seen: bool,
}

enum Node {
    File(SelectedEntry),
    Directory {
        entry: SelectedEntry,
        hidden: bool,
        /// Of its scan.
        slot: usize,
    },
}

/// What the threads share.
struct Work {
    state: Mutex<State>,
    /// Tasks came, or the last one is done.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Task>,
    /// Waiting or being read.
    open: usize,
    scans: Vec<Option<Scan>>,
    failed: Option<CopyError>,
}

impl Walk<'_> {
    /// Whether `--exclude` leaves a path out.
    pub(super) fn excludes(&self, path: &[u8]) -> bool {
        self.exclude.is_some_and(|exclude| exclude.verdict_bytes(path).ignored)
    }

    /// Everything selected below `directory`, and whether anything at all is visible there. `source` is the
    /// directory's path in the tree, `below` its path below the item.
    pub(super) fn collect(
        &self,
        directory: OwnedFd,
        source: &[u8],
        below: &[u8],
    ) -> Result<(Vec<SelectedEntry>, bool), CopyError> {
        let first = Task {
            slot: 0,
            parent: Arc::new(directory),
            name: Vec::new(),
            source: source.to_vec(),
            below: below.to_vec(),
        };
        let state = State { waiting: vec![first], open: 1, scans: vec![None], failed: None };
        let work = Work { state: Mutex::new(state), changed: Condvar::new() };
        std::thread::scope(|scope| {
            let mut helpers = 0;
            self.read_directories(&work, &mut |waiting| {
                if helpers == 0 && waiting >= PARALLEL_FROM_DIRECTORIES {
                    helpers =
                        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS) - 1;
                    for _ in 0..helpers {
                        scope.spawn(|| self.read_directories(&work, &mut |_| ()));
                    }
                }
            });
        });
        let state = work.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.failed {
            Some(error) => Err(error),
            None => Ok(in_order(state.scans)),
        }
    }

    /// Reads directories until there are no more. `tell` learns how many wait.
    fn read_directories(&self, work: &Work, tell: &mut dyn FnMut(usize)) {
        let mut buffer = Vec::with_capacity(NAMES_BUFFER_BYTES);
        let mut state = work.lock();
        loop {
            if state.failed.is_some() || state.open == 0 {
                return;
            }
            let Some(task) = state.waiting.pop() else {
                state = work.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let scanned = self.scan(&task, buffer.spare_capacity_mut());
            state = work.lock();
            match scanned {
                Ok((scan, tasks)) => state.add(task.slot, scan, tasks),
                Err(error) => state.failed = Some(error),
            }
            let waiting = state.waiting.len();
            if waiting > 0 || state.open == 0 || state.failed.is_some() {
                work.changed.notify_all();
            }
            if waiting >= PARALLEL_FROM_DIRECTORIES {
                drop(state);
                tell(waiting);
                state = work.lock();
            }
        }
    }

    /// Reads one directory. Slots of what it gives count from 0.
    fn scan(&self, task: &Task, buffer: &mut [MaybeUninit<u8>]) -> Result<(Scan, Vec<Task>), CopyError> {
        if task.source.len() > LONGEST_PATH_BYTES {
            return Err(CopyError::Deep { path: beginning(&task.source) });
        }
        let opened = if task.name.is_empty() {
            task.parent.clone()
        } else {
            Arc::new(open_below(task.parent.as_fd(), &task.name, &task.source)?)
        };
        let directory = opened.as_fd();
        let mut scan = Scan::default();
        if !task.name.is_empty() {
            scan.attributes =
                attributes(directory).map_err(|e| FsError::image("read attributes of", &task.source, e))?;
        }
        let mut tasks = Vec::new();
        for name in names_in(directory, buffer, &task.source)? {
            let (path, full) = (join(&task.below, &name), join(&task.source, &name));
            let Some(stat) = stat_in(self.tree, directory, &name, &full)? else { continue };
            let hidden = self.tree.hides(&full);
            let excluded = self.excludes(&path);
            let included = self.include.is_none_or(|(include, _)| include.verdict_bytes(&path).ignored);
            let wanted = included && !excluded;
            if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                scan.seen |= !hidden;
                if wanted && !hidden {
                    scan.nodes.push(Node::File(entry_in(directory, &name, path, full, stat)?));
                }
                continue;
            }
            if hidden && !self.tree.may_show_below(&full) {
                continue;
            }
            let enter = (!excluded || self.exclude.is_some_and(|e| e.may_match_below_bytes(&path)))
                && (included || self.include.is_none_or(|(_, pattern)| may_lead_to(pattern, &path, false)));
            if !enter && !hidden {
                scan.seen = true;
                continue;
            }
            let slot = tasks.len();
            tasks.push(Task {
                slot,
                parent: opened.clone(),
                name,
                source: full.clone(),
                below: path.clone(),
            });
            let (target, attributes) = (Vec::new(), Attributes::new());
            let entry = SelectedEntry { path, source: full, stat, target, attributes, implied: !wanted };
            scan.nodes.push(Node::Directory { entry, hidden, slot });
        }
        Ok((scan, tasks))
    }
}

impl Work {
    /// Held for a few assignments.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a scan, and the directories in it as new tasks.
    fn add(&mut self, slot: usize, mut scan: Scan, tasks: Vec<Task>) {
        let first = self.scans.len();
        self.open = self.open + tasks.len() - 1;
        self.scans.resize_with(first + tasks.len(), || None);
        for node in &mut scan.nodes {
            if let Node::Directory { slot, .. } = node {
                *slot += first;
            }
        }
        // The first name is taken first.
        self.waiting.extend(tasks.into_iter().rev().map(|task| Task { slot: first + task.slot, ..task }));
        if let Some(place) = self.scans.get_mut(slot) {
            *place = Some(scan);
        }
    }
}

/// A directory on the way down.
struct Frame {
    nodes: std::vec::IntoIter<Node>,
    seen: bool,
    /// The place of its own entry, and whether it is hidden; nothing for the item itself.
    own: Option<(usize, bool)>,
}

/// Puts scans together: entries before what is in them. A hidden directory stays only if something in it is visible, one
/// that is only a way only if something in it is selected.
fn in_order(mut scans: Vec<Option<Scan>>) -> (Vec<SelectedEntry>, bool) {
    let mut take = |slot: usize| scans.get_mut(slot).and_then(Option::take).unwrap_or_default();
    let mut entries: Vec<SelectedEntry> = Vec::new();
    let first = take(0);
    let mut frames = vec![Frame { nodes: first.nodes.into_iter(), seen: first.seen, own: None }];
    loop {
        let Some(frame) = frames.last_mut() else { return (entries, false) };
        match frame.nodes.next() {
            Some(Node::File(entry)) => entries.push(entry),
            Some(Node::Directory { entry, hidden, slot }) => {
                let scan = take(slot);
                let own = Some((entries.len(), hidden));
                entries.push(SelectedEntry { attributes: scan.attributes, ..entry });
                frames.push(Frame { nodes: scan.nodes.into_iter(), seen: scan.seen, own });
            }
            None => {
                let seen = frame.seen;
                let Some((at, hidden)) = frame.own else { return (entries, seen) };
                let nothing_inside = entries.len() == at + 1;
                let implied = entries.get(at).is_some_and(|entry| entry.implied);
                if hidden && !seen || nothing_inside && implied {
                    entries.truncate(at);
                }
                frames.pop();
                if let Some(above) = frames.last_mut() {
                    above.seen |= seen || !hidden;
                }
            }
        }
    }
}

/// The names in a directory that was opened for reading and was not read yet, sorted by bytes.
fn names_in(
    directory: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    path: &[u8],
) -> Result<Vec<Vec<u8>>, CopyError> {
    let mut names = Vec::new();
    let mut reader = RawDir::new(directory, buffer);
    while let Some(entry) = reader.next() {
        let entry = entry.map_err(|e| FsError::image("read directory", path, e))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// One entry that is no directory, or a directory without attributes.
pub(super) fn entry_in(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: Vec<u8>,
    source: Vec<u8>,
    stat: Stat,
) -> Result<SelectedEntry, CopyError> {
    let target = if FileType::from_raw_mode(stat.st_mode).is_symlink() {
        fs::readlinkat(directory, std::ffi::OsStr::from_bytes(name), Vec::new())
            .map_err(|e| FsError::image("read link", &source, e))?
            .into_bytes()
    } else {
        Vec::new()
    };
    Ok(SelectedEntry { path, source, stat, target, attributes: Attributes::new(), implied: false })
}

/// Metadata of a name; `None` when it vanished meanwhile.
pub(super) fn stat_in(
    tree: &SourceTree<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
) -> Result<Option<Stat>, CopyError> {
    match fs::statat(directory, std::ffi::OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => tree
            .counted(directory, name, stat)
            .map(Some)
            .map_err(|e| FsError::image("read attributes of", path, e).into()),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(FsError::image("stat", path, e).into()),
    }
}

/// Opens a directory for reading; a link in its place is an error.
pub(super) fn open_below(directory: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<OwnedFd, CopyError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = fs::openat(directory, std::ffi::OsStr::from_bytes(name), flags, Mode::empty());
    Ok(opened.map_err(|e| FsError::image("open directory", path, io::Error::from(e)))?)
}

/// As much of a path as a person looks at.
pub(super) fn beginning(path: &[u8]) -> String {
    let shown = path.get(..60).unwrap_or(path);
    format!("{}…", String::from_utf8_lossy(shown))
}
