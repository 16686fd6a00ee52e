//! Git repositories as sources (language.md 1.8, 1.12, semantics fact 30): reference to commit, commit to files.
//!
//! Invariants:
//! - the work is done by the installed `git`, called as [`command`] says;
//! - one bare mirror per remote keeps what was fetched; a file lock beside it serialises its users;
//! - nothing is written outside the destination, the mirror and a temporary folder beside the destination, whatever
//!   a repository holds: a wanted folder is reached through real directories only, never through a symlink;
//! - files come out with modes 0644 and 0755, without `.git` unless asked for.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::cancel::CancelToken;

mod checkout;
mod command;
mod mirror;
mod reference;
#[cfg(test)]
mod tests;

pub use checkout::checkout;
pub use command::GitEnvironment;
pub use mirror::resolve_commit;
pub use reference::{GitRef, GitRefError, Mtime};

/// How a repository is fetched and laid out.
#[derive(Debug, Clone)]
pub struct CheckoutOptions {
    /// Keep `.git`; ignored when a folder of the repository is wanted, as BuildKit does.
    pub keep_git_dir: bool,
    /// The commit, or its beginning, that has to come out; besides the reference's own.
    pub checksum: Option<String>,
    /// Where mirrors live.
    pub cache_dir: PathBuf,
    /// What `git` may see of the environment.
    pub environment: GitEnvironment,
    /// Value of `Authorization` for http remotes; goes to the remote's own origin only.
    pub authorization: Option<String>,
    /// Stops everything.
    pub cancel: CancelToken,
    /// Protocols, colon-separated as in `GIT_ALLOW_PROTOCOL`.
    pub(crate) protocols: String,
}

impl CheckoutOptions {
    /// Plain options with mirrors in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>, environment: GitEnvironment) -> Self {
        Self {
            keep_git_dir: false,
            checksum: None,
            cache_dir: cache_dir.into(),
            environment,
            authorization: None,
            cancel: CancelToken::new(),
            protocols: command::PROTOCOLS.to_owned(),
        }
    }
}

/// What a reference stands for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Full commit.
    pub commit: String,
    /// The object of an annotated tag.
    pub tag_object: Option<String>,
    /// The full name of the ref, when it is one.
    pub ref_name: Option<String>,
}

/// What was laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// Full commit.
    pub commit: String,
    /// The committer's time, seconds since 1970.
    pub commit_time: i64,
}

/// Why a repository could not be used.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// No `git`.
    #[error("git is not installed; install it (for instance `apt install git` or `dnf install git-core`)")]
    Missing,
    /// No process.
    #[error("cannot run git")]
    Spawn(#[source] io::Error),
    /// The server refuses.
    #[error("git repository `{url}` refuses access or does not exist: {detail}")]
    Denied {
        /// Redacted.
        url: String,
        /// Git's words.
        detail: String,
    },
    /// Another failure.
    #[error("cannot {action} git repository `{url}`: {detail}")]
    Command {
        /// `read`, `fetch`, ….
        action: &'static str,
        /// Redacted.
        url: String,
        /// Git's words.
        detail: String,
    },
    /// No such branch, tag or commit.
    #[error("git repository `{url}` has no branch, tag or commit `{reference}`")]
    RefNotFound {
        /// Redacted.
        url: String,
        /// As written.
        reference: String,
    },
    /// No commit at all.
    #[error("git repository `{url}` is empty")]
    Empty {
        /// Redacted.
        url: String,
    },
    /// No such folder.
    #[error("git repository `{url}` has no folder `{subdir}` at commit {commit}")]
    SubdirNotFound {
        /// Redacted.
        url: String,
        /// As written.
        subdir: String,
        /// Full.
        commit: String,
    },
    /// Another commit than promised.
    #[error(
        "git repository `{url}` is at commit {actual}, which does not begin with the checksum {expected}"
    )]
    Checksum {
        /// Redacted.
        url: String,
        /// As written.
        expected: String,
        /// Full.
        actual: String,
    },
    /// The reference and the options disagree.
    #[error(transparent)]
    Reference(#[from] GitRefError),
    /// The authorization cannot be used.
    #[error("an authorization is given for `{0}`, which is not an http repository")]
    Authorization(String),
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// `create`, ….
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl GitError {
    /// What the user can do, one line, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Denied { .. } => Some(
                "for a private repository pass the secret GIT_AUTH_TOKEN or use an ssh URL with a running agent"
                    .to_owned(),
            ),
            Self::Checksum { .. } => Some("check the commit, or update the checksum".to_owned()),
            _ => None,
        }
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> GitError + 'a {
    move |source| GitError::Io { action, path: path.to_owned(), source }
}
