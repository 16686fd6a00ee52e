//! Names and values: `ENV`, `LABEL` and `ARG` (language.md 1.5 and 1.9).
//!
//! Invariants:
//! - whether the form is `name=value` or the old `name value` is decided by the first word alone.

use std::ops::Range;

use super::{Findings, Input, flags, needs_argument};
use crate::ast::{ArgPair, KeyValue, Kind};
use crate::diagnostic::Diagnostic;
use crate::raw;

pub(super) fn env(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &[], findings);
    let pairs = pairs(input, "ENV", findings)?;
    flags.map(|_| Kind::Env(pairs))
}

pub(super) fn label(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &[], findings);
    let pairs = pairs(input, "LABEL", findings)?;
    flags.map(|_| Kind::Label(pairs))
}

/// Flags of ARG are not looked at (BuildKit does not either).
pub(super) fn arg(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let arguments = input.arguments();
    let words = raw::words(arguments, input.escape);
    if words.is_empty() {
        findings.push(needs_argument(input, "ARG", "NAME=default"));
        return None;
    }
    let mut pairs = Vec::with_capacity(words.len());
    for range in words {
        let word = input.argument(range.clone());
        let (name, value) = match word.value.find('=') {
            Some(at) => {
                let equal = range.start + at;
                (range.start..equal, Some(input.argument(equal + 1..range.end)))
            }
            None => (range, None),
        };
        if name.is_empty() {
            findings.push(blank_name(word.span, "ARG"));
            return None;
        }
        pairs.push(ArgPair { name: input.argument(name), value, span: word.span });
    }
    Some(Kind::Arg(pairs))
}

/// Checks the pairs of an ENV or LABEL behind ONBUILD, where BuildKit looks at their form only.
pub(super) fn check_trigger(
    input: &Input<'_>,
    arguments: Range<usize>,
    name: &str,
    findings: &mut Findings,
) -> bool {
    match split(input.text(arguments.clone()), input.escape) {
        Err(problem) => {
            let (at, error) = problem.describe(name);
            let range = arguments.start + at.start..arguments.start + at.end;
            findings.push(Diagnostic { span: input.span(range), ..error });
            false
        }
        Ok(_) => true,
    }
}

/// One pair: ranges of key and value, and whether it is in the old form.
type Pair = (Range<usize>, Range<usize>, bool);

enum Problem {
    /// One word without an equal sign.
    NoValue(Range<usize>),
    /// A later word without an equal sign.
    NoEqual(Range<usize>, String),
}

impl Problem {
    /// Where it is, and the message, whose span is still to be set.
    fn describe(self, name: &str) -> (Range<usize>, Diagnostic) {
        let unplaced = crate::span::Span::default();
        match self {
            Problem::NoValue(range) => {
                let message = format!("{name} must have two arguments");
                let hint = format!("write `{name} name=value`");
                (range, Diagnostic::error(unplaced, message).with_hint(hint))
            }
            Problem::NoEqual(range, word) => {
                let message =
                    format!("syntax error: can't find = in {word:?}, must be of the form: name=value");
                let hint = "put quotes around a value that holds blanks";
                (range, Diagnostic::error(unplaced, message).with_hint(hint))
            }
        }
    }
}

fn pairs(input: &Input<'_>, name: &str, findings: &mut Findings) -> Option<Vec<KeyValue>> {
    let found = match split(input.arguments(), input.escape) {
        Ok(found) => found,
        Err(problem) => {
            let (at, error) = problem.describe(name);
            findings.push(Diagnostic { span: input.argument(at).span, ..error });
            return None;
        }
    };
    if found.is_empty() {
        findings.push(needs_argument(input, name, "name=value"));
        return None;
    }
    let mut pairs = Vec::with_capacity(found.len());
    for (key, value, legacy) in found {
        if key.is_empty() {
            findings.push(blank_name(input.argument(key.start..value.end).span, name));
            return None;
        }
        pairs.push(KeyValue { key: input.argument(key), value: input.argument(value), legacy });
    }
    Some(pairs)
}

fn split(arguments: &str, escape: char) -> Result<Vec<Pair>, Problem> {
    let words = raw::words(arguments, escape);
    let text = |range: &Range<usize>| arguments.get(range.clone()).unwrap_or("");
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !text(first).contains('=') {
        let blank = |c: char| matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ');
        let Some(end) = arguments.find(blank) else { return Err(Problem::NoValue(0..arguments.len())) };
        let value = arguments.get(end..).unwrap_or("").trim_start_matches(blank);
        return Ok(vec![(0..end, arguments.len() - value.len()..arguments.len(), true)]);
    }
    let pair = |word: Range<usize>| match text(&word).find('=') {
        Some(at) => Ok((word.start..word.start + at, word.start + at + 1..word.end, false)),
        None => Err(Problem::NoEqual(word.clone(), text(&word).to_string())),
    };
    words.into_iter().map(pair).collect()
}

fn blank_name(span: crate::span::Span, name: &str) -> Diagnostic {
    Diagnostic::error(span, format!("{name} names can not be blank"))
        .with_label("nothing before the equal sign")
        .with_hint(format!("write `{name} name=value`"))
}
