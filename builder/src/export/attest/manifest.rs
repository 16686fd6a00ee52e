//! Where attestations are in an image: in a manifest of their own beside the one that they are about (BuildKit,
//! docs/attestations/attestation-storage.md; semantics fact 94).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::statement::Statement;
use crate::base::digest::Digest;
use crate::image::manifest::{Descriptor, Manifest, media_type, to_bytes};
use crate::image::platform::Platform;
use crate::store::{Store, StoreError};

const IN_TOTO: &str = "application/vnd.in-toto+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const ARTIFACT_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// Attestations of an image whose blobs are in the store.
#[derive(Debug, Clone)]
pub struct BuiltAttestation {
    /// The manifest's descriptor as an index has it.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
}

/// Puts statements about the image `target` into the store. As an artifact, the manifest names the image as its subject,
/// so that registries list it among the image's referrers; else it looks like an image of no platform, which any registry
/// takes.
pub fn manifest(
    store: &Store,
    statements: &[Statement],
    target: &Descriptor,
    as_artifact: bool,
) -> Result<BuiltAttestation, StoreError> {
    let mut layers = Vec::new();
    for statement in statements {
        let bytes = statement.to_bytes();
        let mut layer = Descriptor::new(IN_TOTO, store.put_blob(&bytes)?, bytes.len() as u64);
        layer.annotations.insert(PREDICATE_TYPE.to_owned(), statement.predicate_type.to_owned());
        layers.push(layer);
    }
    let (config, extra) = if as_artifact {
        let mut config = Descriptor::new(EMPTY_TYPE, store.put_blob(EMPTY)?, EMPTY.len() as u64);
        config.extra.insert("data".to_owned(), json!("e30="));
        let subject = Descriptor::new(&target.media_type, target.digest, target.size);
        (
            config,
            BTreeMap::from([
                ("artifactType".to_owned(), json!(ARTIFACT_TYPE)),
                ("subject".to_owned(), json!(subject)),
            ]),
        )
    } else {
        let bytes = config_bytes(&layers);
        (
            Descriptor::new(media_type::OCI_CONFIG, store.put_blob(&bytes)?, bytes.len() as u64),
            BTreeMap::new(),
        )
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        config,
        layers,
        annotations: BTreeMap::new(),
        extra,
    };
    let bytes = to_bytes(&manifest);
    let mut descriptor = Descriptor::new(&manifest.media_type, store.put_blob(&bytes)?, bytes.len() as u64);
    descriptor.platform = Some(Platform::new("unknown", "unknown", ""));
    descriptor.annotations = BTreeMap::from([
        ("vnd.docker.reference.digest".to_owned(), target.digest.to_string()),
        ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
    ]);
    Ok(BuiltAttestation { descriptor, manifest })
}

/// The config of an image of no platform, whose layers are the statements.
fn config_bytes(layers: &[Descriptor]) -> Vec<u8> {
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
    let config: Value = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    serde_json::to_vec(&config).expect("invariant: a JSON value always serialises")
}
