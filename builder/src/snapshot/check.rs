//! Whether a snapshot still holds what it held when it was made.
//!
//! | snapshot | compared with |
//! | --- | --- |
//! | of a step | the digest of its content in its record |
//! | of an image's layer | what its blob unpacks to |
//!
//! Invariants: nothing is written but a snapshot without a record, which goes again; what cannot be compared (a
//! snapshot that no step stands on, a layer whose blob is gone) is not called damaged. Times of files are not compared.

use std::io::{BufReader, Read};

use super::apply;
use super::diff::{self, DiffError};
use super::overlay::{SnapshotError, Snapshots};
use super::written::Written;
use crate::base::digest::Digest;
use crate::layer::compress::decompressor;
use crate::store::records::LayerRef;
use crate::store::{Finding, Recorded, Store};

/// Compares one snapshot. `None` when nothing is wrong with it.
///
/// # Errors
/// When the store cannot be written, or layers cannot be mounted.
pub fn snapshot(
    store: &Store,
    snapshots: &Snapshots<'_>,
    recorded: &Recorded,
) -> Result<Option<Finding>, SnapshotError> {
    let damaged = |reason: String| Some(Finding::DamagedSnapshot { id: recorded.id.clone(), reason });
    let mut compared = None;
    for stack in &recorded.stacks {
        let Some((own, below)) = stack.split_last() else { continue };
        if !snapshots.exists(&own.snapshot) || !below.iter().all(|layer| snapshots.exists(&layer.snapshot)) {
            continue;
        }
        let actual = match content(snapshots, own, below)? {
            Ok(actual) => actual,
            Err(error) => return Ok(damaged(error.to_string())),
        };
        let expected = match recorded.layer {
            None => Some(recorded.content),
            Some(layer) => unpacked(store, snapshots, &layer, below)?,
        };
        match expected {
            // Equal bases may have files of other times, by which copies that changed nothing are told.
            Some(expected) if expected == actual => return Ok(None),
            Some(expected) => compared = Some(format!("its content is {actual} instead of {expected}")),
            None => {}
        }
    }
    Ok(compared.and_then(damaged))
}

/// Digest of what a snapshot changes of what lies below it.
fn content(
    snapshots: &Snapshots<'_>,
    own: &LayerRef,
    below: &[LayerRef],
) -> Result<Result<Digest, DiffError>, SnapshotError> {
    let upper = snapshots.layer_dir(&own.snapshot)?;
    let view = if below.is_empty() || own.standalone { None } else { Some(snapshots.view(below)?) };
    Ok(diff::summarise(&upper, view.as_ref(), &Written::default()).map(|stats| stats.content.0))
}

/// The same of what a layer's blob gives. `None` when it gives nothing: the blob is at fault then.
fn unpacked(
    store: &Store,
    snapshots: &Snapshots<'_>,
    layer: &Digest,
    below: &[LayerRef],
) -> Result<Option<Digest>, SnapshotError> {
    let Ok(file) = store.open_blob(layer) else { return Ok(None) };
    let Ok(plain) = decompressor(BufReader::with_capacity(256 * 1024, file)) else { return Ok(None) };
    let begun = snapshots.begin(below)?;
    let dir = snapshots.layer_dir_begun(&begun)?;
    let parents = below
        .iter()
        .rev()
        .map(|layer| snapshots.layer_dir(&layer.snapshot))
        .collect::<Result<Vec<_>, _>>()?;
    let plain: Box<dyn Read> = plain;
    if apply::apply_layer(plain, &dir, &parents).is_err() {
        return Ok(None);
    }
    let view = if below.is_empty() { None } else { Some(snapshots.view(below)?) };
    Ok(diff::summarise(&dir, view.as_ref(), &Written::default()).ok().map(|stats| stats.content.0))
}
