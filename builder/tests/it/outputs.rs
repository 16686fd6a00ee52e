//! Outputs: archives, directories, file systems, the store.

use std::fs;
use std::io::Read as _;

use crate::image::{Image, json_of, layout_of_archive, layout_of_directory};
use crate::project::{Ended, Project, tree};

fn simple() -> Project {
    Project::new().file("f", "content\n").buildfile("FROM scratch\nCOPY f /dir/\nCMD [\"x\"]\n")
}

/// Builds with one output.
fn output(project: &Project, flags: &[&str], output: &str) -> Ended {
    Ended::of(project.build_command(flags).args(["-o", output])).ok()
}

#[test]
fn an_archive_is_sorted_and_holds_nothing_of_this_machine() {
    let project = simple();
    let built = project.build(&["-t", "example.com/a/b:c"]);
    let image = built.image();
    assert_eq!(image.annotations["org.opencontainers.image.ref.name"], "c");
    assert_eq!(image.annotations["io.containerd.image.name"], "example.com/a/b:c");
    let file = fs::File::open(&built.archive).expect("archive");
    let mut names = Vec::new();
    for entry in tar::Archive::new(file).entries().expect("tar") {
        let entry = entry.expect("entry");
        let header = entry.header();
        assert_eq!(
            (header.uid().expect("uid"), header.gid().expect("gid"), header.mtime().expect("time")),
            (0, 0, 0)
        );
        assert!(header.username().expect("name").unwrap_or_default().is_empty());
        names.push(entry.path().expect("path").display().to_string());
    }
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(names, sorted);
}

