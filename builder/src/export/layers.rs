//! Layers of a result as blobs in the store.
//!
//! Invariants:
//! - a layer that came with a base image keeps its bytes unless another compression is forced;
//! - a layer of this build is written once for each epoch, compressed once for each compressor, and remembered;
//! - diff_id and blob digest are computed while the bytes are produced (one pass over the files).

use std::io::{self, Write as _};

use crate::base::cancel::CancelToken;
use crate::base::digest::DiffId;
use crate::image::manifest::{Descriptor, media_type};
use crate::layer::blob::LayerSink;
use crate::layer::compress::{self, Compression};
use crate::snapshot::diff;
use crate::snapshot::overlay::{SnapshotError, Snapshots};
use crate::store::records::{BlobRecord, FsState, LayerRef};
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
}

/// A layer ready for a manifest.
#[derive(Debug, Clone)]
pub struct ExportedLayer {
    /// For the config.
    pub diff_id: DiffId,
    /// For the manifest.
    pub descriptor: Descriptor,
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
    let mut exported = Vec::with_capacity(state.layers.len());
    for index in 0..state.layers.len() {
        if options.cancel.is_cancelled() {
            return Err(LayerError::Cancelled);
        }
        let (below, layer) = (&state.layers[..index], &state.layers[index]);
        exported.push(one(store, snapshots, below, layer, options)?);
    }
    Ok(exported)
}

fn one(
    store: &Store,
    snapshots: &Snapshots<'_>,
    below: &[LayerRef],
    layer: &LayerRef,
    options: &LayerOptions,
) -> Result<ExportedLayer, LayerError> {
    let database = store.database();
    let compressor = options.compression.compressor_id();
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
                return Ok(ExportedLayer { diff_id, descriptor: descriptor(&blob) });
            }
        }
        if let Some(blob) = database.blob(&diff_id, "original")? {
            return recompress(store, &diff_id, &blob, options);
        }
    }
    write(store, snapshots, below, layer, options)
}

fn descriptor(blob: &BlobRecord) -> Descriptor {
    Descriptor::new(&blob.media_type, blob.digest, blob.size_bytes)
}

fn sink(
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
    let mut out = Stoppable { inner: &mut sink, cancel: &options.cancel };
    diff::write_layer(&upper, view.as_ref(), how, &mut out)?;
    let exported = keep(store, incoming, sink, options)?;
    store.database().add_layer(&layer.snapshot, options.epoch, &exported.diff_id)?;
    Ok(exported)
}

fn recompress(
    store: &Store,
    diff_id: &DiffId,
    blob: &BlobRecord,
    options: &LayerOptions,
) -> Result<ExportedLayer, LayerError> {
    let file = io::BufReader::with_capacity(256 * 1024, store.open_blob(&blob.digest)?);
    let mut plain = compress::decompressor(file).map_err(LayerError::Compress)?;
    let (incoming, mut sink) = sink(store, options)?;
    let mut out = Stoppable { inner: &mut sink, cancel: &options.cancel };
    io::copy(&mut plain, &mut out).map_err(LayerError::Compress)?;
    sink.flush().map_err(LayerError::Compress)?;
    let exported = keep(store, incoming, sink, options)?;
    if exported.diff_id != *diff_id {
        return Err(StoreError::WrongDigest { expected: diff_id.0, actual: exported.diff_id.0 }.into());
    }
    Ok(exported)
}

/// Refuses to write once the build was stopped.
struct Stoppable<'a, W> {
    inner: W,
    cancel: &'a CancelToken,
}

impl<W: io::Write> io::Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn keep(
    store: &Store,
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
    store.database().add_blob(&done.diff_id, &options.compression.compressor_id(), &blob)?;
    Ok(ExportedLayer { diff_id: done.diff_id, descriptor: descriptor(&blob) })
}
