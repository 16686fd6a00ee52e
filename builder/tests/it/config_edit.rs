//! `kiln config edit`.

use serde_json::{Value, json};

use crate::project::{Ended, Project};

/// The config of an image of the store, through an archive that a build without steps writes.
fn config_of(project: &Project, name: &str) -> Value {
    let images: Value =
        serde_json::from_str(&project.run(&["images", "--json", name]).ok().stdout).expect("JSON");
    let digest = images[0]["digest"].as_str().expect("digest").to_owned();
    blob(project, blob(project, &digest)["config"]["digest"].as_str().expect("config"))
}

fn blob(project: &Project, digest: &str) -> Value {
    let path = project.store().join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    serde_json::from_slice(&std::fs::read(path).expect("blob")).expect("JSON")
}

fn built() -> Option<Project> {
    let project = Project::with_base()?.buildfile(
        "FROM base\nRUN echo x > /x\nENV A=1 B=2\nLABEL keep=yes drop=no\nUSER app\nWORKDIR /home\nEXPOSE 80 90\n\
         VOLUME /data\nSTOPSIGNAL SIGINT\nHEALTHCHECK CMD true\nENTRYPOINT [\"/bin/echo\"]\nCMD [\"old\"]\n",
    );
    Ended::of(&mut project.build_command(["-t", "old"])).ok();
    Some(project)
}

#[test]
fn everything_can_be_set_and_unset() {
    let Some(project) = built() else { return };
    let before = config_of(&project, "old");
    let args = [
        "config",
        "edit",
        "old",
        "-t",
        "new",
        "-t",
        "other:2",
        "--unset",
        "entrypoint",
        "--unsetenv",
        "B",
        "--unset",
        "label=drop",
        "--unset",
        "port=90",
        "--unset",
        "volume",
        "--unset",
        "stopsignal",
        "-e",
        "A=3",
        "-e",
        "C=x=y",
        "--label",
        "new=1",
        "--cmd",
        "echo $A $C",
        "--user",
        "0",
        "--workdir",
        "/",
        "--expose",
        "8000-8001/udp",
        "--no-healthcheck",
        "--author",
        "me",
        "-a",
        "note=1",
    ];
    let ended = project.run(&args).ok();
    let digest = ended.stdout.trim().to_owned();
    let after = config_of(&project, "new");
    assert_eq!(after["config"]["Env"], json!(["PATH=/bin", "FROM_BASE=yes", "A=3", "C=x=y"]));
    assert_eq!(after["config"]["Labels"], json!({ "base": "busybox", "keep": "yes", "new": "1" }));
    assert_eq!(after["config"]["Cmd"], json!(["/bin/sh", "-c", "echo $A $C"]));
    let ports: Vec<&String> = after["config"]["ExposedPorts"].as_object().expect("ports").keys().collect();
    assert_eq!(ports, ["80/tcp", "8000/udp", "8001/udp"]);
    for key in ["Entrypoint", "Volumes", "StopSignal"] {
        assert_eq!((after["config"].get(key), before["config"].get(key).is_some()), (None, true), "{key}");
    }
    assert_eq!(after["config"]["Healthcheck"], json!({ "Test": ["NONE"] }));
    assert_eq!((&after["config"]["User"], &after["config"]["WorkingDir"]), (&"0".into(), &"/".into()));
    assert_eq!(after["author"], "me");
    // The layers and what was told of them stay.
    assert_eq!(after["rootfs"], before["rootfs"]);
    assert_eq!(after["created"], before["created"]);
    let history = after["history"].as_array().expect("history");
    let old = before["history"].as_array().expect("history");
    assert_eq!(history[..old.len()], old[..]);
    assert!(history[old.len()..].iter().all(|entry| entry["empty_layer"] == true), "{history:?}");
    assert!(history.iter().any(|entry| entry["created_by"] == "unset env=B"), "{history:?}");
    assert_eq!(blob(&project, &digest)["annotations"]["note"], "1");
    assert_eq!(config_of(&project, "old"), before, "the old image is as it was");
    // It runs, and the same again is the same.
    assert_eq!(project.run(&["run", "new"]).ok().stdout, "3 x=y\n");
    assert_eq!(project.run(&args).ok().stdout.trim(), digest);
    // What belongs to it survives a collection.
    project.run(&["rmi", "-f", "old"]).ok();
    project.run(&["prune", "--all"]).ok();
    assert_eq!(project.run(&["cat", "other:2", "/x"]).ok().stdout, "x\n");
}

#[test]
fn without_a_name_the_image_itself_changes() {
    let Some(project) = built() else { return };
    project.run(&["config", "edit", "old", "--health-cmd", "[\"true\"]", "--health-interval", "30s"]).ok();
    assert_eq!(
        config_of(&project, "old")["config"]["Healthcheck"],
        json!({ "Test": ["CMD", "true"], "Interval": 30_000_000_000_u64 })
    );
    let again = project.run(&["config", "edit", "old", "--unset", "env=NONE", "--unset", "healthcheck"]).ok();
    assert!(again.stderr.contains("nothing to unset env=NONE"), "{}", again.stderr);
    assert!(config_of(&project, "old")["config"].get("Healthcheck").is_none());
}

#[test]
fn every_platform_is_changed() {
    let project = Project::new().file("f", "x").buildfile("FROM scratch\nCOPY f /\nENV A=1\n");
    Ended::of(&mut project.build_command(["--platform=linux/amd64,linux/arm64", "-t", "many"])).ok();
    let index = |name: &str| {
        let images: Value =
            serde_json::from_str(&project.run(&["images", "--json", name]).ok().stdout).expect("JSON");
        blob(&project, images[0]["digest"].as_str().expect("digest"))
    };
    let env = |name: &str, number: usize| {
        let manifest = index(name)["manifests"][number]["digest"].as_str().expect("digest").to_owned();
        let config = blob(&project, &manifest)["config"]["digest"].as_str().expect("digest").to_owned();
        blob(&project, &config)["config"]["Env"].clone()
    };
    project.run(&["config", "edit", "many", "-t", "both", "--unset", "env"]).ok();
    assert_eq!((env("both", 0), env("both", 1)), (Value::Null, Value::Null));
    let set = ["config", "edit", "many", "-t", "one", "--platform=linux/arm64", "-e", "A=2"];
    project.run(&set).ok();
    assert_eq!((&env("one", 0)[1], &env("one", 1)[1]), (&"A=1".into(), &"A=2".into()));
    project.run(&["config", "edit", "many", "--platform=linux/riscv64", "-e", "A=2"]).fails(1, &["riscv64"]);
}

#[test]
fn mistakes_are_told() {
    let Some(project) = built() else { return };
    project.run(&["config", "edit", "none", "-e", "A=1"]).fails(1, &["no image `none`", "kiln images"]);
    project.run(&["config", "edit", "old"]).fails(2, &["nothing to change", "--help"]);
    for (option, value, part) in [
        ("--unset", "everything", "entrypoint, user"),
        ("--stop-signal", "NOPE", "SIGTERM"),
        ("--expose", "x", "invalid containerPort"),
        ("--workdir", "rel", "must be absolute"),
        ("--cmd", "[1]", "expected a string"),
        ("--env", "A", "NAME=VALUE"),
    ] {
        project.run(&["config", "edit", "old", option, value]).fails(2, &[part]);
    }
}
