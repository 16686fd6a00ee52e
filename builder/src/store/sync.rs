//! What a power cut may take, and how rows of what it took are told from the others.
//!
//! The files of a snapshot are not synced one by one, which would cost more than most steps. Instead its row says in
//! which boot it was made, until a sync of the whole file system came after it. When the store is first opened in
//! another boot, snapshots that still say so are forgotten with all that stands on them: their steps run again.
//!
//! | | written to disk |
//! | --- | --- |
//! | blobs | before they get their name (`blobs.rs`) |
//! | the database | in order, by SQLite (WAL): the end of it may be lost, the rest is whole |
//! | snapshots | by the sync at the end of a build that ran something, if little is waiting to be written on this machine; else by a later one, at the latest by the next collection |
//! | cache mounts | when the kernel does it: tools must live with what their caches hold |
//!
//! Invariants: a row whose data may be lost is never used in another boot than the one that made it.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use super::{Store, StoreError};

/// Names the boot of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Below the store: the boot in which it was last opened.
const FILE: &str = "boot";
/// The most that may be waiting to be written on this machine for a sync to be cheap.
const CHEAP_KIB: u64 = 64 * 1024;

/// The present boot. Where the kernel does not say, all boots are one.
pub(super) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read_to_string(BOOT_ID).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    })
}

/// Whether a store was opened before.
pub(super) fn was_opened(root: &Path) -> bool {
    root.join(FILE).exists()
}

impl Store {
    /// Forgets what a boot that ended may have lost. Does nothing but read two small files in all but the first
    /// opening after a boot.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let path = self.root.join(FILE);
        if fs::read_to_string(&path).is_ok_and(|last| last == boot()) {
            return Ok(());
        }
        let doubtful = self.database.doubtful_snapshots()?;
        self.database.forget_snapshots(&doubtful)?;
        fs::write(&path, boot()).map_err(StoreError::io("write", &path))
    }

    /// Brings all snapshots that have a row to the disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        let waiting = self.database.unsynced_snapshots()?;
        if waiting.is_empty() {
            return Ok(());
        }
        let root = fs::File::open(&self.root).map_err(StoreError::io("open", &self.root))?;
        rustix::fs::syncfs(&root).map_err(|e| StoreError::io("sync", &self.root)(e.into()))?;
        self.database.snapshots_are_synced(&waiting)
    }

    /// [`Store::sync`], if that does not have to wait for much.
    pub fn sync_if_cheap(&self) -> Result<(), StoreError> {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        if waiting_kib(&text).is_some_and(|waiting| waiting <= CHEAP_KIB) { self.sync() } else { Ok(()) }
    }
}

/// What waits to be written, from `/proc/meminfo`.
fn waiting_kib(text: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(field("Dirty:")? + field("Writeback:")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::{CacheKey, ContentDigest, Digest};
    use crate::store::records::{FsState, LayerRef, SnapshotId, StepResult};

    fn add(store: &Store, name: &str) -> CacheKey {
        let key = CacheKey(Digest::of(name.as_bytes()));
        let id = SnapshotId(name.to_owned());
        store.database().add_snapshot(&id, &ContentDigest(key.0), 1).unwrap();
        let layers = vec![LayerRef { snapshot: id, standalone: false }];
        let result = StepResult::source(FsState { layers, identity: key.0 });
        store.database().add_step(&[key], &result, name, 1).unwrap();
        key
    }

    #[test]
    fn what_another_boot_did_not_sync_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let store = Store::open(&root).unwrap();
        let safe = add(&store, "safe");
        store.sync().unwrap();
        let lost = add(&store, "lost");
        assert_eq!(store.database().unsynced_snapshots().unwrap(), ["lost"]);
        drop(store);
        assert!(Store::open(&root).unwrap().use_step(&lost).unwrap().is_some(), "the same boot trusts it");
        // As after a power cut.
        fs::write(root.join(FILE), "another").unwrap();
        let connection = rusqlite::Connection::open(root.join("kiln.db")).unwrap();
        connection
            .execute("UPDATE snapshots SET unsynced = 'another' WHERE unsynced IS NOT NULL", [])
            .unwrap();
        drop(connection);
        let store = Store::open(&root).unwrap();
        assert!(store.use_step(&safe).unwrap().is_some());
        assert!(store.use_step(&lost).unwrap().is_none());
        assert_eq!(store.database().snapshot_created(&SnapshotId("lost".into())).unwrap(), None);
    }

    #[test]
    fn meminfo_is_read() {
        assert_eq!(waiting_kib("MemTotal: 5 kB\nDirty:   12 kB\nWriteback:    3 kB\n"), Some(15));
        assert_eq!(waiting_kib("Dirty: x kB\n"), None);
    }
}
