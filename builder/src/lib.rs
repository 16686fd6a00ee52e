//! The builder: everything of kiln that is not the language.
//!
//! Rooms import downwards only; `tests/layering.rs` enforces it and docs/architecture.md draws it.

pub mod base;
pub mod image;
pub mod layer;
pub mod plan;
pub mod snapshot;
pub mod sys;
