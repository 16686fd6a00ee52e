//! UndefinedVar.
//!
//! Invariants: one finding for each word in which the variable stands, be it with an operator that provides for an unset
//! variable (`${x:-w}`, as BuildKit); a declared ARG without a value is not undefined.

use super::super::model::File;
use super::super::report::Report;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for (_, step) in file.reached() {
        for variable in &step.undefined {
            let name = &variable.name;
            let mut message = format!("Usage of undefined variable '${name}'");
            if let Some(near) = &variable.nearest {
                message.push_str(&format!(" (did you mean ${near}?)"));
            }
            let hint = format!(
                "declare it above: `ARG {name}`, or `ENV {name}=...`; the shell's own variables are not known here"
            );
            report.add("UndefinedVar", step.site_at(file, variable.span), message, &hint);
        }
    }
}
