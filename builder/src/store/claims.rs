//! Who runs which step: one lock file for each step that runs, below `locks/`, named by its key. Two processes that
//! need the same step meet here.
//!
//! Invariants:
//! - a claim ends with its holder, however that dies: the kernel gives the lock back;
//! - a file that was taken has its name still: whoever let go of it before has removed it, and then it is made anew;
//! - nobody waits here.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Store, StoreError};
use crate::base::digest::CacheKey;

/// Below the store.
const DIRECTORY: &str = "locks";
/// How often the file may vanish between opening and locking it before this is taken for somebody else's claim.
const ATTEMPTS: usize = 10;

/// The right to run a step. Ends when dropped.
#[derive(Debug)]
pub struct StepClaim {
    path: PathBuf,
    /// Held locked.
    lock: File,
}

impl Drop for StepClaim {
    fn drop(&mut self) {
        // The name goes before the lock, so that nobody takes a file that is about to lose its name.
        let _ = fs::remove_file(&self.path);
        // A process that is just being started has a copy of the descriptor.
        let _ = self.lock.unlock();
    }
}

impl Store {
    /// Claims the step of a key; `None` while somebody else has it.
    pub fn claim_step(&self, key: &CacheKey) -> Result<Option<StepClaim>, StoreError> {
        let path = self.root.join(DIRECTORY).join(key.0.hex());
        for _ in 0..ATTEMPTS {
            let lock = match File::create(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let directory = self.root.join(DIRECTORY);
                    fs::create_dir_all(&directory).map_err(StoreError::io("create directory", &directory))?;
                    continue;
                }
                created => created.map_err(StoreError::io("create", &path))?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
            if is_named(&lock, &path).map_err(StoreError::io("look at", &path))? {
                return Ok(Some(StepClaim { path, lock }));
            }
        }
        Ok(None)
    }

    /// Removes the lock files of processes that were killed.
    pub(super) fn sweep_claims(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(DIRECTORY)) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            // Whatever cannot be removed now is removed later: these files are empty.
            if let Ok(lock) = File::open(&path)
                && lock.try_lock().is_ok()
                && is_named(&lock, &path).unwrap_or(false)
            {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Whether `path` still names this very file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::digest::Digest;

    fn key() -> CacheKey {
        CacheKey(Digest::of(b"step"))
    }

    #[test]
    fn one_at_a_time_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let other = Store::open(&dir.path().join("s")).unwrap();
        let claim = store.claim_step(&key()).unwrap().unwrap();
        assert!(other.claim_step(&key()).unwrap().is_none());
        assert!(other.claim_step(&CacheKey(Digest::of(b"another"))).unwrap().is_some());
        drop(claim);
        drop(other.claim_step(&key()).unwrap().unwrap());
        assert_eq!(fs::read_dir(store.path(DIRECTORY)).unwrap().count(), 0);
    }

    #[test]
    fn many_never_hold_it_together() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let Some(claim) = store.claim_step(&key()).unwrap() else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the same claim");
                        taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }

    #[test]
    fn what_the_dead_left_is_swept_and_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let held = store.claim_step(&key()).unwrap().unwrap();
        let stale = store.path(DIRECTORY).join("stale");
        fs::write(&stale, "").unwrap();
        store.sweep_claims();
        assert!(!stale.exists() && held.path.exists());
        drop(held);
        // As after kill -9: the name is there and nobody holds it.
        fs::write(store.path(DIRECTORY).join(key().0.hex()), "").unwrap();
        assert!(store.claim_step(&key()).unwrap().is_some());
    }
}
