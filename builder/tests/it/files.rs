//! Results as files, of one platform and of several.

use std::fs;
use std::io::Read;

use crate::project::{Ended, Project, tree};

fn simple() -> Project {
    Project::new()
        .file("f", "content\n")
        .buildfile("FROM scratch\nARG TARGETARCH\nCOPY f /d/f\nCOPY <<E /arch\n$TARGETARCH\nE\n")
}

fn write(project: &Project, flags: &[&str], output: &str) -> Ended {
    Ended::of(project.build_command(flags).args(["-o", output]))
}

/// Names of a tar, with the content of files.
fn members(tar: impl Read) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in tar::Archive::new(tar).entries().expect("tar") {
        let mut entry = entry.expect("entry");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("data");
        let name = entry.path().expect("path").display().to_string();
        found.push((name.trim_end_matches('/').to_owned(), text));
    }
    found
}

const BOTH: [&str; 1] = ["--platform=linux/amd64,linux/arm64"];
const SPLIT: [&str; 8] = [
    "linux_amd64",
    "linux_amd64/arch",
    "linux_amd64/d",
    "linux_amd64/d/f",
    "linux_arm64",
    "linux_arm64/arch",
    "linux_arm64/d",
    "linux_arm64/d/f",
];

#[test]
fn each_platform_has_a_directory() {
    let project = simple();
    write(&project, &BOTH, "type=local,dest=files").ok();
    assert_eq!(tree(&project.path("files")), SPLIT);
    assert_eq!(fs::read_to_string(project.path("files/linux_arm64/arch")).expect("file"), "arm64\n");
    write(&project, &BOTH, "type=tar,dest=files.tar").ok();
    let mut found = members(fs::File::open(project.path("files.tar")).expect("tar"));
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, SPLIT);
    assert_eq!(found.swap_remove(5).1, "arm64\n");
    assert_eq!(found.swap_remove(1).1, "amd64\n");
}

#[test]
fn the_directory_of_a_platform_is_a_choice() {
    let project = simple();
    let one = ["--platform=linux/arm64"];
    write(&project, &one, "type=local,dest=files,platform-split=true").ok();
    assert_eq!(tree(&project.path("files")), SPLIT[4..]);
    write(&project, &one, "type=tar,dest=files.tar,platform-split=true").ok();
    let found = members(fs::File::open(project.path("files.tar")).expect("tar"));
    assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), SPLIT[4..]);
    write(&project, &BOTH, "type=local,dest=merged,platform-split=false").ok();
    assert_eq!(tree(&project.path("merged")), ["arch", "d", "d/f"]);
    let refused = write(&project, &BOTH, "type=tar,dest=merged.tar,platform-split=false");
    refused.fails(1, &["a directory each", "platform-split=false", "--platform"]);
    assert!(!project.path("merged.tar").exists());
}

#[test]
fn a_dash_is_a_tar_on_standard_output() {
    let project = simple();
    let output = project.build_command(["-o", "-"]).output().expect("kiln runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = members(&output.stdout[..]);
    assert!(found.contains(&("d/f".to_owned(), "content\n".to_owned())), "{found:?}");
}

#[test]
fn an_archive_for_docker_has_one_platform() {
    let project = simple();
    write(&project, &BOTH, "type=docker,dest=d.tar").fails(1, &["one platform", "--platform", "type=oci"]);
    assert!(!project.path("d.tar").exists());
}
