//! `kiln pull`, `push`, `copy`, `tag` and `inspect`, with a registry in this process.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::base::{Member, image, tar};
use crate::project::Project;
use crate::registry::Registry;

/// Options that keep retries short.
const FAST: [&str; 2] = ["--retry-delay", "10ms"];

/// A small image that needs no shell.
fn small(text: &str) -> crate::base::Blobs {
    image(&tar(&[Member::File("a", 0o644, text.as_bytes())]), serde_json::json!({ "Cmd": ["/a"] }))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// A project, and a registry that has an image: the image, and its name.
fn with_image(repository: &str) -> (Project, Registry, crate::base::Blobs, String) {
    let registry = Registry::start();
    let original = small("one");
    registry.add(repository, "1", &original);
    let name = format!("{}/{repository}:1", registry.host());
    (Project::new(), registry, original, name)
}

/// Digest in `index.json` of a layout.
fn root_digest(layout: &Path) -> String {
    let index = json(&fs::read_to_string(layout.join("index.json")).expect("index.json"));
    index["manifests"][0]["digest"].as_str().expect("digest").to_owned()
}

/// An image of two platforms named `NAME`, in the store.
fn two_platforms(project: &Project, name: &str) {
    project.write("Buildfile", "FROM scratch\nARG TARGETARCH\nCOPY a /a\nLABEL arch=$TARGETARCH\n");
    project.write("a", "content");
    let flags = ["--platform", "linux/amd64,linux/arm64", "-t", name];
    crate::project::Ended::of(&mut project.build_command(flags)).ok();
}

#[test]
fn an_image_goes_round_and_keeps_its_digest() {
    let (project, registry, original, name) = with_image("team/app");

    let pulled = project.run(&["pull", &name]).ok();
    assert_eq!(pulled.stdout.trim(), original.manifest);
    assert!(pulled.stderr.contains("2 blobs"), "{}", pulled.stderr);
    let images = project.run(&["images", "--json"]).ok();
    assert_eq!(json(&images.stdout)[0]["digest"], original.manifest.as_str());

    // Another repository of the same registry: nothing is sent, everything is mounted.
    let before = registry.count();
    let other = format!("{}/team/copy:2", registry.host());
    let pushed = project.run(&["push", &name, &other]).ok();
    assert_eq!(pushed.stdout.trim(), original.manifest);
    assert!(pushed.stderr.contains("2 taken from another repository"), "{}", pushed.stderr);
    let requests = registry.requests(before);
    assert!(
        !requests.iter().any(|request| request.starts_with("PUT") && request.contains("/blobs/")),
        "{requests:?}"
    );

    // Another registry: everything is sent, once.
    let second = Registry::start();
    let there = format!("docker://{}/x:1", second.host());
    project.run(&["push", &name, &there]).ok();
    assert_eq!(second.content().blobs.len(), 2);
    let again = project.run(&["push", &name, &there]).ok();
    assert!(again.stderr.contains("2 were there"), "{}", again.stderr);

    // By way of a layout and an archive, without a store.
    let layout = project.path("layout");
    let to = format!("oci:{}:tag", layout.display());
    project.run(&["copy", &there, &to]).ok();
    assert_eq!(root_digest(&layout), original.manifest);
    let archive = format!("oci-archive:{}", project.path("a.tar").display());
    project.run(&["copy", &to, &archive]).ok();
    let third = Registry::start();
    project.run(&["copy", &archive, &format!("docker://{}/y:1", third.host())]).ok();
    assert_eq!(third.tags("y").len(), 1);
    assert_eq!(
        third.content().manifests[&("y".to_owned(), "1".to_owned())].1,
        original.blobs[&original.manifest]
    );

    // Straight from one registry to another.
    let fourth = Registry::start();
    let digestfile = project.path("digest");
    let digestfile = digestfile.to_str().expect("UTF-8");
    let to = format!("docker://{}/z:1", fourth.host());
    project.run(&["copy", "--digestfile", digestfile, &there, &to]).ok();
    assert_eq!(fs::read_to_string(digestfile).expect("digest file"), original.manifest);
    assert_eq!(fourth.content().blobs.len(), 2);
}

#[test]
fn a_pulled_image_is_a_base_and_needs_no_registry_any_more() {
    let project = Project::new();
    let name = {
        let registry = Registry::start();
        registry.add("base", "1", &small("one"));
        let name = format!("{}/base:1", registry.host());
        project.run(&["pull", "-q", &name]).ok();
        registry.content().broken.insert("/v2".to_owned(), 500);
        name
    };
    project.write("Buildfile", format!("FROM {name}\nCOPY b /b\n"));
    project.write("b", "two");
    let built = project.build(&[]);
    assert_eq!(built.image().layers.len(), 2);
}

#[test]
fn all_platforms_are_pushed_and_one_is_pulled() {
    let project = Project::new();
    let registry = Registry::start();
    let name = format!("{}/app:1", registry.host());
    two_platforms(&project, &name);
    let pushed = project.run(&["push", &name]).ok();
    let root = pushed.stdout.trim().to_owned();
    {
        let content = registry.content();
        let index = json(
            std::str::from_utf8(&content.manifests[&("app".to_owned(), root.clone())].1).expect("UTF-8"),
        );
        let children = index["manifests"].as_array().expect("manifests");
        assert_eq!(children.len(), 2);
        for child in children {
            let digest = child["digest"].as_str().expect("digest").to_owned();
            assert!(content.manifests.contains_key(&("app".to_owned(), digest)));
        }
    }
    let other = Project::new();
    let one = other.run(&["pull", "--platform", "linux/arm64", &name]).ok();
    assert_ne!(one.stdout.trim(), root);
    let shown = json(&other.run(&["inspect", "--format", "json", &name]).ok().stdout);
    assert_eq!(shown["platform"], "linux/arm64");
    assert_eq!(shown["config"]["Labels"]["arch"], "arm64");
    let all = other.run(&["pull", "--all-platforms", &name]).ok();
    assert_eq!(all.stdout.trim(), root);
    let raw = other.run(&["inspect", "--raw", &name]).ok();
    assert_eq!(crate::base::digest(raw.stdout.as_bytes()), root);
    other
        .run(&["pull", "--platform", "linux/s390x", &name])
        .fails(1, &["no platform linux/s390x; it has linux/amd64, linux/arm64", "--platform"]);
    // One of them as an archive for docker.
    let archive = format!("docker-archive:{}:x:1", other.path("d.tar").display());
    other.run(&["copy", "--platform", "linux/arm64", &name, &archive]).ok();
    assert!(other.path("d.tar").is_file());
}

#[test]
fn archives_without_a_layout_are_read() {
    let project = Project::new();
    let layer = tar(&[Member::File("a", 0o644, b"one")]);
    let diff_id = crate::base::digest(&layer);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/a"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let list = serde_json::json!([{ "Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"] }]);
    let members = [
        Member::File("l.tar", 0o644, &layer),
        Member::File("c.json", 0o644, config.to_string().as_bytes()),
        Member::File("manifest.json", 0o644, list.to_string().as_bytes()),
    ]
    .map(|member| tar(&[member]));
    // Members one after the other make one archive, each without the end that `tar` gives it.
    let mut bytes: Vec<u8> = members.iter().flat_map(|one| one[..one.len() - 1024].to_vec()).collect();
    bytes.extend([0; 1024]);
    fs::write(project.path("saved.tar"), bytes).expect("written");
    let archive = format!("docker-archive:{}", project.path("saved.tar").display());
    project.run(&["copy", &archive, "first:1"]).ok();
    let shown = json(&project.run(&["inspect", "--format", "json", "first:1"]).ok().stdout);
    assert_eq!(shown["layers"][0]["digest"], diff_id.as_str());
    assert_eq!(shown["config"]["Cmd"][0], "/a");
    // It is no layout, and a build that is given it as one is told what to do, which works.
    project.write("Buildfile", "FROM saved\nLABEL a=b\n");
    let saved = format!("saved=oci-layout://{}", project.path("saved.tar").display());
    project.build(&["--build-context", &saved]).fails(1, &["not an OCI layout", "kiln copy docker-archive:"]);
    let built = project.build(&["--build-context", "saved=docker-image://first:1"]).image();
    assert_eq!(built.text("a"), "one");
    project.run(&["copy", &format!("{archive}:x:1"), "second:1"]).ok();
    project
        .run(&["copy", &format!("{archive}:y:1"), "third:1"])
        .fails(1, &["it has x:1", "docker-archive:FILE:NAME"]);
}

#[test]
fn names_and_ids() {
    let (project, _registry, original, name) = with_image("app");
    project.run(&["pull", &name]).ok();
    let id = &original.manifest["sha256:".len()..][..12];
    project.run(&["tag", id, "first", "second:2"]).ok();
    let images = json(&project.run(&["images", "--json"]).ok().stdout);
    let names: Vec<&str> =
        images.as_array().expect("list").iter().filter_map(|i| i["name"].as_str()).collect();
    assert_eq!(names, [name.as_str(), "docker.io/library/first:latest", "docker.io/library/second:2"]);
    project.run(&["tag", "missing", "x"]).fails(1, &["no image `missing`", "kiln images"]);
    project.run(&["push", "missing", "h/x"]).fails(1, &["no image `missing`"]);
    project.run(&["copy", "first", "third"]).ok();
    assert!(project.run(&["inspect", "third"]).ok().stdout.contains(&original.manifest));
}

#[test]
fn inspecting() {
    let (project, registry, original, name) = with_image("app");
    // Nothing is in the store, so it is a remote one.
    let text = project.run(&["inspect", &name]).ok().stdout;
    for part in [&original.manifest, "[\"/a\"]", "LAYER", "base"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(!project.store().exists(), "looking made a store");
    assert_eq!(registry.blobs_read(0).len(), 1, "the config only");
    let shown = json(&project.run(&["inspect", "--format", "json", &name]).ok().stdout);
    assert_eq!(shown["digest"], original.manifest.as_str());
    assert_eq!(shown["layers"].as_array().map(Vec::len), Some(1));
    assert_eq!(shown["layers"][0]["createdBy"], "base");
    let raw = project.run(&["inspect", "--raw", &name]).ok().stdout;
    assert_eq!(raw.as_bytes(), original.blobs[&original.manifest]);
    let config = project.run(&["inspect", "--config", &name]).ok().stdout;
    assert_eq!(crate::base::digest(config.as_bytes()), shown["id"]);
    let missing = format!("{}/app:2", registry.host());
    project.run(&["inspect", &missing]).fails(1, &["no such image", "check the spelling"]);
}

#[test]
fn nothing_partial_is_named() {
    let (project, registry, original, name) = with_image("app");
    let layer = original.blobs.keys().find(|digest| **digest != original.manifest).expect("a blob").clone();
    registry.content().broken.insert(layer, 404);
    let fails = |args: &[&str]| {
        let ended = project.run(&[args, &FAST].concat());
        ended.fails(1, &["the image is incomplete in its registry"]);
    };
    fails(&["pull", &name]);
    assert_eq!(project.run(&["images", "-q"]).ok().stdout, "");
    let layout = format!("oci:{}:1", project.path("layout").display());
    fails(&["copy", &name, &layout]);
    assert!(!project.path("layout/index.json").exists());
    let archive = format!("oci-archive:{}", project.path("a.tar").display());
    fails(&["copy", &name, &archive]);
    assert!(!project.path("a.tar").exists());
    let second = Registry::start();
    let to = format!("docker://{}/x:1", second.host());
    fails(&["copy", &name, &to]);
    assert!(second.content().manifests.is_empty());
}

#[test]
fn a_damaged_blob_is_not_sent() {
    let (project, _registry, original, name) = with_image("app");
    project.run(&["pull", &name]).ok();
    let manifest = json(std::str::from_utf8(&original.blobs[&original.manifest]).expect("UTF-8"));
    let layer = manifest["layers"][0]["digest"].as_str().expect("digest");
    let path = project.store().join("blobs/sha256").join(&layer["sha256:".len()..]);
    let mut bytes = fs::read(&path).expect("blob");
    bytes[20] ^= 1;
    fs::remove_file(&path).expect("removed");
    fs::write(&path, bytes).expect("written");
    let second = Registry::start();
    let to = format!("{}/x:1", second.host());
    project.run(&["push", &name, &to]).fails(1, &["cannot read blob", layer, "has the digest"]);
    assert!(second.content().manifests.is_empty());
}

#[test]
fn a_build_pushes_all_platforms_in_the_same_way() {
    let project = Project::new();
    let registry = Registry::start();
    let name = format!("{}/app:1", registry.host());
    project.write("Buildfile", "FROM scratch\nCOPY a /a\n");
    project.write("a", "content");
    let flags = ["--platform", "linux/amd64,linux/arm64", "-t", &name, "--push"];
    crate::project::Ended::of(&mut project.build_command(flags)).ok();
    assert_eq!(registry.tags("app").len(), 1);
    // One layer, two configs; manifests are kept apart.
    assert_eq!(registry.content().blobs.len(), 3);
}

#[test]
fn an_output_is_pushed_with_and_without_a_tag() {
    let project = Project::new().file("a", "content").buildfile("FROM scratch\nCOPY a /a\n");
    let registry = Registry::start();
    let host = registry.host();
    let push = |output: &str| {
        let flags = ["--source-date-epoch=1", "--metadata-file=meta.json", "-o", output];
        crate::project::Ended::of(&mut project.build_command(flags)).ok();
        json(&fs::read_to_string(project.path("meta.json")).expect("metadata"))["containerimage.digest"]
            .clone()
    };
    let digest = push(&format!("type=image,name={host}/app,push=true,push-by-digest=true"));
    let names: Vec<(String, String)> = registry.content().manifests.keys().cloned().collect();
    assert_eq!(names, [("app".to_owned(), digest.as_str().expect("digest").to_owned())]);
    push(&format!("type=image,name={host}/app:kept"));
    assert!(registry.tags("app").is_empty(), "it was pushed without being asked for");
    push(&format!("type=registry,name={host}/app:2"));
    push(&format!("type=image,\"name={host}/app:3,{host}/other:1\",push=true"));
    assert_eq!(registry.tags("app").into_iter().collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(registry.tags("other").into_iter().collect::<Vec<_>>(), ["1"]);
}
