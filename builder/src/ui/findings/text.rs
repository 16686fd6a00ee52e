//! Findings for people: buildx' headings, kiln's excerpts.

use std::collections::BTreeMap;

use super::{Findings, rule_info};
use crate::ui::diagnostics::{self, Style, paint};
use crate::ui::text;

pub(super) fn render(findings: &Findings<'_>, style: Style) -> String {
    let mut rendered = String::new();
    for diagnostic in findings.diagnostics {
        let word = if findings.is_error(diagnostic) {
            paint("ERROR:", "1;31", style)
        } else {
            paint("WARNING:", "1;33", style)
        };
        let message = text::visible(&diagnostic.message);
        match diagnostic.rule {
            Some(rule) => {
                let url = rule_info(diagnostic).map(|rule| rule.url).filter(|url| !url.is_empty());
                let url = url.map(|url| format!(" - {url}")).unwrap_or_default();
                rendered.push_str(&format!("{word} {rule}{url}\n{message}\n"));
            }
            None => rendered.push_str(&format!("{word} {message}\n")),
        }
        rendered.push_str(&diagnostics::render_finding(findings.file, findings.text, diagnostic, style));
        rendered.push('\n');
    }
    rendered.push_str(&summary(findings));
    rendered
}

/// buildx' last line, with errors counted apart.
fn summary(findings: &Findings<'_>) -> String {
    let mut counts: BTreeMap<bool, usize> = BTreeMap::new();
    for diagnostic in findings.diagnostics {
        *counts.entry(findings.is_error(diagnostic)).or_default() += 1;
    }
    let count = |error: bool, one: &str| match counts.get(&error).copied().unwrap_or(0) {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {one}s")),
    };
    match (count(true, "error"), count(false, "warning")) {
        (None, None) => "Check complete, no warnings found.\n".to_owned(),
        (None, Some(one)) if one.starts_with("1 ") => format!("Check complete, {one} has been found!\n"),
        (Some(one), None) if one.starts_with("1 ") => format!("Check complete, {one} has been found!\n"),
        (Some(both), Some(more)) => format!("Check complete, {both} and {more} have been found!\n"),
        (Some(many), None) | (None, Some(many)) => format!("Check complete, {many} have been found!\n"),
    }
}
