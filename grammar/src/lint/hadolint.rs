//! Checks of hadolint (checks.md 3.2, the column `default on`) under its names.
//!
//! Invariants:
//! - they look at every stage, reached or not, but not at triggers of base images;
//! - DL3012, DL3024 and DL3025 are found where BuildKit's rules for the same are (`buildkit/`).

mod base_image;
mod files;
mod metadata;
mod packages;
mod shell;

use super::model::File;
use super::report::Report;
use super::script::Ran;

/// Runs them.
pub(super) fn check(file: &File<'_>, runs: &[Ran<'_, '_>], report: &mut Report<'_>) {
    base_image::check(file, report);
    metadata::check(file, report);
    files::check(file, runs, report);
    for run in runs {
        shell::check(file, run, report);
        packages::check(file, run, report);
    }
}
