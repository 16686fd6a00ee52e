//! StageNameCasing, FromAsCasing, ConsistentInstructionCasing.
//!
//! Invariants: global ARGs have no part in the majority (as BuildKit); a keyword in mixed case is in no majority.

use super::super::model::File;
use super::super::report::{Report, Site};
use crate::ast::From;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for stage in &file.stages {
        stage_name(&stage.ast.from, file.site_of_from(stage), report);
        as_keyword(&stage.ast.from, file.site_of_from(stage), report);
    }
    instructions(file, report);
}

fn stage_name(from: &From, site: Site<'_>, report: &mut Report<'_>) {
    let Some(name) = from.name.as_ref().filter(|name| name.value != name.value.to_lowercase()) else {
        return;
    };
    let message = format!("Stage name '{}' should be lowercase", name.value);
    let hint = format!("write `{}`", name.value.to_lowercase());
    report.add("StageNameCasing", site.narrowed(name.span), message, &hint);
}

fn as_keyword(from: &From, site: Site<'_>, report: &mut Report<'_>) {
    let Some(keyword) = &from.as_keyword else { return };
    let (from, written) = (&from.keyword.value, &keyword.value);
    let expected = match (from == &from.to_lowercase(), from == &from.to_uppercase()) {
        (true, _) => "as",
        (false, true) => "AS",
        // A mixed keyword has a finding of its own.
        (false, false) => return,
    };
    if written != expected {
        let message = format!("'{written}' and '{from}' keywords' casing do not match");
        report.add("FromAsCasing", site.narrowed(keyword.span), message, &format!("write `{expected}`"));
    }
}

fn instructions(file: &File<'_>, report: &mut Report<'_>) {
    let stages = &file.buildfile.stages;
    let keywords = stages.iter().flat_map(|stage| {
        let rest = stage.instructions.iter().map(|instruction| &instruction.keyword.value);
        std::iter::once(&stage.from.keyword.value).chain(rest)
    });
    let (mut lower, mut upper) = (0_usize, 0_usize);
    for keyword in keywords {
        lower += usize::from(*keyword == keyword.to_lowercase());
        upper += usize::from(*keyword == keyword.to_uppercase());
    }
    let majority_is_lower = lower > upper;
    let text = &file.buildfile.text;
    for stage in stages {
        keyword(&stage.from.keyword.value, Site::of_from(text, &stage.from), majority_is_lower, report);
        for instruction in &stage.instructions {
            keyword(&instruction.keyword.value, Site::of(text, instruction), majority_is_lower, report);
        }
    }
}

fn keyword(written: &str, site: Site<'_>, majority_is_lower: bool, report: &mut Report<'_>) {
    let (expected, name) = match majority_is_lower {
        true => (written.to_lowercase(), "lowercase"),
        false => (written.to_uppercase(), "uppercase"),
    };
    if written != expected {
        let message = format!("Command '{written}' should match the case of the command majority ({name})");
        let part = crate::span::Span::new(site.span.start, site.span.start + written.len());
        report.add(
            "ConsistentInstructionCasing",
            site.narrowed(part),
            message,
            &format!("write `{expected}`"),
        );
    }
}
