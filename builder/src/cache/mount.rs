//! Cache mounts in a remote cache: what `RUN --mount=type=cache` has gathered, for a machine that has nothing yet.
//!
//! Its tag is made of the mount's id, its one layer is a tar in zstd. Unlike a step it is no result that somebody could
//! rely on: the last writer wins, and a mount that is not there is an empty one.
//!
//! Invariants: what [`find`] gives belongs to the id that was asked for.

use serde::{Deserialize, Serialize};

use super::artifact::{self, Artifact, Small};
use super::{Cache, CacheError, Form, Tag};
use crate::base::digest::{Digest, KeyHasher};
use crate::image::manifest::Descriptor;

const MEDIA_TYPE: &str = "application/vnd.kiln.cache.mount.v1+json";
const BLOB_TYPE: &str = "application/vnd.kiln.cache.mount.v1.tar+zstd";
/// Largest record: an id and a descriptor.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// Which cache mounts travel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mounts {
    /// None.
    #[default]
    None,
    /// All that the build uses.
    All,
    /// Those with these ids.
    Only(Vec<String>),
}

impl Mounts {
    /// Whether one of them is meant.
    pub fn include(&self, id: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(only) => only.iter().any(|only| only == id),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    digest: Digest,
    size_bytes: u64,
}

/// Name of a mount's artifact.
pub fn tag(id: &str) -> Tag {
    let mut hasher = KeyHasher::new("kiln/remote-mount/v1");
    hasher.field(id.as_bytes());
    Tag(format!("m1-{}", hasher.finish().hex()))
}

/// What the archive of a mount is called.
pub fn descriptor(digest: Digest, size_bytes: u64) -> Descriptor {
    Descriptor::new(BLOB_TYPE, digest, size_bytes)
}

/// Looks for the archive of a cache mount: a tar in zstd.
pub fn find(cache: &dyn Cache, id: &str) -> Result<Option<Descriptor>, CacheError> {
    let Some(Artifact { place, config, layers }) =
        artifact::read(cache, &tag(id), MEDIA_TYPE, MAX_RECORD_BYTES)?
    else {
        return Ok(None);
    };
    let record: Record = serde_json::from_slice(&config)
        .map_err(|e| CacheError::Record { place: place.clone(), source: e.into() })?;
    if record.id != id {
        return Err(CacheError::Artifact { place, reason: "its record belongs to another cache mount" });
    }
    if layers != [record.digest] {
        return Err(CacheError::Artifact {
            place,
            reason: "its record names other layers than its manifest",
        });
    }
    Ok(Some(descriptor(record.digest, record.size_bytes)))
}

/// Writes the artifact of a cache mount whose archive is there.
pub fn put(cache: &dyn Cache, id: &str, archive: &Descriptor, form: Form) -> Result<(), CacheError> {
    let record = Record { id: id.to_owned(), digest: archive.digest, size_bytes: archive.size };
    let bytes = serde_json::to_vec(&record).expect("invariant: plain data always serialises");
    artifact::write(cache, &[tag(id)], MEDIA_TYPE, &bytes, vec![archive.clone()], (form, Small::Missing))
}
