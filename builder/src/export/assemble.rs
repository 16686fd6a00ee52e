//! Config, manifest and index of a built image.
//!
//! Invariants: the number of layers equals the number of history entries without `empty_layer` (semantics fact 90);
//! with an epoch nothing made by this build is later than it, and no clock is read.

use jiff::Timestamp;

use super::attest::BuiltAttestation;
use super::layers::ExportedLayer;
use super::merge::{Exported, Merged};
use super::spec::OutputSpec;
use crate::base::digest::Digest;
use crate::image::config::{History, ImageConfig, RootFs};
use crate::image::manifest::{Descriptor, Index, Manifest, media_type, to_bytes};
use crate::image::platform::Platform;
use crate::plan::graph::PlannedImage;
use crate::store::records::Trail;
use crate::store::{Store, StoreError};

/// An image of one platform whose blobs are in the store.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// Its platform.
    pub platform: Platform,
    /// The manifest's descriptor, with platform.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Digest of the config: the image id.
    pub config_digest: Digest,
    /// When it was made, as the config says.
    pub created: Option<String>,
}

/// What an output is about: one image, or an index of several.
#[derive(Debug, Clone)]
pub struct BuiltIndex {
    /// Manifest or index.
    pub descriptor: Descriptor,
    /// The images, in the order of `--platform`.
    pub images: Vec<BuiltImage>,
    /// What is said of them; with any there is an index, however few images there are (semantics fact 94).
    pub attestations: Vec<BuiltAttestation>,
}

impl BuiltIndex {
    /// Whether the root is an index rather than a manifest.
    pub fn is_index(&self) -> bool {
        self.images.len() != 1 || !self.attestations.is_empty()
    }

    /// Digests of everything below the root, each once, in a fixed order: root, manifests, configs, layers.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let mut all = vec![self.descriptor.clone()];
        for image in &self.images {
            all.push(image.descriptor.clone());
            all.push(image.manifest.config.clone());
            all.extend(image.manifest.layers.iter().cloned());
        }
        for attestation in &self.attestations {
            all.push(attestation.descriptor.clone());
            all.push(attestation.manifest.config.clone());
            all.extend(attestation.manifest.layers.iter().cloned());
        }
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|blob| seen.insert(blob.digest));
        all
    }

    /// Sum of the sizes of configs and layers.
    pub fn size_bytes(&self) -> u64 {
        self.blobs().iter().map(|blob| blob.size).sum()
    }
}

