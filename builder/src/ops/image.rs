//! FROM: the layers of an image as snapshots.
//!
//! Invariants: a layer's snapshot is found by its ChainID (OCI image spec, `config.md`), since the same diff on
//! other layers may need other implied directories; what is unpacked is hashed on the way and compared with the
//! diff_id of the config; only then is the blob on record as one of that layer.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::base::cancel::CancelToken;
use crate::base::digest::{DiffId, Digest, KeyHasher};
use crate::base::events::{Event, EventSink, StepNumber};
use crate::base::parallel;
use crate::image::manifest::{Descriptor, media_type};
use crate::layer::compress::decompressor;
use crate::plan::graph::{ImageLayer, ImageSpec, ResolvedImage};
use crate::snapshot::apply;
use crate::snapshot::overlay::{Begun, Snapshots};
use crate::store::records::{BlobRecord, FsState, LayerRef, SnapshotId, StepResult};
use crate::store::{IncomingBlob, Store};

use super::OpError;

/// Brings a layer's blob from wherever its image is.
pub trait LayerFetcher: Sync {
    /// Writes the blob into `incoming` and verifies its digest; the caller gives it its name.
    ///
    /// # Errors
    /// When it cannot be fetched or has another digest.
    fn fetch(
        &self,
        image: &ResolvedImage,
        layer: &ImageLayer,
        incoming: &IncomingBlob,
        progress: &dyn Fn(u64),
        cancel: &CancelToken,
    ) -> Result<(), OpError>;
}

/// What unpacking needs.
pub(super) struct Context<'a> {
    pub store: &'a Store,
    pub snapshots: &'a Snapshots<'a>,
    pub fetcher: &'a dyn LayerFetcher,
    pub events: &'a EventSink,
    pub cancel: &'a CancelToken,
    pub step: StepNumber,
}

/// ChainID of each layer.
pub(super) fn chain_ids(diff_ids: &[DiffId]) -> Vec<Digest> {
    let mut chain: Option<Digest> = None;
    diff_ids
        .iter()
        .map(|diff_id| {
            let next = match chain {
                None => diff_id.0,
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain = Some(next);
            next
        })
        .collect()
}

/// The file system of an image, fetched and unpacked where it is not there yet.
pub(super) fn execute(spec: &ImageSpec, context: &Context<'_>) -> Result<StepResult, OpError> {
    let chains = chain_ids(&spec.diff_ids);
    let database = context.store.database();
    let mut known: Vec<Option<SnapshotId>> = Vec::new();
    for chain in &chains {
        let snapshot = database.snapshot_of_chain(chain)?;
        let there = match &snapshot {
            Some(id) => context.snapshots.claim(id)?,
            None => false,
        };
        if snapshot.is_some() && !there {
            database.forget_chain(chain)?;
        }
        known.push(snapshot.filter(|_| there));
    }
    if let Some(image) = &spec.image {
        let missing: Vec<&ImageLayer> = image
            .layers
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(layer, _)| layer)
            .collect();
        fetch_all(image, &missing, context)?;
    }
    let mut layers: Vec<LayerRef> = Vec::new();
    for (index, chain) in chains.iter().enumerate() {
        let snapshot = match known[index].take() {
            Some(snapshot) => snapshot,
            None => unpack(spec, index, chain, &layers, context)?,
        };
        layers.push(LayerRef { snapshot, standalone: false });
    }
    Ok(StepResult::source(FsState { layers, identity: identity(&spec.diff_ids), claimed: None }))
}

/// Identity of an image's file system.
pub(super) fn identity(diff_ids: &[DiffId]) -> Digest {
    let mut hasher = KeyHasher::new("kiln/image/v1");
    for diff_id in diff_ids {
        hasher.digest(&diff_id.0);
    }
    hasher.finish()
}

/// Makes sure that the blobs of these layers are in the store, a few at a time.
fn fetch_all(image: &ResolvedImage, layers: &[&ImageLayer], context: &Context<'_>) -> Result<(), OpError> {
    const AT_ONCE: usize = 4;
    parallel::try_map(layers, AT_ONCE, |layer| fetch(image, layer, context)).map(drop)
}

/// Makes sure that the blob of a layer is in the store.
pub(super) fn fetch(image: &ResolvedImage, layer: &ImageLayer, context: &Context<'_>) -> Result<(), OpError> {
    let descriptor = &layer.descriptor;
    let store = context.store;
    if store.blob_size(&descriptor.digest) != Some(descriptor.size) {
        let incoming = store.incoming_blob()?;
        let progress = |done_bytes| {
            context.events.send(Event::Progress {
                step: context.step,
                what: format!("sha256:{}", descriptor.digest.short()),
                done_bytes,
                total_bytes: Some(descriptor.size),
            });
        };
        context.fetcher.fetch(image, layer, &incoming, &progress, context.cancel)?;
        store.adopt_blob(incoming, &descriptor.digest)?;
    }
    Ok(())
}

