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
