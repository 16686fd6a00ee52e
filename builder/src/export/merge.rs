//! All layers of a result, some of them as one (`--squash`, `--max-layers`).
//!
//! | asked | what becomes one layer |
//! |---|---|
//! | nothing | nothing |
//! | `--squash`, `--squash=own` | all layers of this build |
//! | `--squash=all` | all layers, those of the base included |
//! | `--max-layers N` | the uppermost layers of this build, as many as are too many |
//!
//! The uppermost ones, because they change from build to build: what lies below keeps its bytes, and registries and
//! engines that have it need nothing new.
//!
//! Invariants:
//! - what is merged is always the top of the stack, so its one history entry comes last;
//! - a merged layer holds what the merged view differs by from the view below: no file twice, a whiteout only for what
//!   is there below;
//! - it is remembered by the layers it was made from, like any other layer.

use super::layers::{self, ExportedLayer, LayerError, LayerOptions, Stoppable};
use super::seekable;
use crate::base::digest::{DiffId, Digest, KeyHasher};
use crate::snapshot::diff;
use crate::snapshot::overlay::Snapshots;
use crate::store::Store;
use crate::store::records::{FsState, LayerRef, SnapshotId, StepResult};

/// Docker's overlay2 and older engines stack no more layers than this.
pub const MANY_LAYERS: usize = 127;

/// Which layers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squash {
    /// Those of this build.
    Own,
    /// Those of the base, too.
    All,
}

/// What is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MergePolicy {
    /// `--squash`.
    pub squash: Option<Squash>,
    /// `--max-layers`.
    pub max_layers: Option<usize>,
}

impl MergePolicy {
    /// Index of the first layer that is merged with all above it, when any are; `own` of the `total` layers are of
    /// this build.
    pub fn first_merged(&self, total: usize, own: usize) -> Option<usize> {
        let base = total.saturating_sub(own);
        let from = match (self.squash, self.max_layers) {
            (Some(Squash::All), _) => 0,
            (Some(Squash::Own), _) => base,
            (None, Some(max)) if total > max => base.max(max.saturating_sub(1)),
            (None, _) => return None,
        };
        // A single layer is one already.
        (total - from.min(total) > 1).then_some(from)
    }
}

/// What was merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// Layers that were left as they are.
    pub kept: usize,
    /// Layers before.
    pub before: usize,
}

/// The layers of a result.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Bottom first.
    pub layers: Vec<ExportedLayer>,
    /// Whether the last of them is several in one, or several amount to nothing.
    pub merged: Option<Merged>,
}

impl From<Vec<ExportedLayer>> for Exported {
    fn from(layers: Vec<ExportedLayer>) -> Self {
        Self { layers, merged: None }
    }
}

/// How layers are written.
#[derive(Debug, Clone)]
pub struct Form {
    /// Compression and times.
    pub options: LayerOptions,
    /// As eStargz of this level, in place of the compression of `options`.
    pub estargz: Option<u32>,
    /// What becomes one.
    pub merge: MergePolicy,
}

/// All layers of a result, bottom first, as blobs in the store.
pub fn export(
    store: &Store,
    snapshots: &Snapshots<'_>,
    result: &StepResult,
    form: &Form,
) -> Result<Exported, LayerError> {
    let all = &result.state.layers;
    let own = own_layers(result);
    let Some(kept) = form.merge.first_merged(all.len(), own) else {
        return Ok(each(store, snapshots, &result.state, form)?.into());
    };
    let below = FsState { layers: all[..kept].to_vec(), ..result.state.clone() };
    let mut layers = each(store, snapshots, &below, form)?;
    let merged = Merged { kept, before: all.len() };
    let merge = Merge { snapshots, all, kept, key: key(all, kept) };
    let top = match form.estargz {
        Some(level) => seekable::of_source(store, &merge, level, &form.options)?,
        None => plain(store, &merge, &form.options)?,
    };
    // Layers that take back one another leave nothing.
    layers.extend(top);
    Ok(Exported { layers, merged: Some(merged) })
}

/// How many layers are of this build: the steps since the base that added one, and what `COPY --link` brought.
pub fn own_layers(result: &StepResult) -> usize {
    let own = result.trail.iter().filter(|step| step.added_layer).count();
    own.min(result.state.layers.len())
}

