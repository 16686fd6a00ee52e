//! `kiln diff` and `kiln verify`.

use serde_json::Value;

use crate::project::{Ended, Project};

const EPOCH: &str = "--source-date-epoch=1500000000";

fn diff(project: &Project, args: &[&str], code: i32) -> Value {
    let ended = project.run(&[&["diff", "--json"], args].concat());
    assert_eq!(ended.code, Some(code), "{}{}", ended.stdout, ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

fn changed<'a>(found: &'a Value, path: &str) -> &'a Value {
    let files = found["files"].as_array().expect("files");
    files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("nothing of {path}: {found:#}"))
}

fn aspects(file: &Value) -> Vec<String> {
    let changes = file["changes"].as_array().expect("changes");
    changes.iter().map(|change| change["what"].as_str().expect("what").to_owned()).collect()
}

/// Two images that differ in everything that there is.
fn two() -> Option<Project> {
    let project = Project::with_base()?;
    let build = |text: &str, name: &str| {
        project.write("Buildfile", text);
        Ended::of(&mut project.build_command([EPOCH, "-t", name, "-o", "type=image"])).ok();
        let archive = format!("type=oci,dest={name}.tar");
        Ended::of(&mut project.build_command([EPOCH, "-t", name, "-o", &archive])).ok();
    };
    let common = "FROM base\nRUN mkdir /d && echo same > /d/same\n";
    build(
        &format!(
            "{common}RUN echo 0123456789 > /d/bytes && echo x > /d/mode && echo y > /d/owner && echo z > /d/gone && \
             ln -s a /d/link && touch -d @1000000000 /d/time && echo l > /d/l1 && ln /d/l1 /d/l2 && rm /bin/vi\n\
             ENV A=1\nLABEL l=1\n"
        ),
        "a",
    );
    build(
        &format!(
            "{common}RUN echo 0123x56789abc > /d/bytes && echo x > /d/mode && chmod 600 /d/mode && echo y > /d/owner && \
             chown 1:2 /d/owner && echo n > /d/new && ln -s b /d/link && touch -d @1000000001 /d/time && \
             echo l > /d/l1 && echo l > /d/l2\nENV A=2\n"
        ),
        "b",
    );
    Some(project)
}

