//! CopyRootUid: files of root in the directory where a stage goes on as another user.
//!
//! Invariants: only a copy that a later RUN or the final command of the same user meets in its working directory.

use super::super::evaluate::join;
use super::super::model::{File, Values};
use super::super::report::Report;
use crate::ast::Kind;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for stage in &file.stages {
        for (position, step) in stage.steps.iter().enumerate() {
            let (Kind::Copy(copy), Values::Copy { destination, .. }) = (&step.instruction.kind, &step.values)
            else {
                continue;
            };
            if copy.chown.is_some() || step.trigger_of.is_some() || !step.before.is_unprivileged() {
                continue;
            }
            let place = join(&step.before.directory, destination);
            let met = stage.steps.iter().skip(position + 1).any(|later| {
                matches!(later.instruction.kind, Kind::Run(_))
                    && later.before.user == step.before.user
                    && is_within(&later.before.directory, &place)
            });
            if met && copy.chmod.is_none() {
                let user = &step.before.user;
                let message = format!(
                    "files copied to `{place}` belong to root, but the RUN after it is user `{user}`"
                );
                let hint = format!("add `--chown={user}` when it has to change them");
                report.add("CopyRootUid", step.site(file), message, &hint);
            }
        }
    }
}

/// The root holds everything, and says nothing.
fn is_within(directory: &str, place: &str) -> bool {
    place != "/" && directory.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
