//! What was read from outside: downloads, fingerprints of files of contexts.

use rusqlite::{OptionalExtension as _, params};

use super::{DownloadRecord, FileRecord, digest};
use crate::store::{Database, StoreError};

impl Database {
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

    /// Forgets all digests of contexts' files: they are read again when they are next needed.
    pub fn forget_files(&self) -> Result<(), StoreError> {
        self.with(|c| c.execute("DELETE FROM files", []).map(drop))
    }
}
