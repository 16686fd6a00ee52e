//! HeredocNoErrexit: a script in a here-document of which only the last command can fail the step.
//!
//! Invariants: a `#!` line names its own interpreter and options, so such a script is left alone unless it is a shell
//! without `-e`.

use super::super::model::File;
use super::super::report::Report;
use super::super::script::{Call, Ran, whole_heredoc};

pub(super) fn check(file: &File<'_>, run: &Ran<'_, '_>, report: &mut Report<'_>) {
    let Some(body) = whole_heredoc(run.run) else { return };
    let interpreter = body.strip_prefix("#!").and_then(|rest| rest.lines().next()).unwrap_or("");
    let mut options = run.step.before.shell.iter().map(String::as_str).chain(interpreter.split_whitespace());
    let stops = options.any(is_errexit) || run.calls.iter().any(sets_errexit);
    // One command, or commands chained with `&&` on the last line, need nothing.
    let lines = body.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    if stops || run.calls.len() < 2 || lines.count() < 2 {
        return;
    }
    let message = "a command that fails in this here-document does not fail the step";
    report.add("HeredocNoErrexit", run.step.site(file), message, "begin it with `set -e`");
}

fn sets_errexit(call: &Call) -> bool {
    call.program() == "set" && call.arguments().iter().any(|word| word == "errexit" || is_errexit(word))
}

/// `-e`, alone or among other letters.
fn is_errexit(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|letters| !letters.starts_with('-') && letters.contains('e'))
}
