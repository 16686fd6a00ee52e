//! Names of images, and what the names of base images stood for.

use rusqlite::{OptionalExtension as _, params};

use super::{ImageRecord, digest, now};
use crate::base::digest::Digest;
use crate::store::{Database, StoreError};

impl Database {
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

    /// Every name of a base image with the manifests that it stood for.
    pub fn all_resolved(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        let rows: Vec<(String, String)> = self.with(|c| {
            c.prepare_cached("SELECT name, digest FROM resolved ORDER BY name, digest")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        rows.into_iter().map(|(name, text)| Ok((name, digest(&text)?))).collect()
    }

    /// Remembers what a name stands for.
    pub fn set_resolved(&self, name: &str, platform: &str, manifest: &Digest) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO resolved VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![name, platform, manifest.to_string(), now()])
                .map(drop)
        })
    }
}
