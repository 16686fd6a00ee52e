//! Cache mounts.

use rusqlite::{OptionalExtension as _, params};

use super::{MountRecord, now};
use crate::store::{Database, StoreError};

pub(super) const SELECT: &str =
    "SELECT id, directory, created, last_used, size_bytes, measured FROM cache_mounts";

pub(super) fn mount(row: &rusqlite::Row<'_>) -> rusqlite::Result<MountRecord> {
    Ok(MountRecord {
        id: row.get(0)?,
        directory: row.get(1)?,
        created: row.get(2)?,
        last_used: row.get(3)?,
        size_bytes: row.get::<_, i64>(4)? as u64,
        measured: row.get(5)?,
    })
}

impl Database {
    /// Directories of cache mounts whose name begins so.
    pub fn cache_directories_with_prefix(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.with(|c| {
            c.prepare_cached(
                "SELECT directory FROM cache_mounts WHERE substr(directory, 1, length(?1)) = ?1",
            )?
            .query_map([prefix], |row| row.get(0))?
            .collect()
        })
    }

    /// A cache mount, if there is one. Whoever uses it calls `Store::use_cache_mount`.
    pub fn cache_mount(&self, id: &str) -> Result<Option<MountRecord>, StoreError> {
        self.with(|c| c.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?.query_row([id], mount).optional())
    }

    /// All cache mounts, by id.
    pub fn cache_mounts(&self) -> Result<Vec<MountRecord>, StoreError> {
        self.with(|c| c.prepare_cached(&format!("{SELECT} ORDER BY id"))?.query_map([], mount)?.collect())
    }

    /// Says that a cache mount is used now.
    pub(in crate::store) fn touch_cache_mount(&self, id: &str) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("UPDATE cache_mounts SET last_used = ?2 WHERE id = ?1")?
                .execute(params![id, now()])
                .map(drop)
        })
    }

    /// Records the size of a cache mount as it was found now.
    pub(in crate::store) fn measured_cache_mount(&self, id: &str, size_bytes: u64) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("UPDATE cache_mounts SET size_bytes = ?2, measured = ?3 WHERE id = ?1")?
                .execute(params![id, size_bytes as i64, now()])
                .map(drop)
        })
    }

    /// Forgets a cache mount, unless it has another directory by now. False when there was none.
    pub(in crate::store) fn forget_cache_mount(&self, id: &str, directory: &str) -> Result<bool, StoreError> {
        self.with(|c| {
            c.prepare_cached("DELETE FROM cache_mounts WHERE id = ?1 AND directory = ?2")?
                .execute(params![id, directory])
                .map(|count| count > 0)
        })
    }

    /// Claims a directory for a cache mount; the first one wins. With `replace` the new one wins.
    pub fn claim_cache_mount(&self, id: &str, directory: &str, replace: bool) -> Result<String, StoreError> {
        let verb = if replace { "REPLACE" } else { "IGNORE" };
        self.with(|c| {
            c.prepare_cached(&format!("INSERT OR {verb} INTO cache_mounts (id, directory, created, last_used) VALUES (?1, ?2, ?3, ?3)"))?
                .execute(params![id, directory, now()])?;
            c.prepare_cached("SELECT directory FROM cache_mounts WHERE id = ?1")?
                .query_row([id], |row| row.get(0))
        })
    }
}
