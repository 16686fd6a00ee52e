//! The content digest of a layer.
//!
//! | part of an entry | hashed |
//! |---|---|
//! | path, kind, mode, user, group | yes |
//! | link target, device number, extended attributes | yes |
//! | bytes of a file | yes, as their sha256 |
//! | whiteouts | yes: they are entries |
//! | modification time | no: a step that does the same again at another time has made the same |
//!
//! Invariants: change the tag `layer-content/v1` when this table changes.

use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::DiffError;
use crate::base::digest::{ContentDigest, Digest, KeyHasher};
use crate::layer::tar::{Entry, Kind, TarError};
use crate::snapshot::warning::display;

/// Hashes entries in the order of the layer.
pub(in crate::snapshot) struct ContentHasher(KeyHasher);

impl ContentHasher {
    pub(in crate::snapshot) fn new() -> Self {
        Self(KeyHasher::new("layer-content/v1"))
    }

    /// Adds an entry; `data` is the digest of a regular file's bytes.
    pub(in crate::snapshot) fn add(&mut self, entry: &Entry, data: Option<Digest>) {
        let kind: &[u8] = match entry.kind {
            Kind::File => b"file",
            Kind::Directory => b"directory",
            Kind::Symlink => b"symlink",
            Kind::HardLink => b"hardlink",
            Kind::CharDevice => b"char",
            Kind::BlockDevice => b"block",
            Kind::Fifo => b"fifo",
        };
        let hasher = &mut self.0;
        hasher.field(&entry.path).field(kind).field(&entry.link);
        for number in [entry.mode, entry.uid, entry.gid, entry.device.major, entry.device.minor] {
            hasher.number(number.into());
        }
        hasher.number(entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            hasher.field(name).field(value);
        }
        hasher.number(data.is_some().into());
        if let Some(digest) = data {
            hasher.digest(&digest);
        }
    }

    pub(in crate::snapshot) fn finish(self) -> ContentDigest {
        ContentDigest(self.0.finish())
    }
}

/// Hashes what is read through it.
pub(super) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> HashingReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    pub(super) fn finish(self) -> Digest {
        Digest::from_bytes(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.hasher.update(buf.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// The digest of as many bytes as the entry states; fewer are an error, as when writing the layer.
pub(super) fn digest_of(file: File, entry: &Entry) -> Result<Digest, DiffError> {
    const BUFFER_BYTES: usize = 256 * 1024;
    let path = || display(&entry.path);
    let mut hasher = Sha256::new();
    let mut left = entry.size;
    let mut file = file.take(left);
    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
    let mut buffer = vec![0; wanted];
    while left > 0 {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Err(TarError::ShortData { path: path(), missing_bytes: left }.into()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(TarError::Data { path: path(), source }.into()),
        };
        hasher.update(buffer.get(..read).unwrap_or_default());
        left -= read as u64;
    }
    Ok(Digest::from_bytes(hasher.finalize().into()))
}
