//! The `kiln.toml` of a project: what `kiln build` would have to be told each time (docs/cli.md).
//!
//! | key of `[build]` | stands for | beside the command line |
//! |---|---|---|
//! | `file`, `target` | `--file`, `--target` | not used when that says something |
//! | `platforms`, `tags` | `--platform`, `--tag` | not used when that names any |
//! | `build-args`, `labels` | `--build-arg`, `--label` | name by name |
//!
//! Invariants:
//! - a project says what is built, and nothing about the machine: where things go, what a step may, which servers are asked
//!   and which secrets are read is for the user's files and the command line;
//! - only a directory of this machine has a project's file, a regular one; `file` stays inside that directory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::args::BuildArgs;
use super::args::build::parse_tag;
use super::args::choice;
use super::args::pair::{BuildArg, parse_build_arg, parse_label};
use super::args::source::{ContextSource, FileSource};
use crate::ui::failure::{Failure, Kind};

/// Its name in the context.
const NAME: &str = "kiln.toml";
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    build: Build,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Build {
    file: Option<PathBuf>,
    target: Option<String>,
    #[serde(default)]
    platforms: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    build_args: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What the file says for commands that look at a Buildfile without building it.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) file: Option<FileSource>,
    pub(super) target: Option<String>,
}

/// Adds what the project's file says and the command line does not.
pub(super) fn apply(args: &mut BuildArgs) -> Result<(), Failure> {
    let ContextSource::Path(directory) = &args.context else { return Ok(()) };
    let directory = directory.clone();
    match read(&directory)? {
        Some(text) => add(args, &directory, &text).map_err(|cause| failure(&directory.join(NAME), cause)),
        None => Ok(()),
    }
}

/// The Buildfile and the stage of a project, as far as the command line does not say.
pub(super) fn look(
    directory: &Path,
    file: Option<&FileSource>,
    target: Option<&String>,
) -> Result<Look, Failure> {
    let said = match read(directory)? {
        Some(text) => parse(&text).map_err(|cause| failure(&directory.join(NAME), cause))?,
        None => Build::default(),
    };
    let own = said.file.map(|file| FileSource::Path(directory.join(file)));
    Ok(Look { file: file.cloned().or(own), target: target.cloned().or(said.target) })
}

/// The text of the file, if there is one. `KILN_CONFIG`, which stands for all files, switches it off as well.
fn read(directory: &Path) -> Result<Option<String>, Failure> {
    if std::env::var_os("KILN_CONFIG").is_some() {
        return Ok(None);
    }
    let path = directory.join(NAME);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(failure(&path, "it is not a regular file".to_owned())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failure(&path, error.to_string())),
    }
    let bytes = crate::net::read_bounded(&path, MAX_BYTES).map_err(|e| failure(&path, e.to_string()))?;
    String::from_utf8(bytes).map(Some).map_err(|_| failure(&path, "it is not UTF-8".to_owned()))
}

fn failure(path: &Path, cause: String) -> Failure {
    Failure {
        causes: vec![cause],
        ..Failure::new(Kind::Config, format!("cannot use the project's settings in `{}`", path.display()))
    }
    .with_hint(
        "a project's kiln.toml has a table [build] with file, target, platforms, tags, build-args and labels; settings of \
         the machine belong into ~/.config/kiln/kiln.toml; `KILN_CONFIG=` has no such file read",
    )
}

fn parse(text: &str) -> Result<Build, String> {
    let File { build } = toml::from_str(text).map_err(|error| {
        let before = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(before).filter(|byte| *byte == b'\n').count() + 1;
        format!("line {line}: {}", error.message())
    })?;
    if let Some(file) = &build.file {
        let inside = file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside || file.as_os_str().is_empty() {
            return Err(format!("file: `{}` is not a path below the project's directory", file.display()));
        }
    }
    Ok(build)
}

