//! Where records are: listing, finding, reading, writing and forgetting them.
//!
//! Invariants:
//! - names begin with the time, so that their order is that of the builds and nothing has to be read to sort them;
//! - reading is bounded, and a damaged record is an error of that record alone;
//! - kept are the last [`MAX_BUILDS`] builds, none older than [`MAX_AGE`], with at most [`MAX_BYTES`] together (the
//!   last build's logs are kept whatever their size).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::listing::Listings;
use super::{BuildRecord, Head, VERSION};

/// Builds that are remembered.
pub const MAX_BUILDS: usize = 100;
/// For how long.
pub const MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
/// Bytes of all records and logs.
pub const MAX_BYTES: u64 = 512 << 20;

/// Largest record that is read.
const MAX_RECORD_BYTES: u64 = 64 << 20;
/// Below the store.
const DIRECTORY: &str = "records";
/// Digits of the time in a name.
const TIME_DIGITS: usize = 12;
/// Digits of an id.
const ID_DIGITS: usize = 10;
const RECORD: &str = "build.json";

/// Why a record cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RecordError {
    #[error("no build has been recorded in this store")]
    None,
    #[error("there is no record of a build `{0}`")]
    Unknown(String),
    #[error("`{prefix}` may mean the builds {}", .ids.join(", "))]
    Ambiguous { prefix: String, ids: Vec<String> },
    #[error("the record of build {id} is damaged")]
    Damaged {
        id: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "the record of build {id} was written by another kiln (version {found}, this one knows {VERSION})"
    )]
    Version { id: String, found: u32 },
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The records of a store.
#[derive(Debug, Clone)]
pub struct Shelf {
    directory: PathBuf,
}

/// A record that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Name of its directory.
    name: String,
}

impl Entry {
    /// The name of a new record, unlike all others.
    pub(super) fn new(began: SystemTime) -> io::Result<Self> {
        let milliseconds = began.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let mut bytes = [0u8; ID_DIGITS / 2];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { name: format!("{milliseconds:0TIME_DIGITS$x}-{id}") })
    }

    fn parse(name: &str) -> Option<Self> {
        let (time, id) = name.split_once('-')?;
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        let ok = time.len() == TIME_DIGITS && id.len() == ID_DIGITS && hex(time) && hex(id);
        ok.then(|| Self { name: name.to_owned() })
    }

    /// What people call the build.
    pub fn id(&self) -> &str {
        self.name.get(TIME_DIGITS + 1..).unwrap_or_default()
    }

    fn began(&self) -> SystemTime {
        let time = self.name.get(..TIME_DIGITS).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        UNIX_EPOCH + Duration::from_millis(time.unwrap_or(0))
    }
}

impl Shelf {
    /// The records of the store at `root`. Nothing is made.
    pub fn new(root: &Path) -> Self {
        Self { directory: root.join(DIRECTORY) }
    }

    /// The listings beside the records.
    pub fn listings(&self) -> Listings {
        Listings::new(self.directory.join("listings"))
    }

