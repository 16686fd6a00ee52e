//! Packages of rpm, where its database is SQLite (rpm 4.16 and later): header blobs in a table `Packages`
//! (<https://rpm-software-management.github.io/rpm/manual/format_header.html>).
//!
//! Invariants:
//! - the database is the image's, so its schema may be made to keep SQLite busy: one with anything but plain tables and
//!   indexes is not queried, and neither is one that SQLite finds damaged;
//! - it is opened as what never changes: no journal is read, no lock taken, nothing written beside it.

use std::os::fd::AsFd as _;

use rusqlite::{Connection, OpenFlags};

use super::{Kind, MAX_DATABASE_BYTES, MAX_PACKAGES, Package, Scan};
use crate::sys::error::FsError;
use crate::sys::rootdir::proc_path;

const DATABASES: [&str; 2] = ["usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite"];
/// Databases of older versions, which are not read.
const OTHERS: [&str; 3] =
    ["var/lib/rpm/Packages", "var/lib/rpm/Packages.db", "usr/lib/sysimage/rpm/Packages.db"];
/// Words of SQL with which a schema computes something.
const COMPUTING: [&str; 7] = ["as", "check", "generated", "virtual", "where", "default", "collate"];

pub(super) fn scan(scan: &mut Scan<'_>) {
    for path in DATABASES {
        let file = match scan.root.open_file(path.as_bytes()) {
            Ok(file) => file,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(error) => {
                scan.leave_out(&error);
                continue;
            }
        };
        let size = file.metadata().map_or(u64::MAX, |metadata| metadata.len());
        let read = match size <= MAX_DATABASE_BYTES {
            true => headers(&proc_path(file.as_fd())).map_err(std::io::Error::other),
            false => Err(std::io::Error::other("the database is too large")),
        };
        match read {
            Ok(headers) => {
                // Where one directory is a link to the other both are one file.
                return headers
                    .iter()
                    .filter_map(|header| package(header, path))
                    .for_each(|found| scan.add(found));
            }
            Err(error) => scan.leave_out(&FsError::image("read", path.as_bytes(), error)),
        }
    }
    for path in OTHERS {
        if let Ok(Some(_)) = scan.root.stat(path.as_bytes(), crate::sys::rootdir::Last::Follow) {
            let error = std::io::Error::other("a database of this kind is not read, only SQLite is");
            scan.leave_out(&FsError::image("read", path.as_bytes(), error));
        }
    }
}

/// Why a database is not read.
#[derive(Debug, thiserror::Error)]
enum RpmError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("the schema is not rpm's")]
    Schema,
    #[error("the database is damaged")]
    Damaged,
}

fn headers(path: &str) -> Result<Vec<Vec<u8>>, RpmError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(format!("file:{path}?immutable=1"), flags)?;
    connection.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0")?;
    let mut statement = connection.prepare("SELECT type, coalesce(sql, '') FROM sqlite_schema")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, sql): (String, String) = (row.get(0)?, row.get(1)?);
        if !is_plain(&kind, &sql) {
            return Err(RpmError::Schema);
        }
    }
    // A page that is used twice would make a walk through them as long as its maker likes.
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(RpmError::Damaged);
    }
    let mut statement = connection.prepare("SELECT blob FROM Packages ORDER BY hnum LIMIT ?1")?;
    let found =
        statement.query_map([MAX_PACKAGES as i64 + 1], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(found)
}

/// Whether a part of the schema is a table or an index that computes nothing.
fn is_plain(kind: &str, sql: &str) -> bool {
    let lower = sql.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    match kind {
        "table" => !words.any(|word| COMPUTING.contains(&word)),
        // An index of an expression has brackets within brackets.
        "index" => lower.matches('(').count() <= 1 && !words.any(|word| COMPUTING.contains(&word)),
        _ => false,
    }
}

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const VENDOR: u32 = 1011;
const LICENSE: u32 = 1014;
const URL: u32 = 1020;
const ARCHITECTURE: u32 = 1022;
const SOURCE: u32 = 1044;

/// Entries of an index are four numbers: tag, type, offset, count.
const ENTRY_BYTES: usize = 16;
const STRING: u32 = 6;
const INT32: u32 = 4;