fn add(args: &mut BuildArgs, directory: &Path, text: &str) -> Result<(), String> {
    let build = parse(text)?;
    if let (Some(file), None) = (build.file, &args.file) {
        args.file = Some(FileSource::Path(directory.join(file)));
    }
    if args.target.is_none() {
        args.target = build.target;
    }
    if args.platforms.is_empty() {
        let read = |text: &String| choice::platform(text).map_err(|error| format!("platforms: {error}"));
        args.platforms = build.platforms.iter().map(read).collect::<Result<_, _>>()?;
    }
    if args.tags.is_empty() {
        let read = |text: &String| parse_tag(text).map_err(|error| format!("tags: {error}"));
        args.tags = build.tags.iter().map(read).collect::<Result<_, _>>()?;
    }
    // In front: of several values of one name the last counts.
    let pairs =
        |table: BTreeMap<String, String>| table.into_iter().map(|(name, value)| format!("{name}={value}"));
    let mut given: Vec<BuildArg> = pairs(build.build_args)
        .map(|pair| parse_build_arg(&pair).map_err(|error| format!("build-args: {error}")))
        .collect::<Result<_, _>>()?;
    given.append(&mut args.build_args);
    args.build_args = given;
    let mut labels: Vec<(String, String)> = pairs(build.labels)
        .map(|pair| parse_label(&pair).map_err(|error| format!("labels: {error}")))
        .collect::<Result<_, _>>()?;
    labels.append(&mut args.labels);
    args.labels = labels;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{self, Command};

    fn args(words: &[&str]) -> BuildArgs {
        let argv = ["kiln", "build"].iter().chain(words).map(Into::into).collect();
        match args::parse(argv).unwrap().command {
            Command::Build(args) => *args,
            _ => unreachable!("that was a build"),
        }
    }

    const TEXT: &str = r#"
        [build]
        file = "deploy/Buildfile"
        target = "app"
        platforms = ["linux/amd64", "linux/arm64"]
        tags = ["app:dev"]
        build-args = { VERSION = "1", MODE = "a=b" }
        labels = { "org.example" = "x" }
    "#;

    #[test]
    fn what_the_command_line_says_wins() {
        let mut all = args(&[]);
        add(&mut all, Path::new("/p"), TEXT).unwrap();
        assert_eq!(all.file, Some(FileSource::Path("/p/deploy/Buildfile".into())));
        assert_eq!((all.target.as_deref(), all.platforms.len(), all.tags.len()), (Some("app"), 2, 1));
        assert_eq!(all.build_args[0].value.as_deref(), Some("a=b"));
        let own =
            ["-fF", "--target=t", "--platform=linux/s390x", "-tx", "--build-arg=VERSION=2", "--label=a=b"];
        let mut own = args(&own);
        add(&mut own, Path::new("/p"), TEXT).unwrap();
        assert_eq!(own.file, Some(FileSource::Path("F".into())));
        assert_eq!((own.target.as_deref(), own.platforms.len(), own.tags.len()), (Some("t"), 1, 1));
        let last = own.build_args.iter().rfind(|arg| arg.key == "VERSION").unwrap();
        assert_eq!(last.value.as_deref(), Some("2"));
        assert_eq!(own.labels.len(), 2);
    }

    #[test]
    fn the_documented_file_is_one() {
        let docs = include_str!("../../../docs/cli.md");
        let (_, rest) = docs.split_once("```toml\n").unwrap();
        let build = parse(rest.split_once("```").unwrap().0).unwrap();
        assert_eq!((build.platforms.len(), build.build_args.len(), build.labels.len()), (2, 1, 1));
    }

    #[test]
    fn a_project_says_nothing_about_the_machine() {
        let told = |text: &str| add(&mut args(&[]), Path::new("/p"), text).unwrap_err();
        for table in
            ["[registry.\"docker.io\"]\nmirrors = []", "[network]\nretries = 1", "[build]\noutput = \"x\""]
        {
            assert!(told(table).contains("unknown field"), "{table}");
        }
        assert!(told("[build]\n\nsecrets = 1\n").contains("line 3"));
        for file in ["../B", "/etc/passwd", ""] {
            assert!(told(&format!("[build]\nfile = \"{file}\"\n")).contains("below the project's directory"));
        }
        assert!(told("[build]\ntags = [\"A B\"]\n").starts_with("tags: "));
    }
}
