//! The only room with `unsafe` and raw system calls.

pub mod capability;
pub mod netlink;
pub mod nft;
pub mod seccomp;