fn each(
    store: &Store,
    snapshots: &Snapshots<'_>,
    state: &FsState,
    form: &Form,
) -> Result<Vec<ExportedLayer>, LayerError> {
    match form.estargz {
        Some(level) => seekable::export(store, snapshots, state, level, &form.options),
        None => layers::export(store, snapshots, state, &form.options),
    }
}

/// The name under which a merged layer is remembered: no snapshot has it.
fn key(all: &[LayerRef], kept: usize) -> SnapshotId {
    let mut hasher = KeyHasher::new("kiln/merged/v1");
    hasher.number(kept as u64);
    for layer in all {
        hasher.field(layer.snapshot.0.as_bytes()).number(u64::from(layer.standalone));
    }
    SnapshotId(format!("merged-{}", hasher.finish().hex()))
}

/// The archive of nothing: a layer without entries.
pub(super) fn is_empty(diff_id: &DiffId) -> bool {
    diff_id.0 == Digest::of(&[0; 1024])
}

/// Where an archive comes from, and the name it is remembered under.
pub(super) trait Source {
    fn key(&self) -> &SnapshotId;
    fn write(&self, options: &LayerOptions, out: &mut dyn std::io::Write) -> Result<(), LayerError>;
}

struct Merge<'a, 's> {
    snapshots: &'a Snapshots<'s>,
    all: &'a [LayerRef],
    kept: usize,
    key: SnapshotId,
}

impl Source for Merge<'_, '_> {
    fn key(&self) -> &SnapshotId {
        &self.key
    }

    fn write(&self, options: &LayerOptions, out: &mut dyn std::io::Write) -> Result<(), LayerError> {
        let below = &self.all[..self.kept];
        let whole = self.snapshots.view(self.all)?;
        let lower = if below.is_empty() { None } else { Some(self.snapshots.view(below)?) };
        let how = diff::LayerOptions { epoch: options.epoch, observer: None };
        let mut out = Stoppable { inner: out, cancel: &options.cancel, meter: None };
        diff::write_merged(&whole, lower.as_ref(), how, &mut out)?;
        Ok(())
    }
}

/// The layer of a source, gzip, zstd or uncompressed; `None` when it has no entry.
fn plain(
    store: &Store,
    source: &dyn Source,
    options: &LayerOptions,
) -> Result<Option<ExportedLayer>, LayerError> {
    let database = store.database();
    if let Some(diff_id) = database.layer(source.key(), options.epoch)? {
        if is_empty(&diff_id) {
            return Ok(None);
        }
        if let Some(blob) = database.blob(&diff_id, &options.compression.compressor_id())?
            && store.blob_size(&blob.digest) == Some(blob.size_bytes)
        {
            let compressor = options.compression.compressor_id();
            return Ok(Some(layers::exported(source.key(), diff_id, &blob, &compressor)));
        }
    }
    let (incoming, mut sink) = layers::sink(store, options)?;
    source.write(options, &mut sink)?;
    let exported = layers::keep(store, source.key(), incoming, sink, options)?;
    database.add_layer(source.key(), options.epoch, &exported.diff_id)?;
    Ok(Some(exported).filter(|exported| !is_empty(&exported.diff_id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_one() {
        let policy = |squash, max_layers| MergePolicy { squash, max_layers };
        for (policy, total, own, expected) in [
            (policy(None, None), 300, 200, None),
            (policy(Some(Squash::Own), None), 5, 3, Some(2)),
            (policy(Some(Squash::Own), None), 5, 1, None),
            (policy(Some(Squash::Own), None), 5, 0, None),
            (policy(Some(Squash::All), None), 5, 1, Some(0)),
            (policy(Some(Squash::All), None), 1, 1, None),
            (policy(Some(Squash::All), None), 0, 0, None),
            (policy(None, Some(5)), 5, 3, None),
            (policy(None, Some(4)), 5, 3, Some(3)),
            // The base alone has as many: all that can be done is to make one of the rest.
            (policy(None, Some(2)), 5, 3, Some(2)),
            (policy(None, Some(1)), 5, 3, Some(2)),
            (policy(None, Some(1)), 3, 3, Some(0)),
            (policy(None, Some(2)), 5, 1, None),
        ] {
            assert_eq!(policy.first_merged(total, own), expected, "{policy:?} {total} {own}");
        }
    }
}
