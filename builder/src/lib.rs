//! The builder: everything of kiln that is not the language.
//!
//! Rooms import downwards only; `tests/layering.rs` enforces it and docs/architecture.md draws it.

pub mod base;
pub mod context;
pub mod cli;
pub mod export;
pub mod image;
pub mod layer;
pub mod plan;
pub mod net;
pub mod registry;
pub mod sandbox;
pub mod sys;
pub mod ui;
