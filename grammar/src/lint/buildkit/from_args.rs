//! UndefinedArgInFrom and InvalidDefaultArgInFrom.
//!
//! Invariants: FROM sees global ARGs and the automatic ones only (language.md 1.5).

use super::super::evaluate;
use super::super::model::File;
use super::super::reference::Reference;
use super::super::report::Report;
use super::super::scope::nearest;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for stage in &file.stages {
        let words = std::iter::once(&stage.base_word).chain(&stage.platform);
        for name in words.flat_map(|word| &word.undefined) {
            if file.global_names.contains(name) {
                continue;
            }
            let mut message = format!("FROM argument '{name}' is not declared");
            if let Some(near) = nearest(name, file.global_names.iter().map(String::as_str)) {
                message.push_str(&format!(" (did you mean {near}?)"));
            }
            let hint = format!("declare `ARG {name}` before the first FROM");
            report.add("UndefinedArgInFrom", file.site_of_from(stage), message, &hint);
        }
    }
    defaults(file, report);
}

/// The base name has to make sense without any `--build-arg`.
fn defaults(file: &File<'_>, report: &mut Report<'_>) {
    let Some(bases) = evaluate::default_bases(file) else { return };
    for (stage, base) in file.stages.iter().zip(bases) {
        if Reference::parse(&base).is_none() {
            let word = &stage.ast.from.base;
            let message =
                format!("Default value for ARG {} results in empty or invalid base image name", word.value);
            let hint =
                "give the ARG a default that makes a valid name, so that the file builds without arguments";
            report.add(
                "InvalidDefaultArgInFrom",
                file.site_of_from(stage).narrowed(word.span),
                message,
                hint,
            );
        }
    }
}
