//! What is in the store: every snapshot, blob, cache mount and mirror with its size, its last use, and who needs it.
//!
//! | kind | is | its last use |
//! | --- | --- | --- |
//! | snapshot | a directory below `snapshots/` with a row | time of `snapshots/ID` |
//! | blob | a file below `blobs/` | time of the file |
//! | mount | a cache mount | its row |
//! | git | a mirror below `git/` | time of its lock file |
//! | stray | what has no row and no user: left by a killed process, or replaced | time of the directory |
//!
//! Invariants: looking changes nothing and leases nothing; what vanishes meanwhile is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use super::leases::Lessees;
use super::mounts::disk_usage;
use super::records::SnapshotId;
use super::records::collect::Rows;
use super::{BALLAST, Store, StoreError, Thing};
use crate::base::digest::{DiffId, Digest};
use crate::base::limits::MAX_METADATA_BYTES;
use crate::image::config::ImageConfig;

/// Records of builds, below the store (`record::shelf`), and what is no record there.
const RECORDS: &str = "records";
const LISTINGS: &str = "listings";

/// What sort of data an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Snapshot,
    Blob,
    Mount,
    Git,
    Stray,
}

impl Kind {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 5] = [Self::Snapshot, Self::Blob, Self::Mount, Self::Git, Self::Stray];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Blob => "blob",
            Self::Mount => "mount",
            Self::Git => "git",
            Self::Stray => "stray",
        }
    }
}

/// One piece of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its sort.
    pub kind: Kind,
    /// Name of the snapshot, digest of the blob, id of the mount, or path below the store.
    pub id: String,
    /// On the disk; for snapshots the bytes of their files.
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub last_used: i64,
    /// A running process uses it.
    pub in_use: bool,
    /// Names of the images that it is a part of.
    pub images: Vec<String>,
    /// For people.
    pub description: String,
    /// Snapshots that are of no use without this blob: the layer that they were unpacked from.
    pub(super) needed_by: BTreeSet<SnapshotId>,
    /// Path below the store, or of a cache mount's directory.
    pub(super) path: String,
}

impl Item {
    /// Part of an image that has a name: removed by removing the image, never by a collection.
    pub fn is_image_data(&self) -> bool {
        self.kind == Kind::Blob && !self.images.is_empty()
    }
}

/// An image by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    /// Full name with tag.
    pub name: String,
    /// Of the manifest or index.
    pub digest: Digest,
    /// Of all its blobs.
    pub size_bytes: u64,
    /// Of those that other names need too.
    pub shared_bytes: u64,
    /// Seconds since 1970.
    pub last_used: i64,
}

impl ImageUsage {
    /// What would be freed by removing this name alone.
    pub fn unique_bytes(&self) -> u64 {
        self.size_bytes - self.shared_bytes
    }
}

/// Everything that is in the store.
#[derive(Debug, Default)]
pub struct Usage {
    /// All data, by kind and id.
    pub items: Vec<Item>,
    /// All images, by name.
    pub images: Vec<ImageUsage>,
    /// What is no data of images or cache, and nothing for collections.
    pub own: Own,
    /// Rows that it was made from.
    pub(super) rows: Rows,
}

/// What a store keeps for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// Number of build records.
    pub records: usize,
    /// On the disk, logs and listings included.
    pub records_bytes: u64,
    /// The database with its log.
    pub database_bytes: u64,
    /// Room to make room with on a full disk.
    pub ballast_bytes: u64,
}

impl Own {
    /// All together.
    pub fn total_bytes(&self) -> u64 {
        self.records_bytes + self.database_bytes + self.ballast_bytes
    }
}

impl Usage {
    /// How many items of a kind there are, and their bytes.
    pub fn of_kind(&self, kind: Kind) -> (usize, u64) {
        let items = self.items.iter().filter(|item| item.kind == kind);
        items.fold((0, 0), |(count, bytes), item| (count + 1, bytes + item.size_bytes))
    }

