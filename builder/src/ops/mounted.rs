//! What the content key of a RUN holds of the stages that it mounts: the part below `source=`, not the whole stage.
//!
//! Invariants: an input that is mounted whole, or that seeds a cache, counts whole; a part counts with its own mode and
//! owner, which a mount shows.

use crate::base::digest::{Digest, KeyHasher};
use crate::context::fingerprint::ReadAlways;
use crate::plan::graph::{MountSource, RunSpec};
use crate::store::records::FsState;

use super::OpError;
use super::copy::{self, SelectOptions, SourceTree};
use super::local::LocalExecutor;

/// Digest of what the mounts of `spec` show of the input with this number.
pub(super) fn of_state(
    executor: &LocalExecutor<'_>,
    state: &FsState,
    spec: &RunSpec,
    index: usize,
) -> Result<Digest, OpError> {
    let mut parts = Vec::new();
    for mount in &spec.mounts {
        match &mount.source {
            MountSource::Bind { input, path } if *input == index => parts.push(path.as_str()),
            MountSource::Cache { seed: Some((input, _)), .. } if *input == index => return Ok(state.identity),
            _ => {}
        }
    }
    let whole = |path: &&str| path.trim_matches('/').is_empty();
    if parts.is_empty() || parts.iter().any(whole) {
        return Ok(state.identity);
    }
    let tree = SourceTree::of(executor.snapshots.view(&state.layers)?);
    let mut hasher = KeyHasher::new("kiln/mounted/v1");
    for path in parts {
        // Not as a pattern: a mount's source is one path.
        let Ok(selection) = copy::select_literal(&tree, path, SelectOptions::default()) else {
            // The RUN itself tells what is wrong with it.
            return Ok(state.identity);
        };
        hasher.field(path.as_bytes());
        for item in &selection.items {
            let (uid, gid) = tree.owner(&item.stat);
            hasher.number(u64::from(item.stat.st_mode)).number(u64::from(uid)).number(u64::from(gid));
        }
        hasher.digest(&copy::digest_selection(&tree, &selection, &ReadAlways)?.0);
    }
    Ok(hasher.finish())
}
