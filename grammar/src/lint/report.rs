//! Collects findings, less those that are turned off.
//!
//! Invariants: whether a rule runs is decided here and nowhere else.

use super::catalog::{Origin, RuleInfo, rule};
use super::config::LintConfig;
use super::facts::Facts;
use crate::ast::{From, Instruction};
use crate::diagnostic::Diagnostic;
use crate::span::{Span, Spanned};

/// Where a finding is, and the comments that speak for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    /// First line of the instruction.
    pub(super) span: Span,
    comments: &'a [Spanned<String>],
}

impl<'a> Site<'a> {
    pub(super) fn new(text: &str, span: Span, comments: &'a [Spanned<String>]) -> Self {
        let rest = text.get(span.start..span.end).unwrap_or("");
        let line = rest.split('\n').next().unwrap_or(rest).trim_end();
        Self { span: Span::new(span.start, span.start + line.len()), comments }
    }

    pub(super) fn of(text: &str, instruction: &'a Instruction) -> Self {
        Self::new(text, instruction.span, &instruction.comments)
    }

    pub(super) fn of_from(text: &str, from: &'a From) -> Self {
        Self::new(text, from.span, &from.comments)
    }

    /// The site with the caret under `part`, when that stands on the first line: the line is part of what BuildKit's
    /// reports say, and it always gives the instruction's first one.
    pub(super) fn narrowed(self, part: Span) -> Self {
        let inside = part.start >= self.span.start && part.start < self.span.end;
        let span = Span::new(part.start, part.end.min(self.span.end));
        if inside && span.end > span.start { Self { span, ..self } } else { self }
    }
}

/// Findings so far.
pub(super) struct Report<'a> {
    config: &'a LintConfig,
    facts: &'a Facts<'a>,
    /// Rules that `# hadolint global ignore=` names.
    ignored: Vec<String>,
    found: Vec<Diagnostic>,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &str, config: &'a LintConfig, facts: &'a Facts<'a>) -> Self {
        let comments = text.lines().filter_map(|line| line.strip_prefix('#'));
        let ignored = comments.flat_map(|text| hadolint_ignores(text, "global ignore")).collect();
        Self { config, facts, ignored, found: Vec::new() }
    }

    /// Adds a finding unless its rule does not run here.
    pub(super) fn add(&mut self, name: &'static str, site: Site<'_>, message: impl Into<String>, hint: &str) {
        let rule = rule(name).expect("invariant: every check names a rule of the catalogue");
        if self.runs(rule, site.comments) {
            self.found.push(Diagnostic::warning(rule.name, site.span, message).with_hint(hint));
        }
    }

    /// Whether some rule of `origin` runs at all.
    pub(super) fn wants(&self, origin: Origin) -> bool {
        self.facts.only.is_none_or(|only| only == origin)
    }

    /// Findings in file order. A finding of hadolint that repeats one of BuildKit in other words is left out.
    pub(super) fn finish(self, line: impl Fn(&Diagnostic) -> usize) -> Vec<Diagnostic> {
        let mut found = self.found;
        let repeats = |found: &Diagnostic, all: &[Diagnostic]| {
            let Some((_, original)) = REPEATS.iter().find(|(name, _)| found.rule == Some(name)) else {
                return false;
            };
            all.iter().any(|other| other.rule == Some(original) && line(other) == line(found))
        };
        let repeated: Vec<bool> = found.iter().map(|one| repeats(one, &found)).collect();
        let mut repeated = repeated.into_iter();
        found.retain(|_| !repeated.next().unwrap_or(false));
        found.sort_by(|a, b| (a.span.start, a.rule).cmp(&(b.span.start, b.rule)));
        found
    }

    fn runs(&self, info: &RuleInfo, comments: &[Spanned<String>]) -> bool {
        let original = info.same_as.and_then(rule);
        if !self.wants(info.origin)
            || !(info.default_on || self.facts.pedantic)
            || (original.is_some() && self.facts.only != Some(Origin::Hadolint))
        {
            return false;
        }
        let config = self.config_at(comments);
        let ignored = info.origin == Origin::Hadolint
            && (self.ignored.iter().any(|name| name == info.name)
                || comments
                    .iter()
                    .any(|comment| hadolint_ignores(&comment.value, "ignore").any(|name| name == info.name)));
        config.allows(info) && original.is_none_or(|original| config.allows(original)) && !ignored
    }

    /// The configuration with what the comments above an instruction add: the first `check=`, up to a blank; one that
    /// cannot be read is no setting (as BuildKit).
    fn config_at(&self, comments: &[Spanned<String>]) -> LintConfig {
        let check = comments.iter().find_map(|comment| {
            let (name, value) = comment.value.split_once('=')?;
            let value = value.trim();
            (name.trim_end().eq_ignore_ascii_case("check") && !value.is_empty()).then_some(value)
        });
        let own = check.and_then(|text| LintConfig::from_directive(text.split(' ').next()?).ok());
        own.map_or_else(|| self.config.clone(), |own| self.config.with(&own))
    }
}

/// Rules of hadolint that find the same as one of BuildKit in some cases and more in others.
const REPEATS: [(&str, &str); 2] = [("DL3000", "WorkdirRelativePath"), ("DL3044", "UndefinedVar")];

/// Rules that a comment `hadolint ignore=A,B reason` names.
fn hadolint_ignores<'c>(comment: &'c str, keyword: &str) -> impl Iterator<Item = String> + use<'c> {
    let list = comment.trim().strip_prefix("hadolint").and_then(|rest| {
        let rest = rest.trim_start().strip_prefix(keyword)?.trim_start();
        rest.strip_prefix('=')
    });
    let list = list.unwrap_or("").split('#').next().unwrap_or("");
    list.split(',').filter_map(|name| Some(name.split_whitespace().next()?.to_owned()))
}
