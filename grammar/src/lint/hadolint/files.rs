//! DL3010, DL3020, DL3022, DL3023, DL3045, DL3067: COPY and ADD.
//!
//! Invariants: a name with `/`, `:`, `@` or `.` after `--from=` is an image, not a stage that is missing.

use super::super::buildkit::copy_ignored::is_remote;
use super::super::model::{Base, File, Stage, Step, Values};
use super::super::report::Report;
use super::super::script::{Call, Ran};
use crate::ast::{Copy, Kind};

/// Endings of archives that ADD unpacks.
const ARCHIVES: [&str; 14] = [
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".tzst",
    ".tar.lzma",
    ".tlz",
    ".gz",
    ".bz2",
];

pub(super) fn check(file: &File<'_>, runs: &[Ran<'_, '_>], report: &mut Report<'_>) {
    for stage in &file.stages {
        for (position, step) in stage.steps.iter().enumerate().filter(|(_, step)| step.trigger_of.is_none()) {
            let Values::Copy { sources, destination } = &step.values else { continue };
            match &step.instruction.kind {
                Kind::Copy(copy) => {
                    let later =
                        |run: &&Ran<'_, '_>| run.stage.index == stage.index && run.position > position;
                    let calls: Vec<&Call> = runs.iter().filter(later).flat_map(|run| &run.calls).collect();
                    archive(file, step, copy, sources, &calls, report);
                    source_stage(file, stage, step, copy, report);
                    relative(file, stage, step, destination, report);
                    let root = |path: &String| path == "/";
                    if copy.from.is_some() && sources.iter().any(root) && destination == "/" {
                        let hint = "copy only what is needed, or build on that stage with FROM";
                        let message = "the whole file system of another stage is copied";
                        report.add("DL3067", step.site(file), message, hint);
                    }
                }
                Kind::Add(copy) => plain_add(file, step, copy, sources, report),
                _ => {}
            }
        }
    }
}

/// An archive that is copied and unpacked later is in the image twice.
fn archive(
    file: &File<'_>,
    step: &Step<'_>,
    copy: &Copy,
    sources: &[String],
    later: &[&Call],
    report: &mut Report<'_>,
) {
    if copy.from.is_some() {
        return;
    }
    let unpacks = |call: &Call, name: &str| {
        let extracts = call.program() == "tar"
            && (call.has_option(Some('x'), &["extract", "get"])
                || call.arguments().first().is_some_and(|word| !word.starts_with('-') && word.contains('x')));
        extracts && call.arguments().iter().any(|word| word.ends_with(name))
    };
    for (source, word) in sources.iter().zip(&copy.sources).filter(|(source, _)| is_archive(source)) {
        let name = source.rsplit('/').next().unwrap_or(source);
        if later.iter().any(|call| unpacks(call, name)) {
            let message = format!("`{source}` is copied, then unpacked: it is in the image twice");
            report.add("DL3010", step.site_at(file, word.span), message, "let `ADD` unpack it");
        }
    }
}

fn is_archive(path: &str) -> bool {
    ARCHIVES.iter().any(|ending| path.ends_with(ending))
}

fn plain_add(file: &File<'_>, step: &Step<'_>, copy: &Copy, sources: &[String], report: &mut Report<'_>) {
    let special = |source: &String| is_remote(source) || is_archive(source) || source.contains('$');
    let git = |source: &String| source.starts_with("git@") || source.ends_with(".git");
    if copy.unpack != Some(true)
        && copy.checksum.is_none()
        && !sources.is_empty()
        && !sources.iter().any(|source| special(source) || git(source))
    {
        let message = "ADD copies local files here, which COPY does without surprises";
        report.add("DL3020", step.site(file), message, "write COPY");
    }
}

fn source_stage(file: &File<'_>, stage: &Stage<'_>, step: &Step<'_>, copy: &Copy, report: &mut Report<'_>) {
    let Some(from) = copy.from.as_ref().filter(|from| !from.value.is_empty()) else { return };
    let site = step.site_at(file, from.span);
    match file.find(&from.value) {
        Some(index) if index == stage.index => {
            report.add("DL3023", site, "a stage cannot copy from itself", "name an earlier stage");
        }
        Some(index) if index < stage.index => {}
        Some(_) => {
            let message = format!("`{}` is a later stage", from.value);
            report.add("DL3022", site, message, "move that stage up");
        }
        None => {
            let known = file.facts.contexts.contains(&from.value.to_lowercase());
            if !known && !from.value.contains(['/', ':', '@', '.']) {
                let message = format!("no stage is called `{}`, so it is taken for an image", from.value);
                report.add("DL3022", site, message, "name an earlier stage, or write the image with its tag");
            }
        }
    }
}

/// Without a WORKDIR in the file the destination depends on the base image.
fn relative(file: &File<'_>, stage: &Stage<'_>, step: &Step<'_>, destination: &str, report: &mut Report<'_>) {
    let absolute = destination.starts_with(['/', '$', '\\']) || destination.as_bytes().get(1) == Some(&b':');
    if absolute || step.before.workdir_set || stage.base == Base::Scratch {
        return;
    }
    let message = format!("COPY to the relative destination `{destination}` without a WORKDIR");
    report.add("DL3045", step.site(file), message, "set WORKDIR before it, or write the whole path");
}
