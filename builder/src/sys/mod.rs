//! The only room with `unsafe`, raw system calls, and the only one that opens paths inside a rootfs.

pub mod copy_file;
pub mod error;
pub mod rootdir;
