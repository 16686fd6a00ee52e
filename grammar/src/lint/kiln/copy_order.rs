//! CopyBeforeDeps: the whole context is copied before dependencies are installed, so every change of a file installs
//! them again.
//!
//! Invariants: only commands that read a list of dependencies out of the context count.

use super::super::model::{File, Values};
use super::super::report::Report;
use super::super::script::{Call, Ran};
use crate::ast::Kind;

pub(super) fn check(file: &File<'_>, runs: &[Ran<'_, '_>], report: &mut Report<'_>) {
    for stage in &file.stages {
        let whole = stage.steps.iter().enumerate().find(|(_, step)| {
            let Values::Copy { sources, .. } = &step.values else { return false };
            let own = matches!(&step.instruction.kind, Kind::Copy(copy) if copy.from.is_none() && copy.exclude.is_empty());
            own && step.trigger_of.is_none() && sources.iter().any(|path| matches!(path.as_str(), "." | "./" | "/"))
        });
        let Some((position, step)) = whole else { continue };
        // What was installed before the copy is cached already.
        let here = |run: &&Ran<'_, '_>| run.stage.index == stage.index;
        let before = runs.iter().filter(here).filter(|run| run.position < position);
        if before.flat_map(|run| &run.calls).any(|call| dependencies(call).is_some()) {
            continue;
        }
        let mut after = runs.iter().filter(here).filter(|run| run.position > position);
        if let Some((command, files)) = after.find_map(|run| run.calls.iter().find_map(dependencies)) {
            let message =
                format!("the whole context is copied before `{command}`, so any change runs it again");
            let hint = format!("copy {files} first, run `{command}`, then copy the rest");
            report.add("CopyBeforeDeps", step.site(file), message, &hint);
        }
    }
}

/// The command and the files it needs, when it installs what a list in the context says.
fn dependencies(call: &Call) -> Option<(&'static str, &'static str)> {
    let mut operands = call.operands();
    let (first, second) = (operands.next().unwrap_or(""), operands.next());
    let global = call.has_option(Some('g'), &["global"]);
    Some(match (call.program(), first, second) {
        ("npm", "ci", None) => ("npm ci", "package.json and package-lock.json"),
        ("npm", "install" | "i", None) if !global => ("npm install", "package.json and package-lock.json"),
        ("yarn", "" | "install", None) if !global => ("yarn install", "package.json and yarn.lock"),
        ("pnpm", "install" | "i", None) if !global => ("pnpm install", "package.json and pnpm-lock.yaml"),
        ("pip" | "pip3", "install", _) if call.has_option(Some('r'), &["requirement"]) => {
            ("pip install", "the requirements file")
        }
        ("poetry", "install", None) => ("poetry install", "pyproject.toml and poetry.lock"),
        ("uv", "sync", None) => ("uv sync", "pyproject.toml and uv.lock"),
        ("bundle", "" | "install", None) => ("bundle install", "Gemfile and Gemfile.lock"),
        ("composer", "install", None) => ("composer install", "composer.json and composer.lock"),
        ("go", "mod", Some("download")) => ("go mod download", "go.mod and go.sum"),
        ("cargo", "fetch", None) => ("cargo fetch", "Cargo.toml and Cargo.lock"),
        ("dotnet", "restore", _) => ("dotnet restore", "the project files"),
        ("mvn", "dependency:go-offline" | "dependency:resolve", _) => {
            ("mvn dependency:go-offline", "pom.xml")
        }
        _ => return None,
    })
}
