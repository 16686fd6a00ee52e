//! The SQLite database of the store (WAL, shared by many processes).
//!
//! Invariants: every statement is in [`super::records`]; the schema has a version and is only ever added to.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;
use crate::sys::range_lock::{self, LockFile};

/// What brings a database from one version of the schema to the next; the first makes a new one. Only ever added to.
const MIGRATIONS: [&str; 4] = [TABLES, COLLECTION, SEEKABLE, SUMS];

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

/// Columns for collections: `unsynced` is the boot in which a snapshot was made, until its data is known to be on the
/// disk (sync.rs); a cache mount's size and when it was measured.
const COLLECTION: &str = "
ALTER TABLE snapshots ADD COLUMN unsynced TEXT;
ALTER TABLE cache_mounts ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cache_mounts ADD COLUMN measured INTEGER NOT NULL DEFAULT 0;
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

/// What a row says of itself (`records::sum`); NULL in rows of earlier versions.
const SUMS: &str = "
ALTER TABLE steps ADD COLUMN sum TEXT;
ALTER TABLE blobs ADD COLUMN sum TEXT;
ALTER TABLE downloads ADD COLUMN sum TEXT;
ALTER TABLE layers ADD COLUMN sum TEXT;
ALTER TABLE seekable ADD COLUMN sum TEXT;
ALTER TABLE chains ADD COLUMN sum TEXT;
ALTER TABLE results ADD COLUMN sum TEXT;
";

/// The open database. One connection for each process, behind a lock that is held for single statements or short
/// transactions only.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Held locked as long as the database is open: nobody may put another one into its place.
    _user: LockFile,
}

/// Whether this process met damage in a database that could be opened.
static MET_DAMAGE: AtomicBool = AtomicBool::new(false);

/// Whether SQLite found the database of a store damaged while this process used it. What that led to may say so no
/// longer: a miss, a message.
pub fn met_damage() -> bool {
    MET_DAMAGE.load(Ordering::Relaxed)
}

/// Makes [`met_damage`] true.
pub(super) fn note_damage() {
    MET_DAMAGE.store(true, Ordering::Relaxed);
}

/// The byte of `kiln.lock` that everybody shares who has the database open.
const USERS: u64 = 0;

/// A database as it was found.
enum Found {
    /// With this version of the schema; 0 for a new one.
    Whole(Connection, i64),
    /// Not a database, or a part of one.
    Damaged,
}

impl Database {
    /// Opens the database, making it where there is none. True when one that had been used before was damaged or gone:
    /// what is left of it was set aside.
    pub(super) fn open(path: &Path, was_used: bool) -> Result<(Self, bool), StoreError> {
        let fail = |source| StoreError::Database { path: path.to_owned(), source };
        // Switching to WAL does not wait for others, whatever the busy timeout says, so only one process may make the
        // database, and nobody looks at it meanwhile.
        let lock_path = path.with_extension("lock");
        let lock_error = |action| StoreError::io(action, &lock_path);
        let lock = open_lock(&lock_path)?;
        lock.lock_shared().map_err(lock_error("lock"))?;
        let mut user = LockFile(open_lock(&lock_path)?);
        range_lock::share(&user, USERS).map_err(lock_error("lock"))?;
        let mut found = find(path, was_used).map_err(fail)?;
        if !matches!(found, Found::Whole(_, SCHEMA)) {
            lock.unlock().map_err(lock_error("unlock"))?;
            lock.lock().map_err(lock_error("lock"))?;
            // Somebody else may have made it while this process waited.
            drop(found);
            found = find_current(path, was_used).map_err(fail)?;
        }
        let mut recovered = false;
        if matches!(found, Found::Damaged) {
            drop(found);
            // Nobody else may go on with the old file: they would look after the new one's log.
            user = LockFile(open_lock(&lock_path)?);
            set_aside(path, &user)?;
            recovered = true;
            found = find_current(path, false).map_err(fail)?;
            range_lock::share(&user, USERS).map_err(lock_error("lock"))?;
        }
        let Found::Whole(connection, version) = found else {
            return Err(StoreError::DamagedInUse { path: path.to_owned() });
        };
        if version > SCHEMA {
            return Err(StoreError::Newer { found: version, known: SCHEMA });
        }
        connection.set_prepared_statement_cache_capacity(64);
        Ok((Self { path: path.to_owned(), connection: Mutex::new(connection), _user: user }, recovered))
    }

    /// Sets a damaged database aside, so that the next opening makes a new one.
    pub(super) fn discard(path: &Path) -> Result<(), StoreError> {
        let lock_path = path.with_extension("lock");
        let lock = open_lock(&lock_path)?;
        lock.lock().map_err(StoreError::io("lock", &lock_path))?;
        set_aside(path, &LockFile(open_lock(&lock_path)?))
    }

    /// Runs `work` with the connection.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(|source| {
            if is_damage(&source) {
                note_damage();
            }
            StoreError::Database { path: self.path.clone(), source }
        })
    }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(path);
    opened.map_err(StoreError::io("open", path))
}

