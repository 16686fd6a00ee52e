//! Findings about a Buildfile, as data. The builder renders them with the source line and a caret.

use crate::span::Span;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file builds.
    Warning,
    /// The file does not build.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Name of the check for warnings (`NoEmptyContinuation`), `None` for errors of the language.
    pub rule: Option<&'static str>,
    /// One line, lower case, no final period, names the thing that is wrong.
    pub message: String,
    /// Short text under the caret; may be empty.
    pub label: String,
    /// Where.
    pub span: Span,
    /// What to do next, one line; rendered as `hint:`.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule: None,
            message: message.into(),
            label: String::new(),
            span,
            hint: None,
        }
    }

    /// A warning of the check `rule`.
    pub fn warning(rule: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, rule: Some(rule), ..Self::error(span, message) }
    }

    /// Adds the text under the caret.
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds what to do next.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
