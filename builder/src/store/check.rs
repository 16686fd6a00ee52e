//! Whether the store is as it should be: rows against data, data against digests, and how to make it right.
//!
//! | found | repaired by |
//! | --- | --- |
//! | a blob with other bytes than its name says | removing it, and the unpacked layers that need it: both are fetched or made again |
//! | a row without data, or of a snapshot that has no row | removing the row: the step runs again |
//! | an unpacked layer whose blob is gone | forgetting it: it is fetched and unpacked again |
//! | an image that lacks a blob | taking its name away: it has to be built or pulled again |
//! | data without a row that nobody is making | removing it |
//! | another `index.json` than the images give | writing it |
//! | a snapshot whose content changed (`snapshot::check`) | forgetting and removing it |
//!
//! Invariants: checking changes nothing but what the next writer would; what running processes are making is not found; repairing removes, and never
//! makes up, data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use super::records::collect::{Doomed, Rows};
use super::records::{LayerRef, SnapshotId};
use super::usage::Kind;
use super::{Store, StoreError, Thing};
use crate::base::digest::{DiffId, Digest, HashingWriter};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[allow(missing_docs)]
pub enum Finding {
    #[error("blob {digest} is damaged: its bytes have the digest {actual}")]
    DamagedBlob { digest: Digest, actual: Digest },
    #[error("blob {digest} cannot be read: {reason}")]
    UnreadableBlob { digest: Digest, reason: String },
    #[error("blob {digest} is gone, but {table} refers to it")]
    LostBlob { digest: Digest, table: &'static str },
    #[error("blob {digest} has {actual_bytes} bytes instead of {expected_bytes}")]
    BlobSize { digest: Digest, expected_bytes: u64, actual_bytes: u64 },
    #[error("snapshot {} is gone, but its record is there", .id.0)]
    LostSnapshot { id: SnapshotId },
    #[error("snapshot {} is damaged: {reason}", .id.0)]
    DamagedSnapshot { id: SnapshotId, reason: String },
    #[error("snapshot {} was unpacked from a layer that is gone", .id.0)]
    SnapshotWithoutLayer { id: SnapshotId },
    #[error("a record of {table} refers to snapshot {}, which has none itself", .id.0)]
    UnknownSnapshot { id: SnapshotId, table: &'static str },
    #[error("cache mount `{id}` is gone, but its record is there")]
    LostMount { id: String, directory: String },
    #[error("the image `{name}` lacks the blob {digest}")]
    BrokenImage { name: String, digest: Digest },
    #[error("`{path}` belongs to nothing")]
    Stray { path: String },
    #[error("index.json does not list the images that are there")]
    Index,
    #[error("the database is damaged: {problem}")]
    Database { problem: String },
}

/// A snapshot with all that says what it should hold.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The snapshot.
    pub id: SnapshotId,
    /// Digest of its content when it was made; of an image's layer its diff_id.
    pub content: Digest,
    /// The blob that it was unpacked from.
    pub layer: Option<Digest>,
    /// What it stands on in some steps, with its own entry last.
    pub stacks: Vec<Vec<LayerRef>>,
}

impl Store {
    /// Whether the database is whole.
    ///
    /// # Errors
    /// [`StoreError::is_damaged_database`] when it is not.
    pub fn check_database(&self) -> Result<(), StoreError> {
        match self.database.problems()?.into_iter().next() {
            None => Ok(()),
            Some(problem) => Err(StoreError::DamagedDatabase { problem }),
        }
    }

    /// Finds what can be found without reading data.
    pub fn check_records(&self) -> Result<BTreeSet<Finding>, StoreError> {
        let problems = self.database.problems()?;
        if !problems.is_empty() {
            return Ok(problems.into_iter().map(|problem| Finding::Database { problem }).collect());
        }
        // As whoever writes next would do: what a killed process left is no damage.
        self.tidy()?;
        let found = self.look_at_records()?;
        if found.is_empty() {
            return Ok(found);
        }
        // Others may have been between a file and its row; that is over by now.
        let again = self.look_at_records()?;
        Ok(found.intersection(&again).cloned().collect())
    }

    fn look_at_records(&self) -> Result<BTreeSet<Finding>, StoreError> {
        let usage = self.usage()?;
        let rows = &usage.rows;
        let mut found = BTreeSet::new();
        let strays = usage.items.iter().filter(|item| item.kind == Kind::Stray);
        found.extend(strays.map(|item| Finding::Stray { path: item.path.clone() }));
        self.check_snapshots(rows, &mut found);
        self.check_blobs(rows, &mut found);
        for mount in &rows.mounts {
            if !self.path(&mount.directory).is_dir() {
                let (id, directory) = (mount.id.clone(), mount.directory.clone());
                found.insert(Finding::LostMount { id, directory });
            }
        }
        for (name, digest) in &rows.images {
            let missing = self.parts(digest).blobs.into_iter().find(|blob| self.stat_blob(blob).is_none());
            if let Some(digest) = missing {
                found.insert(Finding::BrokenImage { name: name.clone(), digest });
            }
        }
        let index = self.path("index.json");
        let is_written = fs::read(&index).map(|bytes| Some(bytes) == self.index().ok());
        if !is_written.unwrap_or(rows.images.is_empty()) {
            found.insert(Finding::Index);
        }
        Ok(found)
    }

