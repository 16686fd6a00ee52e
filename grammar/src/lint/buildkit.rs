//! The checks of BuildKit (checks.md 3.1): its names, triggers, messages and places.
//!
//! Invariants:
//! - `NoEmptyContinuation` comes from the parser and `InvalidBaseImagePlatform` from planning, which alone know;
//! - instructions of stages that are not reached get the checks of names and letter case only;
//! - a comment `check=skip=…` above an instruction counts for all checks here; BuildKit does not look at it for
//!   letter case, names of stages and `InvalidDefaultArgInFrom`.

mod casing;
mod commands;
pub(super) mod copy_ignored;
mod deprecated;
mod description;
mod expose;
mod from_args;
mod from_platform;
pub(super) mod secrets;
mod stage_names;
mod variables;
mod workdir;

use super::model::File;
use super::report::Report;

/// Runs them.
pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    casing::check(file, report);
    stage_names::check(file, report);
    description::check(file, report);
    from_args::check(file, report);
    from_platform::check(file, report);
    variables::check(file, report);
    secrets::check(file, report);
    deprecated::check(file, report);
    commands::check(file, report);
    workdir::check(file, report);
    expose::check(file, report);
    copy_ignored::check(file, report);
}
