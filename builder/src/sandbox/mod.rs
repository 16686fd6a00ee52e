//! One RUN: its namespaces, file systems, limits, policy and network.

pub mod net;
pub mod seccomp;
