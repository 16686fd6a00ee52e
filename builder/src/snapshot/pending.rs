//! Layers that a file system is known to have and that are not on this disk yet: results of a remote cache.
//!
//! Their snapshots have names before they have directories, so nobody who holds a result has to know. Whoever reads
//! files goes through [`super::overlay::Snapshots`], which has them brought first; whoever only describes the result
//! takes the description from here.
//!
//! Invariants: a snapshot that was brought is like any other, with a row and a directory under the same name.

use std::error::Error;

use crate::base::digest::{DiffId, Digest};
use crate::store::records::{BlobRecord, SnapshotId};

/// A layer that could not be brought.
#[derive(Debug, thiserror::Error)]
#[error("layer {digest} cannot be had")]
pub struct LostLayer {
    /// Of the blob.
    pub digest: Digest,
    /// A remote cache promised it and is at fault; the step can be run instead.
    pub of_cache: bool,
    /// Why.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl LostLayer {
    /// The first one among an error and its causes.
    pub fn among<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| (*error).source()).find_map(|e| e.downcast_ref())
    }
}

/// What is known of a layer that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingBlob {
    /// Of the tar.
    pub diff_id: DiffId,
    /// File times are not later than this; `None` inside when they are as they were. The outer `None`: the layer came
    /// with an image, and no epoch ever changes it.
    pub epoch: Option<Option<i64>>,
    /// What made the blob of the tar: `original` for an image's layer.
    pub compressor: String,
    /// The blob.
    pub blob: BlobRecord,
}

/// Knows layers that are not here and brings them.
pub trait Pending: Sync + std::fmt::Debug {
    /// Makes sure that the directory of a layer is there, and those of all layers below it. Does nothing for a layer
    /// that is here or unknown.
    ///
    /// # Errors
    /// When it cannot be had.
    fn bring(&self, id: &SnapshotId) -> Result<(), LostLayer>;

    /// The blob of a layer that is not here.
    fn blob(&self, id: &SnapshotId) -> Option<PendingBlob>;

    /// Makes sure that the blob of a layer that is not here is in the store.
    ///
    /// # Errors
    /// When it cannot be had.
    fn fetch(&self, id: &SnapshotId) -> Result<(), LostLayer>;
}
