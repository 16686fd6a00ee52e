//! What the database says, typed: every SQL statement of kiln is here.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::{Database, StoreError};
use crate::base::digest::{CacheKey, ContentDigest, DiffId, Digest};

/// Name of a snapshot: a directory below `snapshots/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub String);

/// One layer of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// One step on the way to a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// Whether it added a layer (an empty diff adds none).
    pub added_layer: bool,
    /// When it ran, in seconds since 1970.
    pub created: i64,
}

/// The stored result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// The file system after the step.
    pub state: FsState,
    /// Every step since the base image, this one last: what the image's history is made from.
    pub trail: Vec<Trail>,
    /// When the step last ran, in seconds since 1970, whatever it gave; 0 for sources. For `--cache-ttl`.
    #[serde(default)]
    pub ran: i64,
}

impl StepResult {
    /// The result of a source: no step led to it.
    pub fn source(state: FsState) -> Self {
        Self { state, trail: Vec::new(), ran: 0 }
    }

    /// The result of a step on `base` that ran now.
    pub fn step(base: &StepResult, state: FsState, added_layer: bool) -> Self {
        let mut trail = base.trail.clone();
        let ran = now();
        trail.push(Trail { added_layer, created: ran });
        Self { state, trail, ran }
    }

    /// The same result, made at that time: a step that gives what it gave before is as old as what it gave.
    pub fn made_at(mut self, created: i64) -> Self {
        if let Some(last) = self.trail.last_mut() {
            last.created = created;
        }
        self
    }

    /// The same result reached from another base of equal content, which other steps may have led to.
    pub fn on(mut self, base: &StepResult) -> Self {
        let own = self.trail.last().copied();
        self.trail.clone_from(&base.trail);
        self.trail.extend(own);
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
    text.parse().map_err(|e| StoreError::Malformed(format!("{e}")))
}

impl Database {
    /// Records a committed snapshot.
    pub fn add_snapshot(
        &self,
        id: &SnapshotId,
        content: &ContentDigest,
        size_bytes: u64,
    ) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO snapshots VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![id.0, content.to_string(), size_bytes as i64, now()])
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

