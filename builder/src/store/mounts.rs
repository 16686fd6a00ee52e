//! Cache mounts as things of the store: found, measured and removed by id.
//!
//! Invariants: a cache mount that a process uses is leased by its directory's name, so that nobody removes it; the
//! directory of one that was taken away meanwhile is marked by a file in `tmp/`, and goes with its last user.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::leases::PRECISION_SECONDS;
use super::records::{MountRecord, now};
use super::{Store, StoreError, Thing, process};

/// Directories of cache mounts are below it.
const DIRECTORY: &str = "mounts/";
/// Begins the name of a file in `tmp/`; the name of a directory of `mounts/` follows.
pub(super) const MARK: &str = "unmounted-";

impl Store {
    /// The directory of a cache mount, relative to the store; it stays until this process ends.
    pub fn use_cache_mount(&self, id: &str) -> Result<Option<String>, StoreError> {
        loop {
            let Some(mount) = self.database.cache_mount(id)? else { return Ok(None) };
            if self.lease(Thing::Mount(&mount.directory))? {
                // It may have been removed before the lease was had.
                continue;
            }
            if !self.root.join(&mount.directory).is_dir() {
                return Ok(None);
            }
            if mount.last_used + PRECISION_SECONDS < now() {
                self.database.touch_cache_mount(id)?;
            }
            return Ok(Some(mount.directory));
        }
    }

    /// All cache mounts with their sizes, and whether a running process uses them. Only those are measured that may
    /// have changed since.
    pub fn measured_cache_mounts(&self) -> Result<Vec<(MountRecord, bool)>, StoreError> {
        let lessees = self.lessees()?;
        let mut mounts = Vec::new();
        for mut mount in self.database.cache_mounts()? {
            let in_use = lessees.has(Thing::Mount(&mount.directory))?;
            // A process may go on using it long after the time of its last use was noted.
            if in_use || mount.measured == 0 || mount.last_used + 2 * PRECISION_SECONDS >= mount.measured {
                mount.size_bytes = disk_usage(&self.root.join(&mount.directory));
                // Remembering it saves work; listing must go on when the disk is full.
                let _ = self.database.measured_cache_mount(&mount.id, mount.size_bytes);
            }
            mounts.push((mount, in_use));
        }
        Ok(mounts)
    }

    /// Whether a running process uses a cache mount. False when there is none.
    pub fn cache_mount_in_use(&self, id: &str) -> Result<bool, StoreError> {
        match self.database.cache_mount(id)? {
            Some(mount) => self.lessees()?.has(Thing::Mount(&mount.directory)),
            None => Ok(false),
        }
    }

    /// Removes a directory that was a cache mount's. False while a process uses it: that one removes it when it ends,
    /// or else the next one that writes.
    pub fn discard_mount_directory(&self, directory: &str) -> Result<bool, StoreError> {
        let lessees = self.lessees()?;
        if !lessees.exclude(Thing::Mount(directory))? {
            if let Some(name) = directory.strip_prefix(DIRECTORY) {
                let mark = self.root.join("tmp").join(format!("{MARK}{name}"));
                // Without it, on a full disk, the directory waits for a collection.
                let _ = fs::write(mark, b"");
            }
            return Ok(false);
        }
        self.discard(&self.root.join(directory))?;
        self.discard(&self.root.join(format!("{directory}.lock")))?;
        Ok(true)
    }

