//! What running processes use, so that nobody removes it: a lease is a shared lock on one byte of the file `leases`,
//! whose place follows from the name of the thing.
//!
//! | who | does, in this order |
//! | --- | --- |
//! | a user | finds a row; takes the lease; looks again whether row and data are there |
//! | a collection | takes the byte for itself, or leaves the thing alone; removes rows, then data; lets go |
//!
//! Invariants:
//! - a lease holds until its process ends, however it ends, and takes no space on the disk;
//! - what is leased has its row and its data: the second look above finds out what was removed before;
//! - users wait for collections, never the other way round, so nobody waits in a circle; no lease is taken inside a
//!   transaction.
//!
//! The time of last use of snapshots and blobs is the modification time of `snapshots/ID` and of the blob's file. It is
//! brought up to date with the lease, when it is older than [`PRECISION_SECONDS`].

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::records::{FsState, SnapshotId, StepResult, now};
use super::{Store, StoreError};
use crate::base::digest::{CacheKey, Digest};
use crate::sys::range_lock::{self, LockFile, Locks};

/// Times of last use are at most this far behind.
pub const PRECISION_SECONDS: i64 = 3600;

const FILE: &str = "leases";

/// Something that can be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing<'a> {
    /// A directory below `snapshots/`.
    Snapshot(&'a SnapshotId),
    /// A file below `blobs/`.
    Blob(&'a Digest),
    /// A cache mount's directory, `mounts/NAME`.
    Mount(&'a str),
}

impl Thing<'_> {
    fn offset(self) -> u64 {
        let name = match self {
            Self::Snapshot(id) => format!("snapshot/{}", id.0),
            Self::Blob(digest) => format!("blob/{digest}"),
            Self::Mount(directory) => format!("mount/{directory}"),
        };
        let digest = Digest::of(name.as_bytes());
        // Offsets are signed. Should two names ever meet, the one protects the other too.
        digest.as_bytes().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte)) >> 2
    }
}

/// The leases of this process.
#[derive(Debug, Default)]
pub(super) struct Leases {
    file: OnceLock<LockFile>,
    /// Bytes that are locked.
    held: Mutex<BTreeSet<u64>>,
    /// Steps whose row shall say that they were used just now.
    used_steps: Mutex<BTreeSet<CacheKey>>,
}

impl Store {
    /// Keeps a thing from being removed until this process ends. True when it was not leased before: whoever knows it
    /// from a row looks again whether that is still there.
    pub fn lease(&self, thing: Thing<'_>) -> Result<bool, StoreError> {
        let offset = thing.offset();
        let held =
            |leases: &Leases| leases.held.lock().unwrap_or_else(PoisonError::into_inner).contains(&offset);
        if held(&self.leases) {
            return Ok(false);
        }
        let path = self.lease_path();
        let file = match self.leases.file.get() {
            Some(file) => file,
            None => {
                let file = self.open_leases()?;
                self.leases.file.get_or_init(|| file)
            }
        };
        // Not under the lock of `held`: this may wait for a collection.
        range_lock::share(file, offset).map_err(StoreError::io("lock", &path))?;
        self.touch(thing);
        Ok(self.leases.held.lock().unwrap_or_else(PoisonError::into_inner).insert(offset))
    }

    /// [`Store::lease`] for every layer of a file system.
    pub fn lease_layers(&self, state: &FsState) -> Result<bool, StoreError> {
        let mut fresh = false;
        for layer in &state.layers {
            fresh |= self.lease(Thing::Snapshot(&layer.snapshot))?;
        }
        Ok(fresh)
    }

    /// The stored result of a step, with its layers leased.
    pub fn use_step(&self, key: &CacheKey) -> Result<Option<StepResult>, StoreError> {
        loop {
            let Some((result, last_used)) = self.database().step(key)? else { return Ok(None) };
            if !self.lease_layers(&result.state)? {
                if last_used + PRECISION_SECONDS < now() {
                    self.leases.used_steps.lock().unwrap_or_else(PoisonError::into_inner).insert(*key);
                }
                return Ok(Some(result));
            }
            // All layers are leased now, so the next turn decides.
        }
    }

    /// Gives up all leases of this process. Whoever goes on has to find everything anew.
    pub fn give_up_leases(&self) -> Result<(), StoreError> {
        let mut held = self.leases.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clear();
        match self.leases.file.get() {
            Some(file) => range_lock::release_all(file).map_err(StoreError::io("unlock", &self.lease_path())),
            None => Ok(()),
        }
    }

