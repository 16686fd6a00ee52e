//! AptWithoutUpdate: `apt-get install` with lists of another step.
//!
//! Invariants: packages given as files need no lists; a cache mount may hold lists.

use super::super::evaluate::has_cache;
use super::super::model::File;
use super::super::report::Report;
use super::super::script::{Call, Ran};

const APT: [&str; 3] = ["apt-get", "apt", "aptitude"];

pub(super) fn check(file: &File<'_>, run: &Ran<'_, '_>, report: &mut Report<'_>) {
    let installs = |call: &Call| {
        call.is(&APT, &["install"]) && call.operands().skip(1).any(|name| !name.contains(['/', '$']))
    };
    let Some(first) = run.calls.iter().position(installs) else { return };
    let updated = run.calls.iter().take(first).any(|call| call.is(&APT, &["update"]));
    if updated || has_cache(run.step.values.mounts(), "/var/lib/apt/lists") {
        return;
    }
    let hint = "put `apt-get update &&` into the same RUN: the lists of an earlier step may be old or gone";
    report.add(
        "AptWithoutUpdate",
        run.step.site(file),
        "`apt-get install` without `apt-get update` before it",
        hint,
    );
}
