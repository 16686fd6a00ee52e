//! OCI artifacts as caches use them: a manifest whose config says what it is about and whose layers are data.
//!
//! Invariants: a config is verified against its digest and bounded, wherever it lies; blobs are there before the
//! manifest is.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Cache, CacheError, Tag};
use crate::base::digest::Digest;
use crate::image::manifest::{Descriptor, Index, Manifest, media_type, to_bytes};

/// Largest config that lies inside its manifest as well, which saves a request.
pub(super) const MAX_INLINE_BYTES: usize = 64 * 1024;
/// OCI image spec, "Guidance for an Empty Descriptor": stands for the layers of an artifact without any.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// An artifact that was read.
pub(super) struct Artifact {
    /// For people.
    pub(super) place: String,
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Digest>,
}

/// Reads an artifact of type `kind` with a config of at most `limit` bytes.
pub(super) fn read(
    cache: &dyn Cache,
    tag: &Tag,
    kind: &str,
    limit: u64,
) -> Result<Option<Artifact>, CacheError> {
    let Some(bytes) = cache.manifest(tag)? else { return Ok(None) };
    let place = format!("{}:{tag}", cache.name());
    let wrong = |reason| CacheError::Artifact { place: place.clone(), reason };
    let parts =
        Parts::of(&bytes).map_err(|e| CacheError::Record { place: place.clone(), source: e.into() })?;
    let Some((config, layers)) = parts.split(kind) else {
        return Err(wrong("it has another media type"));
    };
    if config.size > limit {
        return Err(wrong("its record is too large"));
    }
    let config = match inline(&config) {
        Some(bytes) => bytes,
        None => {
            let mut bytes = Vec::new();
            // Only the bytes are fetched that the descriptor states, from nowhere but the cache itself.
            let config = Descriptor::new(&config.media_type, config.digest, config.size);
            cache.blob(&config, &mut bytes, &|_| ())?;
            bytes
        }
    };
    let layers = layers.iter().map(|layer| layer.digest);
    let layers = layers.filter(|layer| *layer != Digest::of(EMPTY)).collect();
    Ok(Some(Artifact { place, config, layers }))
}

/// How an artifact is written. Each is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// An OCI image manifest.
    #[default]
    Manifest,
    /// An OCI index whose entries are the layers and, last, the config: BuildKit's older form, for registries that do not
    /// take manifests of unknown types.
    Index,
    /// The same as a manifest list with docker's media types.
    DockerList,
}

/// What an artifact names.
pub(super) enum Parts {
    Manifest(Box<Manifest>),
    Index(Index),
}

impl Parts {
    /// Reads either form.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Shape {
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = serde_json::from_slice(bytes)?;
        Ok(match shape.manifests {
            Some(_) => Self::Index(serde_json::from_slice(bytes)?),
            None => Self::Manifest(Box::new(serde_json::from_slice(bytes)?)),
        })
    }

    /// The config, which has to be of this type, and the layers.
    fn split(self, kind: &str) -> Option<(Descriptor, Vec<Descriptor>)> {
        match self {
            Self::Manifest(manifest) => {
                (manifest.config.media_type == kind).then_some((manifest.config, manifest.layers))
            }
            Self::Index(mut index) => {
                let config = index.manifests.pop().filter(|config| config.media_type == kind)?;
                Some((config, index.manifests))
            }
        }
    }

    /// All blobs.
    pub(super) fn blobs(&self) -> Vec<&Descriptor> {
        match self {
            Self::Manifest(manifest) => manifest.layers.iter().chain([&manifest.config]).collect(),
            Self::Index(index) => index.manifests.iter().collect(),
        }
    }
}

/// The content that a descriptor carries (OCI image spec, `descriptor.md`, `data`); none when it is not what the
/// digest says.
fn inline(descriptor: &Descriptor) -> Option<Vec<u8>> {
    let text = descriptor.extra.get("data")?.as_str()?;
    let bytes = BASE64.decode(text).ok()?;
    (bytes.len() as u64 == descriptor.size && Digest::of(&bytes) == descriptor.digest).then_some(bytes)
}

/// What becomes of the config and of the blob that stands for no layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Small {
    /// They are written unless they are there.
    Missing,
    /// They are written: the cache said that it had them, and then lacked something.
    Again,
}

/// Writes an artifact of type `kind`, whose layers are there, under `tags`.
pub(super) fn write(
    cache: &dyn Cache,
    tags: &[Tag],
    kind: &str,
    config: &[u8],
    mut layers: Vec<Descriptor>,
    (form, small): (Form, Small),
) -> Result<(), CacheError> {
    let put_bytes = |kind: &str, bytes: &[u8]| {
        let blob = Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64);
        if cache.carries_configs() && bytes.len() <= MAX_INLINE_BYTES {
            return Ok(blob);
        }
        if small == Small::Again || !cache.has_blob(&blob, &[])? {
            cache.put_blob(&blob, &bytes.to_vec())?;
        }
        Ok::<_, CacheError>(blob)
    };
    let bytes = config;
    let mut config = put_bytes(kind, bytes)?;
    if bytes.len() <= MAX_INLINE_BYTES {
        config.extra.insert("data".to_owned(), BASE64.encode(bytes).into());
    }
    // Registries want at least one.
    if layers.is_empty() && form == Form::Manifest && !cache.carries_configs() {
        layers.push(put_bytes(EMPTY_TYPE, EMPTY)?);
    }
    let (kind, bytes) = match form {
        Form::Manifest => {
            let manifest = Manifest {
                schema_version: 2,
                media_type: media_type::OCI_MANIFEST.to_owned(),
                config,
                layers,
                annotations: BTreeMap::new(),
                extra: BTreeMap::from([("artifactType".to_owned(), kind.into())]),
            };
            (media_type::OCI_MANIFEST, to_bytes(&manifest))
        }
        Form::Index | Form::DockerList => {
            layers.push(config);
            let mut index = Index::new(layers);
            if form == Form::DockerList {
                media_type::DOCKER_INDEX.clone_into(&mut index.media_type);
                for entry in &mut index.manifests {
                    if let Some(name) = media_type::layer_to_docker(&entry.media_type) {
                        name.clone_into(&mut entry.media_type);
                    }
                }
            }
            let kind = if form == Form::Index { media_type::OCI_INDEX } else { media_type::DOCKER_INDEX };
            (kind, to_bytes(&index))
        }
    };
    tags.iter().try_for_each(|tag| cache.put_manifest(tag, kind, &bytes))
}
