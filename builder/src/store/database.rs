//! The SQLite database of the store (WAL, shared by many processes).
//!
//! Invariants: every statement is in [`super::records`]; the schema has a version and is only ever added to.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;

/// What brings a database from one version of the schema to the next; the first makes a new one. Only ever added to.
const MIGRATIONS: [&str; 2] = [TABLES, SEEKABLE];

/// Version of the schema that this program knows.
const SCHEMA: i64 = MIGRATIONS.len() as i64;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS snapshots (
    id TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    result TEXT PRIMARY KEY,
    snapshot TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chains (
    chain TEXT PRIMARY KEY,
    snapshot TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
    key TEXT PRIMARY KEY,
    result TEXT NOT NULL,
    name TEXT NOT NULL,
    took_ms INTEGER NOT NULL,
    created INTEGER NOT NULL,
    last_used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layers (
    snapshot TEXT NOT NULL,
    epoch TEXT NOT NULL,
    diff_id TEXT NOT NULL,
    PRIMARY KEY (snapshot, epoch)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs (
    diff_id TEXT NOT NULL,
    compressor TEXT NOT NULL,
    media_type TEXT NOT NULL,
    digest TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (diff_id, compressor)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    name TEXT PRIMARY KEY,
    media_type TEXT NOT NULL,
    digest TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS resolved (
    name TEXT NOT NULL,
    platform TEXT NOT NULL,
    digest TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (name, platform)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS downloads (
    url TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    file_name TEXT NOT NULL,
    etag TEXT,
    last_modified INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    root TEXT NOT NULL,
    path BLOB NOT NULL,
    stamp TEXT NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (root, path)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cache_mounts (
    id TEXT PRIMARY KEY,
    directory TEXT NOT NULL,
    created INTEGER NOT NULL,
    last_used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Layers in forms that add entries of their own (eStargz), by the layer without them.
const SEEKABLE: &str = "
CREATE TABLE IF NOT EXISTS seekable (
    plain_diff_id TEXT NOT NULL,
    compressor TEXT NOT NULL,
    diff_id TEXT NOT NULL,
    toc_digest TEXT NOT NULL,
    PRIMARY KEY (plain_diff_id, compressor)
) STRICT, WITHOUT ROWID;
";

/// The open database. One connection for each process, behind a lock that is held for single statements or short
/// transactions only.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Database { path: path.to_owned(), source };
        // Switching to WAL does not wait for others, whatever the busy timeout says, so only one process may make the
        // database, and nobody looks at it meanwhile.
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).map_err(StoreError::io("create", &lock_path))?;
        lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
        let (mut connection, mut version) = connect(path).map_err(fail)?;
        if version < SCHEMA {
            drop(connection);
            lock.unlock().map_err(StoreError::io("unlock", &lock_path))?;
            lock.lock().map_err(StoreError::io("lock", &lock_path))?;
            // Somebody else may have made it while this process waited.
            (connection, version) = connect(path).map_err(fail)?;
        }
        if version > SCHEMA {
            return Err(StoreError::Newer { found: version, known: SCHEMA });
        }
        if version < SCHEMA {
            connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).map_err(fail)?;
            let missing = MIGRATIONS[usize::try_from(version).unwrap_or(0)..].concat();
            connection
                .execute_batch(&format!("BEGIN IMMEDIATE; {missing} PRAGMA user_version={SCHEMA}; COMMIT;"))
                .map_err(fail)?;
        }
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// Runs `work` with the connection.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(|source| StoreError::Database { path: self.path.clone(), source })
    }
}

/// Opens the file and reads the version of its schema.
fn connect(path: &Path) -> Result<(Connection, i64), rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    connection
        .execute_batch("PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=OFF; PRAGMA temp_store=MEMORY;")?;
    let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok((connection, version))
}

#[cfg(test)]
mod tests {
    use crate::store::Store;

    #[test]
    fn many_may_open_a_new_store_at_once() {
        for _ in 0..100 {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("s");
            let start = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        Store::open(&root).unwrap().database().images().unwrap();
                    });
                }
            });
        }
    }
}
