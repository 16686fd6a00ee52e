//! Layers of imported results that are not here: fetching, verifying and unpacking them.
//!
//! Invariants: a blob is on record as that of a layer, and a snapshot complete, only after the digest of the unpacked
//! content was verified; each happens once, however many steps wait for it.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Imports;
use crate::base::digest::Digest;
use crate::base::events::{Event, Outcome};
use crate::base::parallel;
use crate::image::manifest::Descriptor;
use crate::ops::OpError;
use crate::ops::image::{self, Context};
use crate::plan::graph::{ImageLayer, ResolvedImage};
use crate::snapshot::pending::{LostLayer, Pending, PendingBlob};
use crate::store::StoreError;
use crate::store::records::{BlobRecord, LayerRef, SnapshotId};

/// Blobs at a time.
const BLOBS_AT_ONCE: usize = 4;

/// A layer that was not here when it was found.
pub(super) struct Layer {
    id: SnapshotId,
    below: Vec<LayerRef>,
    /// In the store's table of chains.
    chain: Digest,
    pub(super) what: PendingBlob,
    pub(super) origin: Origin,
    /// Held while it is fetched or unpacked, so that this happens once.
    stage: Mutex<Stage>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Elsewhere,
    /// The blob is in the store.
    Fetched,
    /// The blob is that of the layer, and on record.
    Verified,
    /// The snapshot is complete.
    Here,
}

/// Where a layer's blob comes from.
pub(super) enum Origin {
    /// Number of the cache.
    Cache(usize),
    Image(Arc<ResolvedImage>, ImageLayer),
}

impl Layer {
    /// A layer that nothing was done about yet. `chain` is its name in the store's table of chains.
    pub(super) fn new(
        id: SnapshotId,
        below: Vec<LayerRef>,
        chain: Digest,
        what: PendingBlob,
        origin: Origin,
    ) -> Self {
        Self { id, below, chain, what, origin, stage: Mutex::new(Stage::Elsewhere) }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn descriptor(&self) -> Descriptor {
        let BlobRecord { media_type, digest, size_bytes } = &self.what.blob;
        Descriptor::new(media_type, *digest, *size_bytes)
    }
}

impl Imports<'_> {
    fn context(&self) -> Context<'_> {
        Context {
            store: self.setup.store,
            snapshots: &self.snapshots,
            fetcher: self.setup.fetcher,
            events: &self.setup.events,
            cancel: &self.setup.cancel,
            step: self.setup.step,
        }
    }

    /// Shows transfers as a step of their own, from the first one on.
    pub(super) fn start(&self) {
        let mut state = self.state();
        if state.started.is_none() {
            state.started = Some(Instant::now());
            drop(state);
            let step = self.setup.step;
            let name = "fetching cached layers".to_owned();
            self.setup.events.send(Event::Planned { step, name });
            self.setup.events.send(Event::Started { step });
        }
    }

    /// Ends the step of the transfers, when there were any.
    pub fn finish(&self) {
        if let Some(started) = self.state().started.take() {
            let (step, took) = (self.setup.step, started.elapsed());
            self.setup.events.send(Event::Finished { step, outcome: Outcome::Done, took });
        }
    }

    fn pending(&self, id: &SnapshotId) -> Option<Arc<Layer>> {
        self.state().layers.get(id).cloned()
    }

    fn lost(&self, layer: &Layer, error: OpError) -> LostLayer {
        // What a cache sends is verified on its way here: a blob that is damaged now was damaged here.
        let damaged = || self.setup.store.check_blob(&layer.what.blob.digest).is_some();
        let of_cache = matches!(layer.origin, Origin::Cache(_))
            && !is_ours(&error)
            && !self.setup.cancel.is_cancelled()
            && !damaged();
        LostLayer { digest: layer.what.blob.digest, of_cache, source: Box::new(error) }
    }

    /// Makes sure that the blob is in the store.
    fn transfer(&self, layer: &Layer) -> Result<(), OpError> {
        let mut stage = layer.stage();
        if *stage >= Stage::Fetched {
            return Ok(());
        }
        let (store, blob) = (self.setup.store, &layer.what.blob);
        if store.blob_size(&blob.digest) == Some(blob.size_bytes) {
            *stage = Stage::Fetched;
            return Ok(());
        }
        self.start();
        match &layer.origin {
            Origin::Image(image, at) => image::fetch(image, at, &self.context())?,
            Origin::Cache(number) => {
                let incoming = store.incoming_blob()?;
                let mut writer = incoming.writer()?;
                let progress = |done_bytes| {
                    self.setup.events.send(Event::Progress {
                        step: self.setup.step,
                        what: format!("sha256:{}", blob.digest.short()),
                        done_bytes,
                        total_bytes: Some(blob.size_bytes),
                    });
                };
                let cache = self.setup.caches.get(*number).ok_or(OpError::Cancelled)?;
                cache.blob(&layer.descriptor(), &mut writer, &progress).map_err(Box::new)?;
                store.commit_blob(incoming, writer, Some(&blob.digest))?;
            }
        }
        *stage = Stage::Fetched;
        Ok(())
    }

    fn unpack(&self, layer: &Layer) -> Result<(), OpError> {
        let mut stage = layer.stage();
        if *stage == Stage::Here {
            return Ok(());
        }
        let PendingBlob { diff_id, epoch, compressor, blob } = &layer.what;
        let begun = self.snapshots.begin_as(layer.id.clone(), &layer.below)?;
        let id = image::unpack_into(begun, &blob.digest, *diff_id, &layer.below, &self.context())?;
        let database = self.setup.store.database();
        database.add_blob(diff_id, compressor, blob)?;
        match epoch {
            Some(epoch) => database.add_layer(&id, *epoch, diff_id)?,
            None => database.add_image_layer(&id, diff_id)?,
        }
        database.claim_chain(&layer.chain, &id)?;
        *stage = Stage::Here;
        Ok(())
    }
}

