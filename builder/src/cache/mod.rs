//! Caches outside of this machine's store: a registry, a directory that something else carries about, or the service that
//! GitHub Actions has for its jobs.
//!
//! A cache holds one small OCI artifact for each step and key, and one for each cache mount that travels ([`mount`]). A
//! step's tag is the key ([`Tag`]), its config is the step's record ([`record::Record`]), its layers are those that the
//! build added to the base image. So a look-up is one request, writers never write the same thing (there is no index of
//! everything that one of them could lose), and whatever a registry has kept of a step it has kept whole.
//!
//! Invariants:
//! - what [`find`] gives was read strictly and belongs to the key that was asked for;
//! - what [`Cache::blob`] wrote counts only when it returned `Ok`: size and digest were right then;
//! - an artifact is written after everything that it names.

pub mod actions;
mod artifact;
pub mod bucket;
mod directory;
mod download;
pub mod mount;
pub mod record;
mod registry;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;

use actions::{ActionsCache, ActionsError, ActionsOptions};
pub use artifact::Form;
use artifact::{Artifact, Small};
use bucket::{BucketCache, BucketError, BucketOptions};
pub use directory::DirectoryCache;
pub use registry::RegistryCache;

use crate::base::digest::{CacheKey, Digest};
use crate::base::sink::BlobSink;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::registry::{BlobSource, Client, RegistryError};
use crate::sys::error::FsError;
use record::{MAX_RECORD_BYTES, MEDIA_TYPE, Record, RecordError};

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CacheError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Actions(#[from] ActionsError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("the cache directory `{}` is not there", path.display())]
    NoDirectory { path: PathBuf },
    #[error("`{}` of the cache directory is malformed", path.display())]
    Index {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{place}` holds no step that kiln can read")]
    Record {
        place: String,
        #[source]
        source: RecordError,
    },
    #[error("`{place}` is not a step of a cache: {reason}")]
    Artifact { place: String, reason: &'static str },
    #[error("`{place}` holds {actual} instead of {expected}")]
    WrongDigest { place: String, expected: Digest, actual: Digest },
}

impl CacheError {
    /// Whether one artifact is bad, and not the cache out of reach.
    pub fn is_about_one_step(&self) -> bool {
        match self {
            Self::Record { .. } | Self::Artifact { .. } | Self::WrongDigest { .. } => true,
            Self::Registry(error) => matches!(
                error,
                RegistryError::WrongDigest { .. }
                    | RegistryError::WrongSize { .. }
                    | RegistryError::TooLarge { .. }
                    | RegistryError::Malformed { .. }
                    | RegistryError::Ambiguous { .. }
                    | RegistryError::MediaType { .. }
                    | RegistryError::BlobNotFound { .. }
            ),
            Self::Actions(error) => error.is_about_one_step(),
            Self::Bucket(error) => error.is_about_one_step(),
            Self::Io { .. } | Self::Fs(_) | Self::NoDirectory { .. } | Self::Index { .. } => false,
        }
    }

    /// Whether an artifact was refused since the cache lacks a blob of it.
    pub fn lacks_blob(&self) -> bool {
        matches!(self, Self::Registry(RegistryError::Incomplete { .. }))
    }

    /// What the user can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Actions(error) => error.hint(),
            Self::Bucket(error) => error.hint(),
            _ => None,
        }
    }
}

/// Name of a step's artifact: the key and, since it shapes the layers, the time to which files are clamped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// The tag of a key.
    pub fn new(key: &CacheKey, epoch: Option<i64>) -> Self {
        let key = key.0.hex();
        Self(epoch.map_or_else(|| format!("k1-{key}"), |epoch| format!("k1-{key}-e{epoch}")))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A repository; the tag of the reference plays no part.
    Registry(Reference),
    /// An OCI image layout.
    Directory(PathBuf),
    /// The cache service of GitHub Actions.
    Actions(Box<ActionsOptions>),
    /// A bucket of an object store.
    Bucket(Box<BucketOptions>),
}

impl Location {
    /// The cache there. Nothing is contacted or opened yet.
    pub fn open(&self, client: &Client) -> Box<dyn Cache> {
        match self {
            Self::Registry(reference) => Box::new(RegistryCache::new(client.clone(), reference)),
            Self::Directory(path) => Box::new(DirectoryCache::new(path)),
            Self::Actions(options) => Box::new(ActionsCache::new(client, options)),
            Self::Bucket(options) => Box::new(BucketCache::new(client, options)),
        }
    }
}

/// A place that keeps artifacts and blobs. May be used from many threads at once.
pub trait Cache: Sync + fmt::Debug {
    /// For people.
    fn name(&self) -> String;

    /// Where blobs could be mounted from, when it is a registry.
    fn repository(&self) -> Option<&Reference>;

    /// The manifest with this tag; `None` when there is none.
    ///
    /// # Errors
    /// When the cache cannot be read.
    fn manifest(&self, tag: &Tag) -> Result<Option<Vec<u8>>, CacheError>;

    /// Whether there is a manifest with this tag.
    ///
    /// # Errors
    /// When the cache cannot be read.
    fn has_manifest(&self, tag: &Tag) -> Result<bool, CacheError>;

    /// Streams a blob into `sink` and verifies it. What the sink got counts only when this returns `Ok`.
    ///
    /// # Errors
    /// When the blob is not there, or not what it should be, or `sink` failed.
    fn blob(
        &self,
        blob: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), CacheError>;

    /// Whether a blob is there, or came from one of the repositories `beside` without being sent.
    ///
    /// # Errors
    /// When the cache cannot be read.
    fn has_blob(&self, blob: &Descriptor, beside: &[Reference]) -> Result<bool, CacheError>;

    /// Writes a blob, also when one of this name is there.
    ///
    /// # Errors
    /// When the cache cannot be written.
    fn put_blob(&self, blob: &Descriptor, source: &dyn BlobSource) -> Result<(), CacheError>;

    /// Writes a manifest of type `kind` whose blobs are there, in place of another one with this tag. Others may see it
    /// only after [`Cache::flush`].
    ///
    /// # Errors
    /// When the cache cannot be written.
    fn put_manifest(&self, tag: &Tag, kind: &str, bytes: &[u8]) -> Result<(), CacheError>;

    /// Removes all manifests but those with these tags, and blobs that none of them names. Gives the number of blobs.
    ///
    /// # Errors
    /// When the cache cannot be written. A cache that keeps itself in bounds keeps all.
    fn keep_only(&self, _tags: &BTreeSet<Tag>) -> Result<usize, CacheError> {
        Ok(0)
    }

    /// Lets others see all manifests that were put.
    ///
    /// # Errors
    /// When the cache cannot be written.
    fn flush(&self) -> Result<(), CacheError> {
        Ok(())
    }

    /// Whether a manifest has to carry its config, so that no blob is wanted for that: where each blob is dear.
    fn carries_configs(&self) -> bool {
        false
    }
}

/// Looks for the record of a key.
pub fn find(cache: &dyn Cache, key: &CacheKey, epoch: Option<i64>) -> Result<Option<Record>, CacheError> {
    let tag = Tag::new(key, epoch);
    let Some(Artifact { place, config, layers }) = artifact::read(cache, &tag, MEDIA_TYPE, MAX_RECORD_BYTES)?
    else {
        return Ok(None);
    };
    let record =
        Record::parse(&config).map_err(|source| CacheError::Record { place: place.clone(), source })?;
    if !record.keys.contains(key) || record.epoch != epoch {
        return Err(CacheError::Artifact { place, reason: "its record belongs to another step" });
    }
    if !layers.iter().eq(record.layers.iter().map(|layer| &layer.digest)) {
        return Err(CacheError::Artifact {
            place,
            reason: "its record names other layers than its manifest",
        });
    }
    Ok(Some(record))
}

/// Writes the artifact of a step whose layers are there, under `tags`.
pub fn put(cache: &dyn Cache, tags: &[Tag], record: &Record, form: Form) -> Result<(), CacheError> {
    write(cache, tags, record, (form, Small::Missing))
}

/// [`put`] after the cache turned out to lack a blob that it said it had, and the layers were written again.
pub fn put_again(cache: &dyn Cache, tags: &[Tag], record: &Record, form: Form) -> Result<(), CacheError> {
    write(cache, tags, record, (form, Small::Again))
}

fn write(cache: &dyn Cache, tags: &[Tag], record: &Record, how: (Form, Small)) -> Result<(), CacheError> {
    let layers = record.layers.iter().map(record::RecordLayer::descriptor).collect();
    artifact::write(cache, tags, MEDIA_TYPE, &record.to_bytes(), layers, how)
}
