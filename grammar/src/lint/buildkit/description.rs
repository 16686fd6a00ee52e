//! InvalidDefinitionDescription (experimental): a comment above ARG or a named FROM describes it, in the form
//! `# name text`.
//!
//! Invariants: only the last comment line counts.

use super::super::model::File;
use super::super::report::{Report, Site};
use crate::ast::{Instruction, Kind};
use crate::span::Spanned;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    let text = &file.buildfile.text;
    let in_stages = file.buildfile.stages.iter().flat_map(|stage| &stage.instructions);
    for instruction in file.buildfile.global_args.iter().chain(in_stages) {
        arguments(instruction, Site::of(text, instruction), report);
    }
    for stage in &file.stages {
        if let Some(name) = &stage.ast.from.name {
            let name = name.value.to_lowercase();
            describe("FROM", &[&name], &stage.ast.from.comments, file.site_of_from(stage), report);
        }
    }
}

fn arguments(instruction: &Instruction, site: Site<'_>, report: &mut Report<'_>) {
    if let Kind::Arg(pairs) = &instruction.kind {
        let names: Vec<&str> = pairs.iter().map(|pair| pair.name.value.as_str()).collect();
        describe("ARG", &names, &instruction.comments, site, report);
    }
}

fn describe(
    instruction: &str,
    names: &[&str],
    comments: &[Spanned<String>],
    site: Site<'_>,
    report: &mut Report<'_>,
) {
    let Some(comment) = comments.last() else { return };
    let first = comment.value.split(' ').next().unwrap_or("");
    if names.contains(&first) {
        return;
    }
    let example = match names {
        [only] => only,
        _ => "<arg_key>",
    };
    let message = format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    let hint = "put an empty line below the comment when it is no description";
    report.add("InvalidDefinitionDescription", site, message, hint);
}
