//! FROM: every place that a base can come from.

use crate::base::{self, Member};
use crate::project::Project;
use crate::registry::Registry;
use crate::server::Server;

#[test]
fn scratch_has_nothing_but_a_path() {
    let image = Project::new().buildfile("FROM scratch\nLABEL a=b\n").build(&[]).image();
    assert!(image.layers.is_empty() && image.files.is_empty());
    assert_eq!(image.settings()["Labels"]["a"], "b");
    assert_eq!(image.config["os"], "linux");
    assert_eq!(image.config["architecture"], base::architecture());
}

#[test]
fn a_layout_directory_keeps_its_layers_as_they_are() {
    let Some(project) = Project::with_base() else { return };
    let busybox = base::busybox().expect("checked above");
    let image = project.file("f", "").buildfile("FROM base\nCOPY f /\n").build(&[]).image();
    assert_eq!(image.layers.len(), 2);
    assert!(busybox.blobs.contains_key(&image.layers[0].digest), "the base layer was written anew");
    assert!(image.settings()["Env"].to_string().contains("FROM_BASE=yes"));
    assert_eq!(image.history()[0], "base");
}

#[test]
fn a_layout_archive_written_by_a_build_is_a_base() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo first > /first\n");
    let first = project.build(&["-t", "example.com/first:1"]);
    let image = first.image();
    project.write("Buildfile", "FROM again\nRUN cat /first > /second\n");
    let context = format!("again=oci-layout://{}", first.archive.display());
    let built = project.build(&["--build-context", &context]);
    let second = built.image();
    assert_eq!(second.text("second"), "first\n");
    assert_eq!(second.layers[1].digest, image.layers[1].digest);
}

#[test]
fn a_registry_is_asked_once_for_each_thing() {
    let Ok(busybox) = base::busybox() else { return crate::project::skipped("there is no static busybox") };
    let layers = busybox.blobs.len() - 1;
    let server = Server::registry(busybox);
    let project = Project::new();
    let text = format!(
        "FROM {}/some/base:1 AS a\nRUN echo 1 > /f\nFROM {0}/some/base:1\nCOPY --from=a /f /\n",
        server.address
    );
    let project = project.buildfile(&text);
    assert_eq!(project.build(&[]).image().text("f"), "1\n");
    let gets =
        |what: &str| server.requests().iter().filter(|r| r.method == "GET" && r.path.contains(what)).count();
    assert_eq!(gets("/blobs/"), layers, "{:?}", server.requests());
    assert!(
        server
            .requests()
            .iter()
            .all(|r| r.header("user-agent").is_some_and(|agent| agent.starts_with("kiln")))
    );
    let before = server.requests().len();
    project.build(&[]).succeeds();
    assert_eq!(server.requests().len(), before, "a known image was asked for again");
    project.build(&["--pull"]).succeeds();
    assert!(server.requests().len() > before, "--pull asked nobody");
    assert_eq!(gets("/blobs/"), layers, "blobs were fetched again");
}

#[test]
fn a_tampered_layer_is_refused_and_not_kept() {
    let Ok(mut busybox) = base::busybox() else {
        return crate::project::skipped("there is no static busybox");
    };
    let manifest: serde_json::Value =
        serde_json::from_slice(&busybox.blobs[&busybox.manifest]).expect("manifest");
    let layer = manifest["layers"][0]["digest"].as_str().expect("digest").to_owned();
    let bytes = busybox.blobs.get_mut(&layer).expect("layer");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let server = Server::registry(busybox);
    let text = format!("FROM {}/base:1\nRUN true\n", server.address);
    let project = Project::new().buildfile(&text);
    project.build(&[]).fails(1, &[&layer, "digest"]);
    let kept = project.store().join("blobs/sha256").join(layer.trim_start_matches("sha256:"));
    assert!(!kept.exists(), "a blob that failed its check is in the store");
}

#[test]
fn an_image_of_the_own_store_is_a_base() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo mine > /mine\n");
    let mut command = project.build_command(["-t", "mine"]);
    crate::project::Ended::of(&mut command).ok();
    project.write("Buildfile", "FROM mine\nRUN cat /mine > /copy\n");
    assert_eq!(project.build(&["--pull=never"]).image().text("copy"), "mine\n");
}

#[test]
fn never_asks_no_registry() {
    let server = Server::start(|_| crate::server::Response::new(500, ""));
    let project = Project::new().buildfile(&format!("FROM {}/x:1\n", server.address));
    project.build(&["--pull=never"]).fails(1, &["x:1", "--pull"]);
    assert!(server.requests().is_empty());
}

#[test]
fn a_missing_image_names_the_image_and_the_line() {
    let Ok(busybox) = base::busybox() else { return crate::project::skipped("there is no static busybox") };
    let server = Server::registry(busybox);
    let project = Project::new().buildfile(&format!("FROM {}/x:missing\n", server.address));
    project.build(&[]).fails(1, &["x:missing", "Buildfile:1"]);
}

#[test]
fn a_name_is_looked_up_again_when_asked() {
    let registry = Registry::start();
    let put = |text: &str| {
        let layer = base::tar(&[Member::File("a", 0o644, text.as_bytes())]);
        registry.add("base", "1", &base::image(&layer, serde_json::json!({})));
    };
    put("one");
    let project = Project::new().buildfile(&format!("FROM {}/base:1\n", registry.host()));
    let read = |flags: &[&str]| project.build(flags).image().text("a");
    assert_eq!(read(&["--pull=newer"]), "one");
    put("two");
    assert_eq!(read(&[]), "one");
    assert_eq!(read(&["--pull=missing"]), "one");
    assert_eq!(read(&["--pull=newer"]), "two");
    put("three");
    assert_eq!(read(&["--pull"]), "three");
    // Nobody answers.
    registry.content().broken.insert("/v2/".to_owned(), 404);
    project.build(&["--pull=always"]).fails(1, &["cannot find the image", "base:1"]);
    let built = project.build(&["--pull=newer"]);
    assert_eq!(built.image().text("a"), "three");
    assert!(
        built.log().contains("the image of the store is taken: cannot find the image"),
        "{}",
        built.log()
    );
    project.write("Buildfile", format!("FROM {}/base:2\n", registry.host()));
    project.build(&["--pull=newer"]).fails(1, &["cannot find the image", "base:2"]);
}
