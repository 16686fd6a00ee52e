//! RedundantTargetPlatform and FromPlatformFlagConstDisallowed.
//!
//! Invariants: a platform that cannot be read is no finding here: the build refuses it.

use super::super::model::File;
use super::super::platform::Platform;
use super::super::report::Report;

const TARGET: &str = "TARGETPLATFORM";

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    let host = Platform::of_fact(file.facts.build_platform.as_deref());
    for stage in &file.stages {
        let (Some(word), Some(written)) = (&stage.platform, &stage.ast.from.platform) else { continue };
        let site = file.site_of_from(stage).narrowed(written.span);
        let only_target = word.used == [TARGET] && word.undefined.is_empty();
        if only_target && file.globals.value(TARGET) == Some(&word.value) {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                written.value
            );
            report.add("RedundantTargetPlatform", site, message, "leave `--platform` out");
        }
        if !word.used.is_empty() || !word.undefined.is_empty() {
            continue;
        }
        let Some(platform) = Platform::parse(&word.value, &host) else { continue };
        let name = stage.ast.from.name.as_ref().map(|name| name.value.to_lowercase()).unwrap_or_default();
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value \"{}\"", word.value);
            let hint = "use $BUILDPLATFORM or an ARG, or name the stage after the platform";
            report.add("FromPlatformFlagConstDisallowed", site, message, hint);
        }
    }
}
