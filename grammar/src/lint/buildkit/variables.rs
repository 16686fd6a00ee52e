//! UndefinedVar.
//!
//! Invariants: one finding for each word in which the variable stands; operators that provide for an unset variable
//! make none.

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
            let hint = format!("declare it with ARG or ENV, or give a default: `${{{name}:-}}`");
            report.add("UndefinedVar", step.site(file).narrowed(variable.span), message, &hint);
        }
    }
}
