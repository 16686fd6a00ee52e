//! The Buildfile language: text in, typed tree and diagnostics out. No I/O, no `unsafe`.
//!
//! Invariants:
//! - no function here panics, whatever the input; time is linear in the size of the file;
//! - parsing always gives a tree and a list of findings, never an error instead of a tree.
//!
//! ```
//! let parsed = kiln_grammar::parse("FROM alpine AS base\nRUN --mount=type=cache,target=/c make\n");
//! assert!(!parsed.has_errors());
//! assert_eq!(parsed.buildfile.stages[0].from.base.value, "alpine");
//! ```
#![forbid(unsafe_code)]

pub mod ast;
pub mod diagnostic;
pub mod expand;
pub mod fix;
pub mod format;
pub mod glob;
pub mod ignore;
mod line;
pub mod lint;
mod lower;
pub mod mount;
pub mod outline;
pub mod portable;
mod raw;
pub mod span;
pub mod suggest;

use diagnostic::Diagnostic;

/// Parses a whole file.
pub fn parse(text: &str) -> ast::Parsed {
    lower::file(text)
}

/// Parses one instruction as it is stored as an ONBUILD trigger of an image: the escape character is the
/// backslash, and `FROM`, `ONBUILD` and `MAINTAINER` are refused (language.md 1.9, semantics fact 61).
///
/// The instruction is `None` when there is an error among the diagnostics; spans are offsets into `text`.
pub fn parse_trigger(text: &str) -> (Option<ast::Instruction>, Vec<Diagnostic>) {
    lower::trigger(text)
}
