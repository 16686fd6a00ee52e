//! COPY, ADD and WORKDIR: file operations on a file system that is being built.
//!
//! A source is first *selected* ([`select`]): which files, under which names. The selection is *digested*
//! ([`digest`]) for the cache key, or *executed* ([`execute`]) into the destination. Rules are those of
//! BuildKit (reference facts 1-36); deliberate differences:
//!
//! | what | BuildKit | here | why |
//! |---|---|---|---|
//! | unknown name in `--chown` | owner 0 | error | a typo must not make files of root |
//! | `--exclude` and what a wildcard names itself | copied | left out | as the reference manual says |
//! | group and other write bits of local files | in the cache key | not | they depend on the umask of a checkout |
//! | directories made by `--parents` | time of the build | time of the source | reproducible |
//! | `--parents a/link/f` | nothing is copied | the link is followed | the file was named |
//!
//! Invariants:
//! - every path of a source is resolved inside the source's root, every write inside the destination's, through
//!   [`crate::sys::rootdir`] and descriptors that came from it;
//! - nothing depends on the order of a directory, the time, or host paths;
//! - an existing file is never written to: it is removed and made anew (fact 8).

pub mod digest;
mod directory;
pub mod error;
pub mod execute;
pub mod mkdir;
mod place;
pub mod select;
#[cfg(test)]
mod tests;
pub mod tree;
mod walk;

pub use crate::base::mode::{Mode, ModeError};
pub use digest::{digest_files, digest_selection, list};
pub use error::CopyError;
pub use execute::{Archives, CopyOptions, ResolvedSource, execute};
pub use mkdir::mkdir;
pub use select::{SelectOptions, Selection, select, select_literal};
pub use tree::SourceTree;
