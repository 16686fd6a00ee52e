//! What a step changed: an overlayfs upper directory into the entries of a layer.
//!
//! | in the upper directory | in the layer |
//! |---|---|
//! | file, symlink, device, fifo | an entry, unless the lower view has the same (mode, owner, device number, carried xattrs, size, link target, time to the nanosecond; both nanoseconds 0: the bytes decide) |
//! | directory | an entry when it is new, when mode, owner or xattrs differ (not the time), or when it holds a change |
//! | character device 0:0 | whiteout, when the lower view has the name |
//! | directory with `user.overlay.opaque` | whiteouts of all names below it that the lower view has and the upper has not |
//! | second name of an inode | hard link; also a name that did not change when another one did |
//! | socket | nothing, with a warning; a whiteout when it took the place of something |
//! | `.wh.*` of its own | an error: a reader would take it for a whiteout |
//!
//! Several layers at once are two merged views side by side ([`write_merged`]): what the upper one lacks is gone, and a
//! file that both show as the same inode did not change.
//!
//! (semantics facts 78 to 85, 117, 121.) The tar entry's order is that of the walk: names sorted by bytes, a
//! directory before its content.
//!
//! Invariants:
//! - the upper directory is walked once; a file that changed is read once;
//! - the root directory is no entry; every other directory comes before what is in it, once;
//! - the content digest covers everything that an entry says but its time (table in [`content`]), so it does not
//!   depend on the epoch.

pub(super) mod content;
#[cfg(test)]
mod tests;
mod walk;

use std::fs::File;
use std::io::{self, Write};

use super::warning::Warnings;
use super::written::Written;
use crate::base::digest::{ContentDigest, Digest};
use crate::layer::tar::{Entry, TarError, Writer};
use crate::sys::error::FsError;
use crate::sys::rootdir::RootDir;
use content::{ContentHasher, HashingReader};

pub(super) use walk::{Names, Scope, walk};

/// One entry of a layer.
#[derive(Debug)]
pub struct Change {
    /// What the layer says. Times are those of the file system, with nanoseconds.
    pub entry: Entry,
    /// The content of a regular file, unread.
    pub data: Option<File>,
    /// Digest of the content instead, where it is known already.
    pub digest: Option<Digest>,
    /// True when the entry is a whiteout.
    pub whiteout: bool,
}

/// Where changes go, in the order of the layer.
pub type Sink<'a> = dyn FnMut(Change) -> Result<(), DiffError> + 'a;

/// Why a layer cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DiffError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(
        "`{path}` cannot be recorded: names that begin with `.wh.` mean deleted files in a layer; rename or remove it"
    )]
    ReservedName { path: String },
    #[error("directory `{path}` was renamed by overlayfs itself; mount with redirect_dir=nofollow")]
    Redirected { path: String },
    #[error("file `{path}` has metadata only; mount with metacopy=off")]
    MetadataOnly { path: String },
    #[error("`{path}`: the path is longer than 4096 bytes, which no reader of layers could use")]
    PathTooLong { path: String },
    #[error("cannot record a change")]
    Sink(#[source] io::Error),
}

/// Walks `upper` and reports what differs from `lower_view`, the merged read-only view of the parent (`None` when
/// there is no parent). Both must show owners in the same way (both idmapped, or neither).
pub fn diff(
    upper: &RootDir,
    lower_view: Option<&RootDir>,
    sink: &mut Sink<'_>,
) -> Result<Warnings, DiffError> {
    walk(upper, lower_view, (Names::Layer, Scope::Upper), &Written::default(), sink)
}

/// Told of every entry of a layer with the digest of its bytes, for an index of paths.
pub type Observer<'a> = dyn FnMut(&Entry, Option<Digest>) + 'a;

/// How a layer is written.
#[derive(Default)]
pub struct LayerOptions<'a> {
    /// Later times are written as this one, in seconds since 1970 (semantics fact 93).
    pub epoch: Option<i64>,
    /// Told of every entry.
    pub observer: Option<&'a mut Observer<'a>>,
}

/// What a layer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerStats {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of the tar.
    pub bytes: u64,
    /// Of what the layer says, times apart.
    pub content: ContentDigest,
    /// True when the layer has no entry.
    pub empty: bool,
    /// What was left out.
    pub warnings: Warnings,
}

/// Writes the difference between `upper` and `lower_view` as a layer tar (semantics fact 77).
pub fn write_layer(
    upper: &RootDir,
    lower_view: Option<&RootDir>,
    options: LayerOptions<'_>,
    out: &mut dyn Write,
) -> Result<LayerStats, DiffError> {
    write(upper, lower_view, (Names::Layer, Scope::Upper), options, out)
}

/// Writes the difference between two merged views as one layer tar: what several layers amount to.
pub fn write_merged(
    whole: &RootDir,
    lower_view: Option<&RootDir>,
    options: LayerOptions<'_>,
    out: &mut dyn Write,
) -> Result<LayerStats, DiffError> {
    write(whole, lower_view, (Names::Layer, Scope::Whole), options, out)
}

/// What [`write_layer`] would state, without making a tar; `bytes` are those of the regular files. Of these only those
/// are read that are not `written`.
pub fn summarise(
    upper: &RootDir,
    lower_view: Option<&RootDir>,
    written: &Written,
) -> Result<LayerStats, DiffError> {
    let mut hasher = ContentHasher::new();
    let (mut entries, mut bytes) = (0, 0);
    let warnings = walk(upper, lower_view, (Names::Layer, Scope::Upper), written, &mut |change| {
        entries += 1;
        let digest = match change.data {
            Some(file) => Some(content::digest_of(file, &change.entry)?),
            None => change.digest,
        };
        if digest.is_some() {
            bytes += change.entry.size;
        }
        hasher.add(&change.entry, digest);
        Ok(())
    })?;
    Ok(LayerStats { entries, bytes, content: hasher.finish(), empty: entries == 0, warnings })
}

pub(super) fn write(
    upper: &RootDir,
    lower_view: Option<&RootDir>,
    how: (Names, Scope),
    options: LayerOptions<'_>,
    out: &mut dyn Write,
) -> Result<LayerStats, DiffError> {
    let mut writer = Writer::new(out);
    let stats = write_into(upper, lower_view, how, options, &mut writer)?;
    writer.finish()?;
    Ok(stats)
}

/// The same without the end of the archive.
fn write_into(
    upper: &RootDir,
    lower_view: Option<&RootDir>,
    how: (Names, Scope),
    mut options: LayerOptions<'_>,
    writer: &mut Writer<&mut dyn Write>,
) -> Result<LayerStats, DiffError> {
    let mut hasher = ContentHasher::new();
    let mut entries = 0;
    let warnings = walk(upper, lower_view, how, &Written::default(), &mut |change| {
        let Change { mut entry, data, .. } = change;
        entries += 1;
        // Whole seconds: readers without PAX, and other engines, know no others.
        entry.mtime_nanoseconds = 0;
        if let Some(epoch) = options.epoch {
            entry.mtime_seconds = entry.mtime_seconds.min(epoch);
        }
        let digest = match data {
            Some(file) => {
                let mut reader = HashingReader::new(file);
                writer.append(&entry, &mut reader)?;
                Some(reader.finish())
            }
            None => {
                writer.append_empty(&entry)?;
                None
            }
        };
        hasher.add(&entry, digest);
        if let Some(observer) = options.observer.as_mut() {
            observer(&entry, digest);
        }
        Ok(())
    })?;
    let bytes = writer.written_bytes() + 1024;
    Ok(LayerStats { entries, bytes, content: hasher.finish(), empty: entries == 0, warnings })
}
