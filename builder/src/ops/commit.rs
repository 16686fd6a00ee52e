//! From a written upper directory to a result.
//!
//! Invariants: a step whose diff is empty adds no layer and gives its base's very state; a diff with the content of
//! an earlier one on the same base gives that earlier snapshot, so that everything below stays cached.

use crate::base::digest::{ContentDigest, Digest, KeyHasher};
use crate::snapshot::diff;
use crate::snapshot::overlay::Begun;
use crate::snapshot::written::Written;
use crate::store::records::{FsState, LayerRef, StepResult};

use super::OpError;
use super::local::LocalExecutor;

/// Identity of a file system: its base's and the content of the diff.
fn identity(base: &Digest, content: &ContentDigest, standalone: bool) -> Digest {
    let mut hasher = KeyHasher::new("kiln/state/v1");
    hasher.digest(base).digest(&content.0).number(u64::from(standalone));
    hasher.finish()
}

/// The state of an empty file system.
pub(super) fn scratch() -> FsState {
    FsState { layers: Vec::new(), identity: KeyHasher::new("kiln/scratch/v1").finish(), claimed: None }
}

/// Commits what was written into `begun` on top of `base`; digests of `written` files are taken as they are.
pub(super) fn commit(
    executor: &LocalExecutor<'_>,
    base: &StepResult,
    begun: Begun,
    standalone: bool,
    written: &Written,
) -> Result<StepResult, OpError> {
    let snapshots = &executor.snapshots;
    let upper = snapshots.layer_dir_begun(&begun)?;
    let below = &base.state.layers;
    let view = if below.is_empty() || standalone { None } else { Some(snapshots.view(below)?) };
    let content = diff::summarise(&upper, view.as_ref(), written)?;
    for warning in &content.warnings.kept {
        executor.events.warn(warning.to_string());
    }
    if content.empty {
        return Ok(StepResult::step(base, base.state.clone(), false));
    }
    let claimed = base.state.claimed.map(|claimed| identity(&claimed, &content.content, standalone));
    let identity = identity(&base.state.identity, &content.content, standalone);
    let with = |snapshot| {
        let mut layers = below.clone();
        layers.push(LayerRef { snapshot, standalone });
        StepResult::step(base, FsState { layers, identity, claimed }, true)
    };
    let database = executor.store.database();
    if let Some(earlier) = database.snapshot_of_result(&identity)? {
        if snapshots.claim(&earlier)? {
            let created = database.snapshot_created(&earlier)?;
            let result = with(earlier);
            return Ok(match created {
                Some(created) => result.made_at(created),
                None => result,
            });
        }
        database.forget_result(&identity)?;
    }
    drop((upper, view));
    let id = snapshots.commit(begun, &content.content, content.bytes)?;
    loop {
        let first = database.claim_result(&identity, &id)?;
        if first == id || snapshots.claim(&first)? {
            return Ok(with(first));
        }
        // Another process was first, and its snapshot has been removed since.
        database.forget_result(&identity)?;
    }
}

/// `base` with the layers of `link` on top (`COPY --link`).
pub(super) fn merge(base: &StepResult, link: &FsState) -> StepResult {
    let mut layers = base.state.layers.clone();
    layers.extend(
        link.layers.iter().map(|layer| LayerRef { snapshot: layer.snapshot.clone(), standalone: true }),
    );
    let of = |base: &Digest, link: &Digest| {
        let mut hasher = KeyHasher::new("kiln/merge/v1");
        hasher.digest(base).digest(link);
        hasher.finish()
    };
    let identity = of(&base.state.identity, &link.identity);
    let shared = of(base.state.shared_identity(), link.shared_identity());
    let claimed = (shared != identity).then_some(shared);
    StepResult::step(base, FsState { layers, identity, claimed }, !link.layers.is_empty())
}