    fn check_snapshots(&self, rows: &Rows, found: &mut BTreeSet<Finding>) {
        let known: BTreeSet<&SnapshotId> = rows.snapshots.iter().map(|row| &row.id).collect();
        for id in &known {
            if !self.path(&format!("snapshots/{}/fs", id.0)).is_dir() {
                found.insert(Finding::LostSnapshot { id: (*id).clone() });
            }
        }
        let of_steps = rows.steps.iter().flat_map(|step| step.layers.iter().flatten());
        let named = of_steps
            .map(|layer| (&layer.snapshot, "steps"))
            .chain(rows.chains.iter().map(|(_, id)| (id, "chains")))
            .chain(rows.results.iter().map(|(_, id)| (id, "results")))
            .chain(rows.layers.iter().map(|(id, ..)| (id, "layers")));
        for (id, table) in named {
            if !known.contains(id) {
                found.insert(Finding::UnknownSnapshot { id: id.clone(), table });
            }
        }
        let originals: BTreeSet<&DiffId> = rows
            .blobs
            .iter()
            .filter(|(_, compressor, digest, _)| compressor == "original" && self.stat_blob(digest).is_some())
            .map(|(diff_id, ..)| diff_id)
            .collect();
        for (id, of_image, diff_id) in &rows.layers {
            if *of_image && known.contains(id) && !originals.contains(diff_id) {
                found.insert(Finding::SnapshotWithoutLayer { id: id.clone() });
            }
        }
    }

    fn check_blobs(&self, rows: &Rows, found: &mut BTreeSet<Finding>) {
        for (_, _, digest, size) in &rows.blobs {
            match self.stat_blob(digest) {
                None => drop(found.insert(Finding::LostBlob { digest: *digest, table: "blobs" })),
                Some(actual_bytes) if actual_bytes != *size => {
                    let (digest, expected_bytes) = (*digest, *size);
                    found.insert(Finding::BlobSize { digest, expected_bytes, actual_bytes });
                }
                Some(_) => {}
            }
        }
        let others = rows.resolved.iter().map(|digest| (digest, "resolved"));
        for (digest, table) in others.chain(rows.downloads.iter().map(|digest| (digest, "downloads"))) {
            if self.stat_blob(digest).is_none() {
                found.insert(Finding::LostBlob { digest: *digest, table });
            }
        }
    }

    /// All blobs, for [`Store::check_blob`].
    pub fn all_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let dir = self.path("blobs/sha256");
        let entries = fs::read_dir(&dir).map_err(StoreError::io("list", &dir))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<Digest> = names.filter_map(|name| format!("sha256:{name}").parse().ok()).collect();
        all.sort_unstable();
        Ok(all)
    }

    /// Reads a blob and compares its digest. `None` when it is right, or gone meanwhile.
    pub fn check_blob(&self, digest: &Digest) -> Option<Finding> {
        let mut writer = HashingWriter::new(io::sink());
        let mut file = match self.open_blob(digest) {
            Ok(file) => file,
            Err(StoreError::NoBlob { .. }) => return None,
            Err(error) => {
                return Some(Finding::UnreadableBlob { digest: *digest, reason: error.to_string() });
            }
        };
        if let Err(error) = io::copy(&mut file, &mut writer) {
            return Some(Finding::UnreadableBlob { digest: *digest, reason: error.to_string() });
        }
        let (_, actual, _) = writer.finish();
        (actual != *digest).then_some(Finding::DamagedBlob { digest: *digest, actual })
    }

    /// All snapshots that have a record and data.
    pub fn recorded_snapshots(&self) -> Result<Vec<Recorded>, StoreError> {
        let rows = self.database.rows()?;
        let mut stacks: BTreeMap<&SnapshotId, BTreeSet<Vec<&LayerRef>>> = BTreeMap::new();
        for step in &rows.steps {
            let layers: Vec<&LayerRef> = step.layers.iter().flatten().collect();
            for (index, layer) in layers.iter().enumerate() {
                stacks.entry(&layer.snapshot).or_default().insert(layers[..=index].to_vec());
            }
        }
        let originals: BTreeMap<&DiffId, &Digest> = rows
            .blobs
            .iter()
            .filter(|(_, compressor, ..)| compressor == "original")
            .map(|(diff_id, _, digest, _)| (diff_id, digest))
            .collect();
        let layers: BTreeMap<&SnapshotId, &Digest> = rows
            .layers
            .iter()
            .filter(|(_, of_image, _)| *of_image)
            .filter_map(|(id, _, diff_id)| Some((id, *originals.get(diff_id)?)))
            .collect();
        let recorded = rows.snapshots.iter().map(|row| Recorded {
            id: row.id.clone(),
            content: row.content,
            layer: layers.get(&row.id).map(|digest| **digest),
            stacks: stacks
                .get(&row.id)
                .into_iter()
                .flatten()
                .map(|stack| stack.iter().map(|layer| (*layer).clone()).collect())
                .collect(),
        });
        Ok(recorded.collect())
    }