    /// Bytes of all data; [`Own`] is beside it.
    pub fn total_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.size_bytes).sum()
    }

    /// Bytes of everything but the images: what policies are about.
    pub fn cache_bytes(&self) -> u64 {
        self.items.iter().filter(|item| !item.is_image_data()).map(|item| item.size_bytes).sum()
    }
}

/// What an image is made of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Manifests, configs, layers, with the root itself.
    pub blobs: BTreeSet<Digest>,
    pub diff_ids: BTreeSet<DiffId>,
}

impl Store {
    /// Looks at everything.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let rows = self.database.rows()?;
        let lessees = self.lessees()?;
        let live = self.live_tokens()?;
        let mut parts = BTreeMap::new();
        for (name, digest) in &rows.images {
            parts.insert(name.as_str(), self.parts(digest));
        }
        let mut looker = Looker { store: self, rows: &rows, lessees, live, parts, items: Vec::new() };
        looker.snapshots()?;
        looker.blobs()?;
        looker.mounts()?;
        looker.mirrors()?;
        let own = looker.own()?;
        let mut items = looker.items;
        items.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        let images = images(&rows, &items, &looker.parts);
        Ok(Usage { items, images, own, rows })
    }

    /// Everything below the manifest or index of an image, as far as it can be read.
    pub(super) fn parts(&self, root: &Digest) -> Parts {
        let mut parts = Parts::default();
        let mut pending = vec![*root];
        while let Some(digest) = pending.pop() {
            if !parts.blobs.insert(digest) {
                continue;
            }
            let Ok(bytes) = self.peek_blob(&digest, MAX_METADATA_BYTES) else { continue };
            let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { continue };
            pending.extend(digests(&document["manifests"]));
            parts.blobs.extend(digests(&document["layers"]));
            if let Some(config) = digest_of(&document["config"]) {
                parts.blobs.insert(config);
                if let Ok(bytes) = self.peek_blob(&config, MAX_METADATA_BYTES)
                    && let Ok(config) = ImageConfig::from_bytes(&bytes)
                {
                    parts.diff_ids.extend(config.rootfs.diff_ids);
                }
            }
        }
        parts
    }
}

fn digest_of(descriptor: &Value) -> Option<Digest> {
    descriptor["digest"].as_str()?.parse().ok()
}

fn digests(descriptors: &Value) -> impl Iterator<Item = Digest> + '_ {
    descriptors.as_array().into_iter().flatten().filter_map(digest_of)
}

fn images(rows: &Rows, items: &[Item], parts: &BTreeMap<&str, Parts>) -> Vec<ImageUsage> {
    let blobs: BTreeMap<&str, &Item> =
        items.iter().filter(|item| item.kind == Kind::Blob).map(|item| (item.id.as_str(), item)).collect();
    rows.images
        .iter()
        .map(|(name, digest)| {
            let all = parts.get(name.as_str()).map(|parts| &parts.blobs);
            let all: Vec<&&Item> = all
                .into_iter()
                .flatten()
                .filter_map(|digest| blobs.get(digest.to_string().as_str()))
                .collect();
            let shared = all.iter().filter(|item| item.images.len() > 1);
            ImageUsage {
                name: name.clone(),
                digest: *digest,
                size_bytes: all.iter().map(|item| item.size_bytes).sum(),
                shared_bytes: shared.map(|item| item.size_bytes).sum(),
                last_used: blobs.get(digest.to_string().as_str()).map_or(0, |item| item.last_used),
            }
        })
        .collect()
}

struct Looker<'a> {
    store: &'a Store,
    rows: &'a Rows,
    lessees: Lessees,
    live: BTreeSet<String>,
    parts: BTreeMap<&'a str, Parts>,
    items: Vec<Item>,
}

/// A name below a directory of the store, with its metadata.
type Found = (String, Metadata);

