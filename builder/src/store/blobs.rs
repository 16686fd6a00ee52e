//! The content-addressed part of the store.
//!
//! Invariants: a file under `blobs/sha256/NAME` has the digest NAME, because it was hashed while it was written and
//! renamed only afterwards.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write};
use std::path::PathBuf;

use super::{Store, StoreError, Thing};
use crate::base::digest::{Digest, HashingWriter};

/// A blob on its way into the store: hashed while it is written.
pub type BlobWriter = HashingWriter<BufWriter<File>>;

/// A temporary file that becomes a blob by [`Store::commit_blob`]. Removed when dropped before that.
#[derive(Debug)]
pub struct IncomingBlob {
    file: tempfile::NamedTempFile,
}

impl IncomingBlob {
    /// A writer into the file.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let file = self.file.reopen().map_err(StoreError::io("write", self.file.path()))?;
        Ok(HashingWriter::new(BufWriter::with_capacity(256 * 1024, file)))
    }

    /// The file so far, for tools that write by themselves.
    pub fn path(&self) -> &std::path::Path {
        self.file.path()
    }
}

impl Store {
    /// Where a blob is or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob is there, with its size in bytes. One that is stays until this process ends.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        // What cannot be held on to must be treated as absent.
        self.lease(Thing::Blob(digest)).ok()?;
        self.stat_blob(digest)
    }

    /// The size of a blob, for those who only list.
    pub fn stat_blob(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().filter(fs::Metadata::is_file).map(|m| m.len())
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::NoBlob { digest: *digest },
            _ => StoreError::Io { action: "open", path, source },
        })
    }

    /// Reads a small blob whole. It stays until this process ends.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.lease(Thing::Blob(digest))?;
        self.peek_blob(digest, limit)
    }

    /// [`Store::read_blob`] for those who only look.
    pub(super) fn peek_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let path = self.blob_path(digest);
        self.open_blob(digest)?
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(StoreError::LargeBlob { digest: *digest, limit_bytes: limit });
        }
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(StoreError::WrongDigest { expected: *digest, actual });
        }
        Ok(bytes)
    }

    /// Begins a blob.
    pub fn incoming_blob(&self) -> Result<IncomingBlob, StoreError> {
        let dir = self.root.join("tmp");
        let file = tempfile::Builder::new()
            .prefix(&self.fresh_name()?)
            .tempfile_in(&dir)
            .map_err(StoreError::io("create a file in", &dir))?;
        Ok(IncomingBlob { file })
    }

    /// Gives a finished blob its name. `expected` is what was promised, when something was.
    pub fn commit_blob(
        &self,
        incoming: IncomingBlob,
        writer: BlobWriter,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64), StoreError> {
        let (buffer, digest, size) = writer.finish();
        let path = incoming.file.path().to_owned();
        buffer.into_inner().map_err(|e| StoreError::Io { action: "write", path, source: e.into_error() })?;
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(StoreError::WrongDigest { expected: *expected, actual: digest });
        }
        self.adopt_blob(incoming, &digest)?;
        Ok((digest, size))
    }

    /// Gives a file whose digest the caller has computed while writing it its name.
    pub fn adopt_blob(&self, incoming: IncomingBlob, digest: &Digest) -> Result<(), StoreError> {
        let target = self.blob_path(digest);
        // One that is there is replaced: it may be damaged, which only reading it would tell.
        self.lease(Thing::Blob(digest))?;
        // Content that is lost in a power failure is found by its digest when it is next read; what has to be on
        // disk is that a name never has other bytes, hence the sync before the rename.
        incoming.file.as_file().sync_data().map_err(StoreError::io("sync", &target))?;
        let mut permissions = incoming
            .file
            .as_file()
            .metadata()
            .map_err(StoreError::io("read the mode of", &target))?
            .permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o444);
        incoming
            .file
            .as_file()
            .set_permissions(permissions)
            .map_err(StoreError::io("set the mode of", &target))?;
        incoming.file.persist(&target).map_err(|e| StoreError::Io {
            action: "rename",
            path: target.clone(),
            source: e.error,
        })?;
        Ok(())
    }

    /// Removes the file of a blob that turned out to be damaged.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        // Something else may have taken its place.
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        match if is_dir { super::remove_tree(&path) } else { fs::remove_file(&path) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Stores bytes as a blob.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest).is_some() {
            // Documents are small: looking costs little, and one that was damaged is made anew.
            if fs::read(self.blob_path(&digest)).is_ok_and(|present| present == bytes) {
                return Ok(digest);
            }
            self.remove_blob(&digest)?;
        }
        let incoming = self.incoming_blob()?;
        let mut writer = incoming.writer()?;
        writer.write_all(bytes).map_err(StoreError::io("write", incoming.path()))?;
        self.commit_blob(incoming, writer, Some(&digest)).map(|(digest, _)| digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_verified() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let digest = store.put_blob(b"hello").unwrap();
        assert_eq!(store.read_blob(&digest, 100).unwrap(), b"hello");
        assert!(store.read_blob(&digest, 3).is_err());
        let incoming = store.incoming_blob().unwrap();
        let mut writer = incoming.writer().unwrap();
        writer.write_all(b"other").unwrap();
        let wrong = store.commit_blob(incoming, writer, Some(&digest));
        assert!(matches!(wrong, Err(StoreError::WrongDigest { .. })));
        assert_eq!(
            fs::read_dir(store.path("tmp")).unwrap().count(),
            1,
            "a refused blob leaves nothing but our lock"
        );
        assert!(matches!(store.open_blob(&Digest::of(b"no")), Err(StoreError::NoBlob { .. })));
    }
}
