//! The command line itself: help, alias, quiet and machine-readable output.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::project::{Ended, Project};

fn simple() -> Project {
    Project::new().file("f", "x").buildfile("FROM scratch\nCOPY f /\n")
}

#[test]
fn help_and_version_go_to_standard_output() {
    let project = Project::new();
    for args in
        [&["--help"][..], &["build", "--help"], &["run", "--help"], &["images", "--help"], &["check", "-h"]]
    {
        let ended = project.run(args).ok();
        assert!(ended.stdout.contains("Usage: ") && ended.stderr.is_empty(), "{args:?}");
        assert!(ended.stdout.lines().all(|line| line.chars().count() <= 100), "{args:?}: a line is too long");
    }
    assert!(project.run(&["build", "--help"]).stdout.contains("--build-context"));
    for args in [&["version"][..], &["--version"]] {
        let told = project.run(args).ok().stdout;
        let commit =
            told.trim().strip_prefix(concat!("kiln ", env!("CARGO_PKG_VERSION"))).expect("a version");
        // A release build has its commit behind it.
        assert!(commit.is_empty() || (commit.starts_with(" (") && commit.ends_with(')')), "{told}");
    }
    assert_eq!(project.run(&[]).code, Some(2));
    assert!(!project.store().exists(), "asking for help made a store");
}

#[test]
fn what_is_misspelt_is_guessed() {
    let project = Project::new();
    for (args, guess) in [
        (&["biuld"][..], "'build'"),
        (&["layer", "x"], "'layers'"),
        (&["build", "--no-cahce"], "'--no-cache'"),
        (&["cache", "exprot"], "'export'"),
        (&["config", "edit", "x", "--unsteenv", "A"], "'--unsetenv'"),
    ] {
        project.run(args).fails(2, &["similar", guess]);
    }
}

#[test]
fn completions_know_every_verb() {
    let project = Project::new();
    let help = project.run(&["--help"]).ok().stdout;
    let verbs = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("verbs");
    let verbs: Vec<&str> = verbs
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() > 20, "{help}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = project.run(&["completion", shell]).ok().stdout;
        let missing: Vec<_> = verbs.iter().filter(|verb| !script.contains(**verb)).collect();
        assert!(missing.is_empty() && script.contains("source-date-epoch"), "{shell} lacks {missing:?}");
    }
    // The shell that is there reads it, and what it does then is what was meant.
    let script = project.run(&["completion", "bash"]).stdout
        + "\nCOMP_WORDS=(kiln build --no-cache-f) COMP_CWORD=2; _kiln kiln --no-cache-f build; echo ${COMPREPLY[@]}\n";
    if let Ok(output) = Command::new("bash").args(["--norc", "-c", &script]).output() {
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "--no-cache-filter", "{}", String::from_utf8_lossy(&output.stderr));
    }
    project.run(&["completion", "cmd"]).fails(2, &["bash", "fish", "zsh"]);
}

#[test]
fn manual_pages_are_written() {
    let project = Project::new();
    let page = project.run(&["man"]).ok().stdout;
    assert!(page.contains(".TH kiln 1") && page.contains("Exit status"), "{page}");
    project.run(&["man", "share/man1"]).ok();
    let build = fs::read_to_string(project.path("share/man1/kiln-build.1")).expect("page");
    assert!(build.contains("no\\-cache\\-filter"), "{build}");
    assert!(project.path("share/man1/kiln-config-edit.1").exists());
    fs::write(project.path("file"), "").expect("file");
    project.run(&["man", "file/below"]).fails(1, &["file/below"]);
}

#[test]
fn called_as_build_it_is_kiln_build() {
    let project = simple();
    fs::create_dir(project.path("bin")).expect("directory");
    project.run(&["install-alias", "bin"]).ok();
    let link = project.path("bin/build");
    assert!(link.is_symlink());
    let mut command = Command::new(&link);
    command
        .current_dir(project.path("."))
        .env_clear()
        .env("HOME", project.path("."))
        .env("KILN_ROOT", project.store());
    command.args(["-o", "type=local,dest=out", "context"]);
    Ended::of(&mut command).ok();
    assert_eq!(fs::read_to_string(project.path("out/f")).expect("file"), "x");
    project.run(&["install-alias", "bin"]).fails(1, &["bin/build", "--force"]);
    project.run(&["install-alias", "--force", "bin"]).ok();
    project.run(&["install-alias", "new/bin"]).ok();
    assert!(project.path("new/bin/build").exists(), "the directory was not made");
    project.run(&["install-alias", "new/bin/build"]).fails(1, &["new/bin/build/build"]);
}

#[test]
fn quiet_prints_the_id_and_nothing_else() {
    let project = simple();
    let ended = project.run(&["build", "-q", "--iidfile", "id", "context"]).ok();
    let id = ended.stdout.trim_end_matches('\n');
    assert!(id.starts_with("sha256:") && id.len() == 71, "{:?}", ended.stdout);
    assert_eq!(ended.stderr, "");
    assert_eq!(fs::read_to_string(project.path("id")).expect("id file"), id);
}

