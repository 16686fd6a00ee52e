//! What kiln says when something is wrong: the thing, the place, the way out, the exit code, and no output.

use std::fs;

use crate::project::Project;

/// Fails to build `text` in an otherwise empty context.
fn fails(text: &str, parts: &[&str]) {
    Project::new().buildfile(text).build(&[]).fails(1, parts);
}

#[test]
fn no_buildfile() {
    Project::new().build(&[]).fails(1, &["there is no Buildfile in `context`", "Dockerfile", "-f FILE"]);
    let project = Project::new();
    project.build(&["-f", "nowhere/My.build"]).fails(1, &["nowhere/My.build"]);
}

#[test]
fn no_context() {
    let project = Project::new().buildfile("FROM scratch\n");
    project.run(&["build", "nowhere"]).fails(1, &["`nowhere`"]);
    project.run(&["build", "context/Buildfile"]).fails(1, &["context/Buildfile"]);
}

#[test]
fn an_empty_file() {
    fails("", &["Buildfile", "FROM"]);
    fails("# only a comment\n\n", &["Buildfile", "FROM"]);
}

#[test]
fn bytes_that_are_no_text() {
    let project = Project::new().file("Buildfile", b"FROM scratch\nLABEL a=\xff\xfe\n");
    project.build(&[]).fails(1, &["Buildfile:2", "UTF-8"]);
}

#[test]
fn an_unknown_instruction_shows_the_place_and_a_guess() {
    fails("FROM scratch\nCOPPY a b\n", &["COPPY", "Buildfile:2:1", "^", "COPY"]);
}

#[test]
fn several_mistakes_are_told_at_once() {
    fails("FROM scratch\nCOPPY a b\nRUNN x\n", &["COPPY", "Buildfile:2", "RUNN", ":3"]);
}

#[test]
fn an_instruction_before_from_and_an_unknown_flag() {
    fails("RUN x\nFROM scratch\n", &["Buildfile:1", "RUN"]);
    fails("FROM scratch\nCOPY --chmood=1 a b\n", &["chmood", "Buildfile:2", "^"]);
}

#[test]
fn a_missing_source_is_named_and_marked() {
    fails("FROM scratch\nCOPY there /\n", &["there", "Buildfile:2", "^"]);
    fails("FROM scratch\nCOPY --from=nostage.invalid/x /f /\n", &["nostage.invalid/x", "Buildfile:2"]);
}

#[test]
fn an_ignored_source_says_that_it_is_ignored() {
    let project =
        Project::new().file("f", "").file(".dockerignore", "f\n").buildfile("FROM scratch\nCOPY f /\n");
    project.build(&[]).fails(1, &["f", "Buildfile:2", ".dockerignore"]);
}

#[test]
fn an_unknown_base() {
    // Nothing listens on the discard port of loopback.
    fails("FROM 127.0.0.1:9/none:1\n", &["127.0.0.1:9/none:1", "Buildfile:1"]);
    fails("FROM UPPER/case\n", &["UPPER/case", "Buildfile:1"]);
}

#[test]
fn a_failing_command() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo the cause >&2; exit 3\n");
    let built = project.build(&[]);
    built.fails(1, &["the cause", "Buildfile:2:1", "^", "3"]);
    assert!(
        built.log().contains("exit code")
            || built.log().contains("exit status")
            || built.log().contains("exited"),
        "{}",
        built.log()
    );
    project.write("Buildfile", "FROM base\nRUN sh -c 'kill -9 $$'; exit $?\n");
    project.build(&[]).fails(1, &["Buildfile:2", "137"]);
    project.write("Buildfile", "FROM base\nRUN [\"/no/such\"]\n");
    project.build(&[]).fails(1, &["Buildfile:2", "/no/such"]);
    project.write("Buildfile", "FROM base\nUSER nobody-here\nRUN true\n");
    project.build(&[]).fails(1, &["nobody-here"]);
}

#[test]
fn an_existing_output_survives_a_failed_build() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN false\n");
    fs::write(project.path("out.tar"), "earlier").expect("file");
    let mut command =
        project.build_command(["-o", "type=oci,dest=out.tar", "--iidfile", "id", "--metadata-file", "meta"]);
    crate::project::Ended::of(&mut command).fails(1, &["Buildfile:2"]);
    assert_eq!(fs::read_to_string(project.path("out.tar")).expect("file"), "earlier");
    assert!(!project.path("id").exists() && !project.path("meta").exists());
    let strays: Vec<_> = fs::read_dir(project.path(".")).expect("project").flatten().collect();
    assert!(strays.iter().all(|e| !e.file_name().to_string_lossy().starts_with(".kiln-")), "{strays:?}");
}

#[test]
fn a_wrong_command_line_is_exit_code_two() {
    let project = Project::new().buildfile("FROM scratch\n");
    for (args, part) in [
        (&["build", "--no-such-flag", "context"][..], "--no-such-flag"),
        (&["build", "--jobs", "many", "context"], "many"),
        (&["build", "-o", "type=floppy", "context"], "floppy"),
        (&["build", "-t", "UPPER case", "context"], "UPPER case"),
        (&["build", "--build-context", "nonsense", "context"], "nonsense"),
        (&["build", "--ulimit", "what=1", "context"], "what"),
        (&["build", "--secret", "id=s,src=nowhere", "context"], "nowhere"),
        (&["build", "--source-date-epoch", "yesterday", "context"], "yesterday"),
        (&["frobnicate"], "frobnicate"),
    ] {
        project.run(args).fails(2, &[part]);
    }
}

#[test]
fn messages_keep_terminal_escapes_of_a_buildfile_away() {
    let project = Project::new().buildfile("FROM scratch\nCOPY \u{1b}[31mred /\n");
    let built = project.build(&[]);
    built.fails(1, &["Buildfile:2"]);
    assert!(!built.log().contains('\u{1b}'), "{:?}", built.log());
}

#[test]
fn a_copy_cycle_between_stages() {
    fails("FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\nCOPY --from=a /x /\n", &["Buildfile:"]);
}
