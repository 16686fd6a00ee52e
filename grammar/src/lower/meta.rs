//! Instructions that take words or one text: EXPOSE, MAINTAINER, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
//! (language.md 1.9).
//!
//! Invariants:
//! - values are checked only as far as no variable can change them.

use super::json::{self, Form};
use super::{Findings, Input, env, flags, needs_argument, needs_one_argument};
use crate::ast::{Kind, Onbuild, Word};
use crate::diagnostic::Diagnostic;
use crate::raw;
use crate::span::{Span, Spanned};

pub(super) fn expose(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &[], findings);
    let ports = input.fields();
    if ports.is_empty() {
        findings.push(needs_argument(input, "EXPOSE", "8080/tcp"));
        return None;
    }
    flags.map(|_| Kind::Expose(ports))
}

pub(super) fn maintainer(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    text(input, "MAINTAINER", "name", findings).map(Kind::Maintainer)
}

pub(super) fn user(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    text(input, "USER", "name", findings).map(Kind::User)
}

pub(super) fn workdir(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    text(input, "WORKDIR", "/path", findings).map(Kind::Workdir)
}

/// Flags of STOPSIGNAL are not looked at (BuildKit does not either).
pub(super) fn stopsignal(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    if input.rest.is_empty() {
        findings.push(needs_one_argument(input, "STOPSIGNAL", "SIGTERM"));
        return None;
    }
    Some(Kind::Stopsignal(input.whole_argument()))
}

pub(super) fn volume(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &[], findings);
    let mut volumes = match json::read(input, 0..input.rest.len(), findings) {
        Form::Exec(words) => words,
        Form::Shell => input.fields(),
        Form::Bad => return None,
    };
    if volumes.is_empty() {
        findings.push(needs_argument(input, "VOLUME", "/data"));
        return None;
    }
    for volume in &mut volumes {
        volume.value = volume.value.trim().to_string();
        if volume.value.is_empty() {
            let message = "VOLUME specified can not be an empty string";
            findings.push(Diagnostic::error(volume.span, message).with_hint("name a path"));
            return None;
        }
    }
    flags.map(|_| Kind::Volume(volumes))
}

pub(super) fn onbuild(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &[], findings);
    let arguments = input.arguments();
    if arguments.is_empty() {
        findings.push(needs_argument(input, "ONBUILD", "COPY . /src"));
        return None;
    }
    let head = raw::head(arguments, input.escape);
    let keyword = arguments.get(head.keyword.clone()).unwrap_or("").to_ascii_uppercase();
    if matches!(keyword.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
        findings.push(refused_trigger(&keyword, input.argument(head.keyword).span));
        return None;
    }
    if !check_trigger(input, &keyword, head.rest, findings) {
        return None;
    }
    flags?;
    // The stored text is the line behind the keyword, blanks at its end included, and the here-documents.
    let line = &input.line.text;
    let after = line.get(input.keyword.end..).unwrap_or("");
    let start = line.len() - after.trim_start().len();
    let span = input.span(start..line.len());
    let value = format!("{}{}", after.trim_start(), input.heredoc_text);
    let end = input.heredocs.last().map_or(span.end, |heredoc| heredoc.span.end);
    Some(Kind::Onbuild(Onbuild { trigger: Spanned::new(value, Span::new(span.start, end)) }))
}

/// An instruction that may not be a trigger.
pub(super) fn refused_trigger(name: &str, span: Span) -> Diagnostic {
    let message = match name {
        "ONBUILD" => "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_string(),
        other => format!("{other} isn't allowed as an ONBUILD trigger"),
    };
    Diagnostic::error(span, message)
}

/// What BuildKit already refuses in a trigger when the file is read; the rest shows in the child's build.
fn check_trigger(
    input: &Input<'_>,
    keyword: &str,
    rest: std::ops::Range<usize>,
    findings: &mut Findings,
) -> bool {
    let absolute = input.rest.start + rest.start..input.rest.start + rest.end;
    match keyword {
        "ENV" | "LABEL" => env::check_trigger(input, absolute, keyword, findings),
        "ADD" | "COPY" | "VOLUME" | "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => {
            !matches!(json::read(input, rest, findings), Form::Bad)
        }
        _ => true,
    }
}

/// Everything behind the keyword as one value.
fn text(input: &Input<'_>, name: &str, example: &str, findings: &mut Findings) -> Option<Word> {
    let flags = flags::read(input, &[], findings);
    if input.rest.is_empty() {
        findings.push(needs_one_argument(input, name, example));
        return None;
    }
    flags.map(|_| input.whole_argument())
}