/// The blob of an image's layer as it is on record.
pub(super) fn blob_record(descriptor: &Descriptor) -> BlobRecord {
    let name = media_type::layer_to_oci(&descriptor.media_type).unwrap_or(media_type::OCI_LAYER_GZIP);
    BlobRecord { media_type: name.to_owned(), digest: descriptor.digest, size_bytes: descriptor.size }
}

fn unpack(
    spec: &ImageSpec,
    index: usize,
    chain: &Digest,
    below: &[LayerRef],
    context: &Context<'_>,
) -> Result<SnapshotId, OpError> {
    let diff_id = spec.diff_ids[index];
    let store = context.store;
    let blob = match spec.image.as_ref().and_then(|image| image.layers.get(index)) {
        Some(layer) => blob_record(&layer.descriptor),
        None => store
            .database()
            .blob(&diff_id, "original")?
            .ok_or_else(|| OpError::NoLayer { digest: diff_id.0, image: String::new() })?,
    };
    let begun = context.snapshots.begin(below)?;
    let id = unpack_into(begun, &blob.digest, diff_id, below, context)?;
    store.database().add_blob(&diff_id, "original", &blob)?;
    store.database().add_image_layer(&id, &diff_id)?;
    loop {
        let first = store.database().claim_chain(chain, &id)?;
        if first == id || context.snapshots.claim(&first)? {
            return Ok(first);
        }
        // Another process was first, and its snapshot has been removed since.
        store.database().forget_chain(chain)?;
    }
}

/// Unpacks a blob of the store as the layer on top of `below`, and commits it.
pub(super) fn unpack_into(
    begun: Begun,
    blob: &Digest,
    diff_id: DiffId,
    below: &[LayerRef],
    context: &Context<'_>,
) -> Result<SnapshotId, OpError> {
    let dir = context.snapshots.layer_dir_begun(&begun)?;
    let parents = below
        .iter()
        .rev()
        .map(|layer| context.snapshots.layer_dir(&layer.snapshot))
        .collect::<Result<Vec<_>, _>>()?;
    let file = context.store.open_blob(blob)?;
    let plain = decompressor(io::BufReader::with_capacity(256 * 1024, file))
        .map_err(|source| OpError::ReadLayer { digest: *blob, source })?;
    let mut hashed = Hashed { inner: plain, hasher: Sha256::new(), size_bytes: 0, cancel: context.cancel };
    let applied = apply::apply_layer(&mut hashed, &dir, &parents);
    if context.cancel.is_cancelled() {
        return Err(OpError::Cancelled);
    }
    let applied = applied.map_err(|source| OpError::Apply { digest: *blob, source })?;
    for warning in applied.warnings.kept {
        context.events.warn(warning.to_string());
    }
    let size_bytes = hashed.verify(blob, diff_id)?;
    let content = crate::base::digest::ContentDigest(diff_id.0);
    Ok(context.snapshots.commit(begun, &content, size_bytes)?)
}

/// Checks that a blob of the store is a layer with this diff_id, without unpacking it.
pub(super) fn verify(
    store: &Store,
    blob: &Digest,
    diff_id: DiffId,
    cancel: &CancelToken,
) -> Result<(), OpError> {
    let plain = decompressor(io::BufReader::with_capacity(256 * 1024, store.open_blob(blob)?))
        .map_err(|source| OpError::ReadLayer { digest: *blob, source })?;
    Hashed { inner: plain, hasher: Sha256::new(), size_bytes: 0, cancel }.verify(blob, diff_id).map(drop)
}

struct Hashed<'a, R> {
    inner: R,
    hasher: Sha256,
    size_bytes: u64,
    cancel: &'a CancelToken,
}

impl<R: Read> Hashed<'_, R> {
    /// Reads what is left, since whatever follows the end of the archive belongs to the diff_id too, and compares.
    /// Gives the size of the tar.
    fn verify(mut self, blob: &Digest, diff_id: DiffId) -> Result<u64, OpError> {
        let read = io::copy(&mut self, &mut io::sink());
        if self.cancel.is_cancelled() {
            return Err(OpError::Cancelled);
        }
        read.map_err(|source| OpError::ReadLayer { digest: *blob, source })?;
        let actual = DiffId(Digest::from_bytes(self.hasher.finalize().into()));
        if actual != diff_id {
            return Err(OpError::WrongDiffId { digest: *blob, expected: diff_id, actual });
        }
        Ok(self.size_bytes)
    }
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let count = self.inner.read(buf)?;
        self.hasher.update(&buf[..count]);
        self.size_bytes += count as u64;
        Ok(count)
    }
}
