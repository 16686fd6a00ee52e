//! DL3003, DL3004, DL3027, DL3046, DL3047, DL4006: commands in RUN.
//!
//! Invariants: one finding of a rule for each RUN.

use super::super::model::File;
use super::super::report::Report;
use super::super::script::{Call, Ran};

/// User ids from which on the files of the last log-in get huge.
const LARGE_UID_DIGITS: usize = 6;

pub(super) fn check(file: &File<'_>, run: &Ran<'_, '_>, report: &mut Report<'_>) {
    let site = run.step.site(file);
    let any = |wanted: &dyn Fn(&Call) -> bool| run.calls.iter().any(wanted);
    if any(&|call| call.program() == "cd") {
        let hint = "set the directory with WORKDIR before the RUN";
        report.add("DL3003", site, "the directory is changed with `cd`", hint);
    }
    if any(&|call| call.program() == "sudo") {
        let hint = "switch with USER, or use a tool made for it such as gosu or setpriv";
        report.add("DL3004", site, "`sudo` is used", hint);
    }
    if any(&|call| call.program() == "apt") {
        report.add(
            "DL3027",
            site,
            "`apt` is for people, its interface can change",
            "use `apt-get` or `apt-cache`",
        );
    }
    if any(&makes_huge_log) {
        let message = "`useradd` with a large UID makes a huge file of the last log-ins";
        report.add("DL3046", site, message, "add `--no-log-init`");
    }
    if any(&floods_log) {
        let hint = "add `--progress=dot:giga`, or `-q`";
        report.add("DL3047", site, "`wget` shows a progress bar, which floods the log", hint);
    }
    if any(&|call| call.piped) && !has_pipefail(run) {
        let hint = "put `SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]` before it, or `set -o pipefail` into it";
        report.add("DL4006", site, "a command that fails before a pipe goes unnoticed", hint);
    }
}

fn makes_huge_log(call: &Call) -> bool {
    if call.program() != "useradd" || call.has_option(Some('l'), &["no-log-init"]) {
        return false;
    }
    let arguments = call.arguments();
    let after = |word: &String| matches!(word.as_str(), "-u" | "--uid");
    let next = arguments.iter().skip_while(|word| !after(word)).nth(1);
    let joined = arguments.iter().find_map(|word| word.strip_prefix("--uid=").or(word.strip_prefix("-u")));
    let large = |uid: &str| uid.len() >= LARGE_UID_DIGITS && uid.bytes().all(|b| b.is_ascii_digit());
    next.is_some_and(|uid| large(uid)) || joined.is_some_and(large)
}

fn floods_log(call: &Call) -> bool {
    let quiet = ["progress", "quiet", "no-verbose", "output-file", "append-output"];
    let short = |word: &String| {
        let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        letters.is_some_and(|letters| {
            letters.starts_with(['q', 'o', 'a']) || letters.contains("nv") || letters.contains('q')
        })
    };
    call.program() == "wget"
        && call.operands().next().is_some()
        && !call.has_option(None, &quiet)
        && !call.arguments().iter().any(short)
}

/// Set by the shell, or somewhere in the script.
fn has_pipefail(run: &Ran<'_, '_>) -> bool {
    let in_script =
        |call: &Call| call.program() == "set" && call.arguments().iter().any(|word| word == "pipefail");
    run.step.before.shell.iter().any(|word| word.contains("pipefail")) || run.calls.iter().any(in_script)
}
