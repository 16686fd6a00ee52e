//! Checks that only kiln has (checks.md 3.2, `Ours`).
//!
//! Invariants: only what the file decides; `DeletedInLaterLayer` needs the layers and is not here.

mod apt_update;
mod cache_mount;
mod copy_order;
mod copy_owner;
mod doubled_layer;
mod heredoc;
mod mutable_base;
mod secret_history;
mod unused;

use super::model::File;
use super::report::Report;
use super::script::Ran;

/// Runs them.
pub(super) fn check(file: &File<'_>, runs: &[Ran<'_, '_>], report: &mut Report<'_>) {
    mutable_base::check(file, report);
    cache_mount::check(file, report);
    secret_history::check(file, report);
    unused::check(file, report);
    copy_order::check(file, runs, report);
    copy_owner::check(file, report);
    doubled_layer::check(file, runs, report);
    for run in runs {
        heredoc::check(file, run, report);
        apt_update::check(file, run, report);
    }
}