/// RFC 3339, whole seconds.
pub fn timestamp(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Makes config and manifest of one image.
pub fn image(
    store: &Store,
    planned: &PlannedImage,
    trail: &Trail,
    exported: Exported,
    epoch: Option<i64>,
    output: &OutputSpec,
) -> Result<BuiltImage, StoreError> {
    let Exported { layers, merged } = exported;
    let config = config(planned, trail, &layers, merged, epoch);
    let bytes = config.to_bytes();
    let config_digest = store.put_blob(&bytes)?;
    let docker = output.oci_media_types == Some(false);
    let mut manifest = Manifest {
        schema_version: 2,
        media_type: if docker { media_type::DOCKER_MANIFEST } else { media_type::OCI_MANIFEST }.to_owned(),
        config: Descriptor::new(
            if docker { media_type::DOCKER_CONFIG } else { media_type::OCI_CONFIG },
            config_digest,
            bytes.len() as u64,
        ),
        layers: layers.into_iter().map(|layer| layer.descriptor).collect(),
        annotations: super::spec::manifest_annotations(output, &planned.platform),
        extra: std::collections::BTreeMap::new(),
    };
    if docker {
        for layer in &mut manifest.layers {
            layer.media_type = docker_layer(&layer.media_type).to_owned();
        }
    }
    let bytes = to_bytes(&manifest);
    let digest = store.put_blob(&bytes)?;
    let mut descriptor = Descriptor::new(&manifest.media_type, digest, bytes.len() as u64);
    descriptor.platform = Some(planned.platform.clone());
    descriptor.annotations = super::spec::manifest_descriptor_annotations(output, &planned.platform);
    let (platform, created) = (planned.platform.clone(), config.created);
    Ok(BuiltImage { platform, descriptor, manifest, config_digest, created })
}

fn docker_layer(name: &str) -> &str {
    media_type::layer_to_docker(name).unwrap_or(name)
}

/// One image by itself, several under an index, and likewise one of which something is said.
pub fn index(
    store: &Store,
    images: Vec<BuiltImage>,
    attestations: Vec<BuiltAttestation>,
    output: &OutputSpec,
) -> Result<BuiltIndex, StoreError> {
    if let ([only], []) = (&images[..], &attestations[..]) {
        return Ok(BuiltIndex { descriptor: only.descriptor.clone(), images, attestations });
    }
    let of_images = images.iter().map(|image| image.descriptor.clone());
    let of_attestations = attestations.iter().map(|attestation| attestation.descriptor.clone());
    let mut index = Index::new(of_images.chain(of_attestations).collect());
    if output.oci_media_types == Some(false) {
        index.media_type = media_type::DOCKER_INDEX.to_owned();
    }
    index.annotations = super::spec::index_annotations(output);
    let bytes = to_bytes(&index);
    let digest = store.put_blob(&bytes)?;
    let mut descriptor = Descriptor::new(&index.media_type, digest, bytes.len() as u64);
    descriptor.annotations = super::spec::index_descriptor_annotations(output);
    Ok(BuiltIndex { descriptor, images, attestations })
}

fn config(
    planned: &PlannedImage,
    trail: &Trail,
    layers: &[ExportedLayer],
    merged: Option<Merged>,
    epoch: Option<i64>,
) -> ImageConfig {
    let clamp = |seconds: i64| epoch.map_or(seconds, |epoch| seconds.min(epoch));
    let mut config = planned.config.clone();
    config.rootfs =
        RootFs { kind: "layers".to_owned(), diff_ids: layers.iter().map(|l| l.diff_id).collect() };
    let mut history = planned.base_history.clone();
    let base_entries = history.len();
    let mut steps = trail.iter();
    for entry in &planned.history {
        let step = entry.vertex.and_then(|_| steps.next());
        history.push(History {
            created: step.map(|step| timestamp(clamp(step.created))),
            created_by: entry.created_by.clone(),
            author: String::new(),
            comment: entry.comment.clone(),
            empty_layer: !step.is_some_and(|step| step.added_layer),
        });
    }
    fill_times(&mut history[base_entries..]);
    balance(&mut history, merged.map_or(layers.len(), |merged| merged.before));
    if let Some(merged) = merged {
        tell_merged(&mut history, merged, layers.len());
    }
    // The newest time that is known; an image of metadata alone has the base's, or none (semantics fact 91).
    config.created = match epoch {
        Some(epoch) if history.len() > base_entries => Some(timestamp(epoch)),
        _ => history.iter().rev().find_map(|entry| entry.created.clone()),
    };
    if let Some(epoch) = epoch {
        for entry in history.iter_mut().skip(base_entries).filter(|entry| entry.created.is_none()) {
            entry.created = Some(timestamp(epoch));
        }
    }
    config.history = history;
    config
}

/// What became one layer has none any more; the one that it became comes last (docker's --squash tells it so).
fn tell_merged(history: &mut Vec<History>, merged: Merged, layers: usize) {
    let filled = history.iter_mut().filter(|entry| !entry.empty_layer);
    for entry in filled.skip(merged.kept) {
        entry.empty_layer = true;
    }
    if layers > merged.kept {
        history.push(History {
            created: history.iter().rev().find_map(|entry| entry.created.clone()),
            created_by: "merge".to_owned(),
            comment: format!("kiln: {} layers as one", merged.before - merged.kept),
            ..History::default()
        });
    }
}

/// Metadata entries take the time of the next entry that has one, the last ones that of the one before.
fn fill_times(history: &mut [History]) {
    let mut next = None;
    for entry in history.iter_mut().rev() {
        match &entry.created {
            Some(created) => next = Some(created.clone()),
            None => entry.created.clone_from(&next),
        }
    }
    let mut last = None;
    for entry in history.iter_mut() {
        match &entry.created {
            Some(created) => last = Some(created.clone()),
            None => entry.created.clone_from(&last),
        }
    }
}

/// Makes the history agree with the layers: a base image may have layers that no entry tells of, or the other way
/// round (semantics fact 90).
fn balance(history: &mut Vec<History>, layers: usize) {
    let told = history.iter().filter(|entry| !entry.empty_layer).count();
    if told > layers {
        let surplus = told - layers;
        for entry in history.iter_mut().filter(|entry| !entry.empty_layer).take(surplus) {
            entry.empty_layer = true;
        }
    }
    for _ in told..layers {
        history.insert(
            0,
            History {
                created_by: "unknown".to_owned(),
                comment: "kiln: layer without history".to_owned(),
                ..History::default()
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(empty_layer: bool, created: Option<&str>) -> History {
        History { empty_layer, created: created.map(str::to_owned), ..History::default() }
    }

    #[test]
    fn history_agrees_with_layers() {
        let mut history = vec![entry(false, None), entry(true, None), entry(false, None)];
        balance(&mut history, 1);
        assert_eq!(history.iter().map(|e| e.empty_layer).collect::<Vec<_>>(), [true, true, false]);
        balance(&mut history, 3);
        assert_eq!(history.iter().filter(|e| !e.empty_layer).count(), 3);
    }

    #[test]
    fn merged_layers_have_one_entry() {
        let mut history =
            vec![entry(false, None), entry(false, Some("b")), entry(true, None), entry(false, None)];
        tell_merged(&mut history, Merged { kept: 1, before: 3 }, 2);
        assert_eq!(
            history.iter().map(|e| e.empty_layer).collect::<Vec<_>>(),
            [false, true, true, true, false]
        );
        assert_eq!(history[4].created.as_deref(), Some("b"));
        assert_eq!(history[4].comment, "kiln: 2 layers as one");
        // Layers that take back one another leave nothing to tell of.
        let mut history = vec![entry(false, None), entry(false, None), entry(false, None)];
        tell_merged(&mut history, Merged { kept: 1, before: 3 }, 1);
        assert_eq!(history.iter().map(|e| e.empty_layer).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn missing_times_come_from_neighbours() {
        let mut history = vec![entry(true, None), entry(false, Some("b")), entry(true, None)];
        fill_times(&mut history);
        assert!(history.iter().all(|e| e.created.as_deref() == Some("b")));
    }

    #[test]
    fn timestamps_are_whole_seconds() {
        assert_eq!(timestamp(1_000_000_000), "2001-09-09T01:46:40Z");
    }
}
