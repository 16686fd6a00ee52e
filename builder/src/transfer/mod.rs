//! Whole images from one place to another without unpacking them: store, registries, OCI layouts and archives.
//!
//! ```text
//! Place ──open──▶ Origin (a root document and Content) ──Inventory::read──▶ documents, children first, and blobs
//!                                                                            │
//!                              push (registry) · keep (store) · write (layout, archives)
//! ```
//!
//! Invariants:
//! - bytes are moved as they are: digests never change;
//! - blobs come before the documents that name them, and the name comes last: nothing partial has a name;
//! - every blob is verified by whoever takes it, and readers report a wrong one at their end.

mod docker_archive;
mod inventory;
mod keep;
mod lists;
mod origin;
mod place;
mod push;
mod statements;
mod stream;
mod write;

pub use inventory::{Document, Inventory, index_of};
pub use keep::{find_in_store, keep, name_in_store};
pub use lists::{ImageList, ListChange};
pub use origin::{Content, Origin, StoreContent};
pub use place::{Place, PlaceError};
pub use push::{PushTarget, Pushed, StoredBlob, push};
pub use statements::{StoredStatement, statements};
pub use write::{Form, write};

use std::io;
use std::path::PathBuf;

use crate::base::digest::Digest;
use crate::context::layout::LayoutError;
use crate::export::archive::OutputFailure;
use crate::image::manifest::Descriptor;
use crate::registry::{BlobOutcome, RegistryError};
use crate::store::StoreError;

/// Blobs that are moved at a time: enough to fill a line with a few large layers, and few enough for a registry's limits.
const BLOBS_AT_ONCE: usize = 4;

/// What is heard of a blob on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It is being moved.
    Begun,
    /// So many bytes so far; starts again at 0 when an upload does.
    Bytes(u64),
    /// It is there, by these means.
    Done(BlobOutcome),
    /// It could not be moved.
    Failed,
}

/// Hears how blobs move on, from several threads.
pub type Watcher<'a> = &'a (dyn Fn(&Descriptor, Moved) + Sync);

/// Why an image could not be moved.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TransferError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Output(#[from] OutputFailure),
    #[error("there is no image `{0}` in the store")]
    NotInStore(String),
    #[error("`{id}` stands for several images of the store: {}", .names.join(", "))]
    SeveralIds { id: String, names: Vec<String> },
    #[error("{what} {digest} of the image is malformed")]
    Malformed {
        what: &'static str,
        digest: Digest,
        #[source]
        source: serde_json::Error,
    },
    #[error("document {digest} of the image has {actual} bytes instead of {expected}")]
    WrongSize { digest: Digest, expected: u64, actual: u64 },
    #[error("{digest} has the media type `{media_type}`, which is not an image")]
    MediaType { digest: Digest, media_type: String },
    #[error("the image has no platform {wanted}; it has {have}")]
    NoPlatform { wanted: String, have: String },
    #[error("the image is an index of indexes nested too deeply")]
    Nested,
    #[error("`{0}` is not a list of images but an image")]
    NotAList(String),
    #[error("`{list}` has no image `{which}`")]
    NoEntry { list: String, which: String },
    #[error("two images are for {platform}; the first one is {digest}")]
    SamePlatform { platform: String, digest: Digest },
    #[error("cannot read the archive `{}`", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the archive `{}` has several images, or none of that name; it has {have}", path.display())]
    NotInArchive { path: PathBuf, have: String },
    #[error("cannot read blob {digest}")]
    Read {
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("the attestation {digest} has {size} bytes, which is more than kiln reads")]
    LargeStatement { digest: Digest, size: u64 },
    #[error("a file for docker holds one platform, and the image has {0}")]
    SeveralPlatforms(usize),
}

impl TransferError {
    /// What the user can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::SamePlatform { .. } => Some(
                "`kiln manifest add` puts an image in the place of another one; `kiln manifest annotate` changes what an \
                 image is for"
                    .to_owned(),
            ),
            Self::NoEntry { list, .. } => Some(format!("`kiln manifest inspect {list}` shows what it has")),
            Self::NotInArchive { .. } => Some("name one of them: docker-archive:FILE:NAME".to_owned()),
            Self::NotInStore(_) => Some("`kiln images` lists the images".to_owned()),
            Self::SeveralPlatforms(_) | Self::NoPlatform { .. } => {
                Some("choose one with --platform OS/ARCH".to_owned())
            }
            _ => None,
        }
    }

    /// True when it was stopped.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_cancelled(),
            Self::Read { source, .. } | Self::Output(OutputFailure::Blob { source, .. }) => {
                let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<RegistryError>());
                inner.is_some_and(RegistryError::is_cancelled)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
