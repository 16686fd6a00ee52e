//! Snapshots as overlay directories.
//!
//! Invariants:
//! - mounts made here are detached: they have no place in any mount namespace and end with their descriptor;
//! - a committed snapshot is never written again and never mounted as an upper;
//! - the id of a snapshot is its directory's name, which no other process makes (see `store::process`).

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use super::pending::{LostLayer, Pending, PendingBlob};
use crate::base::digest::ContentDigest;
use crate::base::limits::MAX_LAYERS;
use crate::store::records::{FsState, LayerRef, SnapshotId};
use crate::store::{Store, StoreError, Thing, remove_tree};
use crate::sys::mount::{self, Overlay};
use crate::sys::rootdir::RootDir;

/// Why a snapshot cannot be made or mounted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SnapshotError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot mount {count} layers with overlayfs")]
    Mount {
        count: usize,
        #[source]
        source: io::Error,
    },
    #[error("the file system has {count} layers; kiln stacks at most {MAX_LAYERS}")]
    TooManyLayers { count: usize },
    // Not transparent: the layer has to stay visible among the causes.
    #[error("cannot bring a layer that is not on this machine yet")]
    Lost(#[from] LostLayer),
    #[error("cannot {action} the snapshot `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A snapshot that is being written. Removed when dropped before it is committed.
#[derive(Debug)]
pub struct Begun {
    id: SnapshotId,
    directory: PathBuf,
    keep: bool,
}

impl Begun {
    /// Its id, already final.
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// The upper directory.
    pub fn fs(&self) -> PathBuf {
        self.directory.join("fs")
    }

    /// Upper and work directory relative to the store.
    pub fn relative(&self) -> (String, String) {
        (format!("snapshots/{}/fs", self.id.0), format!("snapshots/{}/work", self.id.0))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.keep {
            // Best effort: what stays behind has no row and goes at the next collection.
            let _ = remove_tree(&self.directory);
        }
    }
}

/// The snapshots of a store.
#[derive(Debug)]
pub struct Snapshots<'a> {
    store: &'a Store,
    root: OwnedFd,
    pending: Option<&'a dyn Pending>,
}

impl<'a> Snapshots<'a> {
    /// The snapshots of `store`.
    pub fn new(store: &'a Store) -> Result<Self, SnapshotError> {
        let path = store.root();
        let file = fs::File::open(path).map_err(|source| SnapshotError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { store, root: file.into(), pending: None })
    }

    /// The same, with layers that are brought when somebody reads them.
    pub fn with_pending(self, pending: Option<&'a dyn Pending>) -> Self {
        Self { pending, ..self }
    }

    /// Has every layer brought that is not here.
    fn bring(&self, layers: &[LayerRef]) -> Result<(), SnapshotError> {
        let Some(pending) = self.pending else { return Ok(()) };
        // The uppermost first: it brings all that it stands on, several blobs at a time.
        Ok(layers.iter().rev().try_for_each(|layer| pending.bring(&layer.snapshot))?)
    }

    /// The blob of a layer that is not here.
    pub fn pending_blob(&self, id: &SnapshotId) -> Option<PendingBlob> {
        self.pending?.blob(id)
    }

    /// Makes sure that the blob of a layer that is not here is in the store.
    pub fn fetch_pending(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        Ok(self.pending.map_or(Ok(()), |pending| pending.fetch(id))?)
    }

    /// Whether a snapshot that was found by a row may be used: it is there, and stays until this process ends.
    ///
    /// # Errors
    /// When the store's locks cannot be had.
    pub fn claim(&self, id: &SnapshotId) -> Result<bool, SnapshotError> {
        self.store.lease(Thing::Snapshot(id))?;
        Ok(self.store.database().snapshot_created(id)?.is_some() && self.exists(id))
    }

    /// Whether a snapshot's directory is there.
    pub fn exists(&self, id: &SnapshotId) -> bool {
        self.fs(id).is_dir()
    }

    /// Whether every layer of a file system is there.
    pub fn is_complete(&self, state: &FsState) -> bool {
        state.layers.iter().all(|layer| self.exists(&layer.snapshot))
    }

    fn fs(&self, id: &SnapshotId) -> PathBuf {
        self.store.path(&format!("snapshots/{}/fs", id.0))
    }

    /// A layer's own directory.
    pub fn layer_dir(&self, id: &SnapshotId) -> Result<RootDir, SnapshotError> {
        self.pending.map_or(Ok(()), |pending| pending.bring(id))?;
        let path = self.fs(id);
        RootDir::open(&path).map_err(|e| SnapshotError::Io { action: "open", path, source: e.source })
    }

    /// The upper directory of a begun snapshot.
    pub fn layer_dir_begun(&self, begun: &Begun) -> Result<RootDir, SnapshotError> {
        let path = begun.fs();
        RootDir::open(&path).map_err(|e| SnapshotError::Io { action: "open", path, source: e.source })
    }

