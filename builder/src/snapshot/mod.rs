//! File systems on disk: one directory for each layer, stacked by overlayfs.
//!
//! Life of a snapshot: [`overlay::Snapshots::begin`] makes an empty upper directory; something writes through a
//! mount of it or straight into it; [`overlay::Snapshots::commit`] gives it a row, after which it never changes and
//! may serve as a lower. What was begun and not committed is garbage.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod apply;
pub mod check;
pub mod diff;
pub mod mounts;
mod node;
pub mod overlay;
pub mod pending;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod warning;
pub mod written;
