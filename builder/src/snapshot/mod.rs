//! File systems on disk: one directory for each layer, stacked by overlayfs.
//!
//! Life of a snapshot: [`overlay::Snapshots::begin`] makes an empty upper directory; something writes through a
//! mount of it or straight into it; [`overlay::Snapshots::commit`] gives it a row, after which it never changes and
//! may serve as a lower. What was begun and not committed is garbage.

pub mod accounts;
pub mod overlay;
//! Snapshots: directory trees made from layers, and layers made from what a step changed in one.
//!
//! Invariants:
//! - a snapshot's directory is an overlayfs directory for mounts with `userxattr`: whiteouts are character devices
//!   0:0, opaque directories carry `user.overlay.opaque`;
//! - files of a tree are reached by directory handle and name; no symlink of a tree is followed outside it.

#![forbid(unsafe_code)]

pub mod apply;
pub mod diff;
mod node;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod warning;
