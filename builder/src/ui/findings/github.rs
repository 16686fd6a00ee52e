//! Annotations of GitHub Actions: `::warning file=...,line=...,title=Rule::message`.
//!
//! Invariants: what came from the file can neither end a command nor begin another one.

use kiln_grammar::span::LineIndex;

use super::{Findings, rule_info, rule_name};

pub(super) fn render(findings: &Findings<'_>) -> String {
    let index = LineIndex::new(findings.text);
    let place = |offset: usize| index.line_column(findings.text, offset.min(findings.text.len()));
    let mut rendered = String::new();
    for diagnostic in findings.diagnostics {
        let command = if findings.is_error(diagnostic) { "error" } else { "warning" };
        let (start, end) = (place(diagnostic.span.start), place(diagnostic.span.end));
        let columns = match start.line == end.line {
            // GitHub takes columns for findings on one line only; its last column is part of the range.
            true => {
                format!(",col={},endColumn={}", start.column, end.column.saturating_sub(1).max(start.column))
            }
            false => String::new(),
        };
        let mut message = diagnostic.message.clone();
        if let Some(hint) = &diagnostic.hint {
            message.push_str(&format!("\nhint: {hint}"));
        }
        if let Some(rule) = rule_info(diagnostic).filter(|rule| !rule.url.is_empty()) {
            message.push_str(&format!("\n{}", rule.url));
        }
        rendered.push_str(&format!(
            "::{command} file={},line={},endLine={}{columns},title={}::{}\n",
            property(findings.file),
            start.line,
            end.line,
            property(rule_name(diagnostic)),
            data(&message),
        ));
    }
    rendered
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