    /// Removes a blob that is damaged or gone with all rows of it, and the unpacked layers that need it: what is wanted
    /// of them is fetched or made again.
    pub fn discard_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let doomed = self.database.collect(|rows| {
            let of_blob = rows
                .blobs
                .iter()
                .filter(|(_, compressor, blob, _)| compressor == "original" && blob == digest);
            let diff_ids: BTreeSet<&DiffId> = of_blob.map(|(diff_id, ..)| diff_id).collect();
            let snapshots = unpacked(rows, &diff_ids);
            Doomed { blobs: BTreeSet::from([*digest]), snapshots, ..Doomed::default() }
        })?;
        // Others may have it open, which they can go on reading; who opens it next finds that it is gone.
        self.remove_blob(digest)?;
        doomed.snapshots.iter().try_for_each(|id| self.discard_snapshot(id).map(drop))
    }

    /// Removes the unpacked layers of this diff_id, whose blob is gone: they are fetched again.
    pub fn discard_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        let doomed = self.database.collect(|rows| Doomed {
            snapshots: unpacked(rows, &BTreeSet::from([diff_id])),
            ..Doomed::default()
        })?;
        doomed.snapshots.iter().try_for_each(|id| self.discard_snapshot(id).map(drop))
    }

    /// Forgets every snapshot and cache mount whose directory is gone, and removes what is left of it: no build can use
    /// it any more.
    pub fn forget_lost(&self) -> Result<(), StoreError> {
        let rows = self.database.rows()?;
        let is_lost = |id: &SnapshotId| !self.path(&format!("snapshots/{}/fs", id.0)).is_dir();
        let lost: Vec<SnapshotId> = rows.snapshots.into_iter().map(|row| row.id).filter(is_lost).collect();
        let names: Vec<String> = lost.iter().map(|id| id.0.clone()).collect();
        self.database.forget_snapshots(&names)?;
        for name in &names {
            let path = format!("snapshots/{name}");
            if fs::symlink_metadata(self.path(&path)).is_ok() {
                self.discard_stray(&path)?;
            }
        }
        for mount in rows.mounts.iter().filter(|mount| !self.path(&mount.directory).is_dir()) {
            self.database.forget_cache_mount(&mount.id, &mount.directory)?;
        }
        Ok(())
    }

    /// Makes a finding right. False when that has to wait for a running process.
    pub fn repair(&self, finding: &Finding) -> Result<bool, StoreError> {
        match finding {
            Finding::DamagedBlob { digest, .. }
            | Finding::UnreadableBlob { digest, .. }
            | Finding::LostBlob { digest, .. }
            | Finding::BlobSize { digest, .. } => self.discard_blob(digest).map(|()| true),
            Finding::LostSnapshot { id }
            | Finding::SnapshotWithoutLayer { id }
            | Finding::UnknownSnapshot { id, .. }
            | Finding::DamagedSnapshot { id, .. } => self.discard_snapshot(id),
            Finding::LostMount { id, directory } => {
                self.database.forget_cache_mount(id, directory).map(|_| true)
            }
            Finding::BrokenImage { name, .. } => {
                self.database.unname_image(name)?;
                self.write_index().map(|()| true)
            }
            Finding::Stray { path } => self.discard_stray(path),
            Finding::Index => self.write_index().map(|()| true),
            // Only a new one helps: `Store::open` makes it, and nobody may have the old one open.
            Finding::Database { .. } => Ok(false),
        }
    }

    fn discard_snapshot(&self, id: &SnapshotId) -> Result<bool, StoreError> {
        let lessees = self.lessees()?;
        // Nobody is to start from it, also when somebody does already.
        self.database.forget_snapshots(std::slice::from_ref(&id.0))?;
        if !lessees.exclude(Thing::Snapshot(id))? {
            return Ok(false);
        }
        self.discard(&self.path(&format!("snapshots/{}", id.0)))?;
        Ok(true)
    }

    fn discard_stray(&self, path: &str) -> Result<bool, StoreError> {
        let lessees = self.lessees()?;
        let free = match path.split_once('/') {
            Some(("snapshots", name)) => lessees.exclude(Thing::Snapshot(&SnapshotId(name.to_owned())))?,
            Some(("mounts", _)) => {
                lessees.exclude(Thing::Mount(path.strip_suffix(".lock").unwrap_or(path)))?
            }
            _ => true,
        };
        if free {
            self.discard(&self.path(path))?;
        }
        Ok(free)
    }
}

/// Snapshots that were unpacked from layers with these diff_ids.
fn unpacked(rows: &Rows, diff_ids: &BTreeSet<&DiffId>) -> BTreeSet<SnapshotId> {
    let layers = rows.layers.iter().filter(|(_, of_image, diff_id)| *of_image && diff_ids.contains(diff_id));
    layers.map(|(id, ..)| id.clone()).collect()
}

#[cfg(test)]
mod tests;
