//! Why a vertex failed.

use std::io;

use crate::base::digest::{DiffId, Digest};
use crate::cache::CacheError;
use crate::context;
use crate::ops::copy::CopyError;
use crate::registry::RegistryError;
use crate::sandbox::runner::SandboxError;
use crate::snapshot::{apply, diff, mounts::MountError, overlay::SnapshotError};
use crate::store::StoreError;
use crate::sys::error::FsError;

/// Why a vertex failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OpError {
    #[error("process `{command}` did not complete successfully: exit code: {code}")]
    ExitCode { command: String, code: i32 },
    #[error("process `{command}` was killed by signal {signal} ({name})")]
    Signal { command: String, signal: i32, name: &'static str },
    #[error("process `{command}` ran out of memory: {limit}, and the kernel killed {kills}")]
    OutOfMemory { command: String, limit: String, kills: String },
    #[error("process `{command}` failed after it could start no more processes: {limit}")]
    TooManyProcesses { command: String, limit: String },
    #[error("process `{command}` was stopped: it took longer than its --timeout of {limit}")]
    TimedOut { command: String, limit: String },
    #[error("secret `{id}` is required and was not given")]
    MissingSecret { id: String },
    #[error("cannot read secret `{id}`")]
    Secret {
        id: String,
        #[source]
        source: io::Error,
    },
    #[error("secret `{id}` is larger than {limit} bytes")]
    LargeSecret { id: String, limit: u64 },
    #[error("secret `{id}` is not text, so it cannot be put into a variable")]
    BinarySecret { id: String },
    #[error("secret `{id}` is longer than {limit} bytes, so it cannot be put into a variable")]
    LargeVariable { id: String, limit: usize },
    #[error("the ssh agent `{id}` is required and was not given (`--ssh {id}`)")]
    MissingAgent { id: String },
    #[error("mount source `{path}` is not there")]
    MountSource { path: String },
    #[error("the cache mount `{id}` was removed while it was being made; build again")]
    CacheMount { id: String },
    #[error("layer {digest} unpacks to {actual}, but {expected} was promised for it")]
    WrongDiffId { digest: Digest, expected: DiffId, actual: DiffId },
    #[error("layer {digest} of `{image}` cannot be read from where the image is")]
    NoLayer { digest: Digest, image: String },
    #[error("programs for {platform} cannot be run on this machine: {reason}")]
    ForeignPlatform { platform: String, reason: String },
    #[error("cannot unpack layer {digest}")]
    Apply {
        digest: Digest,
        #[source]
        source: apply::ApplyError,
    },
    #[error("cannot read layer {digest}")]
    ReadLayer {
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("bad {what} `{value}`: {reason}")]
    Setting { what: &'static str, value: String, reason: String },
    #[error("{0}")]
    Unsupported(String),
    #[error("`{url}` has digest {actual}, but --checksum says {expected}")]
    Checksum { url: String, expected: Digest, actual: Digest },
    #[error("cancelled")]
    Cancelled,
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Diff(#[from] diff::DiffError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Sandbox(SandboxError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Cache(#[from] Box<CacheError>),
    #[error(transparent)]
    Mount(#[from] Box<MountError>),
    #[error(transparent)]
    Http(#[from] context::http::FetchError),
    #[error(transparent)]
    Git(#[from] context::git::GitError),
    #[error(transparent)]
    GitReference(context::git::GitRefError),
}

impl From<SandboxError> for OpError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Cancelled => Self::Cancelled,
            other => Self::Sandbox(other),
        }
    }
}

impl OpError {
    /// The command ran and did not end well: its output says more.
    pub fn is_of_command(&self) -> bool {
        matches!(
            self,
            Self::ExitCode { .. }
                | Self::Signal { .. }
                | Self::OutOfMemory { .. }
                | Self::TooManyProcesses { .. }
                | Self::TimedOut { .. }
        )
    }

    /// How a command ended, without the command: `exit code: 2`.
    pub fn ending(&self) -> String {
        match self {
            Self::ExitCode { code, .. } => format!("exit code: {code}"),
            Self::Signal { signal, name, .. } => format!("signal {signal} ({name})"),
            Self::OutOfMemory { limit, .. } => format!("out of memory: {limit}"),
            Self::TooManyProcesses { limit, .. } => format!("no more processes: {limit}"),
            Self::TimedOut { limit, .. } => format!("not done after {limit}"),
            other => other.to_string(),
        }
    }

    /// Wraps an I/O error with what was tried.
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
