//! What people and scripts see: progress, diagnostics, failures, tables. The only room that prints.
//!
//! Invariants:
//! - stdout carries data only; everything else goes to stderr;
//! - text that came from outside (Buildfiles, images, servers, steps) reaches a terminal only through
//!   [`text::visible`] or [`text::plain`], except a step's own output in `--progress=plain`;
//! - a reader that went away never causes a panic or an error;
//! - everything reads well without colour.

pub mod ago;
pub mod diagnostics;
pub mod diff;
pub mod failure;
pub mod findings;
pub mod graph;
pub mod print;
pub mod progress;
pub mod size;
pub mod table;
pub mod terminal;
pub mod text;
