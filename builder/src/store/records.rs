//! What the database says, typed. Every SQL statement of kiln is in the files below this one, one for each noun; the
//! types are here.

mod blobs;
pub(super) mod collect;
mod images;
mod mounts;
mod snapshots;
mod sources;
mod steps;
mod trail;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use self::trail::{Trail, TrailStep};
use super::StoreError;
use crate::base::digest::{Digest, KeyHasher};

/// Name of a snapshot: a directory below `snapshots/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub String);

/// One layer of a file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayerRef {
    /// Its directory.
    pub snapshot: SnapshotId,
    /// Made on nothing (`COPY --link`): its diff is its whole content, whatever lies below.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standalone: bool,
}

/// A file system: layers, bottom first, and an identity that leaves modification times out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsState {
    /// Bottom first.
    pub layers: Vec<LayerRef>,
    /// Equal for equal content made of equal layers.
    pub identity: Digest,
    /// Identity on the machine that made it, as a remote cache says. Good for asking remote caches and for nothing
    /// else, since nobody here has verified it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Digest>,
}

impl FsState {
    /// Identity for keys of remote caches.
    pub fn shared_identity(&self) -> &Digest {
        self.claimed.as_ref().unwrap_or(&self.identity)
    }
}

/// The stored result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// The file system after the step.
    pub state: FsState,
    /// Every step since the base image, this one last: what the image's history is made from.
    pub trail: Trail,
    /// When the step last ran, in seconds since 1970, whatever it gave; 0 for sources. For `--cache-ttl`.
    #[serde(default)]
    pub ran: i64,
}

impl StepResult {
    /// The result of a source: no step led to it.
    pub fn source(state: FsState) -> Self {
        Self { state, trail: Trail::default(), ran: 0 }
    }

    /// The result of a step on `base` that ran now.
    pub fn step(base: &StepResult, state: FsState, added_layer: bool) -> Self {
        let mut trail = base.trail.clone();
        let ran = now();
        trail.push(TrailStep { added_layer, created: ran });
        Self { state, trail, ran }
    }

    /// The same result, made at that time: a step that gives what it gave before is as old as what it gave.
    pub fn made_at(mut self, created: i64) -> Self {
        if let Some(last) = self.trail.last() {
            self.trail.pop();
            self.trail.push(TrailStep { created, ..last });
        }
        self
    }

    /// The same result reached from another base of equal content, which other steps may have led to.
    pub fn on(mut self, base: &StepResult) -> Self {
        let own = self.trail.last();
        self.trail.clone_from(&base.trail);
        if let Some(own) = own {
            self.trail.push(own);
        }
        self
    }
}

/// A layer as a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRecord {
    /// OCI media type.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Full name with tag.
    pub name: String,
    /// Of the manifest or index.
    pub media_type: String,
    /// Of the manifest or index.
    pub digest: Digest,
    /// Sum of config and layers.
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub created: i64,
}

/// A cache mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRecord {
    /// As RUN names it.
    pub id: String,
    /// Relative to the store.
    pub directory: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Seconds since 1970.
    pub last_used: i64,
    /// As last measured.
    pub size_bytes: u64,
    /// When that was, in seconds since 1970; 0 for never.
    pub measured: i64,
}

/// A download that was made before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadRecord {
    /// Of the body.
    pub digest: Digest,
    /// Of the body.
    pub size_bytes: u64,
    /// As the server or the URL says.
    pub file_name: String,
    /// For asking whether it changed.
    pub etag: Option<String>,
    /// Seconds since 1970.
    pub last_modified: Option<i64>,
}

/// A file of a context: path, stamp (size, times, inode, mode) and digest.
pub type FileRecord = (Vec<u8>, String, [u8; 32]);

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn digest(text: &str) -> Result<Digest, StoreError> {
    text.parse().map_err(|e| {
        super::database::note_damage();
        StoreError::Malformed(format!("{e}"))
    })
}

/// What a row says of itself, for rows that decide about the bytes of an image: SQLite keeps no checksums, and a text
/// in which a bit flipped is a text still. What can be made again is as good as gone then, the rest is damage.
fn sum(columns: &[&str]) -> String {
    const DIGITS: usize = 16;
    let mut hasher = KeyHasher::new("kiln/row/v1");
    for column in columns {
        hasher.field(column.as_bytes());
    }
    hasher.finish().hex().chars().take(DIGITS).collect()
}

/// Whether a row has the sum that it should have, or none, as rows of earlier versions.
fn is_whole(stated: Option<&str>, columns: &[&str]) -> bool {
    stated.is_none_or(|stated| stated == sum(columns))
}

