//! `kiln manifest`: images of several platforms under one name.

use serde_json::Value;

use crate::project::{Ended, Project};
use crate::registry::Registry;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// An image for one platform.
fn built(project: &Project, name: &str, platform: &str, content: &str) {
    project.write("Buildfile", "FROM scratch\nCOPY a /a\n");
    project.write("a", content);
    Ended::of(&mut project.build_command(["--platform", platform, "-t", name])).ok();
}

#[test]
fn images_built_apart_become_one() {
    let project = Project::new();
    let registry = Registry::start();
    built(&project, "app:amd64", "linux/amd64", "one");
    built(&project, "app:arm", "linux/arm/v7", "two");
    let created = project
        .run(&["manifest", "create", "--annotation", "made=by hand", "app:all", "app:amd64", "app:arm"])
        .ok();
    let list = json(&project.run(&["manifest", "inspect", "app:all"]).ok().stdout);
    assert_eq!(list["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(list["annotations"]["made"], "by hand");
    assert_eq!(list["manifests"].as_array().map(Vec::len), Some(2));
    assert_eq!(list["manifests"][1]["platform"]["architecture"], "arm");
    assert_eq!(list["manifests"][1]["platform"]["variant"], "v7");
    // Its images stay when their own names go.
    project.run(&["rmi", "--force", "app:amd64", "app:arm"]).ok();
    let name = format!("{}/app:1", registry.host());
    let pushed = project.run(&["manifest", "push", "app:all", &name]).ok();
    assert_eq!(pushed.stdout, created.stdout);
    assert_eq!(registry.content().blobs.len(), 4);
    let other = Project::new();
    let shown =
        json(&other.run(&["inspect", "--format", "json", "--platform", "linux/arm/v7", &name]).ok().stdout);
    assert_eq!(shown["platform"], "linux/arm/v7");
}

#[test]
fn lists_are_changed() {
    let project = Project::new();
    built(&project, "app:1", "linux/amd64", "one");
    built(&project, "app:2", "linux/amd64", "two");
    built(&project, "app:arm", "linux/arm64", "three");
    project.run(&["manifest", "create", "all", "app:1", "app:2"]).fails(1, &["linux/amd64", "manifest add"]);
    project.run(&["images", "all"]).ok();
    project.run(&["manifest", "create", "all", "app:1", "app:arm"]).ok();
    project.run(&["manifest", "create", "all", "app:2"]).fails(1, &["already", "--amend"]);
    let entries = || {
        let list = json(&project.run(&["manifest", "inspect", "all"]).ok().stdout);
        list["manifests"].as_array().expect("entries").clone()
    };
    let first = entries()[0]["digest"].clone();
    project.run(&["manifest", "add", "all", "app:2"]).ok();
    assert_eq!(entries().len(), 2);
    assert_ne!(entries()[0]["digest"], first);
    project
        .run(&[
            "manifest",
            "annotate",
            "all",
            "linux/arm64",
            "--platform",
            "linux/arm64/v9",
            "--annotation",
            "a=b",
        ])
        .ok();
    assert_eq!(entries()[1]["platform"]["variant"], "v9");
    assert_eq!(entries()[1]["annotations"]["a"], "b");
    project.run(&["manifest", "annotate", "all", "app:arm", "--annotation", "a="]).ok();
    assert!(entries()[1].get("annotations").is_none());
    project
        .run(&["manifest", "annotate", "all", "linux/s390x", "--annotation", "a=b"])
        .fails(1, &["no image"]);
    project.run(&["manifest", "annotate", "all", "app:2"]).fails(2, &["nothing to change"]);
    project.run(&["manifest", "remove", "all", "app:arm"]).ok();
    assert_eq!(entries().len(), 1);
    project.run(&["manifest", "add", "app:1", "app:2"]).fails(1, &["not a list"]);
    project.run(&["manifest", "add", "none", "app:2"]).fails(1, &["no image `none"]);
}

#[test]
fn remote_images_are_fetched() {
    let project = Project::new();
    let registry = Registry::start();
    let (one, two) = (format!("{}/x:1", registry.host()), format!("{}/x:2", registry.host()));
    built(&project, &one, "linux/amd64", "one");
    built(&project, &two, "linux/arm64", "two");
    project.run(&["push", &one]).ok();
    project.run(&["push", &two]).ok();
    let other = Project::new();
    let target = format!("{}/x:all", registry.host());
    other.run(&["manifest", "create", &target, &one, &two]).ok();
    let before = registry.count();
    other.run(&["manifest", "push", &target]).ok();
    assert!(registry.tags("x").contains("all"));
    let sent =
        registry.requests(before).into_iter().filter(|r| r.starts_with("PUT") && r.contains("/blobs/"));
    assert_eq!(sent.count(), 0, "everything was there");
}
