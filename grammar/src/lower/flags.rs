//! Flags of an instruction against the list of those it knows (language.md 1.1).
//!
//! Invariants:
//! - all flags of an instruction are looked at, so each wrong one is reported;
//! - values are unquoted and unexpanded.

use std::collections::BTreeMap;

use super::{Findings, Input};
use crate::ast::Word;
use crate::diagnostic::Diagnostic;
use crate::span::Spanned;
use crate::{raw, suggest};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// One value.
    Value,
    /// One value each time it is given.
    Values,
    /// `true`, `false` or nothing.
    Switch,
}

/// The flags an instruction was given.
#[derive(Debug, Default)]
pub(super) struct Flags {
    values: BTreeMap<&'static str, Vec<Word>>,
    switches: BTreeMap<&'static str, bool>,
}

impl Flags {
    /// The value of a flag that takes one; an empty one counts as not given.
    pub(super) fn value(&mut self, name: &str) -> Option<Word> {
        self.written_value(name).filter(|word| !word.value.is_empty())
    }

    /// Like [`Self::value`], with empty values.
    pub(super) fn written_value(&mut self, name: &str) -> Option<Word> {
        self.values.remove(name).and_then(|values| values.into_iter().next())
    }

    /// All values of a flag that may be repeated.
    pub(super) fn values(&mut self, name: &str) -> Vec<Word> {
        self.values.remove(name).unwrap_or_default()
    }

    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.switches.get(name).copied()
    }
}

/// Reads the flags of `input`; `None` when one of them is wrong.
pub(super) fn read(
    input: &Input<'_>,
    known: &[(&'static str, Takes)],
    findings: &mut Findings,
) -> Option<Flags> {
    let mut flags = Flags::default();
    let mut good = true;
    for flag in &input.flags {
        if let Err(error) = read_one(input, flag, known, &mut flags) {
            findings.push(error);
            good = false;
        }
    }
    good.then_some(flags)
}

fn read_one(
    input: &Input<'_>,
    flag: &raw::Flag,
    known: &[(&'static str, Takes)],
    flags: &mut Flags,
) -> Result<(), Diagnostic> {
    let span = input.span(flag.range.clone());
    let (written, value) = match flag.text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (flag.text.as_str(), None),
    };
    let name = written.strip_prefix("--").unwrap_or(written);
    let Some((name, takes)) = known.iter().copied().find(|(known, _)| *known == name) else {
        return Err(unknown(input, flag, name, known));
    };
    if takes != Takes::Values && (flags.values.contains_key(name) || flags.switches.contains_key(name)) {
        return Err(Diagnostic::error(span, format!("duplicate flag specified: --{name}"))
            .with_label("given before")
            .with_hint(format!("give `--{name}` once")));
    }
    let missing = || {
        Diagnostic::error(span, format!("missing a value on flag: --{name}"))
            .with_hint(format!("write `--{name}=value`"))
    };
    if takes == Takes::Switch {
        let on = match value.map(str::to_ascii_lowercase).as_deref() {
            None | Some("true") => true,
            Some("false") => false,
            Some("") => return Err(missing()),
            Some(other) => {
                let message = format!("expecting boolean value for flag --{name}, not: {other}");
                return Err(Diagnostic::error(span, message).with_hint("use true or false"));
            }
        };
        flags.switches.insert(name, on);
        return Ok(());
    }
    let value = value.ok_or_else(missing)?;
    let written = input.text(flag.range.clone());
    // Quotes may stand anywhere in a flag, so the value is found by the first equal sign as written.
    let start = flag.range.start + written.find('=').map_or(0, |at| at + 1);
    let word = Spanned::new(value.to_string(), input.span(start..flag.range.end));
    flags.values.entry(name).or_default().push(word);
    Ok(())
}

fn unknown(input: &Input<'_>, flag: &raw::Flag, name: &str, known: &[(&'static str, Takes)]) -> Diagnostic {
    let instruction = input.text(input.keyword.clone()).to_ascii_uppercase();
    let error =
        Diagnostic::error(input.span(flag.range.clone()), format!("unknown flag: --{name} of {instruction}"));
    let names = || known.iter().map(|(name, _)| *name);
    if let Some(near) = suggest::closest(name, names()) {
        return error.with_hint(format!("did you mean `--{near}`?"));
    }
    let all: Vec<String> = names().map(|name| format!("--{name}")).collect();
    if all.is_empty() {
        return error.with_hint(format!("{instruction} has no flags"));
    }
    error.with_hint(format!("{instruction} knows {}", all.join(", ")))
}
