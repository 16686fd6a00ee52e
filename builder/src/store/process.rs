//! Who writes what: every process that writes into a store has a token, which begins the names of everything that it
//! has not finished, and a file that it holds locked. What a dead process left behind is found by its token.
//!
//! Invariants:
//! - the lock file is locked before its token is used in any name, and locks die with their process, however it dies;
//! - a snapshot with a row is finished: it stays, whoever made it.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Store, StoreError};

const LOCK_PREFIX: &str = "live-";

/// This process as a writer of a store.
#[derive(Debug)]
pub(super) struct Process {
    token: String,
    count: AtomicU64,
    path: PathBuf,
    /// Held locked as long as the store is open.
    lock: File,
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that is just being started has a copy of the descriptor.
        let _ = self.lock.unlock();
    }
}

/// Lock files of processes that have ended, held.
#[derive(Debug, Default)]
struct Dead {
    locks: Vec<(File, PathBuf)>,
}

/// In the lock file of a process that is between forgetting and removing data.
const COLLECTING: &[u8] = b"collecting";

impl Drop for Store {
    fn drop(&mut self) {
        // What was unfinished has been removed by its owners by now, so nobody needs to look for it.
        if let Some(process) = self.process.get() {
            // A cache mount that was taken from this process goes with it. Whoever writes next tries again.
            if self.give_up_leases().is_ok() {
                let _ = self.sweep_mounts();
            }
            let _ = fs::remove_file(&process.path);
        }
    }
}

impl Store {
    /// A name below `snapshots`, `mounts` or `tmp` that nobody else has, marked as this process' own.
    pub fn fresh_name(&self) -> Result<String, StoreError> {
        let process = self.writer()?;
        let number = process.count.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{}-{number:x}", process.token))
    }

    /// Tokens of the processes that are running, this one included.
    pub(super) fn live_tokens(&self) -> Result<BTreeSet<String>, StoreError> {
        live(&self.root)
    }

    /// Makes this process known as one that writes, so that the next one puts right what it leaves half done.
    pub fn writing(&self) -> Result<(), StoreError> {
        self.writer().map(drop)
    }

    fn writer(&self) -> Result<&Process, StoreError> {
        if let Some(process) = self.process.get() {
            return Ok(process);
        }
        // Two threads may both come here; the loser's lock file goes with its lock at the next sweep.
        let dead = self.sweep()?;
        let mut bytes = [0u8; 8];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        filled.map_err(|e| StoreError::io("draw a random name for", &self.root)(e.into()))?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.root.join("tmp").join(format!("{LOCK_PREFIX}{token}"));
        let lock = File::create(&path).map_err(StoreError::io("create", &path))?;
        lock.lock().map_err(StoreError::io("lock", &path))?;
        let process = self.process.get_or_init(|| Process { token, count: AtomicU64::new(0), path, lock });
        self.settle_for(dead)?;
        Ok(process)
    }

    /// Puts right what dead processes left half done.
    pub(super) fn tidy(&self) -> Result<(), StoreError> {
        let dead = self.sweep()?;
        self.settle_for(dead)
    }

    /// Says in this process' lock file that it is between forgetting and removing, or no longer.
    pub(super) fn mark_collecting(&self, collecting: bool) {
        // A full disk may leave no room to say so; then what a kill leaves waits for the next collection.
        if let Ok(process) = self.writer() {
            let _ = process.lock.set_len(0);
            if collecting {
                let _ = process.lock.write_all_at(COLLECTING, 0);
            }
        }
    }

