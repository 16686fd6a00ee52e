//! SARIF 2.1.0, for code scanning services.
//!
//! Invariants: one run; rules are listed once, in the order of their names; columns count characters from 1 and the
//! end is one past the last (3.30 of the specification).

use std::collections::BTreeMap;

use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::span::LineIndex;
use serde_json::{Value, json};

use super::{BUILD_ERROR, Findings, rule_info, rule_name};

pub(super) fn render(findings: &Findings<'_>) -> String {
    let index = LineIndex::new(findings.text);
    let mut rules: BTreeMap<&str, Value> = BTreeMap::new();
    for diagnostic in findings.diagnostics {
        rules.entry(rule_name(diagnostic)).or_insert_with(|| rule(diagnostic));
    }
    let results: Vec<Value> = findings
        .diagnostics
        .iter()
        .map(|diagnostic| {
            let place = |offset: usize| index.line_column(findings.text, offset.min(findings.text.len()));
            let (start, end) = (place(diagnostic.span.start), place(diagnostic.span.end));
            let message = match &diagnostic.hint {
                Some(hint) => format!("{}\nhint: {hint}", diagnostic.message),
                None => diagnostic.message.clone(),
            };
            json!({
                "ruleId": rule_name(diagnostic),
                "ruleIndex": rules.keys().position(|name| *name == rule_name(diagnostic)),
                "level": if findings.is_error(diagnostic) { "error" } else { "warning" },
                "message": { "text": message },
                "locations": [{ "physicalLocation": {
                    "artifactLocation": { "uri": uri(findings.file) },
                    "region": {
                        "startLine": start.line,
                        "startColumn": start.column,
                        "endLine": end.line,
                        "endColumn": end.column,
                    },
                } }],
            })
        })
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "kiln",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.values().collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn rule(diagnostic: &Diagnostic) -> Value {
    let description = match (rule_info(diagnostic), diagnostic.rule) {
        (Some(rule), _) => rule.description,
        (None, Some(name)) => name,
        (None, None) => "The file cannot be built",
    };
    let mut rule = json!({ "id": rule_name(diagnostic), "shortDescription": { "text": description } });
    if let Some(url) = rule_info(diagnostic).map(|rule| rule.url).filter(|url| !url.is_empty()) {
        rule["helpUri"] = json!(url);
    }
    if rule_name(diagnostic) == BUILD_ERROR {
        rule["defaultConfiguration"] = json!({ "level": "error" });
    }
    rule
}

/// A path as a relative reference (RFC 3986): everything but unreserved characters and slashes is encoded.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}