impl Looker<'_> {
    /// What is in a directory; nothing when that is not there.
    fn list(&self, below: &str) -> Result<Vec<Found>, StoreError> {
        let dir = self.store.path(below);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(StoreError::io("list", &dir))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("list", &dir))?;
            if let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) {
                found.push((name, metadata));
            }
        }
        Ok(found)
    }

    fn own(&self) -> Result<Own, StoreError> {
        let bytes = |name: &str| {
            fs::metadata(self.store.path(name)).map_or(0, |metadata| metadata.blocks().saturating_mul(512))
        };
        Ok(Own {
            records: self.list(RECORDS)?.iter().filter(|(name, _)| name != LISTINGS).count(),
            records_bytes: disk_usage(&self.store.path(RECORDS)),
            database_bytes: ["kiln.db", "kiln.db-wal", "kiln.db-shm"].into_iter().map(bytes).sum(),
            ballast_bytes: bytes(BALLAST),
        })
    }

    /// Whether a running process made this name.
    fn is_of_the_living(&self, name: &str) -> bool {
        name.split_once('-').is_some_and(|(token, _)| self.live.contains(token))
    }

    fn images_with(&self, has: impl Fn(&Parts) -> bool) -> Vec<String> {
        self.parts.iter().filter(|(_, parts)| has(parts)).map(|(name, _)| (*name).to_owned()).collect()
    }

    fn stray(&mut self, path: String, metadata: &Metadata) {
        let size_bytes = if metadata.is_dir() { disk_usage(&self.store.path(&path)) } else { metadata.len() };
        self.items.push(Item {
            kind: Kind::Stray,
            id: path.clone(),
            size_bytes,
            last_used: metadata.mtime(),
            in_use: false,
            images: Vec::new(),
            description: "nothing refers to it".to_owned(),
            needed_by: BTreeSet::new(),
            path,
        });
    }

    fn snapshots(&mut self) -> Result<(), StoreError> {
        let mut names: BTreeMap<&SnapshotId, &str> = BTreeMap::new();
        for step in &self.rows.steps {
            if let Some(top) = step.layers.as_ref().and_then(|layers| layers.last()) {
                names.entry(&top.snapshot).or_insert(&step.name);
            }
        }
        let mut diff_ids: BTreeMap<&SnapshotId, Vec<DiffId>> = BTreeMap::new();
        let mut of_images = BTreeSet::new();
        for (id, of_image, diff_id) in &self.rows.layers {
            diff_ids.entry(id).or_default().push(*diff_id);
            if *of_image {
                of_images.insert(id);
            }
        }
        let rows: BTreeMap<&str, _> =
            self.rows.snapshots.iter().map(|row| (row.id.0.as_str(), row)).collect();
        for (name, metadata) in self.list("snapshots")? {
            let id = SnapshotId(name.clone());
            let in_use = self.lessees.has(Thing::Snapshot(&id))?;
            let path = format!("snapshots/{name}");
            let Some(row) = rows.get(name.as_str()) else {
                if !in_use && !self.is_of_the_living(&name) {
                    self.stray(path, &metadata);
                }
                continue;
            };
            let own = diff_ids.get(&id).map_or(&[][..], Vec::as_slice);
            let images = self.images_with(|parts| own.iter().any(|diff_id| parts.diff_ids.contains(diff_id)));
            let description = match names.get(&id) {
                _ if of_images.contains(&id) => "layer of an image",
                Some(name) => name,
                None => "part of no step any more",
            };
            self.items.push(Item {
                kind: Kind::Snapshot,
                size_bytes: row.size_bytes,
                last_used: metadata.mtime(),
                in_use,
                images,
                description: description.to_owned(),
                needed_by: BTreeSet::new(),
                id: name,
                path,
            });
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<(), StoreError> {
        let mut described: BTreeMap<Digest, &str> = BTreeMap::new();
        let mut needed_by: BTreeMap<Digest, BTreeSet<SnapshotId>> = BTreeMap::new();
        let mut unpacked: BTreeMap<DiffId, Vec<&SnapshotId>> = BTreeMap::new();
        for (id, of_image, diff_id) in &self.rows.layers {
            if *of_image {
                unpacked.entry(*diff_id).or_default().push(id);
            }
        }
        for (diff_id, compressor, digest, _) in &self.rows.blobs {
            described.insert(*digest, "layer");
            if compressor == "original"
                && let Some(ids) = unpacked.get(diff_id)
            {
                needed_by.entry(*digest).or_default().extend(ids.iter().map(|id| (*id).clone()));
            }
        }
        described.extend(self.rows.downloads.iter().map(|digest| (*digest, "download")));
        for root in &self.rows.resolved {
            described.insert(*root, "manifest of a base image");
            if let Ok(bytes) = self.store.peek_blob(root, MAX_METADATA_BYTES)
                && let Ok(document) = serde_json::from_slice::<Value>(&bytes)
                && let Some(config) = digest_of(&document["config"])
            {
                described.insert(config, "config of a base image");
            }
        }
        for (name, metadata) in self.list("blobs/sha256")? {
            let path = format!("blobs/sha256/{name}");
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                self.stray(path, &metadata);
                continue;
            };
            let images = self.images_with(|parts| parts.blobs.contains(&digest));
            let description = described.get(&digest).copied();
            self.items.push(Item {
                kind: Kind::Blob,
                id: digest.to_string(),
                size_bytes: metadata.len(),
                last_used: metadata.mtime(),
                in_use: self.lessees.has(Thing::Blob(&digest))?,
                description: description
                    .unwrap_or(if images.is_empty() { "nothing refers to it" } else { "part of an image" })
                    .to_owned(),
                images,
                needed_by: needed_by.remove(&digest).unwrap_or_default(),
                path,
            });
        }
        Ok(())
    }

    fn mounts(&mut self) -> Result<(), StoreError> {
        for (mount, in_use) in self.store.measured_cache_mounts()? {
            self.items.push(Item {
                kind: Kind::Mount,
                id: mount.id,
                size_bytes: mount.size_bytes,
                last_used: mount.last_used,
                in_use,
                images: Vec::new(),
                description: "cache mount".to_owned(),
                needed_by: BTreeSet::new(),
                path: mount.directory,
            });
        }
        let known: BTreeSet<&str> = self.rows.mounts.iter().map(|mount| mount.directory.as_str()).collect();
        for (name, metadata) in self.list("mounts")? {
            let path = format!("mounts/{name}");
            let directory = path.strip_suffix(".lock").unwrap_or(&path);
            let in_use = self.lessees.has(Thing::Mount(directory))?;
            if !known.contains(directory) && !in_use && !self.is_of_the_living(&name) {
                self.stray(path, &metadata);
            }
        }
        Ok(())
    }

    fn mirrors(&mut self) -> Result<(), StoreError> {
        for (name, metadata) in self.list("git")? {
            let Some(stem) = name.strip_suffix(".git").filter(|_| metadata.is_dir()) else { continue };
            let lock_path = self.store.path(&format!("git/{stem}.lock"));
            let lock = File::open(&lock_path).ok();
            let last_used = lock.as_ref().and_then(|lock| lock.metadata().ok()).map_or(0, |m| m.mtime());
            let path = format!("git/{name}");
            self.items.push(Item {
                kind: Kind::Git,
                size_bytes: disk_usage(&self.store.path(&path)),
                last_used: last_used.max(metadata.mtime()),
                in_use: lock.is_some_and(|lock| lock.try_lock_shared().is_err()),
                images: Vec::new(),
                description: "mirror of a git repository".to_owned(),
                needed_by: BTreeSet::new(),
                id: name,
                path,
            });
        }
        Ok(())
    }
}
