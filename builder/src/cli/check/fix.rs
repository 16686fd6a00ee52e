//! `kiln check --fix`.
//!
//! Invariants: the file is replaced as a whole or not at all, and keeps its permissions.

use std::io::Write as _;
use std::path::Path;

use kiln_grammar::diagnostic::Severity;
use kiln_grammar::fix;
use kiln_grammar::lint;

use super::{File, Settings, findings, put};
use crate::context::local::LocalContext;
use crate::ui::diagnostics::Style;
use crate::ui::diff;
use crate::ui::failure::{EXIT_FAILED, EXIT_OK, Failure, Kind};
use crate::ui::findings::{Findings, Format};
use crate::ui::print;

/// Shows the rewrites, makes them with `write`, and tells on stderr what is left to do by hand.
pub(super) fn fix(
    file: &File,
    settings: &Settings,
    local: Option<&LocalContext>,
    write: bool,
) -> Result<u8, Failure> {
    let parsed = kiln_grammar::parse(&file.text);
    let config = findings::config(&parsed.buildfile, settings).unwrap_or_default();
    let wanted = |rule: &str| lint::rule(rule).is_none_or(|rule| config.allows(rule));
    let fixes = if parsed.has_errors() { Vec::new() } else { fix::fixes(&parsed.buildfile, &wanted) };
    let text = fix::apply(&file.text, &fixes);
    put(&diff::unified(&file.name, &file.text, &text, Style::stdout()))?;
    if write && !fixes.is_empty() {
        let path = file.path.as_deref().ok_or_else(|| {
            Failure::new(Kind::Usage, "--write needs a file; without it the diff goes to standard output")
        })?;
        replace(path, &text).map_err(|e| Failure {
            causes: vec![e.to_string()],
            ..Failure::new(Kind::User, format!("cannot rewrite `{}`", path.display()))
        })?;
        let places = if fixes.len() == 1 { "1 place" } else { &format!("{} places", fixes.len()) };
        print::talk(format!("{}: rewritten in {places}", file.name));
    }
    let fixed = File { name: file.name.clone(), text, path: file.path.clone() };
    let left = findings::find(&fixed, settings, local);
    if !left.diagnostics.is_empty() {
        let report =
            Findings { file: &fixed.name, text: &fixed.text, diagnostics: &left.diagnostics, strict: false };
        print::talk(report.render(Format::Text, Style::stderr()));
    } else if fixes.is_empty() {
        print::talk(format!("{}: nothing to fix", file.name));
    }
    let errors = left.diagnostics.iter().any(|found| found.severity == Severity::Error);
    let open = errors || !left.diagnostics.is_empty() || (!fixes.is_empty() && !write);
    Ok(if open { EXIT_FAILED } else { EXIT_OK })
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // Of a link the file that it names is replaced, not the link.
    let path = std::fs::canonicalize(path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::Builder::new().prefix(".kiln-").tempfile_in(directory)?;
    new.write_all(text.as_bytes())?;
    new.as_file().set_permissions(std::fs::metadata(&path)?.permissions())?;
    new.as_file().sync_all()?;
    new.persist(&path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_rewritten_file_keeps_mode_and_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("Dockerfile"), dir.path().join("link"));
        std::fs::write(&file, "from a\nRUN x\nRUN y\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        symlink("Dockerfile", &link).unwrap();
        let named = File {
            name: "link".to_owned(),
            text: std::fs::read_to_string(&link).unwrap(),
            path: Some(link.clone()),
        };
        fix(&named, &Settings::default(), None, true).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "FROM a\nRUN x\nRUN y\n");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn standard_input_is_only_shown() {
        let file = File { name: "(stdin)".to_owned(), text: "from a\nRUN x\nRUN y\n".to_owned(), path: None };
        assert_eq!(fix(&file, &Settings::default(), None, true).unwrap_err().kind, Kind::Usage);
        assert_eq!(fix(&file, &Settings::default(), None, false).unwrap(), EXIT_FAILED);
    }
}