#[test]
fn an_archive_to_standard_output() {
    let project = simple();
    let mut command = project.build_command(["-o", "type=oci,dest=-"]);
    let done = command.output().expect("kiln runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::write(project.path("piped.tar"), done.stdout).expect("file");
    assert_eq!(Image::read_archive(&project.path("piped.tar")).text("dir/f"), "content\n");
}

#[test]
fn a_layout_directory_is_appended_to() {
    let project = simple();
    output(&project, &["-t", "x:one"], "type=oci,tar=false,dest=layout");
    project.write("f", "other\n");
    output(&project, &["-t", "x:two"], "type=oci,tar=false,dest=layout");
    let layout = layout_of_directory(&project.path("layout"));
    let index = json_of(&layout, "index.json");
    let images = index["manifests"].as_array().expect("manifests");
    assert_eq!(images.len(), 2, "{index}");
    let texts: Vec<String> = images.iter().map(|d| Image::read(&layout, d).text("dir/f")).collect();
    assert_eq!(texts, ["content\n", "other\n"]);
    // The same name again replaces its image.
    output(&project, &["-t", "x:one"], "type=oci,tar=false,dest=layout");
    let layout = layout_of_directory(&project.path("layout"));
    let index = json_of(&layout, "index.json");
    let images = index["manifests"].as_array().expect("manifests");
    assert_eq!(images.len(), 2, "{index}");
    assert!(images.iter().all(|d| Image::read(&layout, d).text("dir/f") == "other\n"));
}

#[test]
fn a_directory_that_is_no_layout_is_left_alone() {
    let project = simple();
    fs::create_dir(project.path("mine")).expect("directory");
    fs::write(project.path("mine/precious"), "x").expect("file");
    let mut command = project.build_command(["-o", "type=oci,tar=false,dest=mine"]);
    Ended::of(&mut command).fails(1, &["mine"]);
    assert_eq!(tree(&project.path("mine")), ["precious"]);
}

#[test]
fn files_as_a_directory_and_as_a_tar() {
    let project = simple();
    output(&project, &[], "type=local,dest=files");
    assert_eq!(tree(&project.path("files")), ["dir", "dir/f"]);
    output(&project, &[], "short");
    assert_eq!(tree(&project.path("short")), ["dir", "dir/f"]);
    output(&project, &[], "type=tar,dest=files.tar");
    let file = fs::File::open(project.path("files.tar")).expect("tar");
    let mut found = Vec::new();
    for entry in tar::Archive::new(file).entries().expect("tar") {
        let mut entry = entry.expect("entry");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("data");
        found.push((entry.path().expect("path").display().to_string(), text));
    }
    assert!(found.contains(&("dir/f".to_owned(), "content\n".to_owned())), "{found:?}");
}

#[test]
fn several_outputs_of_one_build() {
    let project = simple();
    let built = project.build(&["-o", "type=local,dest=files", "-o", "type=image,name=kept:1"]);
    assert_eq!(built.image().text("dir/f"), "content\n");
    assert!(project.path("files/dir/f").exists());
    assert!(project.run(&["images"]).ok().stdout.contains("kept:1"));
}

#[test]
fn the_store_lists_and_forgets_images() {
    let project = simple();
    assert_eq!(project.run(&["images", "-q"]).ok().stdout, "");
    assert!(!project.store().exists(), "looking made a store");
    Ended::of(&mut project.build_command(["-t", "one:1", "-t", "example.com/two"])).ok();
    let list = project.run(&["images"]).ok().stdout;
    assert!(list.contains("one:1") && list.contains("example.com/two"), "{list}");
    let json: serde_json::Value =
        serde_json::from_str(&project.run(&["images", "--json"]).ok().stdout).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    // The store's image part is a layout of its own.
    let layout = layout_of_directory(&project.store());
    let index = json_of(&layout, "index.json");
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    assert_eq!(Image::read(&layout, &index["manifests"][0]).text("dir/f"), "content\n");
    project.run(&["rmi", "one:1"]).ok();
    let list = project.run(&["images"]).ok().stdout;
    assert!(!list.contains("one:1") && list.contains("example.com/two"), "{list}");
    project.run(&["rmi", "one:1"]).fails(1, &["one:1", "kiln images"]);
    project.run(&["rmi", "--force", "one:1"]).ok();
}

#[test]
fn a_docker_archive_names_config_layers_and_tags() {
    let project = simple();
    output(&project, &["-t", "named:tag"], "type=docker,dest=docker.tar");
    let layout = layout_of_archive(&project.path("docker.tar"));
    let manifest = json_of(&layout, "manifest.json");
    let image = &manifest[0];
    assert!(image["RepoTags"].to_string().contains("named:tag"), "{manifest}");
    let config = image["Config"].as_str().expect("Config");
    assert_eq!(json_of(&layout, config)["config"]["Cmd"][0], "x");
    let layers = image["Layers"].as_array().expect("Layers");
    assert_eq!(layers.len(), 1);
    assert!(layout.contains_key(layers[0].as_str().expect("path")));
}

#[test]
fn compression_is_as_asked_and_does_not_change_the_files() {
    let project = simple();
    let mut diff_ids = Vec::new();
    for (kind, suffix) in [("uncompressed", "tar"), ("gzip", "gzip"), ("zstd", "zstd")] {
        let dest = format!("{kind}.tar");
        output(&project, &[], &format!("type=oci,dest={dest},compression={kind}"));
        let image = Image::read_archive(&project.path(&dest));
        assert!(image.layers[0].media_type.ends_with(suffix), "{}", image.layers[0].media_type);
        diff_ids.push(image.config["rootfs"]["diff_ids"].clone());
    }
    assert_eq!(diff_ids[0], diff_ids[1]);
    assert_eq!(diff_ids[1], diff_ids[2]);
}

#[test]
fn labels_and_annotations_of_the_command_line() {
    let project = simple();
    let image = project.build(&["--label", "a=1", "--annotation", "b=2"]).image();
    assert_eq!(image.settings()["Labels"]["a"], "1");
    assert_eq!(image.manifest["annotations"]["b"], "2");
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let project = simple();
    fs::write(project.path("file"), "").expect("file");
    let mut command = project.build_command(["-o", "type=oci,dest=file/out.tar"]);
    Ended::of(&mut command).fails(1, &["file"]);
}
