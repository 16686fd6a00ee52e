//! `kiln check --explain-ignore`: which line of the ignore file decided about a path.
//!
//! Invariants: the answer comes from the matcher that builds use; the paths need not exist.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::put;
use crate::context::local::LocalContext;
use crate::ui::failure::{EXIT_OK, Failure, Kind};
use crate::ui::findings::Format;
use crate::ui::text;

/// What is said of one path.
struct Answer {
    path: String,
    directory: bool,
    exists: bool,
    ignored: bool,
    /// Something below an ignored directory may be taken back in.
    partly: bool,
    /// Line and pattern that decided.
    decided: Option<(usize, String)>,
}

/// Answers for each path, in the order given. Relative paths are relative to the context.
pub(super) fn explain(
    directory: &Path,
    local: &LocalContext,
    paths: &[PathBuf],
    format: Format,
) -> Result<u8, Failure> {
    let answers: Vec<Answer> = paths
        .iter()
        .map(|path| Ok(answer(directory, local, &relative(directory, path)?)))
        .collect::<Result<_, Failure>>()?;
    let file = local.ignore.as_ref().map(|ignore| ignore.file());
    let rendered = match format {
        Format::Text => answers.iter().map(|answer| sentence(answer, file) + "\n").collect(),
        Format::Json => {
            let list: Vec<Value> = answers.iter().map(|answer| object(answer, file)).collect();
            format!("{:#}\n", Value::Array(list))
        }
        Format::Sarif | Format::Github => {
            return Err(Failure::new(Kind::Usage, "--explain-ignore answers as text or json"));
        }
    };
    put(&rendered)?;
    Ok(EXIT_OK)
}

/// The path within the context, clean.
fn relative(directory: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let outside = || {
        Failure::new(
            Kind::Usage,
            format!("`{}` is outside the context `{}`", path.display(), directory.display()),
        )
    };
    let inside = if path.is_absolute() {
        let root = std::fs::canonicalize(directory).map_err(|e| Failure::from_error(Kind::User, &e))?;
        let parent = path.parent().map(std::fs::canonicalize).transpose().ok().flatten();
        let real = match (parent, path.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => path.to_owned(),
        };
        real.strip_prefix(&root).or_else(|_| path.strip_prefix(&root)).map_err(|_| outside())?.to_owned()
    } else {
        path.to_owned()
    };
    let mut clean = PathBuf::new();
    for component in inside.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                if !clean.pop() {
                    return Err(outside());
                }
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

fn answer(directory: &Path, local: &LocalContext, path: &Path) -> Answer {
    let metadata = std::fs::symlink_metadata(directory.join(path));
    let mut answer = Answer {
        path: if path == Path::new("") { ".".to_owned() } else { path.display().to_string() },
        directory: metadata.as_ref().is_ok_and(std::fs::Metadata::is_dir),
        exists: metadata.is_ok(),
        ignored: false,
        partly: false,
        decided: None,
    };
    let Some(ignore) = &local.ignore else { return answer };
    let bytes = path.as_os_str().as_bytes();
    let verdict = ignore.matcher().verdict_bytes(bytes);
    answer.ignored = verdict.ignored;
    answer.partly = verdict.ignored && ignore.matcher().may_match_below_bytes(bytes);
    answer.decided =
        verdict.pattern.and_then(|index| ignore.matcher().patterns().get(index)).map(|pattern| {
            let mark = if pattern.negated { "!" } else { "" };
            (pattern.line, format!("{mark}{}", pattern.text))
        });
    answer
}

fn sentence(answer: &Answer, file: Option<&str>) -> String {
    let slash = if answer.directory && answer.path != "." { "/" } else { "" };
    let name = format!("{}{slash}", text::visible(&answer.path));
    let missing = if answer.exists { "" } else { " (no such file in the context)" };
    let Some(file) = file else { return format!("{name}: kept, there is no ignore file{missing}") };
    let Some((line, pattern)) = &answer.decided else {
        return format!("{name}: kept, no line of {file} matches it{missing}");
    };
    let pattern = text::visible(pattern);
    let below = match (answer.ignored, answer.directory, answer.partly) {
        (true, true, true) => "; a later line may take something below it back in",
        (true, true, false) => ", with everything below it",
        _ => "",
    };
    match answer.ignored {
        true => format!("{name}: ignored by line {line} of {file}: {pattern}{below}{missing}"),
        false => format!("{name}: kept, line {line} of {file} takes it back in: {pattern}{missing}"),
    }
}

fn object(answer: &Answer, file: Option<&str>) -> Value {
    let mut object = json!({ "path": answer.path, "exists": answer.exists, "ignored": answer.ignored });
    if let (Some(file), Some((line, pattern))) = (file, &answer.decided) {
        object["decidedBy"] = json!({ "file": file, "line": line, "pattern": pattern });
    }
    if answer.directory {
        object["mayKeepBelow"] = json!(!answer.ignored || answer.partly);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(patterns: Option<&str>, paths: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for directory in ["node_modules/keep", "src"] {
            std::fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        std::fs::write(dir.path().join("src/a.log"), "").unwrap();
        if let Some(patterns) = patterns {
            std::fs::write(dir.path().join(".dockerignore"), patterns).unwrap();
        }
        let local = LocalContext::open(dir.path(), None).unwrap();
        let file = local.ignore.as_ref().map(|ignore| ignore.file());
        let one = |path: &&str| {
            let path = relative(dir.path(), Path::new(path)).unwrap();
            sentence(&answer(dir.path(), &local, &path), file)
        };
        paths.iter().map(one).collect()
    }

    #[test]
    fn names_the_line() {
        let patterns = "# x\nnode_modules\n**/*.log\n\n!src/*.log\n!node_modules/keep\n";
        assert_eq!(
            sentences(
                Some(patterns),
                &["node_modules", "node_modules/x/y", "./src/a.log", "b.log", "src", "."]
            ),
            [
                "node_modules/: ignored by line 2 of .dockerignore: node_modules; a later line may take something below \
                 it back in",
                "node_modules/x/y: ignored by line 2 of .dockerignore: node_modules (no such file in the context)",
                "src/a.log: kept, line 5 of .dockerignore takes it back in: !src/*.log",
                "b.log: ignored by line 3 of .dockerignore: **/*.log (no such file in the context)",
                "src/: kept, no line of .dockerignore matches it",
                ".: kept, no line of .dockerignore matches it",
            ]
        );
        assert_eq!(
            sentences(Some("node_modules\n"), &["node_modules"]),
            ["node_modules/: ignored by line 1 of .dockerignore: node_modules, with everything below it"]
        );
        assert_eq!(sentences(None, &["src"]), ["src/: kept, there is no ignore file"]);
    }

    #[test]
    fn paths_stay_in_the_context() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("a/../b");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        assert_eq!(relative(dir.path(), &inside).unwrap(), Path::new("b"));
        assert_eq!(relative(dir.path(), Path::new("a/./b")).unwrap(), Path::new("a/b"));
        assert!(relative(dir.path(), Path::new("../x")).is_err());
        assert!(relative(dir.path(), Path::new("/etc/passwd")).is_err());
    }
}