    /// All records, the newest first.
    pub fn entries(&self) -> Result<Vec<Entry>, RecordError> {
        let read = |source| RecordError::Read { path: self.directory.clone(), source };
        let directory = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            directory => directory.map_err(read)?,
        };
        let mut entries = Vec::new();
        for entry in directory {
            entries.extend(entry.map_err(read)?.file_name().to_str().and_then(Entry::parse));
        }
        entries.sort_unstable_by(|a, b| b.cmp(a));
        Ok(entries)
    }

    /// The record whose id begins with `prefix`; without one the last.
    pub fn find(&self, prefix: Option<&str>) -> Result<Entry, RecordError> {
        let entries = self.entries()?;
        let Some(prefix) = prefix else { return entries.into_iter().next().ok_or(RecordError::None) };
        let lower = prefix.to_ascii_lowercase();
        let mut found: Vec<Entry> =
            entries.into_iter().filter(|entry| entry.id().starts_with(&lower)).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(RecordError::Unknown(prefix.to_owned())),
            _ => {
                let ids = found.iter().take(5).map(|entry| entry.id().to_owned()).collect();
                Err(RecordError::Ambiguous { prefix: prefix.to_owned(), ids })
            }
        }
    }

    /// A record without its steps.
    pub fn head(&self, entry: &Entry) -> Result<Head, RecordError> {
        let head: Head = self.parse(entry)?;
        of_this_version(entry, head.version).map(|()| head)
    }

    /// A whole record.
    pub fn read(&self, entry: &Entry) -> Result<BuildRecord, RecordError> {
        let record: BuildRecord = self.parse(entry)?;
        of_this_version(entry, record.head.version).map(|()| record)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, entry: &Entry) -> Result<T, RecordError> {
        let path = self.path(entry).join(RECORD);
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_RECORD_BYTES).read_to_end(&mut text))
            .map_err(|source| RecordError::Read { path, source })?;
        serde_json::from_slice(&text)
            .map_err(|source| RecordError::Damaged { id: entry.id().to_owned(), source })
    }

    /// The log of a step, unclipped; `None` when it wrote nothing.
    pub fn log(&self, entry: &Entry, step: u32) -> Result<Option<Box<dyn Read>>, RecordError> {
        let plain = self.log_path(entry, step);
        match File::open(&plain) {
            Ok(file) => return Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(RecordError::Read { path: plain, source }),
        }
        let path = packed(&plain);
        match File::open(&path).and_then(zstd::Decoder::new) {
            Ok(decoder) => Ok(Some(Box::new(decoder))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RecordError::Read { path, source }),
        }
    }

    pub(super) fn path(&self, entry: &Entry) -> PathBuf {
        self.directory.join(&entry.name)
    }

    pub(super) fn log_path(&self, entry: &Entry, step: u32) -> PathBuf {
        self.path(entry).join(format!("{step}.log"))
    }

    /// Writes a record; readers see the earlier one or this one.
    pub(super) fn write(&self, entry: &Entry, record: &BuildRecord) -> io::Result<()> {
        let directory = self.path(entry);
        fs::create_dir_all(&directory)?;
        let (fresh, path) = (directory.join("build.json.new"), directory.join(RECORD));
        let text = serde_json::to_vec(record)?;
        fs::write(&fresh, text)?;
        fs::rename(fresh, path)
    }

    /// Forgets old records; `weigh` also looks at their sizes. What cannot be removed now is tried by the next build.
    pub(super) fn prune(&self, weigh: bool) {
        let Ok(entries) = self.entries() else { return };
        let now = SystemTime::now();
        let mut bytes = 0u64;
        for (at, entry) in entries.iter().enumerate() {
            let old = now.duration_since(entry.began()).is_ok_and(|age| age > MAX_AGE);
            if weigh && !old && at < MAX_BUILDS {
                bytes = bytes.saturating_add(self.size(entry));
            }
            if old || at >= MAX_BUILDS || at > 0 && bytes > MAX_BYTES {
                let _ = fs::remove_dir_all(self.path(entry));
            }
        }
    }

    fn size(&self, entry: &Entry) -> u64 {
        let files = fs::read_dir(self.path(entry)).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

fn of_this_version(entry: &Entry, version: u32) -> Result<(), RecordError> {
    if version == VERSION {
        return Ok(());
    }
    Err(RecordError::Version { id: entry.id().to_owned(), found: version })
}

/// Where a log is when it is compressed.
fn packed(plain: &Path) -> PathBuf {
    plain.with_extension("log.zst")
}

/// Compresses a finished log in place.
pub(super) fn pack(plain: &Path) -> io::Result<()> {
    let path = packed(plain);
    let mut encoder = zstd::Encoder::new(File::create(&path)?, 1)?;
    io::copy(&mut File::open(plain)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(shelf: &Shelf, age: Duration) -> Entry {
        let entry = Entry::new(SystemTime::now() - age).unwrap();
        let head = Head { version: VERSION, id: entry.id().to_owned(), ..Head::default() };
        shelf.write(&entry, &BuildRecord { head, steps: Vec::new() }).unwrap();
        entry
    }

    #[test]
    fn records_are_found_by_a_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path());
        assert!(matches!(shelf.find(None), Err(RecordError::None)));
        let old = put(&shelf, Duration::from_secs(60));
        let new = put(&shelf, Duration::ZERO);
        assert_eq!(shelf.entries().unwrap(), [new.clone(), old.clone()]);
        assert_eq!(shelf.find(None).unwrap(), new);
        assert_eq!(shelf.find(Some(&old.id().to_uppercase())).unwrap(), old);
        assert!(matches!(shelf.find(Some("")), Err(RecordError::Ambiguous { .. })));
        assert!(matches!(shelf.find(Some("xyz")), Err(RecordError::Unknown(_))));
        assert_eq!(shelf.read(&old).unwrap().head.id, old.id());
    }

    #[test]
    fn damaged_records_are_told_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path());
        let (cut, other, whole) = (
            put(&shelf, Duration::from_secs(9)),
            put(&shelf, Duration::from_secs(5)),
            put(&shelf, Duration::ZERO),
        );
        let path = |entry: &Entry| shelf.path(entry).join(RECORD);
        let text = fs::read(path(&cut)).unwrap();
        for end in 0..text.len() {
            fs::write(path(&cut), &text[..end]).unwrap();
            assert!(shelf.head(&cut).is_err() && shelf.read(&cut).is_err(), "{end} bytes");
        }
        fs::write(path(&other), String::from_utf8_lossy(&text).replace("\"version\":1", "\"version\":2"))
            .unwrap();
        assert!(matches!(shelf.read(&other), Err(RecordError::Version { found: 2, .. })));
        fs::write(dir.path().join("records/stray"), "").unwrap();
        assert_eq!(shelf.entries().unwrap().len(), 3);
        assert!(shelf.read(&whole).is_ok());
        fs::remove_file(path(&whole)).unwrap();
        assert!(matches!(shelf.read(&whole), Err(RecordError::Read { .. })));
    }

    #[test]
    fn the_old_the_many_and_the_large_go() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path());
        put(&shelf, MAX_AGE + Duration::from_secs(1));
        for age in 0..MAX_BUILDS + 5 {
            put(&shelf, Duration::from_secs(age as u64));
        }
        shelf.prune(false);
        assert_eq!(shelf.entries().unwrap().len(), MAX_BUILDS);
        let entries = shelf.entries().unwrap();
        for (entry, bytes) in [(&entries[0], MAX_BYTES + 1), (&entries[1], 1)] {
            File::create(shelf.log_path(entry, 1)).unwrap().set_len(bytes).unwrap();
        }
        shelf.prune(true);
        assert_eq!(shelf.entries().unwrap(), [entries[0].clone()], "the last build stays whatever its size");
    }

    #[test]
    fn logs_are_read_packed_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path());
        let entry = put(&shelf, Duration::ZERO);
        let read = |step| {
            let mut text = String::new();
            shelf.log(&entry, step).unwrap()?.read_to_string(&mut text).unwrap();
            Some(text)
        };
        assert_eq!(read(1), None);
        fs::write(shelf.log_path(&entry, 1), "said").unwrap();
        assert_eq!(read(1).as_deref(), Some("said"));
        pack(&shelf.log_path(&entry, 1)).unwrap();
        assert!(!shelf.log_path(&entry, 1).exists());
        assert_eq!(read(1).as_deref(), Some("said"));
    }
}
