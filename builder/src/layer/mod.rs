//! Layers as streams: the tar and PAX codec, whiteout names, compression, verified readers.
//!
//! Invariants:
//! - nothing here touches a file system: readers and writers in, readers and writers out;
//! - bytes that end up in a digest depend on the input alone, never on the machine or the number of threads.

#![forbid(unsafe_code)]

pub mod attributes;
pub mod blob;
pub mod compress;
pub mod estargz;
pub mod tar;
pub mod tree;
pub mod whiteout;