impl Pending for Imports<'_> {
    fn bring(&self, id: &SnapshotId) -> Result<(), LostLayer> {
        let Some(top) = self.pending(id) else { return Ok(()) };
        if *top.stage() == Stage::Here {
            return Ok(());
        }
        let below = top.below.iter().filter_map(|layer| self.pending(&layer.snapshot));
        let mut layers: Vec<Arc<Layer>> = below.filter(|layer| *layer.stage() != Stage::Here).collect();
        layers.push(top);
        let transfer = |layer: &Arc<Layer>| self.transfer(layer).map_err(|error| self.lost(layer, error));
        parallel::try_map(&layers, BLOBS_AT_ONCE, transfer)?;
        layers.iter().try_for_each(|layer| self.unpack(layer).map_err(|error| self.lost(layer, error)))
    }

    fn blob(&self, id: &SnapshotId) -> Option<PendingBlob> {
        let layer = self.pending(id)?;
        let here = *layer.stage() == Stage::Here;
        (!here).then(|| layer.what.clone())
    }

    fn fetch(&self, id: &SnapshotId) -> Result<(), LostLayer> {
        let Some(layer) = self.pending(id) else { return Ok(()) };
        let fetch = || -> Result<(), OpError> {
            self.transfer(&layer)?;
            let mut stage = layer.stage();
            if *stage < Stage::Verified {
                let PendingBlob { diff_id, compressor, blob, .. } = &layer.what;
                // On record means: whoever wants this layer made by this compressor may take the blob.
                image::verify(self.setup.store, &blob.digest, *diff_id, &self.setup.cancel)?;
                self.setup.store.database().add_blob(diff_id, compressor, blob)?;
                *stage = Stage::Verified;
            }
            Ok(())
        };
        fetch().map_err(|error| self.lost(&layer, error))
    }
}

/// Whether this machine's disk or database is at fault rather than what a cache sent.
fn is_ours(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source()).any(|cause| {
        let store = cause.downcast_ref::<OpError>().and_then(|error| match error {
            OpError::Store(error) => Some(error),
            _ => None,
        });
        store
            .or(cause.downcast_ref())
            .is_some_and(|error: &StoreError| !matches!(error, StoreError::WrongDigest { .. }))
            || cause.downcast_ref::<io::Error>().is_some_and(|error| {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            })
    })
}
