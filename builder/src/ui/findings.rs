//! What `kiln check` found, for people and for programs.
//!
//! Invariants:
//! - every format shows the same findings in the same order, and all of them end with a line end;
//! - lines and columns come from `LineIndex`; lines count from 1 everywhere, columns as the format wants them;
//! - nothing of the file reaches a terminal or a log command unescaped.

mod github;
mod json;
mod sarif;
mod text;

use std::str::FromStr;

use kiln_grammar::diagnostic::{Diagnostic, Severity};
use kiln_grammar::lint;

use super::diagnostics::Style;

pub use json::{Location, encode as base64};

/// Formats of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// BuildKit's schema (`docker build --call=check,format=json`).
    Json,
    /// SARIF 2.1.0.
    Sarif,
    /// Annotations of GitHub Actions.
    Github,
}

/// A word that is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of text, json, sarif, github")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(word: &str) -> Result<Self, UnknownFormat> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "sarif" => Ok(Self::Sarif),
            "github" => Ok(Self::Github),
            _ => Err(UnknownFormat(word.to_owned())),
        }
    }
}

/// The findings about one file.
#[derive(Debug, Clone, Copy)]
pub struct Findings<'a> {
    /// Name of the file, to show.
    pub file: &'a str,
    /// All of its text.
    pub text: &'a str,
    /// The findings in file order.
    pub diagnostics: &'a [Diagnostic],
    /// Warnings count as errors.
    pub strict: bool,
}

impl Findings<'_> {
    /// The whole report. `style` is for the format [`Format::Text`] only.
    pub fn render(&self, format: Format, style: Style) -> String {
        match format {
            Format::Text => text::render(self, style),
            Format::Json => json::render(self),
            Format::Sarif => sarif::render(self),
            Format::Github => github::render(self),
        }
    }

    fn is_error(&self, diagnostic: &Diagnostic) -> bool {
        self.strict || diagnostic.severity == Severity::Error
    }
}

/// Rule of what is no warning of a check: the file cannot be built.
const BUILD_ERROR: &str = "BuildError";

/// Name of a finding's rule.
fn rule_name(diagnostic: &Diagnostic) -> &'static str {
    diagnostic.rule.unwrap_or(BUILD_ERROR)
}

/// What is known about the rule of a finding.
fn rule_info(diagnostic: &Diagnostic) -> Option<&'static lint::RuleInfo> {
    diagnostic.rule.and_then(lint::rule)
}

#[cfg(test)]
mod tests;