/// A header as the database has it: number of entries, bytes of data, entries, data. None when it is malformed, or a key
/// that somebody trusts (rpm keeps those as packages).
fn package(header: &[u8], found_in: &str) -> Option<Package> {
    let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let (entries, bytes) = (number(0)? as usize, number(4)? as usize);
    let start = entries.checked_mul(ENTRY_BYTES)?.checked_add(8)?;
    let data = header.get(start..start.checked_add(bytes)?)?;
    let mut package = Package::new(Kind::Rpm, found_in);
    let (mut version, mut release, mut source) = (String::new(), String::new(), String::new());
    for at in (8..start).step_by(ENTRY_BYTES) {
        let (tag, kind, offset) = (number(at)?, number(at + 4)?, number(at + 8)? as usize);
        let Some(value) = data.get(offset..) else { continue };
        if (tag, kind) == (EPOCH, INT32) {
            let epoch = value.get(..4)?.try_into().ok().map(u32::from_be_bytes)?;
            package.epoch = if epoch == 0 { String::new() } else { epoch.to_string() };
            continue;
        }
        let field = match tag {
            NAME => &mut package.name,
            VERSION => &mut version,
            RELEASE => &mut release,
            VENDOR => &mut package.supplier,
            LICENSE => &mut package.license,
            URL => &mut package.homepage,
            ARCHITECTURE => &mut package.architecture,
            SOURCE => &mut source,
            _ => continue,
        };
        if kind == STRING {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            *field = String::from_utf8_lossy(text).into_owned();
        }
    }
    package.version = if release.is_empty() { version } else { format!("{version}-{release}") };
    package.upstream = source;
    (package.name != "gpg-pubkey").then_some(package)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    /// A header with strings, and an epoch.
    fn header(strings: &[(u32, &str)], epoch: u32) -> Vec<u8> {
        let mut data = epoch.to_be_bytes().to_vec();
        let mut index = [EPOCH, INT32, 0, 1].map(u32::to_be_bytes).concat();
        for (tag, text) in strings {
            index.extend([*tag, STRING, data.len() as u32, 1].map(u32::to_be_bytes).concat());
            data.extend(text.as_bytes());
            data.push(0);
        }
        let count = strings.len() as u32 + 1;
        [&count.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &index, &data].concat()
    }

    /// A database as rpm makes it.
    pub(in crate::export::attest::sbom) fn database(path: &Path, more: &str) {
        let connection = Connection::open(path).expect("database");
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode=WAL;
                 CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,blob BLOB NOT NULL);
                 CREATE TABLE 'Name' (key 'TEXT' NOT NULL, hnum INTEGER NOT NULL, idx INTEGER NOT NULL, FOREIGN KEY (hnum) REFERENCES 'Packages'(hnum));
                 CREATE INDEX 'Name_key_idx' ON 'Name'(key ASC);
                 {more}"
            ))
            .expect("schema");
        let words = [
            (NAME, "bash"),
            (VERSION, "5.2"),
            (RELEASE, "1.fc40"),
            (LICENSE, "GPL-3.0-or-later"),
            (ARCHITECTURE, "x86_64"),
            (SOURCE, "bash-5.2-1.fc40.src.rpm"),
        ];
        for blob in [header(&words, 1), header(&[(NAME, "gpg-pubkey"), (VERSION, "1")], 0), b"short".to_vec()]
        {
            connection.execute("INSERT INTO Packages (blob) VALUES (?1)", [blob]).expect("row");
        }
    }

    #[test]
    fn headers_are_read_and_keys_are_no_packages() {
        let host = tempfile::tempdir().unwrap();
        let path = host.path().join("rpmdb.sqlite");
        database(&path, "");
        let headers = headers(path.to_str().unwrap()).expect("headers");
        let found: Vec<Package> = headers.iter().filter_map(|header| package(header, "db")).collect();
        let [bash] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            (bash.name.as_str(), bash.version.as_str(), bash.epoch.as_str()),
            ("bash", "5.2-1.fc40", "1")
        );
        assert_eq!(
            (bash.architecture.as_str(), bash.upstream.as_str()),
            ("x86_64", "bash-5.2-1.fc40.src.rpm")
        );
        for cut in 0..headers[0].len() {
            // Whatever it is taken for, nothing is read that is not there.
            let _ = package(&headers[0][..cut], "db");
        }
    }

    #[test]
    fn a_schema_that_computes_is_not_queried() {
        for more in [
            "CREATE VIEW v AS SELECT 1;",
            "CREATE TABLE t (a, b AS (hex(zeroblob(100000000))));",
            "CREATE TABLE t (a CHECK (length(hex(zeroblob(100000000))) > 0));",
            "CREATE INDEX i ON Name(hex(key));",
            "CREATE TRIGGER t AFTER INSERT ON Name BEGIN SELECT 1; END;",
        ] {
            let host = tempfile::tempdir().unwrap();
            let path = host.path().join("rpmdb.sqlite");
            database(&path, more);
            assert!(matches!(headers(path.to_str().unwrap()), Err(RpmError::Schema)), "{more}");
        }
    }

    /// Enough for every day; 30,000 were tried once.
    const ROUNDS: usize = 200;

    #[test]
    fn damage_ends() {
        let host = tempfile::tempdir().unwrap();
        let path = host.path().join("rpmdb.sqlite");
        database(&path, "");
        let sound = std::fs::read(&path).unwrap();
        let mut state = 1_u64;
        let mut next = |below: usize| {
            // xorshift64: any sequence will do, and it is the same each time.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let mut refused = 0;
        for _ in 0..ROUNDS {
            let mut bytes = sound.clone();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                bytes[at] = u8::try_from(next(256)).unwrap();
            }
            std::fs::write(&path, &bytes).unwrap();
            match headers(path.to_str().unwrap()) {
                Ok(headers) => headers.iter().for_each(|header| drop(package(header, "db"))),
                Err(_) => refused += 1,
            }
        }
        assert!((1..ROUNDS).contains(&refused), "{refused} of {ROUNDS}");
    }
}
