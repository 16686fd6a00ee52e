//! WorkdirRelativePath.
//!
//! Invariants: only the first WORKDIR of a chain of stages counts: making it absolute mends all after it.

use super::super::model::File;
use super::super::report::Report;
use crate::ast::Kind;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for (stage, step) in file.reached() {
        let Kind::Workdir(word) = &step.instruction.kind else { continue };
        let path = step.values.first();
        if !step.before.workdir_set && !is_absolute(path, &stage.os) {
            let message =
                format!("Relative workdir {path:?} can have unexpected results if the base image changes");
            let hint =
                format!("write the whole path, for instance `WORKDIR /{}`", path.trim_start_matches("./"));
            report.add("WorkdirRelativePath", step.site_at(file, word.span), message, &hint);
        }
    }
}

/// On Windows a drive before the path changes nothing, and both slashes count.
fn is_absolute(path: &str, os: &str) -> bool {
    if os != "windows" {
        return path.starts_with('/');
    }
    let drive = path.as_bytes().get(1) == Some(&b':') && path.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = if drive { path.get(2..).unwrap_or("") } else { path };
    rest.starts_with(['/', '\\'])
}

#[cfg(test)]
mod tests {
    use super::is_absolute;

    #[test]
    fn absolute_depends_on_the_system() {
        assert!(
            is_absolute("/a", "linux") && is_absolute("C:\\a", "windows") && is_absolute("\\a", "windows")
        );
        assert!(
            !is_absolute("C:\\a", "linux") && !is_absolute("C:a", "windows") && !is_absolute("", "linux")
        );
    }
}
