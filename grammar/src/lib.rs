//! The Buildfile language: text in, typed tree and diagnostics out. No I/O, no `unsafe`.
#![forbid(unsafe_code)]

pub mod ast;
pub mod diagnostic;
pub mod mount;
pub mod span;
