//! Where an instruction stands, and how a finding about it is worded.
//!
//! Invariants: spans of a trigger's syntax tree point into the trigger's own text, so findings about it are always
//! moved to the FROM that brought the trigger, with the trigger's text as label.

use kiln_grammar::ast::Word;
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::expand::{self, Env};
use kiln_grammar::span::Span;

use super::graph::Origin;

/// The place of one instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    /// Text that the instruction's spans point into.
    pub(super) text: &'a str,
    /// The instruction in the Buildfile; for a trigger its FROM.
    pub(super) span: Span,
    /// The trigger's text.
    pub(super) trigger: Option<&'a str>,
}

impl<'a> Site<'a> {
    /// An instruction of the Buildfile.
    pub(super) fn in_file(text: &'a str, span: Span) -> Self {
        Self { text, span, trigger: None }
    }

    /// An ONBUILD trigger brought by the FROM at `from`.
    pub(super) fn in_trigger(trigger: &'a str, from: Span) -> Self {
        Self { text: trigger, span: from, trigger: Some(trigger) }
    }

    /// An error at `span` of the instruction.
    pub(super) fn error(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.place(Diagnostic::error(span, message))
    }

    /// Moves a finding to the right place.
    pub(super) fn place(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        if let Some(trigger) = self.trigger {
            diagnostic.span = self.span;
            let first = trigger.lines().next().unwrap_or_default();
            diagnostic.label = format!("from the base image's trigger `ONBUILD {first}`");
        }
        diagnostic
    }

    /// Expands one word.
    pub(super) fn expand(&self, word: &Word, escape: char, env: &dyn Env) -> Result<String, Diagnostic> {
        self.expand_text(&word.value, word.span, escape, env)
    }

    /// Expands text that stands at `span`.
    pub(super) fn expand_text(
        &self,
        text: &str,
        span: Span,
        escape: char,
        env: &dyn Env,
    ) -> Result<String, Diagnostic> {
        expand::word(text, escape, env)
            .map(|expanded| expanded.value)
            .map_err(|error| self.error(span, format!("failed to expand `{text}`: {error}")))
    }

    /// For the vertex.
    pub(super) fn origin(&self) -> Origin {
        Origin { span: self.span, trigger: self.trigger.map(str::to_owned) }
    }
}
