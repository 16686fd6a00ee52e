//! Images as data: references, platforms, configs, manifests, indexes, with the one place that turns each into
//! bytes. No I/O.

pub mod config;
pub mod edit;
pub mod manifest;
pub mod platform;
pub mod reference;
