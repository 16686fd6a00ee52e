//! DL3006 and DL3007: versions of base images.
//!
//! Invariants: a name that depends on an argument without a value is not judged.

use super::super::model::{Base, File};
use super::super::reference::Reference;
use super::super::report::Report;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for stage in &file.stages {
        let Base::Image(name) = &stage.base else { continue };
        if stage.replaced
            || file.facts.contexts.contains(&name.to_lowercase())
            || !stage.base_word.undefined.is_empty()
        {
            continue;
        }
        let Some(reference) = Reference::parse(name).filter(|reference| reference.digest.is_none()) else {
            continue;
        };
        let site = file.site_of_from(stage).narrowed(stage.ast.from.base.span);
        match reference.tag {
            None => {
                let message = format!("base image `{name}` has no tag, so it means `latest`");
                let hint = format!("write the version that is meant: `{}:VERSION`", reference.name);
                report.add("DL3006", site, message, &hint);
            }
            Some("latest") => {
                let message = format!("base image `{name}` can change at any time");
                let hint = format!("write the version that is meant: `{}:VERSION`", reference.name);
                report.add("DL3007", site, message, &hint);
            }
            Some(_) => {}
        }
    }
}
