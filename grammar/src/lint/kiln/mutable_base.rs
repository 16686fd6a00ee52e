//! MutableBase: a base image that is not pinned by a digest.
//!
//! Invariants: off unless asked for: most files do not pin.

use super::super::model::{Base, File};
use super::super::reference::Reference;
use super::super::report::Report;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for stage in file.stages.iter().filter(|stage| !stage.replaced) {
        let Base::Image(name) = &stage.base else { continue };
        let mutable = Reference::parse(name).is_some_and(|reference| reference.digest.is_none());
        if mutable && !file.facts.contexts.contains(&name.to_lowercase()) {
            let message = format!("base image `{name}` can be another one tomorrow");
            let hint = format!("pin it: `{name}@sha256:...`");
            report.add(
                "MutableBase",
                file.site_of_from(stage).narrowed(stage.ast.from.base.span),
                message,
                &hint,
            );
        }
    }
}