    /// Removes what dead processes left unfinished.
    fn sweep(&self) -> Result<Dead, StoreError> {
        self.sweep_claims();
        let dir = self.root.join("tmp");
        let mut dead = Dead::default();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let entry = entry.map_err(StoreError::io("list", &dir))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            self.sweep_mount(name)?;
            let Some(token) = name.strip_prefix(LOCK_PREFIX) else { continue };
            let path = entry.path();
            // Gone meanwhile: another process sweeps too.
            let Ok(lock) = File::open(&path) else { continue };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
            self.remove_unfinished(token)?;
            dead.locks.push((lock, path));
        }
        Ok(dead)
    }

    /// Removes the cache mounts that lost their name while they were used, and that nobody uses any more.
    fn sweep_mounts(&self) -> Result<(), StoreError> {
        let dir = self.root.join("tmp");
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))?.flatten() {
            self.sweep_mount(entry.file_name().to_str().unwrap_or_default())?;
        }
        Ok(())
    }

    /// What a process may have left besides unfinished names: an index that lags the images, data whose rows are gone.
    fn settle_for(&self, dead: Dead) -> Result<(), StoreError> {
        if dead.locks.is_empty() {
            return Ok(());
        }
        self.write_index()?;
        let mut bytes = [0; COLLECTING.len()];
        if dead.locks.iter().any(|(lock, _)| lock.read_exact_at(&mut bytes, 0).is_ok()) {
            self.remove_strays()?;
        }
        // Last, so that what is interrupted is taken up again.
        for (_lock, path) in &dead.locks {
            remove(path).map_err(StoreError::io("remove", path))?;
        }
        Ok(())
    }

    fn remove_unfinished(&self, token: &str) -> Result<(), StoreError> {
        let finished = self.database.snapshots_with_prefix(token)?;
        let mounts = self.database.cache_directories_with_prefix(&format!("mounts/{token}"))?;
        for room in ["snapshots", "mounts", "tmp"] {
            let dir = self.root.join(room);
            for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
                let entry = entry.map_err(StoreError::io("list", &dir))?;
                let name = entry.file_name();
                let Some(name) = name.to_str().filter(|name| name.starts_with(token)) else { continue };
                let kept = match room {
                    "snapshots" => finished.iter().any(|id| id == name),
                    "mounts" => mounts.iter().any(|kept| {
                        kept.strip_prefix("mounts/")
                            .is_some_and(|kept| name == kept || name == format!("{kept}.lock"))
                    }),
                    _ => false,
                };
                if !kept {
                    let path = entry.path();
                    remove(&path).map_err(StoreError::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }
}

/// Tokens of the processes that write into a store.
pub(super) fn live(root: &Path) -> Result<BTreeSet<String>, StoreError> {
    let dir = root.join("tmp");
    let mut live = BTreeSet::new();
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(live),
        entries => entries.map_err(StoreError::io("list", &dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", &dir))?;
        let name = entry.file_name();
        let Some(token) = name.to_str().and_then(|name| name.strip_prefix(LOCK_PREFIX)) else { continue };
        if let Ok(lock) = File::open(entry.path())
            && matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
        {
            live.insert(token.to_owned());
        }
    }
    Ok(live)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => super::remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    }
    .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::{ContentDigest, Digest};
    use crate::store::records::SnapshotId;

    #[test]
    fn what_the_dead_left_goes_and_what_is_finished_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let mut dead = Store::open(&root).unwrap();
        let (finished, half) = (dead.fresh_name().unwrap(), dead.fresh_name().unwrap());
        for name in [&finished, &half] {
            fs::create_dir_all(root.join("snapshots").join(name).join("fs/below")).unwrap();
        }
        let id = SnapshotId(finished.clone());
        dead.database().add_snapshot(&id, &ContentDigest(Digest::of(b"")), 0).unwrap();
        let incoming = dead.incoming_blob().unwrap();
        let left = incoming.path().to_owned();
        std::mem::forget(incoming);
        let alive = Store::open(&root).unwrap();
        alive.fresh_name().unwrap();
        assert!(root.join("snapshots").join(&half).exists(), "its owner still lives");
        // As after kill -9: the lock goes, nothing is cleaned up.
        drop(dead.process.take());
        Store::open(&root).unwrap().fresh_name().unwrap();
        assert!(!root.join("snapshots").join(&half).exists());
        assert!(!left.exists());
        assert!(root.join("snapshots").join(&finished).exists());
    }
}