#[test]
fn everything_that_differs_is_told() {
    let Some(project) = two() else { return };
    // From the store, and from archives by their paths.
    for names in [["a", "b"], ["./a.tar", "./b.tar"], ["oci-layout://a.tar:latest", "b"]] {
        let found = diff(&project, &names, 1);
        assert_eq!((&found["equal"], &found["same_id"]), (&false.into(), &false.into()));
        let bytes = changed(&found, "d/bytes");
        assert_eq!(aspects(bytes), ["size", "content"]);
        assert_eq!(bytes["first_difference"], 4);
        let mode = &changed(&found, "d/mode")["changes"][0];
        assert_eq!((&mode["a"], &mode["b"]), (&"0644".into(), &"0600".into()));
        assert_eq!(changed(&found, "d/owner")["changes"][0]["b"], "1:2");
        assert_eq!(aspects(changed(&found, "d/link")), ["target"]);
        assert_eq!(aspects(changed(&found, "d/time")), ["mtime"]);
        assert_eq!(aspects(changed(&found, "d/l2")), ["hard link"]);
        assert_eq!(changed(&found, "d/gone")["verdict"], "removed");
        assert_eq!(changed(&found, "d/new")["verdict"], "added");
        assert_eq!(changed(&found, "bin/vi")["verdict"], "added");
        let names: Vec<&str> = found["files"]
            .as_array()
            .expect("files")
            .iter()
            .map(|f| f["path"].as_str().expect("path"))
            .collect();
        assert!(!names.contains(&"d/same") && !names.contains(&"bin/sh"), "{names:?}");
        let config: Vec<&str> = found["config"]
            .as_array()
            .expect("config")
            .iter()
            .map(|c| c["path"].as_str().expect("path"))
            .collect();
        assert!(config.iter().any(|path| path.starts_with("config.Env[")), "{config:?}");
        assert!(config.iter().any(|path| path.starts_with("config.Labels")), "{config:?}");
        let layers = found["layers"].as_array().expect("layers");
        assert_eq!(layers.len(), 1, "{layers:?}");
        assert_eq!(layers[0]["number"], 2);
        assert!(layers[0]["place"]["entry"].is_string(), "{layers:?}");
    }
    let text = project.run(&["diff", "a", "b"]).stdout;
    for line in
        ["~ d/bytes: size 11 -> 14, content from byte 4 on", "~ d/mode: mode 0644 -> 0600", "+ d/new (file)"]
    {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let quiet = diff(&project, &["--ignore-times", "a", "b"], 1);
    assert!(quiet["files"].as_array().expect("files").iter().all(|file| file["path"] != "d/time"));
}

#[test]
fn equal_images_differ_in_nothing() {
    let Some(project) = two() else { return };
    let found = diff(&project, &["a", "./a.tar"], 0);
    assert_eq!((&found["identical"], &found["equal"]), (&true.into(), &true.into()));
    assert_eq!(project.run(&["diff", "a", "a"]).ok().stdout, "");
}

#[test]
fn other_compression_is_another_manifest_of_the_same_image() {
    let project = Project::new().file("f", "x").buildfile("FROM scratch\nCOPY f /\n");
    for kind in ["gzip", "zstd"] {
        let output = format!("type=oci,dest={kind}.tar,compression={kind}");
        Ended::of(&mut project.build_command([EPOCH, "-o", &output])).ok();
    }
    let found = diff(&project, &["./gzip.tar", "./zstd.tar"], 1);
    assert_eq!((&found["same_id"], &found["equal"]), (&true.into(), &false.into()));
    assert_eq!(found["layers"][0]["compression_only"], true);
    assert_eq!(found["files"].as_array().map(Vec::len), Some(0));
}

#[test]
fn what_is_not_there_is_named() {
    let project = Project::new();
    project.run(&["diff", "nothing", "none"]).fails(1, &["nothing", "kiln images"]);
    assert!(!project.store().exists(), "looking made a store");
    std::fs::write(project.path("junk.tar"), "junk").expect("file");
    project.run(&["diff", "./junk.tar", "./junk.tar"]).fails(1, &["junk.tar"]);
}

fn verify(project: &Project, args: &[&str]) -> Ended {
    let base = format!("base=oci-layout://{}", project.path("base").display());
    let words = ["--progress=plain", "--build-context", &base, "context"];
    Ended::of(&mut project.kiln([&["verify"], args, &words].concat()))
}

#[test]
fn a_reproducible_image_is_verified() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("f", "x").buildfile(
        "FROM base\nCOPY f /\nARG SOURCE_DATE_EPOCH\nRUN echo built at $SOURCE_DATE_EPOCH > /when && mkdir /d\n",
    );
    for (name, output) in [("one:1", "type=image"), ("two:1", "type=image,compression=zstd")] {
        Ended::of(&mut project.build_command([EPOCH, "-t", name, "-o", output])).ok();
        let ended = verify(&project, &[name]).ok();
        assert!(ended.stderr.contains("has the same digest"), "{}", ended.stderr);
        // Really built again, not taken from the store.
        assert!(
            ended.stderr.contains("RUN echo built at") && ended.stderr.contains("DONE"),
            "{}",
            ended.stderr
        );
        assert!(!ended.stderr.contains("CACHED"), "{}", ended.stderr);
    }
    let left = std::fs::read_dir(project.store().join("tmp")).expect("tmp").count();
    assert_eq!(left, 0, "the throwaway store is gone");
}

#[test]
fn what_is_not_reproducible_is_shown_to_the_byte() {
    let Some(project) = Project::with_base() else { return };
    let project =
        project.buildfile("FROM base\nRUN (echo start; cat /proc/sys/kernel/random/uuid) > /random\n");
    Ended::of(&mut project.build_command([EPOCH, "-t", "r:1", "-o", "type=image"])).ok();
    let ended = verify(&project, &["r:1"]);
    ended.fails(1, &["not verified"]);
    assert!(ended.stdout.contains("~ random: content from byte "), "{}", ended.stdout);
    assert!(ended.stdout.contains("of `random`"), "the place in the layer: {}", ended.stdout);
    let json = verify(&project, &["--json", "r:1"]);
    let found: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let first = changed(&found, "random")["first_difference"].as_u64().expect("offset");
    assert!((6..43).contains(&first), "{first}");
    // Other sources than the image was built from.
    project.write("Buildfile", "FROM base\nRUN echo other > /other\n");
    let ended = verify(&project, &["r:1"]);
    assert!(
        ended.stdout.contains("- random (file)") && ended.stdout.contains("+ other (file)"),
        "{}",
        ended.stdout
    );
    project.write("Buildfile", "FROM base\nRUN exit 3\n");
    verify(&project, &["r:1"]).fails(1, &["the rebuild failed"]);
}

#[test]
fn a_rebuild_writes_nothing_but_the_comparison() {
    let project = Project::new().buildfile("FROM scratch\n");
    project.run(&["verify", "x", "-t", "y", "context"]).fails(2, &["-t has no place"]);
    project.run(&["verify", "x", "-o", "out", "context"]).fails(2, &["-o has no place"]);
    project.run(&["verify", "x", "--nonsense", "context"]).fails(2, &["--nonsense"]);
}
