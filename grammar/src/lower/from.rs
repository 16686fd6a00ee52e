//! `FROM` (language.md 1.4).
//!
//! Invariants:
//! - the name is kept as written and is valid in lower case.

use super::flags::{self, Takes};
use super::{Findings, Input};
use crate::ast::Word;
use crate::diagnostic::Diagnostic;
use crate::span::Spanned;

/// What `FROM` says.
pub(super) struct Parts {
    pub(super) platform: Option<Word>,
    pub(super) base: Word,
    pub(super) as_keyword: Option<Spanned<String>>,
    pub(super) name: Option<Word>,
}

pub(super) fn lower(input: &Input<'_>, findings: &mut Findings) -> Option<Parts> {
    let flags = flags::read(input, &[("platform", Takes::Value)], findings);
    let mut words = input.fields().into_iter();
    let (base, as_keyword, name) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(base), None, None, None) => (base, None, None),
        (Some(base), Some(keyword), Some(name), None) if keyword.value.eq_ignore_ascii_case("as") => {
            (base, Some(keyword), Some(name))
        }
        _ => {
            let message = "FROM requires either one or three arguments";
            findings.push(
                Diagnostic::error(input.line_span(), message)
                    .with_hint("write `FROM image` or `FROM image AS name`"),
            );
            return None;
        }
    };
    if let Some(name) = name.as_ref().filter(|name| !is_stage_name(&name.value)) {
        let message = format!(
            "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
            name.value
        );
        findings.push(
            Diagnostic::error(name.span, message)
                .with_hint("use letters, digits, `-`, `_` and `.`, a letter first"),
        );
        return None;
    }
    let platform = flags?.value("platform");
    Some(Parts { platform, base, as_keyword, name })
}

/// `[a-z][a-z0-9-_.]*` in lower case.
fn is_stage_name(name: &str) -> bool {
    let lower = name.to_lowercase();
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    lower.starts_with(|c: char| c.is_ascii_lowercase()) && lower.chars().all(rest)
}
