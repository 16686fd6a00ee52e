//! The only room with `unsafe`, raw system calls, and the only one that opens paths inside a rootfs.

pub mod capability;
pub mod copy_file;
pub mod error;
pub mod message;
pub mod mount;
pub mod netlink;
pub mod nft;
pub mod override_stat;
pub mod process;
pub mod range_lock;
pub mod remove;
pub mod rootdir;
pub mod seccomp;
pub mod signals;
pub mod userns;
pub mod xattr;
