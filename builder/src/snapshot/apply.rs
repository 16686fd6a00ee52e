//! Layers and archives into directories.
//!
//! | entry of a layer | in the layer's directory |
//! |---|---|
//! | `.wh.NAME` | character device 0:0, when a lower layer has NAME |
//! | `.wh..wh..opq` | `user.overlay.opaque=y`, when a lower layer has the directory |
//! | other `.wh..wh.*` | nothing (AUFS' bookkeeping) |
//! | directory where this layer has a file or whiteout so far | directory, opaque when a lower layer has one |
//! | hard link to a file of a lower layer | copy of that file, and a link to it |
//! | something below a directory that the layer does not list | directory with the metadata that the lower layers give it |
//! | something below a symlink (of this layer or a lower one) | put where the symlink leads inside the root |
//!
//! Invariants:
//! - everything is made inside the directory given, whatever the archive says: paths lose leading slashes, `..`
//!   above the root is an error, symlinks are resolved inside the merged root;
//! - a whiteout concerns lower layers only, wherever it stands in the archive (OCI image spec `layer.md`);
//! - no whiteout is left where overlayfs would show it (a directory that is not merged);
//! - of several entries with one path the last counts; times of directories are set at the end.

mod layer;
mod lower;
#[cfg(test)]
mod tests;
mod unpack;

use std::io::{self, Read};

pub use super::node::Ownership;
pub use unpack::{Top, UnpackOptions, Unpacked, unpack_archive};

use super::node::{Metadata, Place, write_data};
use super::warning::{Warnings, display};
use crate::layer::tar::{Entry, Kind, Reader, TarError};
use crate::sys::error::FsError;
use crate::sys::rootdir::RootDir;

/// What became of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of regular files.
    pub file_bytes: u64,
    /// Whiteouts and opaque marks that were made.
    pub whiteouts: u64,
    /// Directories that the layer did not list but needed, sorted, without leading slash.
    pub implied: Vec<Vec<u8>>,
    /// What was left out.
    pub warnings: Warnings,
}

/// Why a layer or an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ApplyError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("entry `{path}` leads outside the root directory, or its path is too long")]
    Outside { path: String },
    #[error("entry `{path}` names the root directory, but it is no directory")]
    Root { path: String },
    #[error("entry `{path}` is not a valid whiteout")]
    Whiteout { path: String },
    #[error("entry `{path}` lies below `{parent}`, which is not a directory")]
    NotADirectory { path: String, parent: String },
    #[error("hard link `{path}`: there is no file `{target}`")]
    LinkTarget { path: String, target: String },
    #[error("hard link `{path}`: `{target}` is a directory")]
    LinkToDirectory { path: String, target: String },
}

/// Extracts one uncompressed layer into `dir`, its own empty directory. `parents` are the directories of the layers
/// below it, uppermost first. The whole of `reader` is read, so that a verifying reader sees its end.
pub fn apply_layer(reader: impl Read, dir: &RootDir, parents: &[RootDir]) -> Result<Applied, ApplyError> {
    layer::apply(reader, dir, parents)
}

/// What making nodes needs besides the place and the entry.
struct Maker {
    ownership: Ownership,
    warnings: Warnings,
    file_bytes: u64,
    buffer: Vec<u8>,
}

impl Maker {
    fn new(ownership: Ownership) -> Self {
        Self { ownership, warnings: Warnings::default(), file_bytes: 0, buffer: Vec::new() }
    }

    /// Makes a node that does not exist yet; hard links are the caller's. Directories get their time later. False
    /// when the node had to be left out.
    fn make<R: Read>(
        &mut self,
        place: Place<'_>,
        entry: &Entry,
        metadata: &Metadata,
        data: &mut Reader<R>,
    ) -> Result<bool, ApplyError> {
        match entry.kind {
            Kind::File => {
                let file = place.make_file()?;
                self.file_bytes +=
                    write_data(&file, data, &mut self.buffer).map_err(|e| data_error(&place, e))?;
            }
            Kind::Directory => drop(place.make_dir()?),
            Kind::Symlink => place.make_symlink(&entry.link)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                if !place.make_special(entry.kind, entry.device, self.ownership, &mut self.warnings)? {
                    return Ok(false);
                }
            }
            Kind::HardLink => return Ok(false),
        }
        self.set(place, metadata)?;
        Ok(true)
    }

    fn set(&mut self, place: Place<'_>, metadata: &Metadata) -> Result<(), ApplyError> {
        Ok(place.set_metadata(metadata, self.ownership, &mut self.warnings)?)
    }
}

/// Tells damage of the archive from failures of the disk.
fn data_error(place: &Place<'_>, error: io::Error) -> ApplyError {
    match error.downcast::<TarError>() {
        Ok(error) => ApplyError::Tar(error),
        Err(error) => ApplyError::Fs(place.fail("write", error)),
    }
}

fn outside(path: &[u8]) -> ApplyError {
    ApplyError::Outside { path: display(path) }
}
