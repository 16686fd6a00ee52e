//! BuildKit's JSON (checks.md 3.1): `{warnings, sources, buildError}`.
//!
//! Invariants: lines count from 1 and characters from 0; the end is one past the last character. The first language
//! error is `buildError`, and every one is in `kilnErrors`, which BuildKit does not have.

use kiln_grammar::diagnostic::{Diagnostic, Severity};
use kiln_grammar::span::{LineIndex, Span};
use serde::Serialize;

use super::{Findings, rule_info, rule_name};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    warnings: Vec<Warning<'a>>,
    sources: [Source<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    build_error: Option<BuildError<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kiln_errors: Vec<BuildError<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning<'a> {
    rule_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    detail: &'a str,
    location: Location,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

#[derive(Serialize)]
struct BuildError<'a> {
    message: &'a str,
    location: Location,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// One file. `data` is its text in base 64, as Go writes bytes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Source<'a> {
    file_name: &'a str,
    language: &'a str,
    data: String,
}

/// A place as BuildKit writes it.
#[derive(Debug, Clone, Serialize)]
pub struct Location {
    ranges: [Range; 1],
}

#[derive(Debug, Clone, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Clone, Serialize)]
struct Position {
    line: usize,
    character: usize,
}

impl Location {
    /// The place of `span` in `text`.
    pub fn new(text: &str, index: &LineIndex, span: Span) -> Self {
        let position = |offset: usize| {
            let place = index.line_column(text, offset.min(text.len()));
            Position { line: place.line, character: place.column - 1 }
        };
        Self { ranges: [Range { start: position(span.start), end: position(span.end) }] }
    }
}

pub(super) fn render(findings: &Findings<'_>) -> String {
    let index = LineIndex::new(findings.text);
    let location = |diagnostic: &Diagnostic| Location::new(findings.text, &index, diagnostic.span);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        findings.diagnostics.iter().partition(|d| d.severity == Severity::Error && d.rule.is_none());
    let build_errors = || {
        errors.iter().map(|diagnostic| BuildError {
            message: &diagnostic.message,
            location: location(diagnostic),
            hint: diagnostic.hint.as_deref(),
        })
    };
    let warnings = warnings.iter().map(|diagnostic| Warning {
        rule_name: rule_name(diagnostic),
        description: rule_info(diagnostic).map_or("", |rule| rule.description),
        url: rule_info(diagnostic).map_or("", |rule| rule.url),
        detail: &diagnostic.message,
        location: location(diagnostic),
        hint: diagnostic.hint.as_deref(),
    });
    let report = Report {
        warnings: warnings.collect(),
        sources: [Source {
            file_name: findings.file,
            language: "Dockerfile",
            data: encode(findings.text.as_bytes()),
        }],
        build_error: build_errors().next(),
        kiln_errors: build_errors().collect(),
    };
    let mut text = serde_json::to_string_pretty(&report)
        .expect("invariant: plain data with text keys always serialises");
    text.push('\n');
    text
}

/// Base 64 of RFC 4648 section 4, with padding.
pub fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            let character = if place > group.len() { b'=' } else { ALPHABET[digit as usize] };
            text.push(char::from(character));
        }
    }
    text
}
