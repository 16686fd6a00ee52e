//! `COPY` and `ADD` (language.md 1.8 and 1.10).
//!
//! Invariants:
//! - here-document words are not among the sources; each has its body beside it.

use std::collections::BTreeMap;

use super::flags::{self, Flags, Takes};
use super::heredoc;
use super::json::{self, Form};
use super::{Findings, Input};
use crate::ast::{Copy, Heredoc, Kind, Word};
use crate::diagnostic::Diagnostic;

const COPY_FLAGS: [(&str, Takes); 6] = [
    ("from", Takes::Value),
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Switch),
    ("parents", Takes::Switch),
    ("exclude", Takes::Values),
];

const ADD_FLAGS: [(&str, Takes); 7] = [
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Switch),
    ("keep-git-dir", Takes::Switch),
    ("checksum", Takes::Value),
    ("unpack", Takes::Switch),
    ("exclude", Takes::Values),
];

pub(super) fn copy(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &COPY_FLAGS, findings);
    let files = files(input, "COPY", findings);
    let (mut flags, files) = (flags?, files?);
    let from = flags.value("from");
    if let Some(word) = from.as_ref().filter(|word| has_variable(&word.value)) {
        let message = "variable expansion is not supported for --from, define a new stage with FROM using \
                       ARG from global scope as a workaround";
        findings.push(
            Diagnostic::error(word.span, message)
                .with_hint("add `FROM ${NAME} AS alias` above and write `--from=alias`"),
        );
        return None;
    }
    Some(Kind::Copy(assemble(files, flags, from)))
}

pub(super) fn add(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &ADD_FLAGS, findings);
    let files = files(input, "ADD", findings);
    Some(Kind::Add(assemble(files?, flags?, None)))
}

/// What is copied and where to.
struct Files {
    sources: Vec<Word>,
    heredocs: Vec<Heredoc>,
    destination: Word,
}

fn assemble(files: Files, mut flags: Flags, from: Option<Word>) -> Copy {
    Copy {
        sources: files.sources,
        destination: files.destination,
        heredocs: files.heredocs,
        from,
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.values("exclude"),
        checksum: flags.value("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    }
}

fn files(input: &Input<'_>, name: &str, findings: &mut Findings) -> Option<Files> {
    let mut words = match json::read(input, 0..input.rest.len(), findings) {
        Form::Exec(words) => words,
        Form::Shell => input.fields(),
        Form::Bad => return None,
    };
    let given = words.len();
    let Some(destination) = words.pop().filter(|_| given > 1) else {
        let was = if given == 1 { "only one was" } else { "none were" };
        let message = format!(
            "{name} requires at least two arguments, but {was} provided. Destination could not be determined"
        );
        findings.push(
            Diagnostic::error(input.line_span(), message)
                .with_hint(format!("write `{name} source destination`")),
        );
        return None;
    };
    if opens_heredoc(&destination).is_some() {
        let message = format!("{name} cannot accept a heredoc as a destination");
        findings
            .push(Diagnostic::error(destination.span, message).with_hint("put the destination path last"));
        return None;
    }
    let mut sources = Vec::new();
    let mut heredocs = Vec::new();
    // A later document of the same name replaces an earlier one, as in BuildKit.
    let bodies: BTreeMap<&str, &Heredoc> = input.heredocs.iter().map(|h| (h.name.as_str(), h)).collect();
    for word in words {
        match opens_heredoc(&word) {
            Some(opening) => {
                // One that the line as a whole did not open (in the exec form) is empty.
                let body = bodies.get(opening.name.as_str());
                let found = body.map(|heredoc| (heredoc.span, raw_or_stripped(&opening, heredoc)));
                let (span, body) = found.unwrap_or((word.span, String::new()));
                heredocs.push(Heredoc { span, body, ..opening });
            }
            None => sources.push(word),
        }
    }
    Some(Files { sources, heredocs, destination })
}

fn raw_or_stripped(opening: &Heredoc, heredoc: &Heredoc) -> String {
    if opening.strip_tabs && !heredoc.strip_tabs {
        return heredoc.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect();
    }
    heredoc.body.clone()
}

fn opens_heredoc(word: &Word) -> Option<Heredoc> {
    heredoc::open(&word.value, word.span).ok().flatten()
}

/// A dollar sign that is followed by anything.
fn has_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 < text.len())
}
