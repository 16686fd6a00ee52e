//! JSONArgsRecommended and MultipleInstructionsDisallowed.
//!
//! Invariants: of several commands the finding stands at those that have no effect, and names the later one's keyword.

use super::super::model::{File, Stage, Step};
use super::super::report::Report;
use crate::ast::{Command, Kind};

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for stage in file.stages.iter().filter(|stage| stage.reachable) {
        json(file, stage, report);
        once(file, stage, report, |kind| matches!(kind, Kind::Cmd(_)));
        once(file, stage, report, |kind| matches!(kind, Kind::Entrypoint(_)));
        once(file, stage, report, |kind| matches!(kind, Kind::Healthcheck(_)));
    }
}

/// A SHELL says that the shell is wanted.
fn json(file: &File<'_>, stage: &Stage<'_>, report: &mut Report<'_>) {
    for step in &stage.steps {
        let shell_form = matches!(
            &step.instruction.kind,
            Kind::Cmd(Command::Shell(_)) | Kind::Entrypoint(Command::Shell(_))
        );
        if !shell_form || !step.before.shell.is_empty() {
            continue;
        }
        let name = step.keyword();
        let message = format!(
            "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
        );
        let hint =
            format!("write `{name} [\"program\", \"argument\"]`, or say which shell is meant with SHELL");
        for rule in ["JSONArgsRecommended", "DL3025"] {
            report.add(rule, step.site(file), message.clone(), &hint);
        }
    }
}

fn once(file: &File<'_>, stage: &Stage<'_>, report: &mut Report<'_>, is: impl Fn(&Kind) -> bool) {
    let found: Vec<&Step<'_>> = stage.steps.iter().filter(|step| is(&step.instruction.kind)).collect();
    for pair in found.windows(2) {
        let [earlier, later] = pair else { continue };
        let message = format!(
            "Multiple {} instructions should not be used in the same stage because only the last one will be used",
            later.keyword()
        );
        let site = earlier.site(file);
        report.add("MultipleInstructionsDisallowed", site, message.clone(), "remove this one");
        if matches!(later.instruction.kind, Kind::Healthcheck(_)) {
            report.add("DL3012", site, message, "remove this one");
        }
    }
}
