//! What was read from outside: downloads, fingerprints of files of contexts.

use rusqlite::{OptionalExtension as _, params};

use super::{DownloadRecord, FileRecord, digest, sum};
use crate::store::{Database, StoreError};

impl Database {
    /// An earlier download of a URL.
    pub fn download(&self, url: &str) -> Result<Option<DownloadRecord>, StoreError> {
        type Row = (String, i64, String, Option<String>, Option<i64>, Option<String>);
        let row: Option<Row> = self.with(|c| {
            c.prepare_cached(
                "SELECT digest, size_bytes, file_name, etag, last_modified, sum FROM downloads WHERE url = ?1",
            )?
            .query_row([url], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })
            .optional()
        })?;
        let Some((text, size, file_name, etag, last_modified, stated)) = row else { return Ok(None) };
        let found = DownloadRecord {
            digest: digest(&text)?,
            size_bytes: size as u64,
            file_name,
            etag,
            last_modified,
        };
        Ok(stated.is_none_or(|stated| stated == sum_of_download(url, &found)).then_some(found))
    }

    /// Records a download.
    pub fn set_download(&self, url: &str, download: &DownloadRecord) -> Result<(), StoreError> {
        self.with(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO downloads VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                .execute(params![
                    url,
                    download.digest.to_string(),
                    download.size_bytes as i64,
                    download.file_name,
                    download.etag,
                    download.last_modified,
                    sum_of_download(url, download)
                ])
                .map(drop)
        })
    }

    /// Takes over what names and URLs stand for in another database of the same schema.
    pub(in crate::store) fn copy_names(&self, from: &std::path::Path) -> Result<(), StoreError> {
        use std::os::unix::ffi::OsStrExt as _;
        // ATTACH takes text; a path that is none cannot be given.
        let path = std::str::from_utf8(from.as_os_str().as_bytes())
            .map_err(|_| StoreError::io("name", from)(std::io::ErrorKind::InvalidFilename.into()))?;
        self.with(|c| {
            c.execute("ATTACH DATABASE ?1 AS other", [path])?;
            let copied = c.execute_batch(
                "INSERT OR REPLACE INTO images SELECT * FROM other.images;
                 INSERT OR REPLACE INTO resolved SELECT * FROM other.resolved;
                 INSERT OR REPLACE INTO downloads SELECT * FROM other.downloads;",
            );
            c.execute_batch("DETACH DATABASE other")?;
            copied
        })
    }

    /// Passes the known digests of a context's files to `each`: path, stamp, digest.
    pub fn each_file(&self, root: &str, mut each: impl FnMut(&[u8], &str, &[u8])) -> Result<(), StoreError> {
        self.with(|c| {
            let mut statement = c.prepare_cached("SELECT path, stamp, digest FROM files WHERE root = ?1")?;
            let mut rows = statement.query([root])?;
            while let Some(row) = rows.next()? {
                let (path, stamp, digest) = (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?);
                each(path.as_blob()?, stamp.as_str()?, digest.as_blob()?);
            }
            Ok(())
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

fn sum_of_download(url: &str, download: &DownloadRecord) -> String {
    let DownloadRecord { digest, size_bytes, file_name, etag, last_modified } = download;
    let time = last_modified.map(|time| time.to_string()).unwrap_or_default();
    let etag = etag.as_deref().unwrap_or_default();
    sum(&[url, &digest.to_string(), &size_bytes.to_string(), file_name, etag, &time])
}
