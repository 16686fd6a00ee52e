//! What kiln itself wrote into an upper directory, with the digests of the bytes.
//!
//! A COPY has every byte in its hands once; the digest made then spares the diff a second reading of all files.
//!
//! Invariants: whoever writes tells of every regular file that takes a name, or that the name is not known any more.

use std::collections::HashMap;

use crate::base::digest::Digest;

/// Digests of regular files by path, without leading slash.
#[derive(Debug, Default)]
pub struct Written(HashMap<Vec<u8>, (u64, Digest)>);

impl Written {
    /// A file of `size_bytes` bytes now has the name.
    pub fn put(&mut self, path: Vec<u8>, size_bytes: u64, digest: Digest) {
        self.0.insert(path, (size_bytes, digest));
    }

    /// Something that is not known has the name.
    pub fn forget(&mut self, path: &[u8]) {
        self.0.remove(path);
    }

    /// Nothing is known any more.
    pub fn forget_all(&mut self) {
        self.0.clear();
    }

    /// Digest of the file with this name and size.
    pub fn digest(&self, path: &[u8], size_bytes: u64) -> Option<Digest> {
        self.0.get(path).filter(|(known_bytes, _)| *known_bytes == size_bytes).map(|(_, digest)| *digest)
    }
}
