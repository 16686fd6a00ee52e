//! Cache mounts.

use rusqlite::{OptionalExtension as _, params};

use super::now;
use crate::store::{Database, StoreError};

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

    /// The directory of a cache mount, if there is one.
    pub fn cache_mount(&self, id: &str) -> Result<Option<String>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT directory FROM cache_mounts WHERE id = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()
        })
    }

    /// Claims a directory for a cache mount; the first one wins. With `replace` the new one wins.
    pub fn claim_cache_mount(&self, id: &str, directory: &str, replace: bool) -> Result<String, StoreError> {
        let verb = if replace { "REPLACE" } else { "IGNORE" };
        self.with(|c| {
            c.prepare_cached(&format!("INSERT OR {verb} INTO cache_mounts VALUES (?1, ?2, ?3, ?3)"))?
                .execute(params![id, directory, now()])?;
            c.prepare_cached("SELECT directory FROM cache_mounts WHERE id = ?1")?
                .query_row([id], |row| row.get(0))
        })
    }
}
