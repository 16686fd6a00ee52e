//! The directories of cache mounts: found or made, filled, and locked as their sharing says.
//!
//! Invariants:
//! - one id is one directory of the store, for every process that uses it;
//! - two steps never wait for each other's locks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use super::OpError;
use super::local::LocalExecutor;
use crate::plan::graph::{CacheSharing, MountSource, MountSpec, RunSpec, Vertex};
use crate::snapshot::tree;
use crate::store::Thing;
use crate::store::records::StepResult;

/// The cache mounts of one RUN, for as long as it runs.
#[derive(Default)]
pub(super) struct Claimed {
    /// Relative to the store, by id.
    pub directories: BTreeMap<String, String>,
    locks: Vec<File>,
}

/// The directories of all cache mounts of a RUN, locked as their sharing says. One id is one directory, also when it
/// is mounted at several places.
///
/// Locks that are waited for are taken first and in one order everywhere, so that two steps never wait for each
/// other.
pub(super) fn claim(
    executor: &LocalExecutor<'_>,
    vertex: &Vertex,
    spec: &RunSpec,
    inputs: &[&StepResult],
) -> Result<Claimed, OpError> {
    let Claimed { mut directories, mut locks } = Claimed::default();
    let mut exclusive = BTreeSet::new();
    let mut private = Vec::new();
    for mount in &spec.mounts {
        let MountSource::Cache { id, sharing, .. } = &mount.source else { continue };
        if *sharing == CacheSharing::Private {
            private.push((id, mount));
            continue;
        }
        let path = match directories.get(id) {
            Some(path) => path.clone(),
            None => claim_cache(executor, vertex, mount, id, inputs)?,
        };
        if *sharing == CacheSharing::Locked {
            exclusive.insert(path.clone());
        }
        directories.insert(id.clone(), path);
    }
    for path in exclusive {
        locks.push(lock(executor, &path, true)?.ok_or(OpError::Cancelled)?);
    }
    for (id, mount) in private {
        if !directories.contains_key(id) {
            let path = private_cache(executor, vertex, mount, id, inputs, &mut locks)?;
            directories.insert(id.clone(), path);
        }
    }
    Ok(Claimed { directories, locks })
}

/// A private cache is one directory for each user at a time: the first that nobody holds.
fn private_cache(
    executor: &LocalExecutor<'_>,
    vertex: &Vertex,
    mount: &MountSpec,
    id: &str,
    inputs: &[&StepResult],
    locks: &mut Vec<File>,
) -> Result<String, OpError> {
    for number in 0.. {
        let id = if number == 0 { id.to_owned() } else { format!("{id}#{number}") };
        let path = claim_cache(executor, vertex, mount, &id, inputs)?;
        if let Some(held) = lock(executor, &path, false)? {
            locks.push(held);
            return Ok(path);
        }
    }
    Err(OpError::Cancelled)
}

fn lock(executor: &LocalExecutor<'_>, path: &str, wait: bool) -> Result<Option<File>, OpError> {
    let file = executor.store.path(&format!("{path}.lock"));
    let action = || format!("lock the cache mount `{}`", file.display());
    let handle = File::create(&file).map_err(OpError::io(action()))?;
    loop {
        match handle.try_lock() {
            Ok(()) => return Ok(Some(handle)),
            Err(fs::TryLockError::WouldBlock) if !wait => return Ok(None),
            Err(fs::TryLockError::WouldBlock) if executor.cancel.is_cancelled() => {
                return Err(OpError::Cancelled);
            }
            // Waiting in the kernel could not be interrupted by a cancelled build.
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(fs::TryLockError::Error(error)) => return Err(OpError::io(action())(error)),
        }
    }
}

fn claim_cache(
    executor: &LocalExecutor<'_>,
    vertex: &Vertex,
    mount: &MountSpec,
    id: &str,
    inputs: &[&StepResult],
) -> Result<String, OpError> {
    let MountSource::Cache { mode, uid, gid, seed, .. } = &mount.source else {
        return Err(OpError::Unsupported("not a cache mount".to_owned()));
    };
    let database = executor.store.database();
    // `--no-cache` begins with empty caches (semantics fact 120).
    if !vertex.ignore_cache
        && let Some(directory) = executor.store.use_cache_mount(id)?
    {
        return Ok(directory);
    }
    if !vertex.ignore_cache
        && let Some(imports) = executor.imports
    {
        imports.bring_mount(id)?;
        if let Some(directory) = executor.store.use_cache_mount(id)? {
            return Ok(directory);
        }
    }
    let fresh = executor.store.path("mounts");
    let fresh = tempfile::Builder::new()
        .prefix(&executor.store.fresh_name()?)
        .tempdir_in(&fresh)
        .map_err(OpError::io("make a cache mount"))?;
    let path = fresh.path().to_owned();
    let set_up = || -> io::Result<()> {
        std::os::unix::fs::chown(&path, Some(*uid), Some(*gid))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))
    };
    if let Some((input, source)) = seed {
        let missing = || OpError::MountSource { path: source.clone() };
        let state = &inputs.get(*input).ok_or_else(missing)?.state;
        let view = executor.snapshots.view(&state.layers)?;
        let part = view.subdir(source.as_bytes()).map_err(|_| missing())?;
        let options = tree::CopyOptions { owners: tree::Owners::Keep, epoch: None };
        tree::copy_tree(&part, &path, &options)
            .map_err(|error| OpError::io("fill the cache mount")(io::Error::other(error)))?;
    } else {
        set_up().map_err(OpError::io("set up the cache mount"))?;
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let relative = format!("mounts/{name}");
    executor.store.lease(Thing::Mount(&relative))?;
    let earlier = database.cache_mount(id)?.map(|mount| mount.directory);
    let lost = earlier.as_ref().is_some_and(|directory| !executor.store.path(directory).is_dir());
    let claimed = database.claim_cache_mount(id, &relative, vertex.ignore_cache || lost)?;
    if claimed == relative {
        // Kept: the store's collection decides about it from now on.
        let _ = fresh.keep();
        if let Some(earlier) = earlier {
            executor.store.discard_mount_directory(&earlier)?;
        }
        return Ok(claimed);
    }
    // Another process was first.
    executor.store.use_cache_mount(id)?.ok_or_else(|| OpError::CacheMount { id: id.to_owned() })
}
