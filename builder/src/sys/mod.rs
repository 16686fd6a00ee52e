//! The only room with `unsafe`, raw system calls, and the only one that opens paths inside a rootfs.

pub mod error;
pub mod message;
pub mod mount;
pub mod process;
pub mod rootdir;
pub mod signals;
pub mod userns;
//! The only room with `unsafe` and raw system calls.

pub mod capability;
pub mod netlink;
pub mod nft;
pub mod seccomp;
pub mod xattr;
