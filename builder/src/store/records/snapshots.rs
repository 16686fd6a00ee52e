//! Snapshots, and by what they are found: identities of results, chains of image layers.

use rusqlite::{OptionalExtension as _, params};

use super::{SnapshotId, check, now, sum};
use crate::base::digest::{ContentDigest, Digest};
use crate::store::{Database, StoreError, sync};

impl Database {
    /// Records a committed snapshot, made in this boot and not known to be on the disk.
    pub fn add_snapshot(
        &self,
        id: &SnapshotId,
        content: &ContentDigest,
        size_bytes: u64,
    ) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached(
                "INSERT OR REPLACE INTO snapshots (id, content, size_bytes, created, unsynced) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![id.0, content.to_string(), size_bytes as i64, now(), sync::boot()])
            .map(drop)
        })
    }

    /// When a snapshot was made.
    pub fn snapshot_created(&self, id: &SnapshotId) -> Result<Option<i64>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT created FROM snapshots WHERE id = ?1")?
                .query_row([&id.0], |row| row.get(0))
                .optional()
        })
    }

    /// Bytes of a finished snapshot's files.
    pub fn snapshot_size(&self, id: &SnapshotId) -> Result<Option<u64>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT size_bytes FROM snapshots WHERE id = ?1")?
                .query_row([&id.0], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
                .optional()
        })
    }

    /// Finished snapshots whose name begins so.
    pub fn snapshots_with_prefix(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT id FROM snapshots WHERE substr(id, 1, length(?1)) = ?1")?
                .query_map([prefix], |row| row.get(0))?
                .collect()
        })
    }

    /// The snapshot that gave this identity first.
    pub fn snapshot_of_result(&self, identity: &Digest) -> Result<Option<SnapshotId>, StoreError> {
        self.named(Naming::Result, &identity.to_string())
    }

    /// Remembers which snapshot gave an identity; the first one wins, also between processes.
    pub fn claim_result(&self, identity: &Digest, snapshot: &SnapshotId) -> Result<SnapshotId, StoreError> {
        self.claim(Naming::Result, &identity.to_string(), snapshot)
    }

    /// Forgets a result whose snapshot is gone.
    pub fn forget_result(&self, identity: &Digest) -> Result<(), StoreError> {
        self.with(|c| c.execute("DELETE FROM results WHERE result = ?1", [identity.to_string()]).map(drop))
    }

    /// The snapshot of an image layer, by the chain of layers up to it.
    pub fn snapshot_of_chain(&self, chain: &Digest) -> Result<Option<SnapshotId>, StoreError> {
        self.named(Naming::Chain, &chain.to_string())
    }

    /// Remembers the snapshot of an image layer; the first one wins.
    pub fn claim_chain(&self, chain: &Digest, snapshot: &SnapshotId) -> Result<SnapshotId, StoreError> {
        self.claim(Naming::Chain, &chain.to_string(), snapshot)
    }

    fn named(&self, naming: Naming, name: &str) -> Result<Option<SnapshotId>, StoreError> {
        let (table, column) = naming.table();
        let row: Option<(String, Option<String>)> = self.with(|c| {
            c.prepare_cached(&format!("SELECT snapshot, sum FROM {table} WHERE {column} = ?1"))?
                .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })?;
        let Some((snapshot, stated)) = row else { return Ok(None) };
        check(table, stated.as_deref(), &[name, &snapshot])?;
        Ok(Some(SnapshotId(snapshot)))
    }

    fn claim(&self, naming: Naming, name: &str, snapshot: &SnapshotId) -> Result<SnapshotId, StoreError> {
        let (table, _) = naming.table();
        loop {
            self.with(|c| {
                c.prepare_cached(&format!("INSERT OR IGNORE INTO {table} VALUES (?1, ?2, ?3)"))?
                    .execute(params![name, snapshot.0, sum(&[name, &snapshot.0])])
            })?;
            // Gone again: another process forgot it in between.
            if let Some(first) = self.named(naming, name)? {
                return Ok(first);
            }
        }
    }

    /// Forgets a chain whose snapshot is gone.
    pub fn forget_chain(&self, chain: &Digest) -> Result<(), StoreError> {
        self.with(|c| c.execute("DELETE FROM chains WHERE chain = ?1", [chain.to_string()]).map(drop))
    }

    /// Snapshots whose data is not known to be on the disk.
    pub(in crate::store) fn unsynced_snapshots(&self) -> Result<Vec<String>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT id FROM snapshots WHERE unsynced IS NOT NULL")?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    /// Those of another boot: their data may have been lost with it.
    pub(in crate::store) fn doubtful_snapshots(&self) -> Result<Vec<String>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT id FROM snapshots WHERE unsynced IS NOT NULL AND unsynced != ?1")?
                .query_map([sync::boot()], |row| row.get(0))?
                .collect()
        })
    }

    /// Says that the data of these snapshots is on the disk.
    pub(in crate::store) fn snapshots_are_synced(&self, ids: &[String]) -> Result<(), StoreError> {
        self.with(|c| {
            let transaction = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for id in ids {
                transaction
                    .prepare_cached("UPDATE snapshots SET unsynced = NULL WHERE id = ?1")?
                    .execute([id])?;
            }
            transaction.commit()
        })
    }
}

/// What a snapshot is found by.
#[derive(Clone, Copy)]
enum Naming {
    Result,
    Chain,
}

impl Naming {
    /// Table and column.
    fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::Result => ("results", "result"),
            Self::Chain => ("chains", "chain"),
        }
    }
}
