//! Why a copy fails.

use std::path::Path;

use kiln_grammar::ignore::IgnoreError;

use crate::base::mode::ModeError;
use crate::snapshot::accounts::OwnerError;
use crate::sys::error::FsError;

/// Why COPY, ADD or WORKDIR fails.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source that is not there, or not to be seen.
    #[error("\"{path}\": not found")]
    NotFound {
        /// As written, cleaned, with a slash in front.
        path: String,
        /// What hides it, e.g. ``line 3 of `.dockerignore` ``.
        hidden_by: Option<String>,
        /// What stands beside where it should be and has nearly its name.
        near: Option<String>,
    },
    /// A tree in which a path gets longer than any path may be.
    #[error("`{path}` goes deeper than a path can reach (4095 bytes)")]
    Deep {
        /// Its beginning.
        path: String,
    },
    /// A wildcard that cannot be read.
    #[error("syntax error in pattern `{pattern}`")]
    Pattern {
        /// As written.
        pattern: String,
    },
    /// An `--exclude` or `--parents` pattern that cannot be read.
    #[error("bad pattern `{pattern}`: {source}")]
    PathPattern {
        /// As written.
        pattern: String,
        /// What is wrong.
        #[source]
        source: IgnoreError,
    },
    /// A directory meets something else (semantics fact 7).
    #[error("cannot copy to non-directory: {path}")]
    NonDirectory {
        /// In the destination.
        path: String,
    },
    /// A file meets a directory (semantics fact 7).
    #[error("cannot replace to directory {path} with file")]
    Directory {
        /// In the destination.
        path: String,
    },
    /// Something on the way to a directory is no directory.
    #[error("cannot make directory `{path}`: `{obstacle}` is not a directory")]
    Obstacle {
        /// What was to be made.
        path: String,
        /// What is in the way.
        obstacle: String,
    },
    /// `--chown`.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// `--chmod`.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// A file-system call.
    #[error(transparent)]
    File(#[from] FsError),
    /// An archive that cannot be unpacked.
    #[error("cannot unpack `{name}`: {source}")]
    Archive {
        /// Of the source.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The caller resolved another kind of source than the instruction has.
    #[error("source {0} of the instruction was resolved as something else")]
    Mismatch(usize),
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl CopyError {
    /// What to do about it, when there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { path, hidden_by: Some(reason), .. } => {
                Some(format!("`{path}` is in the context but excluded by {reason}"))
            }
            Self::NotFound { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            Self::Owner(OwnerError::NoPasswd { .. } | OwnerError::NoGroup { .. }) => Some(
                "use numbers in --chown, or add the user first; with --link names can never be looked up"
                    .to_owned(),
            ),
            Self::Owner(OwnerError::UnknownUser { .. } | OwnerError::UnknownGroup { .. }) => {
                Some("add the name in an earlier RUN, or use a number".to_owned())
            }
            Self::File(error) if error.source.raw_os_error() == Some(libc::EINVAL) && is_of_owner(error) => {
                Some(
                    "the owner has an id that this user namespace does not have; `kiln info` says how to get more \
                     ids, and without --chown the file is root's"
                        .to_owned(),
                )
            }
            Self::NonDirectory { .. } | Self::Directory { .. } => {
                Some("remove the existing path first, or choose another destination".to_owned())
            }
            _ => None,
        }
    }
}

fn is_of_owner(error: &FsError) -> bool {
    matches!(error.action, "chown" | "set metadata of")
}

/// A path of an image for messages: absolute, lossy.
pub(super) fn shown(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    Path::new("/").join(path.trim_start_matches('/')).display().to_string()
}
