//! kiln's store: blobs, snapshots, cache mounts and the database that knows them.
//!
//! ```text
//! ROOT/            0700
//!   oci-layout, index.json, blobs/sha256/…   a valid OCI image layout: what `kiln images` lists
//!   snapshots/ID/{fs,work}                   one directory for each layer, as an overlay upper or lower
//!   mounts/ID                                cache mounts
//!   stubs/ID                                 empty mount points, the lowest lower of every RUN
//!   spots/{root,side}                        where mounts are attached inside a sandbox' mount namespace
//!   tmp/                                     what is being written
//!   locks/KEY                                steps that run right now (claims.rs)
//!   records/TIME-ID/                         what builds did (room `record`)
//!   secret-key                               makes fingerprints of secrets (secret_key.rs)
//!   kiln.db, kiln.lock                       SQLite, WAL; held while the database is made
//! ```
//!
//! Invariants:
//! - data first, row last: a row may lag a file, never lead it; kill -9 at any moment leaves orphans at most;
//! - a blob gets its name only after its digest was verified;
//! - many processes share a store: SQLite and rename(2) decide, there is no lock around a build.

mod blobs;
mod claims;
mod database;
mod process;
pub mod records;
mod secret_key;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use blobs::{BlobWriter, IncomingBlob};
pub use claims::StepClaim;
pub use database::Database;

use crate::base::digest::Digest;

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
    #[error("the store's database was written by a newer kiln (schema {found}, this one knows {known})")]
    Newer { found: i64, known: i64 },
    #[error("blob has digest {actual}, but {expected} was promised")]
    WrongDigest { expected: Digest, actual: Digest },
    #[error("blob {digest} is not in the store")]
    NoBlob { digest: Digest },
    #[error("a record in the store's database is malformed: {0}")]
    Malformed(String),
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// True when the disk is full.
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    database: Database,
    process: OnceLock<process::Process>,
}

impl Store {
    /// Opens the store at `root`, making it when it is not there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
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
            for dir in [
                "blobs/sha256",
                "snapshots",
                "mounts",
                "stubs/empty",
                "stubs/void",
                "spots/root",
                "spots/side",
                "tmp",
            ] {
                make(&root.join(dir))?;
            }
            let layout = root.join("oci-layout");
            fs::write(&layout, r#"{"imageLayoutVersion":"1.0.0"}"#)
                .map_err(StoreError::io("write", &layout))?;
        }
        let root = root.canonicalize().map_err(StoreError::io("find", root))?;
        let database = Database::open(&root.join("kiln.db"))?;
        Ok(Self { root, database, process: OnceLock::new() })
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
        tempfile::Builder::new()
            .prefix("kiln-")
            .tempdir_in(&dir)
            .map_err(StoreError::io("create a file in", &dir))
    }
}

/// Removes a directory and all below it. Overlay leaves `work/work` with mode 000, which only matters without
/// CAP_DAC_OVERRIDE; directories that a step left unreadable likewise.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            for entry in walkdir::WalkDir::new(path).follow_links(false) {
                let Ok(entry) = entry else { continue };
                if entry.file_type().is_dir() {
                    let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700));
                }
            }
            fs::remove_dir_all(path)
        }
        result => result,
    }
}

impl Store {
    /// Writes `index.json` anew from the named images, so that other tools can read the store as an OCI layout.
    pub fn write_index(&self) -> Result<(), StoreError> {
        use crate::image::manifest::{Descriptor, Index, to_bytes};
        let mut descriptors = Vec::new();
        for image in self.database.images()? {
            let Some(size) = self.blob_size(&image.digest) else { continue };
            let mut descriptor = Descriptor::new(&image.media_type, image.digest, size);
            descriptor.annotations.insert("org.opencontainers.image.ref.name".to_owned(), image.name);
            descriptors.push(descriptor);
        }
        let dir = self.temporary()?;
        let (new, target) = (dir.path().join("index.json"), self.root.join("index.json"));
        fs::write(&new, to_bytes(&Index::new(descriptors))).map_err(StoreError::io("write", &new))?;
        fs::rename(&new, &target).map_err(StoreError::io("replace", &target))
    }
}
