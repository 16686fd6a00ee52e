//! `kiln check` from outside: how mistakes read, formats, fixes, lists and exit statuses.
//!
//! Invariants: every file of `testdata/check/bad` has at least one error, and its report is the snapshot beside it
//! (`INSTA_UPDATE=always` rewrites them).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kiln_grammar::lint::{self, Origin, RuleInfo};
use serde_json::Value;

fn kiln(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.current_dir(directory).args(arguments).env_remove("KILN_ROOT");
    command.output().expect("kiln starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("reports are UTF-8")
}

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory can be made");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("a file can be written");
    }
    dir
}

#[test]
fn mistakes_read_well() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/check/bad");
    let mut paths: Vec<PathBuf> = fs::read_dir(&root)
        .expect("the directory is there")
        .map(|entry| entry.expect("an entry is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "build"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 25);
    for path in paths {
        let name = path.file_stem().expect("a test file has a name").to_string_lossy().into_owned();
        let file = format!("{name}.build");
        let output = kiln(&root, &["check", "--strict-dockerfile", "-f", &file]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", stdout(&output));
        assert!(stdout(&output).contains("ERROR:"), "{name}: {}", stdout(&output));
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(&root);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, stdout(&output)));
    }
}

#[test]
fn statuses_tell_findings() {
    let dir = directory(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("bad", "FROM scratch\nCOPYY a /\n")]);
    assert_eq!(kiln(dir.path(), &["check"]).status.code(), Some(0));
    assert_eq!(kiln(dir.path(), &["check", "-f", "bad"]).status.code(), Some(1));
    assert_eq!(kiln(dir.path(), &["check", "-f", "none"]).status.code(), Some(1));
    assert_eq!(kiln(dir.path(), &["check", "--format=xml"]).status.code(), Some(2));
    assert_eq!(kiln(dir.path(), &["check", "--write"]).status.code(), Some(2));
    assert_eq!(kiln(dir.path(), &["build", "--check", "."]).status.code(), Some(0));
    assert_eq!(kiln(dir.path(), &["build", "--check", "-f", "bad", "."]).status.code(), Some(1));
}

#[test]
fn docker_names_only() {
    let dir = directory(&[("Buildfile", "FROM scratch\nCOPYY a /\n"), ("Dockerfile", "FROM scratch\n")]);
    assert_eq!(kiln(dir.path(), &["check"]).status.code(), Some(1));
    assert_eq!(kiln(dir.path(), &["check", "--strict-dockerfile"]).status.code(), Some(0));
}

#[test]
fn formats_agree() {
    let dir = directory(&[("Dockerfile", "FROM scratch\nCOPYY a /\nRUNN b\n")]);
    let json: Value =
        serde_json::from_str(&stdout(&kiln(dir.path(), &["build", "--call=check,format=json", "."])))
            .unwrap();
    assert_eq!(json["warnings"], Value::Array(Vec::new()));
    assert_eq!(json["buildError"]["message"], "unknown instruction `COPYY`");
    assert_eq!(json["kilnErrors"].as_array().unwrap().len(), 2);
    assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(json["sources"][0]["fileName"], "Dockerfile");
    let sarif: Value =
        serde_json::from_str(&stdout(&kiln(dir.path(), &["check", "--format", "sarif"]))).unwrap();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 2);
    let github = stdout(&kiln(dir.path(), &["check", "--format", "github"]));
    assert!(
        github.starts_with(
            "::error file=Dockerfile,line=2,endLine=2,col=1,endColumn=5,title=BuildError::unknown"
        )
    );
    assert_eq!(github.lines().count(), 2);
}

#[test]
fn fixes_are_shown_or_written() {
    let before = "from a\nRUN x\nENV k a b\nCMD node x.js\n";
    let after = "FROM a\nRUN x\nENV k=\"a b\"\nCMD [\"node\", \"x.js\"]\n";
    let dir = directory(&[("Dockerfile", before)]);
    let shown = kiln(dir.path(), &["check", "--fix", "--strict-dockerfile"]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(
        stdout(&shown)
            .starts_with("--- a/Dockerfile\n+++ b/Dockerfile\n@@ -1,4 +1,4 @@\n-from a\n+FROM a\n RUN x\n")
    );
    assert_eq!(fs::read_to_string(dir.path().join("Dockerfile")).unwrap(), before);
    let written = kiln(dir.path(), &["check", "--fix", "--write", "--strict-dockerfile"]);
    assert_eq!(written.status.code(), Some(0), "{}", String::from_utf8_lossy(&written.stderr));
    assert_eq!(fs::read_to_string(dir.path().join("Dockerfile")).unwrap(), after);
    let again = kiln(dir.path(), &["check", "--fix", "--strict-dockerfile"]);
    assert_eq!((again.status.code(), stdout(&again)), (Some(0), String::new()));
}

#[test]
fn lists_are_for_programs_too() {
    let text = "# build makes it\nFROM a AS build\nARG jobs=2\nFROM build\n";
    let dir = directory(&[("Dockerfile", text)]);
    let targets: Value =
        serde_json::from_str(&stdout(&kiln(dir.path(), &["build", "--call=targets,format=json", "."])))
            .unwrap();
    assert_eq!(targets["targets"][0]["description"], "makes it");
    let outline = kiln(dir.path(), &["build", "--call=outline,format=json", "--build-arg", "jobs=3", "."]);
    let outline: Value = serde_json::from_str(&stdout(&outline)).unwrap();
    assert_eq!(outline["args"][0]["value"], "3");
    let unknown = kiln(dir.path(), &["build", "--call=outline", "--target=biuld", "."]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean `build`?"));
}

#[test]
fn ignore_files_are_explained() {
    let dir = directory(&[("Dockerfile", "FROM scratch\n"), (".dockerignore", "*.log\n!keep.log\n")]);
    let output = kiln(dir.path(), &["check", "--explain-ignore", "Dockerfile", "a.log", "keep.log"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "Dockerfile: kept, no line of .dockerignore matches it\n\
         a.log: ignored by line 1 of .dockerignore: *.log (no such file in the context)\n\
         keep.log: kept, line 2 of .dockerignore takes it back in: !keep.log (no such file in the context)\n"
    );
}

#[test]
fn the_documentation_lists_every_check() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/checks.md");
    let text = fs::read_to_string(&path).expect("the page is there");
    let start = text.find("| check | from |").unwrap_or(text.len());
    let (before, listed) = text.split_at(start);
    let mut table = String::from("| check | from | about | by default |\n|---|---|---|---|\n");
    lint::rules().iter().for_each(|rule| table.push_str(&row(rule)));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{table}")).expect("the page can be written");
        return;
    }
    assert_eq!(listed, table, "UPDATE=1 rewrites the table");
}

fn row(rule: &RuleInfo) -> String {
    let name = match rule.url {
        "" => format!("`{}`", rule.name),
        url => format!("[`{}`]({url})", rule.name),
    };
    let from = match rule.origin {
        Origin::BuildKit => "BuildKit",
        Origin::Hadolint => "hadolint",
        Origin::Kiln => "kiln",
    };
    let state = match (rule.experimental, rule.default_on, rule.same_as) {
        (true, ..) => "off (experimental)".to_owned(),
        (false, false, _) => "off".to_owned(),
        (false, true, Some(same)) => format!("on, as `{same}`"),
        (false, true, None) => "on".to_owned(),
    };
    format!("| {name} | {from} | {} | {state} |\n", rule.description.replace('|', "\\|"))
}
