//! The builder: everything of kiln that is not the language.
//!
//! Rooms import downwards only; `tests/layering.rs` enforces it and docs/architecture.md draws it.

pub mod base;
pub mod build;
pub mod cache;
pub mod cli;
pub mod context;
pub mod export;
pub mod image;
pub mod layer;
pub mod net;
pub mod ops;
pub mod plan;
pub mod record;
pub mod registry;
pub mod sandbox;
pub mod snapshot;
pub mod solve;
pub mod store;
pub mod sys;
pub mod transfer;
pub mod ui;
