//! One RUN: a throwaway set of namespaces on an overlay, made by a single-threaded zygote.
//!
//! ```text
//! kiln ──spec, fds──▶ zygote ──clone3──▶ child: maps, overlay, /proc, /dev, mounts, pivot_root, net, seccomp ─▶ exec
//!      ◀──network fds, failure, exit──────┘
//! ```
//!
//! Invariants:
//! - the command has a user namespace of its own, also when kiln is root: host root is never inside;
//! - everything mounted lives in the child's mount namespace and dies with it;
//! - when kiln goes away for whatever reason, the zygote sees its socket close, kills every command and ends.

pub mod agent;
pub mod cgroup;
mod child;
pub mod emulate;
mod helper;
mod mounts;
pub mod net;
pub mod runner;
pub mod seccomp;
pub mod spec;
mod supervisor;
pub mod terminal;
pub mod zygote;