    /// Removes the directory of a cache mount that `file` in `tmp/` marks, unless a process still uses it.
    pub(super) fn sweep_mount(&self, file: &str) -> Result<(), StoreError> {
        let Some(name) = file.strip_prefix(MARK) else { return Ok(()) };
        let directory = format!("{DIRECTORY}{name}");
        let lessees = self.lessees()?;
        if !lessees.exclude(Thing::Mount(&directory))? {
            return Ok(());
        }
        if self.database.cache_directories_with_prefix(&directory)?.is_empty() {
            for doomed in [&directory, &format!("{directory}.lock")] {
                let path = self.root.join(doomed);
                process::remove(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        let mark = self.root.join("tmp").join(file);
        process::remove(&mark).map_err(StoreError::io("remove", &mark))
    }

    /// Removes a cache mount. A mount that a running process uses stays, unless it is forced: that process then keeps
    /// its files until it ends.
    pub fn remove_cache_mount(&self, id: &str, in_use: InUse) -> Result<Removal, StoreError> {
        let Some(mount) = self.database.cache_mount(id)? else { return Ok(Removal::Missing) };
        let used = self.lessees()?.has(Thing::Mount(&mount.directory))?;
        if used && in_use == InUse::Keep {
            return Ok(Removal::InUse);
        }
        let size_bytes = disk_usage(&self.root.join(&mount.directory));
        self.database.forget_cache_mount(id, &mount.directory)?;
        let gone = self.discard_mount_directory(&mount.directory)?;
        Ok(if gone { Removal::Removed { freed_bytes: size_bytes } } else { Removal::Forgotten })
    }
}

/// What to do about something that a running process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// Leave it.
    Keep,
    /// Take its name away all the same.
    Force,
}

/// What became of something that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Removal {
    Removed {
        freed_bytes: u64,
    },
    /// Its name is gone, and its data goes with the last process that uses it.
    Forgotten,
    InUse,
    Missing,
}

/// Bytes that a tree takes on the disk. What cannot be read or vanishes meanwhile does not count; files with several
/// names count once.
pub(super) fn disk_usage(path: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let mut linked = std::collections::HashSet::new();
    let entries = walkdir::WalkDir::new(path).follow_links(false).into_iter().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| {
        let counted =
            metadata.is_dir() || metadata.nlink() < 2 || linked.insert((metadata.dev(), metadata.ino()));
        if counted { metadata.blocks() * BLOCK_BYTES } else { 0 }
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_is_used_is_found_leased_and_measured() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        fs::create_dir(store.path("mounts/d")).unwrap();
        fs::write(store.path("mounts/d/f"), vec![1; 100_000]).unwrap();
        fs::hard_link(store.path("mounts/d/f"), store.path("mounts/d/g")).unwrap();
        store.database().claim_cache_mount("id", "mounts/d", false).unwrap();
        let (mount, in_use) = store.measured_cache_mounts().unwrap().remove(0);
        assert!((100_000..150_000).contains(&mount.size_bytes), "{}", mount.size_bytes);
        assert!(!in_use);
        assert_eq!(store.use_cache_mount("id").unwrap().as_deref(), Some("mounts/d"));
        assert!(store.measured_cache_mounts().unwrap()[0].1);
        assert_eq!(store.use_cache_mount("other").unwrap(), None);
        fs::remove_dir_all(store.path("mounts/d")).unwrap();
        assert_eq!(store.use_cache_mount("id").unwrap(), None, "a row without a directory is no mount");
    }

    #[test]
    fn a_mount_that_was_taken_from_its_user_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let open = || Store::open(&root).unwrap();
        for killed in [false, true] {
            let user = open();
            user.writing().unwrap();
            fs::create_dir(user.path("mounts/d")).unwrap();
            user.database().claim_cache_mount("id", "mounts/d", false).unwrap();
            assert!(user.use_cache_mount("id").unwrap().is_some());
            let other = open();
            let removal = other.remove_cache_mount("id", InUse::Force).unwrap();
            assert_eq!(removal, Removal::Forgotten);
            other.tidy().unwrap();
            assert!(user.path("mounts/d").exists(), "it is still used");
            if killed {
                // Leaves its leases, as a kill would, and nothing else done.
                user.give_up_leases().unwrap();
                std::mem::forget(user);
                assert!(root.join("mounts/d").exists());
                other.tidy().unwrap();
            } else {
                drop(user);
            }
            assert!(!root.join("mounts/d").exists(), "killed: {killed}");
            let marks = fs::read_dir(root.join("tmp")).unwrap().flatten();
            assert!(marks.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(MARK)));
        }
    }
}