    /// Finished snapshots whose name begins so.
    pub fn snapshots_with_prefix(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT id FROM snapshots WHERE substr(id, 1, length(?1)) = ?1")?
                .query_map([prefix], |row| row.get(0))?
                .collect()
        })
    }

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

    /// The snapshot that gave this identity first.
    pub fn snapshot_of_result(&self, identity: &Digest) -> Result<Option<SnapshotId>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT snapshot FROM results WHERE result = ?1")?
                .query_row([identity.to_string()], |row| row.get(0).map(SnapshotId))
                .optional()
        })
    }

    /// Remembers which snapshot gave an identity; the first one wins, also between processes.
    pub fn claim_result(&self, identity: &Digest, snapshot: &SnapshotId) -> Result<SnapshotId, StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR IGNORE INTO results VALUES (?1, ?2)")?
                .execute(params![identity.to_string(), snapshot.0])?;
            c.prepare_cached("SELECT snapshot FROM results WHERE result = ?1")?
                .query_row([identity.to_string()], |row| row.get(0).map(SnapshotId))
        })
    }

    /// Forgets a result whose snapshot is gone.
    pub fn forget_result(&self, identity: &Digest) -> Result<(), StoreError> {
        self.with(|c| c.execute("DELETE FROM results WHERE result = ?1", [identity.to_string()]).map(drop))
    }

    /// The snapshot of an image layer, by the chain of layers up to it.
    pub fn snapshot_of_chain(&self, chain: &Digest) -> Result<Option<SnapshotId>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT snapshot FROM chains WHERE chain = ?1")?
                .query_row([chain.to_string()], |row| row.get(0).map(SnapshotId))
                .optional()
        })
    }

    /// Remembers the snapshot of an image layer; the first one wins.
    pub fn claim_chain(&self, chain: &Digest, snapshot: &SnapshotId) -> Result<SnapshotId, StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR IGNORE INTO chains VALUES (?1, ?2)")?
                .execute(params![chain.to_string(), snapshot.0])?;
            c.prepare_cached("SELECT snapshot FROM chains WHERE chain = ?1")?
                .query_row([chain.to_string()], |row| row.get(0).map(SnapshotId))
        })
    }

    /// Forgets a chain whose snapshot is gone.
    pub fn forget_chain(&self, chain: &Digest) -> Result<(), StoreError> {
        self.with(|c| c.execute("DELETE FROM chains WHERE chain = ?1", [chain.to_string()]).map(drop))
    }

    /// The stored result of a step.
    pub fn step(&self, key: &CacheKey) -> Result<Option<StepResult>, StoreError> {
        let text: Option<String> = self.with(|c| {
            c.prepare_cached("SELECT result FROM steps WHERE key = ?1")?
                .query_row([key.to_string()], |row| row.get(0))
                .optional()
        })?;
        // A record that another version wrote is a miss: the step runs and its record is written anew.
        Ok(text.and_then(|t| serde_json::from_str(&t).ok()))
    }

    /// Stores the result of a step under all its keys.
    pub fn add_step(
        &self,
        keys: &[CacheKey],
        result: &StepResult,
        name: &str,
        took_ms: u64,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(result).map_err(|e| StoreError::Malformed(e.to_string()))?;
        self.with(|c| {
            let transaction = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for key in keys {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO steps VALUES (?1, ?2, ?3, ?4, ?5, ?5)")?
                    .execute(params![key.to_string(), text, name, took_ms as i64, now()])?;
            }
            transaction.commit()
        })
    }

    /// Forgets a step whose snapshots are gone.
    pub fn forget_step(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.with(|c| c.execute("DELETE FROM steps WHERE key = ?1", [key.to_string()]).map(drop))
    }

    /// The diff_id of a snapshot's layer written with this epoch.
    pub fn layer(&self, snapshot: &SnapshotId, epoch: Option<i64>) -> Result<Option<DiffId>, StoreError> {
        let text: Option<String> = self.with(|c| {
            c.prepare_cached("SELECT diff_id FROM layers WHERE snapshot = ?1 AND epoch IN (?2, 'any')")?
                .query_row(params![snapshot.0, epoch_text(epoch)], |row| row.get(0))
                .optional()
        })?;
        text.map(|t| digest(&t).map(DiffId)).transpose()
    }

    /// Records the diff_id of a snapshot's layer.
    pub fn add_layer(
        &self,
        snapshot: &SnapshotId,
        epoch: Option<i64>,
        diff_id: &DiffId,
    ) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO layers VALUES (?1, ?2, ?3)")?
                .execute(params![snapshot.0, epoch_text(epoch), diff_id.to_string()])
                .map(drop)
        })
    }

    /// Records the diff_id of a layer that came with an image: no epoch ever changes it.
    pub fn add_image_layer(&self, snapshot: &SnapshotId, diff_id: &DiffId) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO layers VALUES (?1, 'any', ?2)")?
                .execute(params![snapshot.0, diff_id.to_string()])
                .map(drop)
        })
    }

    /// The blob of a layer made by this compressor, or `original` as it came.
    pub fn blob(&self, diff_id: &DiffId, compressor: &str) -> Result<Option<BlobRecord>, StoreError> {
        let row: Option<(String, String, i64)> = self.with(|c| {
            c.prepare_cached(
                "SELECT media_type, digest, size_bytes FROM blobs WHERE diff_id = ?1 AND compressor = ?2",
            )?
            .query_row(params![diff_id.to_string(), compressor], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()
        })?;
        row.map(|(media_type, text, size)| {
            Ok(BlobRecord { media_type, digest: digest(&text)?, size_bytes: size as u64 })
        })
        .transpose()
    }

    /// Records the blob of a layer.
    pub fn add_blob(&self, diff_id: &DiffId, compressor: &str, blob: &BlobRecord) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO blobs VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    diff_id.to_string(),
                    compressor,
                    blob.media_type,
                    blob.digest.to_string(),
                    blob.size_bytes as i64
                ])
                .map(drop)
        })
    }

    /// All images, by name.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        type Row = (String, String, String, i64, i64);
        let rows: Vec<Row> = self.with(|c| {
            c.prepare_cached(
                "SELECT name, media_type, digest, size_bytes, created FROM images ORDER BY name",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?
            .collect()
        })?;
        rows.into_iter()
            .map(|(name, media_type, text, size, created)| {
                Ok(ImageRecord { name, media_type, digest: digest(&text)?, size_bytes: size as u64, created })
            })
            .collect()
    }

    /// Gives an image a name, which it takes from another one that had it.
    pub fn name_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO images VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    image.name,
                    image.media_type,
                    image.digest.to_string(),
                    image.size_bytes as i64,
                    image.created
                ])
                .map(drop)
        })
    }

    /// Takes a name away; false when there was none.
    pub fn unname_image(&self, name: &str) -> Result<bool, StoreError> {
        self.with(|c| c.execute("DELETE FROM images WHERE name = ?1", [name]).map(|count| count > 0))
    }

    /// The manifest that a name stood for on a platform when it was last asked for.
    pub fn resolved(&self, name: &str, platform: &str) -> Result<Option<Digest>, StoreError> {
        let text: Option<String> = self.with(|c| {
            c.prepare_cached("SELECT digest FROM resolved WHERE name = ?1 AND platform = ?2")?
                .query_row([name, platform], |row| row.get(0))
                .optional()
        })?;
        text.map(|t| digest(&t)).transpose()
    }

    /// Remembers what a name stands for.
    pub fn set_resolved(&self, name: &str, platform: &str, manifest: &Digest) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO resolved VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![name, platform, manifest.to_string(), now()])
                .map(drop)
        })
    }

    /// An earlier download of a URL.
    pub fn download(&self, url: &str) -> Result<Option<DownloadRecord>, StoreError> {
        type Row = (String, i64, String, Option<String>, Option<i64>);
        let row: Option<Row> = self.with(|c| {
            c.prepare_cached(
                "SELECT digest, size_bytes, file_name, etag, last_modified FROM downloads WHERE url = ?1",
            )?
            .query_row([url], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .optional()
        })?;
        row.map(|(text, size, file_name, etag, last_modified)| {
            Ok(DownloadRecord {
                digest: digest(&text)?,
                size_bytes: size as u64,
                file_name,
                etag,
                last_modified,
            })
        })
        .transpose()
    }

    /// Records a download.
    pub fn set_download(&self, url: &str, download: &DownloadRecord) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO downloads VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    url,
                    download.digest.to_string(),
                    download.size_bytes as i64,
                    download.file_name,
                    download.etag,
                    download.last_modified
                ])
                .map(drop)
        })
    }

    /// The known digests of a context's files: path, stamp, digest.
    pub fn files(&self, root: &str) -> Result<Vec<FileRecord>, StoreError> {
        self.with(|c| {
            c.prepare_cached("SELECT path, stamp, digest FROM files WHERE root = ?1")?
                .query_map([root], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })
    }

    /// Records digests of a context's files.
    pub fn set_files(&self, root: &str, files: &[FileRecord]) -> Result<(), StoreError> {
        self.with(|c| {
            let transaction = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut insert =
                    transaction.prepare_cached("INSERT OR REPLACE INTO files VALUES (?1, ?2, ?3, ?4)")?;
                for (path, stamp, digest) in files {
                    insert.execute(params![root, path, stamp, digest])?;
                }
            }
            transaction.commit()
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

fn epoch_text(epoch: Option<i64>) -> String {
    epoch.map_or_else(|| "none".to_owned(), |seconds| seconds.to_string())
}
