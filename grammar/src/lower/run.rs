//! `RUN` (language.md 1.7).
//!
//! Invariants:
//! - mounts without variables are checked here, where their place is known; the others after expansion.

use std::collections::BTreeMap;

use super::flags::{self, Takes};
use super::{Findings, Input, command, guards};
use crate::ast::{Kind, Run, Word};
use crate::diagnostic::Diagnostic;
use crate::mount::MountError;
use crate::span::Span;
use crate::{expand, mount, suggest};

const FLAGS: [(&str, Takes); 8] = [
    ("mount", Takes::Values),
    ("network", Takes::Value),
    ("security", Takes::Value),
    ("device", Takes::Values),
    ("timeout", Takes::Value),
    ("retry", Takes::Value),
    ("memory", Takes::Value),
    ("cpus", Takes::Value),
];

pub(super) fn run(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &FLAGS, findings);
    let command = command::read(input, 0..input.rest.len(), findings)?;
    let mut flags = flags?;
    let network = flags.written_value("network");
    let security = flags.written_value("security");
    let mut good = one_of("network", network.as_ref(), &["default", "none", "host"], findings);
    good &= one_of("security", security.as_ref(), &["sandbox", "insecure"], findings);
    let mounts = flags.values("mount");
    for mount in &mounts {
        if let Err(error) = check_mount(mount, input.escape) {
            findings.push(error);
            good = false;
        }
    }
    let devices = flags.values("device");
    let guards = guards::read(&mut flags, findings);
    let heredocs = input.heredocs.clone();
    let guards = guards.filter(|_| good)?;
    Some(Kind::Run(Run { mounts, network, security, devices, guards, command, heredocs }))
}

fn one_of(flag: &str, value: Option<&Word>, allowed: &[&'static str], findings: &mut Findings) -> bool {
    let Some(word) = value.filter(|word| !allowed.contains(&word.value.as_str())) else { return true };
    let hint = match suggest::closest(&word.value, allowed.iter().copied()) {
        Some(near) => format!("did you mean `--{flag}={near}`?"),
        None => format!("use one of: {}", allowed.join(", ")),
    };
    let message = format!("invalid {flag} mode {:?}", word.value);
    findings.push(Diagnostic::error(word.span, message).with_hint(hint));
    false
}

fn check_mount(word: &Word, escape: char) -> Result<(), Diagnostic> {
    let result = if word.value.contains('$') { check_open(&word.value) } else { check_closed(word, escape) };
    result.map_err(|error| {
        // Places in the value are places in the file only where nothing was unquoted or continued.
        let exact = word.span.end - word.span.start == word.value.len();
        let span = match error.span.filter(|_| exact) {
            Some(part) => Span::new(word.span.start + part.start, word.span.start + part.end),
            None => word.span,
        };
        let diagnostic = Diagnostic::error(span, error.message);
        match error.hint {
            Some(hint) => diagnostic.with_hint(hint),
            None => diagnostic,
        }
    })
}

fn check_closed(word: &Word, escape: char) -> Result<(), MountError> {
    let nothing = BTreeMap::new();
    let mut unquote = |text: &str| expand::word(text, escape, &nothing).map(|found| found.value);
    mount::parse_with(&word.value, &mut unquote).map(|_| ())
}

/// With variables in it, only the division into fields and `from=` can be checked.
fn check_open(value: &str) -> Result<(), MountError> {
    for mount::Field { range, text } in mount::fields(value)? {
        let Some((key, source)) = text.split_once('=') else { continue };
        // A dollar sign at the very end stands for itself.
        let variable = source.find('$').is_some_and(|at| at + 1 < source.len());
        if variable && key.eq_ignore_ascii_case("from") {
            let message = "`from` doesn't support variable expansion, define alias stage instead";
            let hint = "add `FROM ${NAME} AS alias` above and write `from=alias`".to_string();
            let span = Some(Span::new(range.start, range.end));
            return Err(MountError { message: message.to_string(), hint: Some(hint), span });
        }
    }
    Ok(())
}
