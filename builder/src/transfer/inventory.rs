//! What an image is made of: its documents (manifests, indexes) and the blobs that they name.
//!
//! Invariants: every document was verified against its digest and size; children stand before their parents.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Content, TransferError};
use crate::base::digest::Digest;
use crate::context::layout::is_index;
use crate::image::manifest::{Descriptor, Index, Manifest, media_type};
use crate::image::platform::Platform;

/// How many indexes may lie within one another.
const MAX_DEPTH: usize = 4;

/// A manifest or an index.
#[derive(Debug, Clone)]
pub struct Document {
    /// As its parent or its source describes it; never without media type.
    pub descriptor: Descriptor,
    /// As they are.
    pub bytes: Vec<u8>,
    /// The manifest, unless it is an index.
    pub manifest: Option<Manifest>,
}

impl Document {
    /// Config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifest.iter().flat_map(|manifest| std::iter::once(&manifest.config).chain(&manifest.layers))
    }
}

/// An image, read as far as its documents go.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// Children first, the root last.
    documents: Vec<Document>,
}

impl Inventory {
    /// Reads the documents below `root`. With a platform only that one's manifest, which becomes the root.
    pub fn read(
        content: &dyn Content,
        root: &Descriptor,
        platform: Option<&Platform>,
    ) -> Result<Self, TransferError> {
        let mut inventory = Self { documents: Vec::new() };
        let root = match platform {
            None => root.clone(),
            Some(platform) => choose(content, root, platform)?,
        };
        let mut seen = BTreeSet::new();
        inventory.add(content, &root, 0, &mut seen)?;
        Ok(inventory)
    }

    fn add(
        &mut self,
        content: &dyn Content,
        descriptor: &Descriptor,
        depth: usize,
        seen: &mut BTreeSet<Digest>,
    ) -> Result<(), TransferError> {
        if depth > MAX_DEPTH {
            return Err(TransferError::Nested);
        }
        if !seen.insert(descriptor.digest) {
            return Ok(());
        }
        let mut document = read(content, descriptor)?;
        if document.manifest.is_none() {
            for child in index(&document)?.manifests {
                self.add(content, &child, depth + 1, seen)?;
            }
        }
        document.descriptor.size = document.bytes.len() as u64;
        self.documents.push(document);
        Ok(())
    }

    /// The manifest or index that stands for the whole.
    pub fn root(&self) -> &Document {
        self.documents.last().expect("invariant: an inventory that was read has its root")
    }

    /// All documents, children first.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Manifests of images; attestations, which have no platform of their own, are left out.
    pub fn images(&self) -> impl Iterator<Item = (&Document, &Manifest)> {
        self.documents.iter().filter_map(|document| {
            let manifest = document.manifest.as_ref()?;
            let platform = document.descriptor.platform.as_ref();
            platform.is_none_or(|platform| platform.os != "unknown").then_some((document, manifest))
        })
    }

    /// Configs and layers, each once, in the order of the documents.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let mut seen = BTreeSet::new();
        let all = self.documents.iter().flat_map(Document::blobs);
        all.filter(|blob| seen.insert(blob.digest)).cloned().collect()
    }

    /// Sum of the sizes of documents and blobs.
    pub fn size_bytes(&self) -> u64 {
        let documents = self.documents.iter().map(|document| document.bytes.len() as u64);
        documents.chain(self.blobs().iter().map(|blob| blob.size)).fold(0, u64::saturating_add)
    }
}

/// True for layers that registries need not have: they are got from the URLs in their descriptor (image spec,
/// "Non-Distributable Layers").
pub(super) fn is_foreign(blob: &Descriptor) -> bool {
    !blob.urls.is_empty()
        && (blob.media_type.contains("nondistributable") || blob.media_type.contains(".foreign."))
}

fn read(content: &dyn Content, descriptor: &Descriptor) -> Result<Document, TransferError> {
    let bytes = content.document(descriptor)?;
    let (digest, actual) = (descriptor.digest, bytes.len() as u64);
    if descriptor.size != 0 && descriptor.size != actual {
        return Err(TransferError::WrongSize { digest, expected: descriptor.size, actual });
    }
    let mut descriptor = descriptor.clone();
    if is_index(&descriptor, &bytes) {
        fill_type(&mut descriptor, &bytes, media_type::OCI_INDEX);
        return Ok(Document { descriptor, bytes, manifest: None });
    }
    fill_type(&mut descriptor, &bytes, media_type::OCI_MANIFEST);
    if !matches!(descriptor.media_type.as_str(), media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST) {
        return Err(TransferError::MediaType { digest, media_type: descriptor.media_type });
    }
    let manifest = serde_json::from_slice::<Manifest>(&bytes).map_err(|source| TransferError::Malformed {
        what: "manifest",
        digest,
        source,
    })?;
    Ok(Document { descriptor, bytes, manifest: Some(manifest) })
}

/// What says nothing about its type is told by what it holds.
fn fill_type(descriptor: &mut Descriptor, bytes: &[u8], usual: &str) {
    if descriptor.media_type.is_empty() {
        let stated = serde_json::from_slice::<Value>(bytes).ok();
        let stated = stated.as_ref().and_then(|value| value.get("mediaType")?.as_str());
        descriptor.media_type = stated.unwrap_or(usual).to_owned();
    }
}

/// The index at `root`, if it is one.
pub fn index_of(content: &dyn Content, root: &Descriptor) -> Result<Option<Index>, TransferError> {
    let document = read(content, root)?;
    if document.manifest.is_some() { Ok(None) } else { index(&document).map(Some) }
}

fn index(document: &Document) -> Result<Index, TransferError> {
    let digest = document.descriptor.digest;
    serde_json::from_slice(&document.bytes).map_err(|source| TransferError::Malformed {
        what: "index",
        digest,
        source,
    })
}

/// The manifest for a platform.
fn choose(
    content: &dyn Content,
    root: &Descriptor,
    platform: &Platform,
) -> Result<Descriptor, TransferError> {
    let mut descriptor = root.clone();
    for _ in 0..=MAX_DEPTH {
        let document = read(content, &descriptor)?;
        if document.manifest.is_some() {
            return Ok(document.descriptor);
        }
        let index = index(&document)?;
        let chosen = index.choose(platform).ok_or_else(|| {
            let platforms = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
            let known = platforms.filter(|platform| platform.os != "unknown");
            let mut have: Vec<String> = known.map(Platform::to_string).collect();
            have.dedup();
            let have = if have.is_empty() { "none that is told".to_owned() } else { have.join(", ") };
            TransferError::NoPlatform { wanted: platform.to_string(), have }
        })?;
        descriptor = chosen.clone();
    }
    Err(TransferError::Nested)
}
