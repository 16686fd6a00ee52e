//! Layers of snapshots and the blobs that they are written as.

use rusqlite::{OptionalExtension as _, params};

use super::{BlobRecord, SnapshotId, check, digest, is_whole, sum};
use crate::base::digest::{DiffId, Digest};
use crate::store::{Database, StoreError};

impl Database {
    /// The diff_id of a snapshot's layer written with this epoch.
    pub fn layer(&self, snapshot: &SnapshotId, epoch: Option<i64>) -> Result<Option<DiffId>, StoreError> {
        self.layer_of(snapshot, &epoch_text(epoch))
    }

    /// Records the diff_id of a snapshot's layer.
    pub fn add_layer(
        &self,
        snapshot: &SnapshotId,
        epoch: Option<i64>,
        diff_id: &DiffId,
    ) -> Result<(), StoreError> {
        self.set_layer(snapshot, &epoch_text(epoch), diff_id)
    }

    /// Records the diff_id of a layer that came with an image: no epoch ever changes it.
    pub fn add_image_layer(&self, snapshot: &SnapshotId, diff_id: &DiffId) -> Result<(), StoreError> {
        self.set_layer(snapshot, ANY, diff_id)
    }

    /// The diff_id of a snapshot that was unpacked from an image's layer.
    pub fn image_layer(&self, snapshot: &SnapshotId) -> Result<Option<DiffId>, StoreError> {
        self.layer_of(snapshot, ANY)
    }

    fn layer_of(&self, snapshot: &SnapshotId, epoch: &str) -> Result<Option<DiffId>, StoreError> {
        let row: Option<(String, String, Option<String>)> = self.with(|c| {
            c.prepare_cached(
                "SELECT epoch, diff_id, sum FROM layers WHERE snapshot = ?1 AND epoch IN (?2, 'any')",
            )?
            .query_row(params![snapshot.0, epoch], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()
        })?;
        let Some((epoch, diff_id, stated)) = row else { return Ok(None) };
        check("layers", stated.as_deref(), &[&snapshot.0, &epoch, &diff_id])?;
        digest(&diff_id).map(DiffId).map(Some)
    }

    fn set_layer(&self, snapshot: &SnapshotId, epoch: &str, diff_id: &DiffId) -> Result<(), StoreError> {
        let diff_id = diff_id.to_string();
        let sum = sum(&[&snapshot.0, epoch, &diff_id]);
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO layers VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![snapshot.0, epoch, diff_id, sum])
                .map(drop)
        })
    }

    /// The blob of a layer made by this compressor, or `original` as it came.
    pub fn blob(&self, diff_id: &DiffId, compressor: &str) -> Result<Option<BlobRecord>, StoreError> {
        let name = diff_id.to_string();
        let row: Option<(String, String, i64, Option<String>)> = self.with(|c| {
            c.prepare_cached(
                "SELECT media_type, digest, size_bytes, sum FROM blobs WHERE diff_id = ?1 AND compressor = ?2",
            )?
            .query_row(params![name, compressor], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()
        })?;
        let row = row.filter(|(media_type, digest, size, stated)| {
            is_whole(stated.as_deref(), &[&name, compressor, media_type, digest, &size.to_string()])
        });
        row.map(|(media_type, text, size, _)| {
            Ok(BlobRecord { media_type, digest: digest(&text)?, size_bytes: size as u64 })
        })
        .transpose()
    }

    /// Records the blob of a layer.
    pub fn add_blob(&self, diff_id: &DiffId, compressor: &str, blob: &BlobRecord) -> Result<(), StoreError> {
        let (diff_id, digest, size) = (diff_id.to_string(), blob.digest.to_string(), blob.size_bytes as i64);
        let sum = sum(&[&diff_id, compressor, &blob.media_type, &digest, &size.to_string()]);
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO blobs VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![diff_id, compressor, blob.media_type, digest, size, sum])
                .map(drop)
        })
    }

    /// The diff_id and the table's digest of a layer in a form with a table of contents.
    pub fn seekable(&self, plain: &DiffId, compressor: &str) -> Result<Option<(DiffId, Digest)>, StoreError> {
        let plain = plain.to_string();
        let row: Option<(String, String, Option<String>)> = self.with(|c| {
            c.prepare_cached(
                "SELECT diff_id, toc_digest, sum FROM seekable WHERE plain_diff_id = ?1 AND compressor = ?2",
            )?
            .query_row(params![plain, compressor], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()
        })?;
        let Some((diff_id, toc, stated)) = row else { return Ok(None) };
        check("seekable", stated.as_deref(), &[&plain, compressor, &diff_id, &toc])?;
        Ok(Some((DiffId(digest(&diff_id)?), digest(&toc)?)))
    }

    /// Records a layer in a form with a table of contents.
    pub fn add_seekable(
        &self,
        plain: &DiffId,
        compressor: &str,
        diff_id: &DiffId,
        toc: &Digest,
    ) -> Result<(), StoreError> {
        let (plain, diff_id, toc) = (plain.to_string(), diff_id.to_string(), toc.to_string());
        let sum = sum(&[&plain, compressor, &diff_id, &toc]);
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO seekable VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![plain, compressor, diff_id, toc, sum])
                .map(drop)
        })
    }
}

/// In place of an epoch: none ever changes the layer.
const ANY: &str = "any";

fn epoch_text(epoch: Option<i64>) -> String {
    epoch.map_or_else(|| "none".to_owned(), |seconds| seconds.to_string())
}
