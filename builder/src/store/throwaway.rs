//! A store inside a store's temporary files, for a build that must not find anything done (`kiln verify`).
//!
//! Invariants:
//! - it has the other one's blobs (as hard links) and knows what names stood for, so that bases need no registry; it has
//!   none of its steps, snapshots and cache mounts;
//! - it goes with its owner, or with the next look at the temporary files when that was killed.

use std::fs;

use super::{Store, StoreError, remove_tree};

/// A store that is removed in the end.
#[derive(Debug)]
pub struct Throwaway {
    dir: tempfile::TempDir,
}

impl Throwaway {
    /// Makes one beside the blobs of `store`.
    pub fn new(store: &Store) -> Result<Self, StoreError> {
        let dir = store.temporary()?;
        let throwaway = Self { dir };
        let new = Store::open(&throwaway.root())?;
        let from = store.path("blobs/sha256");
        for entry in fs::read_dir(&from).map_err(StoreError::io("list", &from))? {
            let entry = entry.map_err(StoreError::io("list", &from))?;
            let target = new.path("blobs/sha256").join(entry.file_name());
            fs::hard_link(entry.path(), &target).map_err(StoreError::io("link", &target))?;
        }
        new.database().copy_names(&store.path("kiln.db"))?;
        Ok(throwaway)
    }

    /// Where it is.
    pub fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        // Best effort. Directories that a step left unreadable are more than `TempDir` can remove.
        let _ = remove_tree(self.dir.path());
    }
}
