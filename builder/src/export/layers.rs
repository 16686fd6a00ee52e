//! Layers of a result as blobs in the store.
//!
//! Invariants:
//! - a layer that came with a base image keeps its bytes unless another compression is forced;
//! - a layer of this build is written once for each epoch, compressed once for each compressor, and remembered;
//! - a layer of a remote cache that is not here is described from its record, and fetched only when its bytes are
//!   wanted or have to become others;
//! - diff_id and blob digest are computed while the bytes are produced (one pass over the files).

use std::io::{self, Write as _};

use crate::base::cancel::CancelToken;
use crate::base::digest::DiffId;
use crate::base::events::{EventSink, Meter, StepNumber};
use crate::base::parallel;
use crate::image::manifest::{Descriptor, media_type};
use crate::layer::blob::LayerSink;
use crate::layer::compress::{self, Compression};
use crate::layer::estargz::EstargzError;
use crate::snapshot::diff;
use crate::snapshot::overlay::{SnapshotError, Snapshots};
use crate::snapshot::pending::PendingBlob;
use crate::store::records::{BlobRecord, FsState, LayerRef, SnapshotId};
use crate::store::{Store, StoreError};

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LayerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Diff(#[from] diff::DiffError),
    #[error("cannot compress a layer")]
    Compress(#[source] io::Error),
    #[error(transparent)]
    Estargz(#[from] EstargzError),
    #[error("cancelled")]
    Cancelled,
}

/// How layers are written.
#[derive(Debug, Clone)]
pub struct LayerOptions {
    /// Modification times are not later than this.
    pub epoch: Option<i64>,
    /// For layers of this build, and for all with `force`.
    pub compression: Compression,
    /// Also compress base layers anew.
    pub force: bool,
    /// Compression threads.
    pub threads: usize,
    /// Stops in the middle of a layer, too.
    pub cancel: CancelToken,
    /// What to do about blobs that are not here.
    pub absent: Absent,
    /// Where the bytes of layers that are written are reported, as those of which step.
    pub progress: Option<(EventSink, StepNumber)>,
}

impl LayerOptions {
    fn meter(&self, what: impl Into<String>) -> Option<Meter> {
        self.progress.as_ref().map(|(events, step)| Meter::new(events, *step, what))
    }
}

/// What to do about a blob that a remote cache has and this store has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Fetch it: all blobs are in the store afterwards.
    Fetch,
    /// Leave it there: whoever needs the bytes calls [`Snapshots::fetch_pending`].
    Leave,
}

/// A layer ready for a manifest.
#[derive(Debug, Clone)]
pub struct ExportedLayer {
    /// For the config.
    pub diff_id: DiffId,
    /// For the manifest.
    pub descriptor: Descriptor,
    /// What made the blob: `original` when it came with an image.
    pub compressor: String,
    /// Whose layer it is.
    pub snapshot: SnapshotId,
}

fn oci_media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => media_type::OCI_LAYER,
        Compression::Gzip { .. } => media_type::OCI_LAYER_GZIP,
        Compression::Zstd { .. } => media_type::OCI_LAYER_ZSTD,
    }
}

/// All layers of a file system, bottom first, as blobs in the store.
pub fn export(
    store: &Store,
    snapshots: &Snapshots<'_>,
    state: &FsState,
    options: &LayerOptions,
) -> Result<Vec<ExportedLayer>, LayerError> {
    export_above(store, snapshots, state, 0, options)
}

/// The layers of a file system above the `bottom` lowest.
pub fn export_above(
    store: &Store,
    snapshots: &Snapshots<'_>,
    state: &FsState,
    bottom: usize,
    options: &LayerOptions,
) -> Result<Vec<ExportedLayer>, LayerError> {
    if options.absent == Absent::Fetch {
        fetch_absent(snapshots, state.layers.get(bottom..).unwrap_or_default(), options)?;
    }
    let mut exported = Vec::with_capacity(state.layers.len());
    for index in bottom..state.layers.len() {
        if options.cancel.is_cancelled() {
            return Err(LayerError::Cancelled);
        }
        let (below, layer) = (&state.layers[..index], &state.layers[index]);
        exported.push(one(store, snapshots, below, layer, options)?);
    }
    Ok(exported)
}

