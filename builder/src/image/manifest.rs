//! Manifests, indexes and descriptors (OCI image spec `manifest.md`, `image-index.md`, `descriptor.md`).
//!
//! Invariants: both OCI and docker media types are read; bytes are made in [`to_bytes`] only, indented by two blanks
//! without a final newline as BuildKit writes them (semantics fact 89).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::digest::Digest;
use crate::image::platform::Platform;

/// Media types that kiln reads or writes.
#[allow(missing_docs)]
pub mod media_type {
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    /// Docker's name of a layer's media type.
    pub fn layer_to_docker(name: &str) -> Option<&'static str> {
        Some(match name {
            OCI_LAYER => DOCKER_LAYER,
            OCI_LAYER_GZIP => DOCKER_LAYER_GZIP,
            OCI_LAYER_ZSTD => DOCKER_LAYER_ZSTD,
            _ => return None,
        })
    }

    /// The OCI name of a layer's media type, whichever family it is written in.
    pub fn layer_to_oci(name: &str) -> Option<&'static str> {
        Some(match name {
            OCI_LAYER | DOCKER_LAYER => OCI_LAYER,
            OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => OCI_LAYER_GZIP,
            OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => OCI_LAYER_ZSTD,
            "application/vnd.oci.image.layer.nondistributable.v1.tar" => OCI_LAYER,
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => OCI_LAYER_GZIP,
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" => OCI_LAYER_ZSTD,
            _ => return None,
        })
    }
}

/// Points to a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Keys that kiln does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A plain descriptor.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            extra: BTreeMap::new(),
        }
    }
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    pub config: Descriptor,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// An index (manifest list).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Index {
    /// An OCI index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.to_owned(),
            manifests,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        }
    }

    /// The entry that serves `platform` best. Entries without a platform and attestations
    /// (`unknown/unknown`) are only taken when nothing states one.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let stated =
            self.manifests.iter().filter_map(|m| Some((platform.distance(m.platform.as_ref()?)?, m)));
        stated.min_by_key(|(distance, _)| *distance).map(|(_, m)| m).or_else(|| match &self.manifests[..] {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        })
    }
}

/// The bytes of a manifest or an index.
pub fn to_bytes<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(document).expect("invariant: manifests and indexes always serialise")
}
