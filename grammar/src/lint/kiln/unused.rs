//! UnusedArg and UnusedStage.
//!
//! Invariants:
//! - a RUN can read every ARG from its environment, so an ARG with a RUN after it counts as used;
//! - a stage with a name can be the target of another build, so only one without can be useless.

use std::collections::BTreeSet;

use super::super::model::{Base, File, Stage};
use super::super::report::{Report, Site};
use crate::ast::{ArgPair, Kind};

/// Beginnings of names that the builder itself reads.
const OF_THE_BUILDER: [&str; 3] = ["BUILDKIT_", "SOURCE_DATE_EPOCH", "KILN_"];

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for stage in &file.stages {
        arguments(file, stage, report);
    }
    globals(file, report);
    stages(file, report);
}

fn is_read_by_builder(name: &str) -> bool {
    let lower = name.to_lowercase();
    OF_THE_BUILDER.iter().any(|start| name.starts_with(start)) || lower.ends_with("_proxy")
}

fn arguments(file: &File<'_>, stage: &Stage<'_>, report: &mut Report<'_>) {
    for (position, step) in stage.steps.iter().enumerate() {
        let Kind::Arg(pairs) = &step.instruction.kind else { continue };
        for pair in pairs.iter().filter(|pair| !is_read_by_builder(&pair.name.value)) {
            let rest = stage.steps.get(position..).unwrap_or_default();
            if step.trigger_of.is_none() && !is_used(file, stage, rest, &pair.name.value) {
                unused(step.site(file), pair, report);
            }
        }
    }
}

fn is_used(file: &File<'_>, stage: &Stage<'_>, rest: &[super::super::model::Step<'_>], name: &str) -> bool {
    let here = rest.iter().any(|step| {
        step.used.contains(name) || matches!(step.instruction.kind, Kind::Run(_) | Kind::Onbuild(_))
    });
    here || file
        .stages
        .iter()
        .any(|other| other.base == Base::Stage(stage.index) && is_used(file, other, &other.steps, name))
}

fn unused(site: Site<'_>, pair: &ArgPair, report: &mut Report<'_>) {
    let message = format!("ARG `{}` is not used", pair.name.value);
    report.add(
        "UnusedArg",
        site.narrowed(pair.span),
        message,
        "remove it, or move it to the stage that uses it",
    );
}

/// A global ARG is used by FROM, by the default of another, or by an ARG of that name in a stage.
fn globals(file: &File<'_>, report: &mut Report<'_>) {
    let written = file.stages.iter().flat_map(|stage| &stage.steps);
    let declared: BTreeSet<&str> =
        written.flat_map(|step| pairs(&step.instruction.kind)).map(|pair| pair.name.value.as_str()).collect();
    for instruction in &file.buildfile.global_args {
        for pair in pairs(&instruction.kind) {
            let name = pair.name.value.as_str();
            if !file.globals_used.contains(name) && !declared.contains(name) && !is_read_by_builder(name) {
                unused(Site::of(&file.buildfile.text, instruction), pair, report);
            }
        }
    }
}

fn stages(file: &File<'_>, report: &mut Report<'_>) {
    let needed: BTreeSet<usize> = file
        .stages
        .iter()
        .flat_map(|stage| {
            let base = if let Base::Stage(base) = stage.base { Some(base) } else { None };
            stage.needs.iter().copied().chain(base)
        })
        .collect();
    let last = file.stages.len().saturating_sub(1);
    for stage in &file.stages {
        if stage.ast.from.name.is_none() && stage.index != last && !needed.contains(&stage.index) {
            let hint = "remove it, or give it a name with AS and use that";
            report.add(
                "UnusedStage",
                file.site_of_from(stage),
                "nothing uses this stage, and it has no name",
                hint,
            );
        }
    }
}

fn pairs(kind: &Kind) -> &[ArgPair] {
    if let Kind::Arg(pairs) = kind { pairs } else { &[] }
}