    /// Writes down which steps were used. Called at the end of a build; what is lost makes a step look older than it
    /// is.
    pub fn write_uses(&self) -> Result<(), StoreError> {
        let used =
            std::mem::take(&mut *self.leases.used_steps.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() { Ok(()) } else { self.database().use_steps(&used) }
    }

    /// Whether any process, this one too, has leased a thing.
    pub(super) fn lessees(&self) -> Result<Lessees, StoreError> {
        Ok(Lessees { file: self.open_leases()?, path: self.lease_path() })
    }

    fn lease_path(&self) -> PathBuf {
        self.root.join(FILE)
    }

    fn open_leases(&self) -> Result<LockFile, StoreError> {
        let path = self.lease_path();
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map(LockFile)
            .map_err(StoreError::io("open", &path))
    }

    /// Brings the time of last use up to date.
    fn touch(&self, thing: Thing<'_>) {
        let path = match thing {
            Thing::Snapshot(id) => self.root.join("snapshots").join(&id.0),
            Thing::Blob(digest) => self.blob_path(digest),
            Thing::Mount(_) => return,
        };
        let Ok(metadata) = std::fs::metadata(&path) else { return };
        if std::os::unix::fs::MetadataExt::mtime(&metadata) + PRECISION_SECONDS < now() {
            let time = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let times = Timestamps { last_access: time, last_modification: time };
            // What cannot be told looks older than it is, which a later use makes good.
            let _ = utimensat(CWD, &path, &times, AtFlags::empty());
        }
    }
}

/// Asks for leases, and keeps things for a collection. An open file of its own: the leases of this process count, too.
#[derive(Debug)]
pub(super) struct Lessees {
    file: LockFile,
    path: PathBuf,
}

impl Lessees {
    /// Whether anybody uses the thing.
    pub(super) fn has(&self, thing: Thing<'_>) -> Result<bool, StoreError> {
        range_lock::is_held(&self.file, thing.offset())
            .map_err(StoreError::io("look at a lock of", &self.path))
    }

    /// Which other processes use the thing, as far as that can be found out now, or could when `seen` was looked at.
    pub(super) fn users(&self, thing: Thing<'_>, seen: &Locks) -> Vec<u32> {
        let holders = |locks: &Locks| locks.holders(&self.file, thing.offset()).unwrap_or_default();
        match holders(seen) {
            pids if pids.is_empty() => Locks::look().map(|locks| holders(&locks)).unwrap_or_default(),
            pids => pids,
        }
    }

    /// Takes the thing until this value is dropped; false when somebody uses it.
    pub(super) fn exclude(&self, thing: Thing<'_>) -> Result<bool, StoreError> {
        range_lock::try_exclude(&self.file, thing.offset()).map_err(StoreError::io("lock", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_lease_keeps_collections_out_until_its_store_is_closed() {
        let (_dir, store) = open();
        let digest = Digest::of(b"x");
        let thing = Thing::Blob(&digest);
        assert!(store.lease(thing).unwrap());
        assert!(!store.lease(thing).unwrap(), "the second time is no news");
        let other = Store::open(store.root()).unwrap();
        let lessees = other.lessees().unwrap();
        assert!(lessees.has(thing).unwrap() && !lessees.exclude(thing).unwrap());
        assert!(store.lessees().unwrap().has(thing).unwrap(), "also for a collection of the same process");
        assert!(!lessees.has(Thing::Mount("x")).unwrap());
        drop(store);
        assert!(lessees.exclude(thing).unwrap());
    }

    #[test]
    fn a_user_waits_for_a_collection_and_then_sees_what_it_left() {
        let (_dir, store) = open();
        let digest = store.put_blob(b"content").unwrap();
        let path = store.blob_path(&digest);
        let other = Store::open(store.root()).unwrap();
        drop(store);
        let lessees = other.lessees().unwrap();
        assert!(lessees.exclude(Thing::Blob(&digest)).unwrap());
        let user = Store::open(other.root()).unwrap();
        std::thread::scope(|scope| {
            let size = scope.spawn(|| user.blob_size(&digest));
            std::fs::remove_file(&path).unwrap();
            drop(lessees);
            assert_eq!(size.join().unwrap(), None);
        });
    }

    #[test]
    fn old_times_of_use_are_renewed_and_young_ones_are_not() {
        let (_dir, store) = open();
        let digest = store.put_blob(b"content").unwrap();
        let path = store.blob_path(&digest);
        let root = store.root().to_owned();
        drop(store);
        let age = |seconds: i64| {
            let time = Timespec { tv_sec: now() - seconds, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
            Store::open(&root).unwrap().blob_size(&digest).unwrap();
            now() - std::os::unix::fs::MetadataExt::mtime(&std::fs::metadata(&path).unwrap())
        };
        assert!(age(600) >= 600);
        assert!(age(2 * PRECISION_SECONDS) < 600);
    }
}
