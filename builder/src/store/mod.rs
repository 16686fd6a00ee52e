//! kiln's store: blobs, snapshots, cache mounts and the database that knows them.
//!
//! ```text
//! ROOT/            0700
//!   oci-layout, index.json, blobs/sha256/…   a valid OCI image layout: what `kiln images` lists
//!   snapshots/ID/{fs,work}                   one directory for each layer, as an overlay upper or lower
//!   mounts/ID                                cache mounts
//!   stubs/ID                                 empty mount points, the lowest lower of every RUN;
//!                                            files of --ca-bundle, the uppermost one
//!   spots/{root,side}                        where mounts are attached inside a sandbox' mount namespace
//!   tmp/                                     what is being written
//!   locks/KEY                                steps that run right now (claims.rs)
//!   records/TIME-ID/                         what builds did (room `record`)
//!   secret-key                               makes fingerprints of secrets (secret_key.rs)
//!   ballast                                  room to make room with on a full disk
//!   boot                                     the boot in which it was last opened (sync.rs)
//!   collected                                its time is that of the last automatic collection
//!   leases                                   one byte for each thing that a running process uses (leases.rs)
//!   kiln.db, kiln.lock                       SQLite, WAL; held while the database is made
//! ```
//!
//! Invariants:
//! - data first, row last: a row may lag a file, never lead it; kill -9 at any moment leaves orphans at most;
//! - a blob gets its name only after its digest was verified;
//! - many processes share a store: SQLite and rename(2) decide, there is no lock around a build.

mod blobs;
mod check;
mod claims;
mod collect;
mod database;
mod filter;
mod images;
mod leases;
mod mounts;
mod process;
mod prune;
pub mod records;
mod reset;
mod secret_key;
mod sync;
mod throwaway;
mod usage;

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use blobs::{BlobWriter, IncomingBlob};
pub use check::{Finding, Recorded};
pub use claims::StepClaim;
pub use collect::{Automatic, Collected};
pub use database::{Database, is_full_disk, met_damage};
pub use filter::{Filter, FilterError};
pub use images::ImageRemoval;
pub use leases::{PRECISION_SECONDS, Thing};
pub use mounts::{InUse, Removal};
pub use prune::{Limits, Policy, Scope};
pub use reset::{ResetError, reset};
pub use throwaway::Throwaway;
pub use usage::{ImageUsage, Item, Kind, Own, Usage};

use crate::base::digest::{DiffId, Digest};
pub use crate::sys::remove::remove_tree;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("cannot {action} `{path}` of the store")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the store's database `{path}`")]
    Database {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the store's database is damaged: {problem}")]
    DamagedDatabase { problem: String },
    #[error("the store's database `{path}` is damaged, and other kiln processes have it open")]
    DamagedInUse { path: PathBuf },
    #[error("the store's database was written by a newer kiln (schema {found}, this one knows {known})")]
    Newer { found: i64, known: i64 },
    #[error("blob has digest {actual}, but {expected} was promised")]
    WrongDigest { expected: Digest, actual: Digest },
    #[error("blob {digest} of the store is damaged")]
    DamagedBlob { digest: Digest },
    #[error("layer {diff_id} of a base image is not in the store any more")]
    LostLayer { diff_id: DiffId },
    #[error("blob {digest} is not in the store")]
    NoBlob { digest: Digest },
    #[error("blob {digest} is larger than {limit_bytes} bytes")]
    LargeBlob { digest: Digest, limit_bytes: u64 },
    #[error("a record in the store's database is malformed: {0}")]
    Malformed(String),
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// True when the database is damaged.
    pub fn is_damaged_database(&self) -> bool {
        match self {
            Self::Database { source, .. } => database::is_damage(source),
            Self::DamagedDatabase { .. } | Self::Malformed(_) => true,
            _ => false,
        }
    }

    /// True when the disk is full.
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Database { source, .. } => database::is_full_disk(source),
            _ => false,
        }
    }
}

/// A file that takes room for nothing, so that some can be made on a full disk.
const BALLAST: &str = "ballast";
/// Enough for SQLite's log and for forgetting some rows.
const BALLAST_BYTES: u64 = 1 << 20;

/// What a store has from the beginning.
const DIRECTORIES: [&str; 8] =
    ["blobs/sha256", "snapshots", "mounts", "stubs/empty", "stubs/void", "spots/root", "spots/side", "tmp"];

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    database: Database,
    recovered: bool,
    process: OnceLock<process::Process>,
    leases: leases::Leases,
}

