//! CopyIgnoredFile.
//!
//! Invariants: nothing is said when the ignore file takes anything back in with `!`: a directory may be left out and a
//! file in it kept.

use super::super::model::{File, Values};
use super::super::report::Report;
use crate::ast::Kind;
use crate::ignore::{self, Matcher};

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    let Some(matcher) = file.facts.ignore.filter(|matcher| !matcher.is_empty() && !matcher.has_negations())
    else {
        return;
    };
    for (_, step) in file.reached() {
        let (copy, verb) = match &step.instruction.kind {
            Kind::Copy(copy) if copy.from.is_none() => (copy, "Copy"),
            Kind::Add(copy) => (copy, "Add"),
            _ => continue,
        };
        let Values::Copy { sources, .. } = &step.values else { continue };
        for (source, word) in sources.iter().zip(&copy.sources) {
            if is_remote(source) {
                continue;
            }
            let path = ignore::clean(source);
            if is_ignored(matcher, &path) {
                let message =
                    format!("Attempting to {verb} file \"{path}\" that is excluded by .dockerignore");
                let hint = "take the pattern out of .dockerignore, or the file out of this instruction";
                report.add("CopyIgnoredFile", step.site_at(file, word.span), message, hint);
            }
        }
    }
}

/// A URL or a git repository.
pub(in super::super) fn is_remote(source: &str) -> bool {
    let scheme = ["http://", "https://", "git://", "ssh://"].iter().any(|scheme| source.starts_with(scheme));
    let user = |name: &str| !name.is_empty() && !name.contains(['/', ':']);
    let account = source.split_once('@').is_some_and(|(name, rest)| user(name) && rest.contains(':'));
    scheme || account
}

fn is_ignored(matcher: &Matcher, path: &str) -> bool {
    match path {
        // The root itself cannot be left out; a pattern for everything leaves nothing of it.
        "." => has_pattern(matcher, &["*", "**", "**/*"]),
        "/" => has_pattern(matcher, &["**", "**/*"]),
        path => matcher.verdict(path).ignored,
    }
}

fn has_pattern(matcher: &Matcher, texts: &[&str]) -> bool {
    matcher.patterns().iter().any(|pattern| texts.contains(&pattern.text.as_str()))
}