#[test]
fn id_and_metadata_tell_the_image() {
    let project = simple();
    let built = project.build(&["-t", "x:1", "--iidfile", "id", "--metadata-file", "meta.json"]);
    let image = built.image();
    assert_eq!(fs::read_to_string(project.path("id")).expect("id file"), image.config_digest);
    let metadata: Value =
        serde_json::from_slice(&fs::read(project.path("meta.json")).expect("file")).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], image.digest);
    assert_eq!(metadata["containerimage.config.digest"], image.config_digest);
    assert_eq!(metadata["containerimage.descriptor"]["digest"], image.digest);
    assert_eq!(metadata["image.name"], "docker.io/library/x:1");
    let ended = project.run(&["build", "--iidfile", "id2", "-o", "type=local,dest=out", "context"]);
    ended.fails(2, &["--iidfile"]);
}

#[test]
fn rawjson_is_one_object_for_each_line() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo hello; exit 4\n");
    let context = format!("base=oci-layout://{}", project.path("base").display());
    let ended = project.run(&["build", "--progress=rawjson", "--build-context", &context, "context"]);
    assert_eq!(ended.code, Some(1));
    let events: Vec<Value> =
        ended.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!(events[0]["event"], "begin");
    assert_eq!(events[0]["version"], 1);
    assert_eq!(events.last().expect("events")["event"], "end");
    assert!(named("log").iter().any(|event| event["text"] == "hello\n"), "{}", ended.stderr);
    let failed: Vec<_> = named("finished").into_iter().filter(|event| event["outcome"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{}", ended.stderr);
    assert!(failed[0]["error"].is_string());
    for started in named("started") {
        let step = &started["step"];
        assert!(named("planned").iter().any(|event| event["step"] == *step));
        assert!(named("finished").iter().any(|event| event["step"] == *step));
    }
}

#[test]
fn check_finds_mistakes_without_building() {
    let project = simple();
    let ended = project.run(&["check", "context"]).ok();
    assert!(ended.stdout.contains("no warnings found"), "{}", ended.stdout);
    project.write("Buildfile", "FROM scratch\nCOPPY a b\n");
    for arguments in [&["check", "context"][..], &["build", "--check", "context"]] {
        // Findings are what was asked for, so they are data.
        let ended = project.run(arguments);
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.stdout.contains("COPPY") && ended.stdout.contains("context/Buildfile:2:1"),
            "{}",
            ended.stdout
        );
    }
    assert!(!project.store().exists());
}

#[test]
fn a_buildfile_and_a_context_from_standard_input() {
    use std::io::Write as _;
    use std::process::Stdio;
    let project = simple();
    let feed = |args: &[&str], input: &[u8]| {
        let mut command = project.kiln(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kiln starts");
        child.stdin.take().expect("stdin").write_all(input).expect("write");
        Ended::from_output(child.wait_with_output().expect("kiln ends"))
    };
    feed(&["build", "-f", "-", "-o", "one", "context"], b"FROM scratch\nCOPY f /g\n").ok();
    assert_eq!(fs::read_to_string(project.path("one/g")).expect("file"), "x");
    feed(&["build", "-o", "two", "-"], b"FROM scratch\nCOPY <<E /h\ntext\nE\n").ok();
    assert_eq!(fs::read_to_string(project.path("two/h")).expect("file"), "text\n");
    let files = [
        crate::base::Member::File("Dockerfile", 0o644, b"FROM scratch\nCOPY data /\n"),
        crate::base::Member::File("data", 0o644, b"packed"),
    ];
    feed(&["build", "-o", "three", "-"], &crate::base::gzip(&crate::base::tar(&files))).ok();
    assert_eq!(fs::read_to_string(project.path("three/data")).expect("file"), "packed");
}

#[test]
fn default_names_of_a_buildfile_have_an_order() {
    let project = Project::new()
        .file("Buildfile", "FROM scratch\nLABEL from=Buildfile\n")
        .file("Dockerfile", "FROM scratch\nLABEL from=Dockerfile\n");
    assert_eq!(project.build(&[]).image().settings()["Labels"]["from"], "Buildfile");
    fs::remove_file(project.context("Buildfile")).expect("remove");
    assert_eq!(project.build(&[]).image().settings()["Labels"]["from"], "Dockerfile");
}

#[test]
fn info_tells_where_things_are() {
    let project = Project::new();
    let info: Value = serde_json::from_str(&project.run(&["info", "--json"]).ok().stdout).expect("JSON");
    assert!(info["store"].as_str().expect("store").starts_with(&project.store().display().to_string()));
    let told = project.run(&["version"]).ok().stdout;
    assert_eq!(info["version"].as_str(), told.trim().strip_prefix("kiln "));
}

#[test]
fn a_closed_standard_output_is_no_crash() {
    let project = simple();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "\"$0\" --help | true"]).arg(crate::project::binary()).current_dir(project.path("."));
    let ended = Ended::of(&mut command);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}
