//! What people bring along from docker and buildah: options without effect, `--call`, and variables.

use std::fs;

use serde_json::Value;

use crate::project::{Ended, Project};

fn simple() -> Project {
    Project::new().file("f", "x").buildfile("FROM scratch\nCOPY f /\n")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn options_without_effect_are_taken_and_told() {
    let project = simple();
    let flags = [
        "--rm",
        "--force-rm=false",
        "--compress",
        "--isolation=chroot",
        "--builder=remote",
        "--layers=false",
    ];
    let built = project.build(&flags);
    built.succeeds();
    for flag in flags {
        let name = flag.split('=').next().expect("name");
        let told = built
            .log()
            .lines()
            .any(|l| l.starts_with(&format!("WARNING: {name}")) && l.contains("has no effect"));
        assert!(told, "{flag} is ignored in silence: {}", built.log());
    }
    let plain =
        project.build(&["--debug", "--log-level=warn", "--disable-content-trust", "--skip-unused-stages"]);
    plain.succeeds();
    assert!(!plain.log().contains("has no effect"), "{}", plain.log());
}

#[test]
fn a_call_lists_stages_and_arguments() {
    let text = "# how fast\nARG SPEED=1\n# the base of all\nFROM scratch AS first\nFROM first AS second\nARG SPEED\n\
                RUN --mount=type=secret,id=token,required --mount=type=cache,id=deps,target=/c true\n";
    let project = Project::new().buildfile(text);
    let call = |method: &str| project.run(&["build", "--call", method, "context"]).ok().stdout;
    let targets = json(&call("targets,format=json"));
    let names: Vec<&str> =
        targets["targets"].as_array().expect("list").iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(targets["targets"][1]["base"], "first");
    let text = call("targets");
    assert!(text.contains("second (default)") && text.contains("TARGET"), "{text}");
    let outline = json(&call("outline,format=json"));
    assert_eq!((&outline["name"], &outline["args"][0]["name"]), (&"second".into(), &"SPEED".into()));
    assert_eq!(
        (&outline["args"][0]["value"], &outline["secrets"][0]["name"]),
        (&"1".into(), &"token".into())
    );
    assert_eq!(outline["secrets"][0]["required"], true);
    let text = call("outline");
    assert!(["SPEED", "token", "deps"].iter().all(|word| text.contains(word)), "{text}");
    let other =
        project.run(&["build", "--call=outline", "--target=first", "--build-arg=SPEED=2", "context"]).ok();
    assert!(other.stdout.contains("first") && !other.stdout.contains("token"), "{}", other.stdout);
    project
        .run(&["build", "--call=outline", "--target=none", "context"])
        .fails(1, &["none", "first", "second"]);
    assert!(!project.store().exists(), "a call made a store");
}

#[test]
fn a_warning_is_enough_for_check_to_fail() {
    let project = Project::new().buildfile("FROM scratch as one\nLABEL a=1\n");
    project.build(&[]).succeeds();
    let ended = project.run(&["build", "--check", "context"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("FromAsCasing") && ended.stdout.contains("Buildfile:1"),
        "{}",
        ended.stdout
    );
    let ended = project.run(&["build", "--call=check,format=json", "context"]);
    let found = json(&ended.stdout);
    assert_eq!((ended.code, &found["warnings"][0]["ruleName"]), (Some(1), &"FromAsCasing".into()));
    let ended = project.run(&["check", "--format=sarif", "context"]);
    let found = json(&ended.stdout);
    assert_eq!((ended.code, &found["version"]), (Some(1), &"2.1.0".into()));
    let result = &found["runs"][0]["results"][0];
    assert_eq!(result["ruleId"], "FromAsCasing");
    assert_eq!(result["locations"][0]["physicalLocation"]["region"]["startLine"], 1);
}

#[test]
fn progress_is_chosen_by_option_or_variable() {
    let project = simple();
    let run = |flags: &[&str], variable: &str| {
        let mut command = project.kiln([&["build"], flags, &["--iidfile=id", "context"]].concat());
        let ended = Ended::of(command.env("BUILDKIT_PROGRESS", variable)).ok();
        assert!(fs::read_to_string(project.path("id")).expect("id").starts_with("sha256:"));
        ended.stderr
    };
    assert_eq!(run(&["--progress=none"], "plain"), "");
    assert_eq!(run(&[], "none"), "");
    assert!(run(&[], "plain").contains("[1/1] COPY f /\n"));
    let events = run(&[], "rawjson");
    assert!(events.lines().all(|line| json(line)["event"].is_string()), "{events}");
    let mut command = project.kiln(["build", "context"]);
    Ended::of(command.env("BUILDKIT_PROGRESS", "loud")).fails(2, &["BUILDKIT_PROGRESS", "loud"]);
}

#[test]
fn variables_stand_for_options() {
    let project = simple();
    let image = |name: &str, value: &str| {
        let set = |command: &mut std::process::Command| {
            command.env(name, value);
        };
        project.build_with(&[], set).image()
    };
    assert_eq!(image("DOCKER_DEFAULT_PLATFORM", "linux/s390x").config["architecture"], "s390x");
    assert_eq!(image("SOURCE_DATE_EPOCH", "86400").config["created"], "1970-01-02T00:00:00Z");
    let docker = image("BUILDAH_FORMAT", "docker").manifest;
    assert_eq!(docker["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
}

#[test]
fn the_last_label_holds_and_leaves_no_history() {
    let project = Project::new().file("f", "x").buildfile("FROM scratch\nLABEL a=file\nCOPY f /\n");
    let before = project.build(&[]).image().history();
    let image = project.build(&["--label=a=1", "--label", "a=2", "--label=b=c=d"]).image();
    assert_eq!(image.settings()["Labels"], serde_json::json!({ "a": "2", "b": "c=d" }));
    assert_eq!(image.history(), before);
}

#[test]
fn a_file_or_nothing_in_the_place_of_the_context_is_explained() {
    let project = simple();
    project.run(&["build", "context/Buildfile"]).fails(1, &["is not a directory", "-f"]);
    project.run(&["build", "contxt"]).fails(1, &["no context directory `contxt`", "the last argument"]);
}

#[test]
fn a_project_says_what_is_built_and_the_command_line_wins() {
    let text = "[build]\nfile = \"deploy/B\"\ntarget = \"app\"\ntags = [\"app:dev\"]\n[build.build-args]\nV = \"1\"\n\
                [build.labels]\n\"org.example\" = \"x\"\n";
    let project = Project::new()
        .file("f", "x")
        .file("kiln.toml", text)
        .file("deploy/B", "FROM scratch AS app\nARG V\nENV V=$V\nCOPY f /\nFROM scratch\nCOPY none /\n");
    let built = project.build(&[]);
    let image = built.image();
    assert_eq!(image.settings()["Labels"]["org.example"], "x");
    assert!(image.settings()["Env"].to_string().contains("\"V=1\""), "{}", image.settings());
    assert_eq!(image.annotations["org.opencontainers.image.ref.name"], "dev", "{}", image.annotations);
    let own = project.build(&["--build-arg=V=2", "--label=org.example=y"]).image();
    assert_eq!(own.settings()["Labels"]["org.example"], "y");
    assert!(own.settings()["Env"].to_string().contains("\"V=2\""));
    project.build(&["--target=1"]).fails(1, &["none"]);
    // Looking at the file means the same one.
    assert!(project.run(&["graph", "--format=mermaid", "context"]).ok().stdout.contains("COPY f /"));
    project.run(&["check", "context"]).ok();
    let without = project.build_with(&[], |command| {
        command.env("KILN_CONFIG", "");
    });
    without.fails(1, &["no Buildfile"]);
    project.write("kiln.toml", "[registry.\"docker.io\"]\nmirrors = [\"evil.invalid\"]\n");
    project
        .build(&[])
        .fails(1, &["kiln.toml", "line 1", "unknown field `registry`", "~/.config/kiln/kiln.toml"]);
    std::fs::remove_file(project.context("kiln.toml")).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", project.context("kiln.toml")).expect("symlink");
    project.build(&[]).fails(1, &["not a regular file"]);
}