pub(super) fn one(
    store: &Store,
    snapshots: &Snapshots<'_>,
    below: &[LayerRef],
    layer: &LayerRef,
    options: &LayerOptions,
) -> Result<ExportedLayer, LayerError> {
    let database = store.database();
    let compressor = options.compression.compressor_id();
    if let Some(pending) = snapshots.pending_blob(&layer.snapshot) {
        // `None`: whatever the epoch; else the one that is wanted. Otherwise it has to be written from its files.
        if pending.epoch.is_none_or(|epoch| epoch == options.epoch) {
            return absent(store, snapshots, layer, pending, options);
        }
    }
    if let Some(diff_id) = database.layer(&layer.snapshot, options.epoch)? {
        let wanted = if options.force {
            [compressor.as_str(), compressor.as_str()]
        } else {
            ["original", &compressor]
        };
        for name in wanted {
            if let Some(blob) = database.blob(&diff_id, name)?
                && store.blob_size(&blob.digest) == Some(blob.size_bytes)
            {
                return Ok(exported(&layer.snapshot, diff_id, &blob, name));
            }
        }
        if let Some(blob) = database.blob(&diff_id, "original")? {
            if store.blob_size(&blob.digest) != Some(blob.size_bytes) {
                return Err(StoreError::DamagedBlob { digest: blob.digest }.into());
            }
            return recompress(store, layer, &diff_id, &blob, options);
        }
    }
    write(store, snapshots, below, layer, options)
}

/// Fetches the blobs that will do as they are, a few at a time.
fn fetch_absent(
    snapshots: &Snapshots<'_>,
    layers: &[LayerRef],
    options: &LayerOptions,
) -> Result<(), LayerError> {
    const AT_ONCE: usize = 4;
    let wanted = layers.iter().filter(|layer| {
        snapshots.pending_blob(&layer.snapshot).is_some_and(|pending| {
            pending.epoch.is_none_or(|epoch| epoch == options.epoch) && will_do(&pending.compressor, options)
        })
    });
    let wanted: Vec<&LayerRef> = wanted.collect();
    parallel::try_map(&wanted, AT_ONCE, |layer| snapshots.fetch_pending(&layer.snapshot))?;
    Ok(())
}

/// Whether a blob need not be compressed again.
fn will_do(compressor: &str, options: &LayerOptions) -> bool {
    compressor == options.compression.compressor_id() || compressor == "original" && !options.force
}

/// A layer that is not here.
fn absent(
    store: &Store,
    snapshots: &Snapshots<'_>,
    layer: &LayerRef,
    pending: PendingBlob,
    options: &LayerOptions,
) -> Result<ExportedLayer, LayerError> {
    let PendingBlob { diff_id, compressor, blob, .. } = pending;
    let wanted = options.compression.compressor_id();
    if will_do(&compressor, options) {
        if options.absent == Absent::Fetch {
            snapshots.fetch_pending(&layer.snapshot)?;
        }
        return Ok(exported(&layer.snapshot, diff_id, &blob, &compressor));
    }
    if let Some(blob) = store.database().blob(&diff_id, &wanted)?
        && store.blob_size(&blob.digest) == Some(blob.size_bytes)
    {
        return Ok(exported(&layer.snapshot, diff_id, &blob, &wanted));
    }
    snapshots.fetch_pending(&layer.snapshot)?;
    recompress(store, layer, &diff_id, &blob, options)
}

pub(super) fn exported(
    snapshot: &SnapshotId,
    diff_id: DiffId,
    blob: &BlobRecord,
    compressor: &str,
) -> ExportedLayer {
    ExportedLayer {
        diff_id,
        descriptor: descriptor(blob),
        compressor: compressor.to_owned(),
        snapshot: snapshot.clone(),
    }
}

pub(super) fn descriptor(blob: &BlobRecord) -> Descriptor {
    Descriptor::new(&blob.media_type, blob.digest, blob.size_bytes)
}