    /// Begins an empty snapshot on top of `below`. The root directory takes mode and owner from the layer below it.
    pub fn begin(&self, below: &[LayerRef]) -> Result<Begun, SnapshotError> {
        self.begin_as(SnapshotId(self.store.fresh_name()?), below)
    }

    /// [`Snapshots::begin`] under a name that [`Store::fresh_name`] gave earlier.
    pub fn begin_as(&self, id: SnapshotId, below: &[LayerRef]) -> Result<Begun, SnapshotError> {
        self.bring(below)?;
        let (mut mode, mut owner) = (0o755, (0, 0));
        if let Some(top) = below.last() {
            let path = self.fs(&top.snapshot);
            let metadata =
                fs::metadata(&path).map_err(|source| SnapshotError::Io { action: "read", path, source })?;
            mode = metadata.mode() & 0o7777;
            owner = (metadata.uid(), metadata.gid());
        }
        self.store.lease(Thing::Snapshot(&id))?;
        let directory = self.store.path(&format!("snapshots/{}", id.0));
        let make = || -> io::Result<()> {
            fs::DirBuilder::new().mode(0o700).create(&directory)?;
            fs::create_dir(directory.join("work"))?;
            let path = directory.join("fs");
            fs::create_dir(&path)?;
            if owner != (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()) {
                std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1))?;
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        make().map_err(|source| SnapshotError::Io { action: "make", path: directory.clone(), source })?;
        Ok(Begun { id, directory, keep: false })
    }

    /// Makes a begun snapshot mountable a second time: a work directory of a volatile mount is refused for ever (the
    /// kernel leaves `work/incompat/volatile` in it, see overlayfs.rst, Volatile mount).
    pub fn begin_again(&self, begun: &Begun) -> Result<(), SnapshotError> {
        let path = begun.directory.join("work");
        let renew = || -> io::Result<()> {
            remove_tree(&path)?;
            fs::create_dir(&path)
        };
        renew().map_err(|source| SnapshotError::Io { action: "clean up", path: path.clone(), source })
    }

    /// Makes a begun snapshot permanent.
    pub fn commit(
        &self,
        mut begun: Begun,
        content: &ContentDigest,
        size_bytes: u64,
    ) -> Result<SnapshotId, SnapshotError> {
        let work = begun.directory.join("work");
        remove_tree(&work).map_err(|source| SnapshotError::Io { action: "clean up", path: work, source })?;
        self.store.database().add_snapshot(&begun.id, content, size_bytes)?;
        begun.keep = true;
        Ok(begun.id.clone())
    }

    /// Lower directories of a stack relative to the store, uppermost first.
    pub fn lowers(&self, layers: &[LayerRef]) -> Result<Vec<String>, SnapshotError> {
        if layers.len() > MAX_LAYERS {
            return Err(SnapshotError::TooManyLayers { count: layers.len() });
        }
        self.bring(layers)?;
        Ok(layers.iter().rev().map(|layer| format!("snapshots/{}/fs", layer.snapshot.0)).collect())
    }

    /// As [`Snapshots::lowers`], for an overlay without an upper, which needs at least two.
    pub fn read_only_lowers(&self, layers: &[LayerRef]) -> Result<Vec<String>, SnapshotError> {
        let mut lowers = self.lowers(layers)?;
        let missing = 2usize.saturating_sub(lowers.len());
        lowers.extend(["stubs/empty", "stubs/void"].into_iter().take(missing).map(str::to_owned));
        Ok(lowers)
    }

    /// Mounts a stack read-only.
    pub fn view(&self, layers: &[LayerRef]) -> Result<RootDir, SnapshotError> {
        self.mount(&self.read_only_lowers(layers)?, None)
    }

    /// Mounts a stack with a begun snapshot on top, writable.
    pub fn writable(&self, layers: &[LayerRef], begun: &Begun) -> Result<RootDir, SnapshotError> {
        if layers.is_empty() {
            // Nothing to stack on: the directory itself is the file system.
            return self.layer_dir_begun(begun);
        }
        let lowers = self.lowers(layers)?;
        self.mount(&lowers, Some(&begun.relative()))
    }

    fn mount(&self, lowers: &[String], upper: Option<&(String, String)>) -> Result<RootDir, SnapshotError> {
        // Through the descriptor, so that the paths stay below fsconfig's 255 bytes wherever the store is.
        let base = format!("/proc/self/fd/{}", self.root.as_fd().as_raw_fd());
        let absolute = |path: &String| format!("{base}/{path}");
        let lowers: Vec<String> = lowers.iter().map(absolute).collect();
        let upper = upper.map(|(upper, work)| (absolute(upper), absolute(work)));
        let overlay = Overlay {
            context: None,
            lowers: lowers.iter().map(String::as_str).collect(),
            upper: upper.as_ref().map(|(upper, work)| (upper.as_str(), work.as_str())),
        };
        let fd = mount::overlay(&overlay)
            .map_err(|source| SnapshotError::Mount { count: overlay.lowers.len(), source })?;
        Ok(RootDir::from_fd(fd))
    }
}