impl Store {
    /// Opens the store at `root`, making it when it is not there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self::open_as_it_is(root)?;
        store.keep_ballast();
        Ok(store)
    }

    fn open_as_it_is(root: &Path) -> Result<Self, StoreError> {
        let make = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(StoreError::io("create directory", path))
        };
        let database = root.join("kiln.db");
        if !database.exists() {
            make(root)?;
            fs::set_permissions(root, fs::Permissions::from_mode(0o700))
                .map_err(StoreError::io("set the mode of", root))?;
        }
        // Whatever somebody removed of it is made again.
        for dir in DIRECTORIES.map(|dir| root.join(dir)) {
            if !dir.is_dir() {
                make(&dir)?;
            }
        }
        let layout = root.join("oci-layout");
        if !layout.exists() {
            fs::write(&layout, r#"{"imageLayoutVersion":"1.0.0"}"#)
                .map_err(StoreError::io("write", &layout))?;
        }
        let root = root.canonicalize().map_err(StoreError::io("find", root))?;
        let (database, recovered) = Database::open(&root.join("kiln.db"), sync::was_opened(&root))?;
        let store =
            Self { root, database, recovered, process: OnceLock::new(), leases: leases::Leases::default() };
        store.settle()?;
        if recovered {
            store.restore_names()?;
        }
        Ok(store)
    }

    /// [`Store::open`] for commands that make room: where there is none left even for the database to be opened, the
    /// ballast makes some.
    pub fn open_to_make_room(root: &Path) -> Result<Self, StoreError> {
        match Self::open(root) {
            Err(error) if error.is_full_disk() && fs::remove_file(root.join(BALLAST)).is_ok() => {
                Self::open(root)
            }
            opened => opened,
        }
    }

    /// Makes sure that there is something that can be thrown away when the disk is full.
    fn keep_ballast(&self) {
        let path = self.root.join(BALLAST);
        if path.exists() {
            return;
        }
        // Without it a full disk has to be helped from outside; there is no sense in failing for that.
        let _ = fs::File::create(&path).and_then(|file| {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BALLAST_BYTES)
                .or_else(|_| fs::remove_file(&path).map_err(|_| rustix::io::Errno::NOSPC))
                .map_err(io::Error::from)
        });
    }

    /// Whether the database was found damaged and made anew when the store was opened.
    pub fn was_recovered(&self) -> bool {
        self.recovered
    }

    /// Sets a damaged database aside, so that the next opening of the store makes a new one.
    pub fn discard_database(root: &Path) -> Result<(), StoreError> {
        Database::discard(&root.join("kiln.db"))
    }

    /// The store's directory, absolute and without symlinks.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The records.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// A path below the store.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// A directory for temporary files of this process.
    pub fn temporary(&self) -> Result<tempfile::TempDir, StoreError> {
        let dir = self.root.join("tmp");
        // The name tells whose it is: what a killed process leaves is found by it.
        tempfile::Builder::new()
            .prefix(&self.fresh_name()?)
            .tempdir_in(&dir)
            .map_err(StoreError::io("create a file in", &dir))
    }
}

impl Store {
    /// Removes a file or tree of the store: it loses its place at once, and its data afterwards.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        match self.displace(path)? {
            Some(doomed) => process::remove(&doomed).map_err(StoreError::io("remove", &doomed)),
            None => Ok(()),
        }
    }

    /// Moves a file or tree to `tmp/`, where nobody finds it. `None` when it is gone.
    fn displace(&self, path: &Path) -> Result<Option<PathBuf>, StoreError> {
        // A name of one's own takes a lock file, which may not fit on a full disk.
        let Ok(name) = self.fresh_name() else {
            return process::remove(path).map(|()| None).map_err(StoreError::io("remove", path));
        };
        let doomed = self.root.join("tmp").join(name);
        match fs::rename(path, &doomed) {
            Ok(()) => Ok(Some(doomed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("move", path)(error)),
        }
    }
}

impl Store {
    /// Writes `index.json` anew from the named images, so that other tools can read the store as an OCI layout.
    pub fn write_index(&self) -> Result<(), StoreError> {
        let bytes = self.index()?;
        let target = self.root.join("index.json");
        if fs::read(&target).is_ok_and(|present| present == bytes) {
            return Ok(());
        }
        let dir = self.temporary()?;
        let new = dir.path().join("index.json");
        fs::write(&new, bytes).map_err(StoreError::io("write", &new))?;
        fs::rename(&new, &target).map_err(StoreError::io("replace", &target))
    }

    /// Names images as `index.json` does.
    fn restore_names(&self) -> Result<(), StoreError> {
        use crate::base::limits::MAX_METADATA_BYTES;
        use crate::image::manifest::Index;
        let path = self.root.join("index.json");
        let Ok(file) = fs::File::open(&path) else { return Ok(()) };
        let mut bytes = Vec::new();
        file.take(MAX_METADATA_BYTES).read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        // A damaged index names nothing; the images are lost then, and their data is collected.
        let Ok(index) = serde_json::from_slice::<Index>(&bytes) else { return Ok(()) };
        for descriptor in index.manifests {
            let Some(name) = descriptor.annotations.get("org.opencontainers.image.ref.name") else {
                continue;
            };
            let sizes =
                self.parts(&descriptor.digest).blobs.into_iter().filter_map(|blob| self.stat_blob(&blob));
            self.database.name_image(&records::ImageRecord {
                name: name.clone(),
                media_type: descriptor.media_type.clone(),
                digest: descriptor.digest,
                size_bytes: sizes.sum(),
                created: records::now(),
            })?;
        }
        Ok(())
    }

    /// What `index.json` should be.
    fn index(&self) -> Result<Vec<u8>, StoreError> {
        use crate::image::manifest::{Descriptor, Index, to_bytes};
        let mut descriptors = Vec::new();
        for image in self.database.images()? {
            let Some(size) = self.stat_blob(&image.digest) else { continue };
            let mut descriptor = Descriptor::new(&image.media_type, image.digest, size);
            descriptor.annotations.insert("org.opencontainers.image.ref.name".to_owned(), image.name);
            descriptors.push(descriptor);
        }
        Ok(to_bytes(&Index::new(descriptors)))
    }
}
