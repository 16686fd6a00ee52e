//! What is said of an image in the index beside it: in-toto statements, as BuildKit and kiln store them.
//!
//! Invariants: nothing here says that a statement is true, or who made it: only that its bytes are those that the index
//! leads to.

use super::{Content, TransferError};
use crate::base::digest::Digest;
use crate::image::manifest::{Descriptor, Index, Manifest};

/// Largest statement that is read: a list of packages has a few megabytes.
const MAX_STATEMENT_BYTES: u64 = 256 << 20;

/// A statement.
#[derive(Debug, Clone)]
pub struct StoredStatement {
    /// What it says, as the manifest tells.
    pub predicate_type: String,
    /// Its blob.
    pub descriptor: Descriptor,
}

impl StoredStatement {
    /// Whether it says how the image was made.
    pub fn is_provenance(&self) -> bool {
        self.predicate_type.starts_with("https://slsa.dev/provenance/")
    }

    /// Whether it lists packages.
    pub fn is_sbom(&self) -> bool {
        self.predicate_type == "https://spdx.dev/Document"
    }

    /// Its bytes.
    pub fn read(&self, content: &dyn Content) -> Result<Vec<u8>, TransferError> {
        let Descriptor { digest, size, .. } = self.descriptor;
        if size > MAX_STATEMENT_BYTES {
            return Err(TransferError::LargeStatement { digest, size });
        }
        let mut bytes = Vec::new();
        content.fetch(&self.descriptor, &mut bytes, &|_| ())?;
        Ok(bytes)
    }
}

/// What an index has about one of its images.
pub fn statements(
    content: &dyn Content,
    index: &Index,
    image: &Digest,
) -> Result<Vec<StoredStatement>, TransferError> {
    let image = image.to_string();
    let is_about_it = |entry: &&Descriptor| {
        let says = |key: &str| entry.annotations.get(key).map(String::as_str);
        says("vnd.docker.reference.type") == Some("attestation-manifest")
            && says("vnd.docker.reference.digest") == Some(&image)
    };
    let mut found = Vec::new();
    for entry in index.manifests.iter().filter(is_about_it) {
        let bytes = content.document(entry)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|source| {
            TransferError::Malformed { what: "manifest of attestations", digest: entry.digest, source }
        })?;
        found.extend(manifest.layers.into_iter().filter_map(|layer| {
            let predicate_type = layer.annotations.get("in-toto.io/predicate-type")?.clone();
            let is_one = layer.media_type == "application/vnd.in-toto+json";
            is_one.then_some(StoredStatement { predicate_type, descriptor: layer })
        }));
    }
    Ok(found)
}
