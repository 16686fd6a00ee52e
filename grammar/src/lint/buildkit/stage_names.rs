//! DuplicateStageName and ReservedStageName.
//!
//! Invariants: names are compared in lower case, as they are looked up.

use std::collections::BTreeSet;

use super::super::model::File;
use super::super::report::Report;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    for stage in &file.stages {
        let Some(word) = &stage.ast.from.name else { continue };
        let name = word.value.to_lowercase();
        let site = file.site_of_from(stage).narrowed(word.span);
        if matches!(name.as_str(), "context" | "scratch") {
            let message = format!("Stage name should not use the same name as reserved stage \"{name}\"");
            report.add("ReservedStageName", site, message, "give the stage another name");
        }
        if seen.contains(&name) {
            let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
            for rule in ["DuplicateStageName", "DL3024"] {
                report.add(rule, site, message.clone(), "give the stage another name");
            }
        }
        seen.insert(name);
    }
}
