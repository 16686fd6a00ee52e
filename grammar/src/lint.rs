//! Checks: findings about a Buildfile that builds, but should be written differently (checks.md).
//!
//! Invariants:
//! - pure: everything from outside the file comes through [`Facts`];
//! - the checks of BuildKit have its names, triggers, messages and places, so that settings and reports written for it
//!   keep their meaning;
//! - every finding is a warning, has a rule out of [`rules`], and the list is in file order.

mod buildkit;
mod catalog;
mod config;
mod evaluate;
mod facts;
mod hadolint;
mod kiln;
mod model;
mod platform;
mod reference;
mod report;
mod scope;
mod script;

use crate::ast::Buildfile;
use crate::diagnostic::Diagnostic;

pub use catalog::{Origin, RuleInfo, rule, rules};
pub use config::LintConfig;
pub use facts::{BaseImage, Facts};
use report::Report;

/// Runs all checks that `config` does not turn off.
///
/// `buildfile` must come from a parse without errors. Findings of the parser itself (`NoEmptyContinuation`) are not
/// repeated here: pass them through [`keep`].
pub fn check(buildfile: &Buildfile, facts: &Facts<'_>, config: &LintConfig) -> Vec<Diagnostic> {
    let file = evaluate::file(buildfile, facts);
    let mut report = Report::new(&buildfile.text, config, facts);
    buildkit::check(&file, &mut report);
    if report.wants(Origin::Hadolint) || report.wants(Origin::Kiln) {
        let runs = script::runs(&file);
        hadolint::check(&file, &runs, &mut report);
        kiln::check(&file, &runs, &mut report);
    }
    report.finish(|found| buildfile.lines.line(found.span.start))
}

/// Takes findings out of a list that `config` turns off: for those of the parser and of planning. Findings without a
/// rule, and those of rules not in [`rules`], stay.
pub fn keep(diagnostics: &mut Vec<Diagnostic>, config: &LintConfig) {
    diagnostics.retain(|found| found.rule.and_then(rule).is_none_or(|rule| config.allows(rule)));
}
