//! Images to look into: kiln's own by name, OCI layouts and archives by path.
//!
//! Invariants: manifest and config are verified when they are read, layers while they are read.

use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use super::CompareError;
use crate::base::digest::{DiffId, Digest};
use crate::base::limits::MAX_METADATA_BYTES;
use crate::context::layout::{self, Layout, LayoutError, LayoutRef};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Index, Manifest};
use crate::image::platform::Platform;
use crate::image::reference::{Reference, ReferenceError};
use crate::layer::blob::VerifiedReader;
use crate::layer::compress;
use crate::store::{Store, StoreError};

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OpenError {
    #[error("`{text}` is no name of an image")]
    Name {
        text: String,
        #[source]
        source: ReferenceError,
    },
    #[error("there is no image `{name}` in the store, and no file of that name")]
    NotFound { name: String },
    #[error("the image `{name}` is not for {platform}; it is for {have}")]
    NoPlatform { name: String, platform: Platform, have: String },
    #[error("the image `{name}` is malformed: {reason}")]
    Malformed { name: String, reason: String },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image, its manifest and config read.
#[derive(Debug)]
pub struct Image<'a> {
    /// As it was asked for.
    pub name: String,
    /// Of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The config as it stands.
    pub config: Value,
    /// Of the layers, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// `created` of the config in seconds since 1970.
    pub created: Option<i64>,
    /// What it is for.
    pub platform: Platform,
    /// `created_by` of each layer.
    history: Vec<String>,
    blobs: Blobs<'a>,
}

#[derive(Debug)]
enum Blobs<'a> {
    Store(&'a Store),
    Layout(Layout),
}

impl<'a> Image<'a> {
    /// Opens an image: `oci-layout://PATH[:TAG]`, a path, or a name in the store.
    pub fn open(store: Option<&'a Store>, text: &str, platform: &Platform) -> Result<Self, OpenError> {
        if let Some(path) = text.strip_prefix(layout::PREFIX) {
            return Self::in_layout(text, path, platform);
        }
        // `./x` and `/x` can be no names; `x` and `x/y` can be both, and then the store's comes first.
        if !text.starts_with(['.', '/'])
            && let Some(found) = Self::in_store(store, text, platform)?
        {
            return Ok(found);
        }
        if LayoutRef::parse(text).path.exists() {
            return Self::in_layout(text, text, platform);
        }
        Err(OpenError::NotFound { name: text.to_owned() })
    }

    fn in_layout(name: &str, path: &str, platform: &Platform) -> Result<Self, OpenError> {
        let wanted = LayoutRef::parse(path);
        let layout = Layout::open(&wanted.path)?;
        let found = layout.find(&wanted, platform)?;
        let config = layout.blob_bytes(&found.manifest.config.digest)?;
        Self::read(name, found.descriptor.digest, found.manifest, &config, Blobs::Layout(layout))
    }

    fn in_store(
        store: Option<&'a Store>,
        text: &str,
        platform: &Platform,
    ) -> Result<Option<Self>, OpenError> {
        let reference: Reference = match text.parse() {
            Ok(reference) => reference,
            // A path, then.
            Err(_) if Path::new(text).exists() => return Ok(None),
            Err(source) => return Err(OpenError::Name { text: text.to_owned(), source }),
        };
        let Some(store) = store else { return Ok(None) };
        let name = reference.to_string();
        let named = store.database().images()?.into_iter().find(|image| image.name == name);
        let digest = match (named, reference.digest) {
            (Some(image), _) => image.digest,
            (None, Some(digest)) if store.blob_size(&digest).is_some() => digest,
            (None, _) => match store.database().resolved(&name, &platform.to_string())? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let malformed = |reason: serde_json::Error| OpenError::Malformed {
            name: text.to_owned(),
            reason: reason.to_string(),
        };
        let mut digest = digest;
        let mut bytes = store.read_blob(&digest, MAX_METADATA_BYTES)?;
        if layout::is_index(&Descriptor::new("", digest, 0), &bytes) {
            let index: Index = serde_json::from_slice(&bytes).map_err(malformed)?;
            let chosen = index.choose(platform).ok_or_else(|| OpenError::NoPlatform {
                name: text.to_owned(),
                platform: platform.clone(),
                have: index
                    .manifests
                    .iter()
                    .filter_map(|m| m.platform.as_ref())
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            })?;
            digest = chosen.digest;
            bytes = store.read_blob(&digest, MAX_METADATA_BYTES)?;
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(malformed)?;
        let config = store.read_blob(&manifest.config.digest, MAX_METADATA_BYTES)?;
        Self::read(text, digest, manifest, &config, Blobs::Store(store)).map(Some)
    }

    fn read(
        name: &str,
        digest: Digest,
        manifest: Manifest,
        config: &[u8],
        blobs: Blobs<'a>,
    ) -> Result<Self, OpenError> {
        let malformed = |reason: String| OpenError::Malformed { name: name.to_owned(), reason };
        let parsed = ImageConfig::from_bytes(config).map_err(|e| malformed(e.to_string()))?;
        let value = serde_json::from_slice(config).map_err(|e| malformed(e.to_string()))?;
        let (layers, diff_ids) = (manifest.layers.len(), parsed.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(malformed(format!(
                "its manifest has {layers} layers and its config {diff_ids} diff_ids"
            )));
        }
        let created = parsed.created.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let filled = parsed.history.iter().filter(|entry| !entry.empty_layer);
        Ok(Self {
            name: name.to_owned(),
            digest,
            manifest,
            config: value,
            created: created.map(jiff::Timestamp::as_second),
            platform: Platform::new(&parsed.os, &parsed.architecture, &parsed.variant),
            history: filled.map(|entry| entry.created_by.clone()).collect(),
            diff_ids: parsed.rootfs.diff_ids,
            blobs,
        })
    }

    /// What made a layer.
    pub fn created_by(&self, number: usize) -> Option<String> {
        self.history.get(number).cloned()
    }

    /// A layer as an uncompressed archive. Its blob is verified as far as it is read.
    pub(in crate::build) fn layer(&self, number: usize) -> Result<Box<dyn Read + Send + '_>, CompareError> {
        let missing =
            || OpenError::Malformed { name: self.name.clone(), reason: format!("no layer {number}") };
        let descriptor = self.manifest.layers.get(number).ok_or_else(missing)?;
        let blob: Box<dyn Read + Send + '_> = match &self.blobs {
            Blobs::Store(store) => Box::new(store.open_blob(&descriptor.digest).map_err(OpenError::from)?),
            Blobs::Layout(layout) => layout.blob(&descriptor.digest).map_err(OpenError::from)?,
        };
        let verified = VerifiedReader::new(blob, descriptor.digest, Some(descriptor.size));
        let buffered = io::BufReader::with_capacity(256 * 1024, verified);
        let plain = compress::decompressor(buffered).map_err(|source| self.unreadable(number, source))?;
        Ok(Box::new(io::BufReader::with_capacity(64 * 1024, plain)))
    }

    pub(in crate::build) fn unreadable(&self, number: usize, source: io::Error) -> CompareError {
        CompareError::Read { image: self.name.clone(), number, source }
    }
}
