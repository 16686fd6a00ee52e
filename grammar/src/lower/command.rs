//! Commands in shell and exec form: CMD, ENTRYPOINT, SHELL, and what RUN and HEALTHCHECK share with them.
//!
//! Invariants:
//! - the shell form is the text between the flags and the end of the line, untouched.

use std::ops::Range;

use super::json::{self, Form};
use super::{Findings, Input, flags, needs_argument};
use crate::ast::{Command, Kind};
use crate::diagnostic::Diagnostic;

/// Reads `range` of the arguments as a command. An empty one is an empty shell command, as in BuildKit.
pub(super) fn read(input: &Input<'_>, range: Range<usize>, findings: &mut Findings) -> Option<Command> {
    match json::read(input, range.clone(), findings) {
        Form::Exec(words) => Some(Command::Exec(words)),
        Form::Shell => Some(Command::Shell(input.argument(range))),
        Form::Bad => None,
    }
}

pub(super) fn cmd(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    plain(input, findings).map(Kind::Cmd)
}

pub(super) fn entrypoint(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    plain(input, findings).map(Kind::Entrypoint)
}

fn plain(input: &Input<'_>, findings: &mut Findings) -> Option<Command> {
    let flags = flags::read(input, &[], findings);
    let command = read(input, 0..input.rest.len(), findings)?;
    flags.map(|_| command)
}

pub(super) fn shell(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let flags = flags::read(input, &[], findings);
    match json::read(input, 0..input.rest.len(), findings) {
        Form::Exec(words) if !words.is_empty() => flags.map(|_| Kind::Shell(words)),
        Form::Bad => None,
        Form::Shell if !input.rest.is_empty() => {
            let message = "SHELL requires the arguments to be in JSON form";
            findings.push(
                Diagnostic::error(input.whole_argument().span, message)
                    .with_hint("for example `SHELL [\"/bin/bash\", \"-c\"]`"),
            );
            None
        }
        Form::Exec(_) | Form::Shell => {
            findings.push(needs_argument(input, "SHELL", "[\"/bin/bash\", \"-c\"]"));
            None
        }
    }
}