pub(super) fn sink(
    store: &Store,
    options: &LayerOptions,
) -> Result<(crate::store::IncomingBlob, LayerSink<std::fs::File>), LayerError> {
    let incoming = store.incoming_blob()?;
    let file = std::fs::OpenOptions::new().write(true).open(incoming.path()).map_err(LayerError::Compress)?;
    let sink = LayerSink::new(file, options.compression, options.threads).map_err(LayerError::Compress)?;
    Ok((incoming, sink))
}

fn write(
    store: &Store,
    snapshots: &Snapshots<'_>,
    below: &[LayerRef],
    layer: &LayerRef,
    options: &LayerOptions,
) -> Result<ExportedLayer, LayerError> {
    // Its bytes are its registry's, and no other ones will do.
    if let Some(diff_id) = store.database().image_layer(&layer.snapshot)? {
        return Err(StoreError::LostLayer { diff_id }.into());
    }
    let upper = snapshots.layer_dir(&layer.snapshot)?;
    let view = if below.is_empty() || layer.standalone { None } else { Some(snapshots.view(below)?) };
    let (incoming, mut sink) = sink(store, options)?;
    let how = diff::LayerOptions { epoch: options.epoch, observer: None };
    let meter = options.meter(format!("compressing layer {}", below.len() + 1));
    let mut out = Stoppable { inner: &mut sink, cancel: &options.cancel, meter: meter.as_ref() };
    diff::write_layer(&upper, view.as_ref(), how, &mut out)?;
    meter.into_iter().for_each(Meter::finish);
    let exported = keep(store, &layer.snapshot, incoming, sink, options)?;
    store.database().add_layer(&layer.snapshot, options.epoch, &exported.diff_id)?;
    Ok(exported)
}

fn recompress(
    store: &Store,
    layer: &LayerRef,
    diff_id: &DiffId,
    blob: &BlobRecord,
    options: &LayerOptions,
) -> Result<ExportedLayer, LayerError> {
    let file = io::BufReader::with_capacity(256 * 1024, store.open_blob(&blob.digest)?);
    let mut plain = compress::decompressor(file).map_err(LayerError::Compress)?;
    let (incoming, mut sink) = sink(store, options)?;
    let meter = options.meter(format!("compressing sha256:{} anew", blob.digest.short()));
    let mut out = Stoppable { inner: &mut sink, cancel: &options.cancel, meter: meter.as_ref() };
    io::copy(&mut plain, &mut out).map_err(|error| match store.check_blob(&blob.digest) {
        Some(_) => StoreError::DamagedBlob { digest: blob.digest }.into(),
        None => LayerError::Compress(error),
    })?;
    sink.flush().map_err(LayerError::Compress)?;
    meter.into_iter().for_each(Meter::finish);
    let exported = keep(store, &layer.snapshot, incoming, sink, options)?;
    if exported.diff_id != *diff_id {
        return Err(StoreError::WrongDigest { expected: diff_id.0, actual: exported.diff_id.0 }.into());
    }
    Ok(exported)
}

/// Refuses to write once the build was stopped, and reports what is written.
pub(super) struct Stoppable<'a, W> {
    pub(super) inner: W,
    pub(super) cancel: &'a CancelToken,
    pub(super) meter: Option<&'a Meter>,
}

impl<W: io::Write> io::Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let count = self.inner.write(bytes)?;
        if let Some(meter) = self.meter {
            meter.add(count as u64);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub(super) fn keep(
    store: &Store,
    snapshot: &SnapshotId,
    incoming: crate::store::IncomingBlob,
    sink: LayerSink<std::fs::File>,
    options: &LayerOptions,
) -> Result<ExportedLayer, LayerError> {
    let (_, done) = sink.finish().map_err(LayerError::Compress)?;
    store.adopt_blob(incoming, &done.digest)?;
    let blob = BlobRecord {
        media_type: oci_media_type(options.compression).to_owned(),
        digest: done.digest,
        size_bytes: done.size_bytes,
    };
    let compressor = options.compression.compressor_id();
    store.database().add_blob(&done.diff_id, &compressor, &blob)?;
    Ok(exported(snapshot, done.diff_id, &blob, &compressor))
}
