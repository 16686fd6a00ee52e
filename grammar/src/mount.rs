//! `RUN --mount=` options (language.md 1.7).

use crate::span::Span;

/// A parsed `--mount=` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Kind and its own options.
    pub kind: MountKind,
    /// `from=`: stage, index, named context or image. `None` means the build context (bind) or nothing.
    pub from: Option<String>,
    /// `source=`/`src=`.
    pub source: Option<String>,
    /// `target=`/`dst=`/`destination=`, not yet joined to the working directory; `None` only for secret and ssh.
    pub target: Option<String>,
    /// Resulting read-only state (bind: true, cache: false, unless said).
    pub read_only: bool,
}

/// Kinds of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// `type=bind`.
    Bind,
    /// `type=cache`.
    Cache {
        /// `id=`; `None` means the cleaned target.
        id: Option<String>,
        /// `sharing=`.
        sharing: Sharing,
        /// `mode=` in octal, when given.
        mode: Option<u32>,
        /// `uid=`, when given.
        uid: Option<u32>,
        /// `gid=`, when given.
        gid: Option<u32>,
    },
    /// `type=tmpfs`.
    Tmpfs {
        /// `size=` in bytes, when given.
        size_bytes: Option<u64>,
    },
    /// `type=secret`.
    Secret {
        /// `id=` (defaults to the target's base name).
        id: String,
        /// `env=`.
        env: Option<String>,
        /// `required=`.
        required: bool,
        /// `mode=`, 0400 unless given.
        mode: u32,
        /// `uid=`.
        uid: u32,
        /// `gid=`.
        gid: u32,
    },
    /// `type=ssh`.
    Ssh {
        /// `id=`, `default` unless given.
        id: String,
        /// `required=`.
        required: bool,
        /// `mode=`, 0600 unless given.
        mode: u32,
        /// `uid=`.
        uid: u32,
        /// `gid=`.
        gid: u32,
    },
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

/// What is wrong with a `--mount=` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountError {
    /// Names the key or value that is wrong, as BuildKit words it.
    pub message: String,
    /// Did-you-mean.
    pub hint: Option<String>,
    /// Place inside the value, when one key is to blame.
    pub span: Option<Span>,
}
