//! From results to images and files: layers, configs, manifests, and the places they go to.

pub mod archive;
pub mod assemble;
pub mod attest;
pub mod layers;
pub mod merge;
mod mirror;
mod seekable;
pub mod spec;