/// Refuses a row that does not have its sum.
fn check(table: &str, stated: Option<&str>, columns: &[&str]) -> Result<(), StoreError> {
    if is_whole(stated, columns) {
        return Ok(());
    }
    super::database::note_damage();
    let name = columns.first().copied().unwrap_or_default();
    Err(StoreError::Malformed(format!("the row of {name} in {table} was changed")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::{CacheKey, DiffId};
    use crate::store::Store;

    fn changed(sql: &str) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let database = store.database();
        let state = FsState { layers: Vec::new(), identity: Digest::of(b"state"), claimed: None };
        database.add_step(&[CacheKey(Digest::of(b"key"))], &StepResult::source(state), "name", 1).unwrap();
        let blob = BlobRecord { media_type: "type".to_owned(), digest: Digest::of(b"blob"), size_bytes: 4 };
        database.add_blob(&DiffId(Digest::of(b"diff")), "gzip", &blob).unwrap();
        let download = DownloadRecord {
            digest: Digest::of(b"body"),
            size_bytes: 4,
            file_name: "file".to_owned(),
            etag: None,
            last_modified: Some(7),
        };
        database.set_download("url", &download).unwrap();
        assert_eq!(found(&store), (true, true, true));
        store.check_database().unwrap();
        database.with(|c| c.execute_batch(sql)).unwrap();
        (dir, store)
    }

    /// Whether the step, the blob and the download are there.
    fn found(store: &Store) -> (bool, bool, bool) {
        let database = store.database();
        (
            database.step(&CacheKey(Digest::of(b"key"))).unwrap().is_some(),
            database.blob(&DiffId(Digest::of(b"diff")), "gzip").unwrap().is_some(),
            database.download("url").unwrap().is_some(),
        )
    }

    #[test]
    fn a_row_that_was_changed_is_as_good_as_none() {
        for (sql, expected) in [
            ("UPDATE steps SET result = replace(result, '\"ran\":0', '\"ran\":1')", (false, true, true)),
            ("UPDATE blobs SET media_type = 'typf'", (true, false, true)),
            ("UPDATE blobs SET size_bytes = 5", (true, false, true)),
            ("UPDATE downloads SET file_name = 'filf'", (true, true, false)),
            ("UPDATE downloads SET last_modified = 8", (true, true, false)),
            // As an earlier version wrote them.
            ("UPDATE steps SET sum = NULL; UPDATE blobs SET sum = NULL", (true, true, true)),
        ] {
            let (_dir, store) = changed(sql);
            assert_eq!(found(&store), expected, "{sql}");
            let is_whole = store.check_database().is_ok();
            assert_eq!(is_whole, expected.0 && expected.1, "{sql}");
        }
    }

    #[test]
    fn a_row_that_names_another_snapshot_is_refused() {
        let (_dir, store) = changed("");
        let database = store.database();
        let [one, two] = ["x-0", "x-1"].map(|name| SnapshotId(name.to_owned()));
        let digest = Digest::of(b"x");
        assert_eq!(database.claim_chain(&digest, &one).unwrap(), one);
        assert_eq!(database.claim_chain(&digest, &two).unwrap(), one, "the first one wins");
        assert_eq!(database.claim_result(&digest, &one).unwrap(), one);
        database.add_layer(&one, Some(7), &DiffId(digest)).unwrap();
        database.add_image_layer(&two, &DiffId(digest)).unwrap();
        database.add_seekable(&DiffId(digest), "c", &DiffId(digest), &digest).unwrap();
        assert_eq!(database.layer(&one, Some(7)).unwrap(), Some(DiffId(digest)));
        assert_eq!(database.layer(&one, None).unwrap(), None);
        assert_eq!(database.layer(&two, Some(7)).unwrap(), database.image_layer(&two).unwrap());
        let change = |sql: &str| database.with(|c| c.execute_batch(sql)).unwrap();
        change("UPDATE layers SET snapshot = 'x-2' WHERE snapshot = 'x-0'");
        change("UPDATE chains SET snapshot = 'x-1'; UPDATE results SET snapshot = 'x-1'");
        change("UPDATE seekable SET compressor = 'd'");
        let is_refused = |error: StoreError| matches!(error, StoreError::Malformed(_));
        assert!(database.layer(&SnapshotId("x-2".to_owned()), Some(7)).is_err_and(is_refused));
        assert!(database.snapshot_of_chain(&digest).is_err_and(is_refused));
        assert!(database.claim_result(&digest, &two).is_err_and(is_refused));
        assert!(database.seekable(&DiffId(digest), "d").is_err_and(is_refused));
        assert_eq!(database.problems().unwrap().len(), 4);
    }

    #[test]
    fn what_cannot_be_read_is_damage() {
        for sql in [
            "UPDATE blobs SET digest = replace(digest, 'sha256', 'sh`256'), sum = NULL",
            "UPDATE steps SET name = CAST(x'ff' AS TEXT)",
            "ALTER TABLE cache_mounts RENAME COLUMN last_used TO last_user",
            "DROP TABLE chains",
            "ALTER TABLE images RENAME COLUMN media_type TO media_typd",
        ] {
            let (_dir, store) = changed(sql);
            assert!(store.check_database().is_err_and(|error| error.is_damaged_database()), "{sql}");
            assert!(!store.check_records().unwrap().is_empty(), "{sql}");
        }
    }
}
