//! Layers as eStargz (see [`crate::layer::estargz`]).
//!
//! Invariants:
//! - a layer that came with a base image keeps its bytes unless another compression is forced;
//! - a layer is converted once for each level and remembered by the diff_id that it has without a table of contents.

use std::io::{self, Read};

use super::layers::{self, ExportedLayer, LayerError, LayerOptions};
use super::merge::Source;
use crate::base::digest::{DiffId, Digest, HashingWriter};
use crate::image::manifest::media_type;
use crate::layer::compress;
use crate::layer::estargz::{self, TOC_ANNOTATION, Written};
use crate::snapshot::diff;
use crate::snapshot::overlay::Snapshots;
use crate::store::Store;
use crate::store::records::{BlobRecord, FsState, LayerRef, SnapshotId};

/// All layers of a file system, bottom first.
pub(super) fn export(
    store: &Store,
    snapshots: &Snapshots<'_>,
    state: &FsState,
    level: u32,
    options: &LayerOptions,
) -> Result<Vec<ExportedLayer>, LayerError> {
    let mut exported = Vec::with_capacity(state.layers.len());
    for (index, layer) in state.layers.iter().enumerate() {
        if options.cancel.is_cancelled() {
            return Err(LayerError::Cancelled);
        }
        let source = Own { snapshots, below: &state.layers[..index], layer };
        let database = store.database();
        let of_base = database.image_layer(&layer.snapshot)?.is_some();
        exported.extend(if of_base && !options.force {
            Some(layers::one(store, snapshots, source.below, layer, options)?)
        } else {
            of_source(store, &source, level, options)?
        });
    }
    Ok(exported)
}

/// A layer of a snapshot.
struct Own<'a, 's> {
    snapshots: &'a Snapshots<'s>,
    below: &'a [LayerRef],
    layer: &'a LayerRef,
}

impl Source for Own<'_, '_> {
    fn key(&self) -> &SnapshotId {
        &self.layer.snapshot
    }

    fn write(&self, options: &LayerOptions, out: &mut dyn io::Write) -> Result<(), LayerError> {
        let upper = self.snapshots.layer_dir(&self.layer.snapshot)?;
        let bare = self.below.is_empty() || self.layer.standalone;
        let view = if bare { None } else { Some(self.snapshots.view(self.below)?) };
        let how = diff::LayerOptions { epoch: options.epoch, observer: None };
        diff::write_layer(&upper, view.as_ref(), how, out)?;
        Ok(())
    }
}

/// The layer of a source; `None` when it has no entry.
pub(super) fn of_source(
    store: &Store,
    source: &(dyn Source + Sync),
    level: u32,
    options: &LayerOptions,
) -> Result<Option<ExportedLayer>, LayerError> {
    let database = store.database();
    let compressor = estargz::compressor_id(level);
    if let Some(plain) = database.layer(source.key(), options.epoch)? {
        if super::merge::is_empty(&plain) {
            return Ok(None);
        }
        if let Some((diff_id, toc)) = database.seekable(&plain, &compressor)?
            && let Some(blob) = database.blob(&diff_id, &compressor)?
            && store.blob_size(&blob.digest) == Some(blob.size_bytes)
        {
            return Ok(Some(exported(source.key(), &compressor, diff_id, &blob, &toc)));
        }
        for name in ["original".to_owned(), options.compression.compressor_id()] {
            if let Some(blob) = database.blob(&plain, &name)?
                && store.blob_size(&blob.digest) == Some(blob.size_bytes)
            {
                let file = io::BufReader::with_capacity(256 * 1024, store.open_blob(&blob.digest)?);
                let tar = compress::decompressor(file).map_err(LayerError::Compress)?;
                let (written, incoming) = convert(store, tar, level, options)?;
                return keep(store, source.key(), incoming, &plain, written, &compressor).map(Some);
            }
        }
    }
    from_files(store, source, level, options)
}

/// Writes the archive into a pipe that another thread converts from: no archive lies on the disk in between.
fn from_files(
    store: &Store,
    source: &(dyn Source + Sync),
    level: u32,
    options: &LayerOptions,
) -> Result<Option<ExportedLayer>, LayerError> {
    let (reader, writer) = io::pipe().map_err(LayerError::Compress)?;
    let (plain, converted) = std::thread::scope(|scope| {
        let producer = scope.spawn(move || {
            let mut out = HashingWriter::new(io::BufWriter::with_capacity(256 * 1024, writer));
            source.write(options, &mut out)?;
            let (out, digest, _) = out.finish();
            out.into_inner().map_err(|e| LayerError::Compress(e.into_error()))?;
            Ok::<_, LayerError>(DiffId(digest))
        });
        let converted = convert(store, reader, level, options);
        let plain = producer.join().unwrap_or_else(|_| {
            Err(LayerError::Compress(io::Error::other("the thread that writes the layer ended early")))
        });
        (plain, converted)
    });
    // Where converting failed, the pipe was closed, which is not the reason worth telling.
    let (plain, (written, incoming)) = match (plain, converted) {
        (Ok(plain), Ok(converted)) => (plain, converted),
        (Err(LayerError::Diff(_) | LayerError::Compress(_)), Err(error)) if !truncated(&error) => {
            return Err(error);
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    store.database().add_layer(source.key(), options.epoch, &plain)?;
    if super::merge::is_empty(&plain) {
        return Ok(None);
    }
    keep(store, source.key(), incoming, &plain, written, &estargz::compressor_id(level)).map(Some)
}

/// True when the reading side met the early end of what the other side gave up writing.
fn truncated(error: &LayerError) -> bool {
    use crate::layer::tar::TarError;
    matches!(
        error,
        LayerError::Estargz(estargz::EstargzError::Tar(
            TarError::Truncated { .. } | TarError::ShortData { .. }
        ))
    )
}

fn convert(
    store: &Store,
    tar: impl Read,
    level: u32,
    options: &LayerOptions,
) -> Result<(Written, crate::store::IncomingBlob), LayerError> {
    let incoming = store.incoming_blob()?;
    let file = std::fs::OpenOptions::new().write(true).open(incoming.path()).map_err(LayerError::Compress)?;
    let out = layers::Stoppable { inner: file, cancel: &options.cancel, meter: None };
    let (_, written) = estargz::write(tar, out, level, options.threads)?;
    Ok((written, incoming))
}

fn keep(
    store: &Store,
    key: &SnapshotId,
    incoming: crate::store::IncomingBlob,
    plain: &DiffId,
    written: Written,
    compressor: &str,
) -> Result<ExportedLayer, LayerError> {
    store.adopt_blob(incoming, &written.digest)?;
    let blob = BlobRecord {
        media_type: media_type::OCI_LAYER_GZIP.to_owned(),
        digest: written.digest,
        size_bytes: written.size_bytes,
    };
    let database = store.database();
    database.add_blob(&written.diff_id, compressor, &blob)?;
    database.add_seekable(plain, compressor, &written.diff_id, &written.toc_digest)?;
    Ok(exported(key, compressor, written.diff_id, &blob, &written.toc_digest))
}

fn exported(
    key: &SnapshotId,
    compressor: &str,
    diff_id: DiffId,
    blob: &BlobRecord,
    toc: &Digest,
) -> ExportedLayer {
    let mut descriptor = layers::descriptor(blob);
    descriptor.annotations.insert(TOC_ANNOTATION.to_owned(), toc.to_string());
    ExportedLayer { diff_id, descriptor, compressor: compressor.to_owned(), snapshot: key.clone() }
}
