//! What is in examples/ builds, as far as that needs no network.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::image::Image;
use crate::project::{Ended, Project};

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).display().to_string()
}

#[test]
fn the_image_of_kiln_itself() {
    let project = Project::new();
    // What the first stage would compile.
    fs::create_dir(project.path("compiled")).expect("directory");
    fs::write(project.path("compiled/kiln"), "a program").expect("file");
    let file = example("kiln/Buildfile");
    let mut command = project.kiln(["build", "--progress=plain", "-f", &file, "--target=minimal"]);
    command.args(["--build-context", "build=compiled", "-o", "type=oci,dest=kiln.tar", "context"]);
    Ended::of(&mut command).ok();
    let image = Image::read_archive(&project.path("kiln.tar"));
    assert_eq!(image.config["config"]["Entrypoint"], serde_json::json!(["/kiln"]));
    assert_eq!(image.files["kiln"].data, b"a program");
    assert_eq!(image.files["kiln"].mode & 0o7777, 0o755);
    // The whole of it plans, and is without findings.
    let graph = project.run(&["graph", "-f", &file, "--format=json", "context"]).ok().stdout;
    let graph: Value = serde_json::from_str(&graph).expect("JSON");
    assert!(graph["vertices"].as_array().expect("vertices").len() > 5, "{graph:#}");
    project.run(&["check", "-f", &file, "context"]).ok();
}
