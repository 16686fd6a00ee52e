//! The only room with `unsafe`, raw system calls, and the only one that opens paths inside a rootfs.

pub mod error;
pub mod rootdir;
pub mod xattr;