fn find(path: &Path, was_used: bool) -> Result<Found, rusqlite::Error> {
    match connect(path) {
        // A file that was cut to nothing looks like a new one.
        Ok((_, 0)) if was_used => Ok(Found::Damaged),
        Ok((connection, version)) => Ok(Found::Whole(connection, version)),
        Err(error) if is_damage(&error) => Ok(Found::Damaged),
        Err(error) => Err(error),
    }
}

/// [`find`], and brings the schema up to date. Only for who has the lock to make databases.
fn find_current(path: &Path, was_used: bool) -> Result<Found, rusqlite::Error> {
    Ok(match find(path, was_used)? {
        Found::Whole(mut connection, version) if version < SCHEMA => {
            match migrate(&mut connection, version) {
                Ok(()) => Found::Whole(connection, SCHEMA),
                Err(error) if is_damage(&error) => Found::Damaged,
                Err(error) => return Err(error),
            }
        }
        found => found,
    })
}

/// Whether the file is no database, or a broken one.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::{Error, ErrorCode, ffi};
    match error {
        Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                || failure.extended_code == ffi::SQLITE_ERROR
        }
        // Every statement is kiln's own and fits its schema: what does not fit is in the file.
        Error::SqlInputError { .. }
        | Error::Utf8Error(..)
        | Error::InvalidColumnType(..)
        | Error::InvalidColumnIndex(_)
        | Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

/// Whether SQLite found no room on the disk.
pub fn is_full_disk(error: &rusqlite::Error) -> bool {
    // SQLITE_IOERR_SHMSIZE: the index of the log could not be made larger.
    const SHM_SIZE: i32 = 10 | 19 << 8;
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
        || error.sqlite_error().is_some_and(|error| error.extended_code == SHM_SIZE)
}

/// Gives a damaged database another name. `user` takes it for itself.
fn set_aside(path: &Path, user: &File) -> Result<(), StoreError> {
    if !range_lock::try_exclude(user, USERS).map_err(StoreError::io("lock", path))? {
        return Err(StoreError::DamagedInUse { path: path.to_owned() });
    }
    let ignore_missing = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    ignore_missing(fs::rename(path, path.with_extension("db.damaged")))
        .map_err(StoreError::io("rename", path))?;
    for log in ["db-wal", "db-shm", "db-journal"] {
        let log = path.with_extension(log);
        ignore_missing(fs::remove_file(&log)).map_err(StoreError::io("remove", &log))?;
    }
    Ok(())
}

/// The tables of a new database.
pub(super) fn fresh_schema() -> Result<Vec<(String, String)>, StoreError> {
    let made = || -> rusqlite::Result<_> {
        let mut connection = Connection::open_in_memory()?;
        migrate(&mut connection, 0)?;
        super::records::collect::schema(&connection)
    };
    made().map_err(|source| StoreError::Database { path: ":memory:".into(), source })
}

fn migrate(connection: &mut Connection, version: i64) -> Result<(), rusqlite::Error> {
    connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    let missing = MIGRATIONS[usize::try_from(version).unwrap_or(0)..].concat();
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {missing} PRAGMA user_version={SCHEMA}; COMMIT;"))
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

    #[test]
    fn a_damaged_database_is_set_aside_and_images_keep_their_names() {
        let cut = |size: u64| {
            move |path: &std::path::Path| {
                std::fs::File::options().write(true).open(path).unwrap().set_len(size).unwrap()
            }
        };
        let scribble = |path: &std::path::Path| std::fs::write(path, "no database".repeat(1000)).unwrap();
        let remove = |path: &std::path::Path| std::fs::remove_file(path).unwrap();
        let harms: [&dyn Fn(&std::path::Path); 6] =
            [&cut(0), &cut(100), &cut(4096), &cut(9000), &scribble, &remove];
        for (number, harm) in harms.iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("s");
            let store = Store::open(&root).unwrap();
            assert!(!store.was_recovered());
            let digest = store.put_blob(b"{}").unwrap();
            let record = crate::store::records::ImageRecord {
                name: "i".to_owned(),
                media_type: "type".to_owned(),
                digest,
                size_bytes: 2,
                created: 1,
            };
            store.database().name_image(&record).unwrap();
            store.write_index().unwrap();
            drop(store);
            harm(&root.join("kiln.db"));
            let store = Store::open(&root).unwrap();
            assert!(store.was_recovered(), "{number}");
            let images = store.database().images().unwrap();
            assert_eq!(images.len(), 1, "{number}");
            assert_eq!((images[0].name.as_str(), images[0].digest, images[0].size_bytes), ("i", digest, 2));
            drop(store);
            assert!(!Store::open(&root).unwrap().was_recovered());
        }
    }

    #[test]
    fn a_damaged_database_stays_while_somebody_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        drop(Store::open(&root).unwrap());
        let user = super::LockFile(super::open_lock(&root.join("kiln.lock")).unwrap());
        crate::sys::range_lock::share(&user, super::USERS).unwrap();
        std::fs::write(root.join("kiln.db"), "no database".repeat(1000)).unwrap();
        let refused = Store::open(&root);
        assert!(matches!(refused, Err(crate::store::StoreError::DamagedInUse { .. })), "{refused:?}");
        drop(user);
        assert!(Store::open(&root).unwrap().was_recovered());
    }
}
