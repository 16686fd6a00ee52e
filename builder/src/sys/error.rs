//! I/O errors that know what was tried on which path.

use std::io;
use std::path::Path;

/// A failed file-system call.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{path}`: {source}")]
pub struct FsError {
    /// What was tried, e.g. `open`.
    pub action: &'static str,
    /// On what; bytes that are not UTF-8 are replaced, for display only.
    pub path: String,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// An error about a path inside an image or a context.
    pub fn image(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self { action, path: String::from_utf8_lossy(path).into_owned(), source: source.into() }
    }

    /// An error about a path of the host.
    pub fn host(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.display().to_string(), source: source.into() }
    }

    /// The kind of the system's answer.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}
