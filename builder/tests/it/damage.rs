//! A store that the disk, or somebody, has damaged: found, named, and healed by fetching or running again; never a wrong
//! image.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::project::{Built, Project};

const TEXT: &str = "FROM base\nRUN mkdir /d && echo one > /d/one\nCOPY file /file\nRUN echo two > /two\n";

/// A project that was built, and the digest that it gave. With an epoch, so that steps which run again give the same.
fn built() -> Option<(Project, String)> {
    let project = Project::with_base()?.file("file", "content").buildfile(TEXT);
    let digest = build(&project).image().digest;
    project.run(&["fsck"]).ok();
    Some((project, digest))
}

fn build(project: &Project) -> Built {
    project.build(&["--source-date-epoch", "1700000000"])
}

/// Files below a directory of the store, largest first.
fn files(project: &Project, below: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = walkdir::WalkDir::new(project.store().join(below))
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| (entry.metadata().expect("metadata").len(), entry.into_path()))
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("mode");
    fs::write(path, bytes).expect("write");
}

#[test]
fn every_blob_with_a_flipped_byte_is_found_and_healed() {
    let Some((project, digest)) = built() else { return };
    let count = files(&project, "blobs/sha256").len();
    assert!(count >= 5, "{count} blobs");
    for number in 0..count {
        let blob = files(&project, "blobs/sha256").remove(number);
        let name = blob.file_name().expect("name").to_string_lossy().into_owned();
        flip(&blob);
        project.run(&["fsck"]).fails(1, &["--repair"]);
        assert!(project.run(&["fsck"]).stdout.contains(&name), "the blob is named");
        // A build meets it on its own, or does not need it.
        let again = build(&project);
        assert_eq!(again.image().digest, digest, "{}", again.log());
        flip_is_gone_or_unused(&project, &name);
    }
}

/// After a build and a repair nothing is wrong, and the image is the same.
#[track_caller]
fn flip_is_gone_or_unused(project: &Project, name: &str) {
    let checked = project.run(&["fsck", "--repair"]);
    assert!(checked.code == Some(0) || checked.stdout.contains(name), "{}", checked.stdout);
    project.run(&["fsck"]).ok();
}

#[test]
fn cut_and_lost_blobs_are_healed_by_the_next_build() {
    let Some((project, digest)) = built() else { return };
    let count = files(&project, "blobs/sha256").len();
    for number in 0..count {
        for cut in [true, false] {
            let blob =
                files(&project, "blobs/sha256").remove(number.min(files(&project, "blobs/sha256").len() - 1));
            if cut {
                fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).expect("mode");
                fs::File::options().write(true).open(&blob).expect("open").set_len(7).expect("cut");
            } else {
                fs::remove_file(&blob).expect("remove");
            }
            let again = build(&project);
            assert_eq!(again.image().digest, digest, "{}", again.log());
        }
    }
    project.run(&["fsck", "--repair"]);
    project.run(&["fsck"]).ok();
}

#[test]
fn lost_and_changed_snapshots() {
    let Some((project, digest)) = built() else { return };
    let snapshots = || fs::read_dir(project.store().join("snapshots")).expect("snapshots").flatten();
    let names: Vec<PathBuf> = snapshots().map(|entry| entry.path()).collect();
    assert_eq!(names.len(), 4);
    for path in names {
        if !path.exists() {
            // Removed with one that it stood on.
            continue;
        }
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        fs::remove_dir_all(&path).expect("remove");
        let checked = project.run(&["fsck"]);
        checked.fails(1, &[]);
        assert!(checked.stdout.contains(&name), "{}", checked.stdout);
        let again = build(&project);
        assert_eq!(again.image().digest, digest, "{}", again.log());
        project.run(&["fsck", "--repair"]);
        project.run(&["fsck"]).ok();
    }
    // A change inside, which a build does not look for.
    let changed =
        files(&project, "snapshots").into_iter().find(|path| path.ends_with("d/one")).expect("file");
    fs::write(&changed, "oNe\n").expect("change");
    let checked = project.run(&["fsck"]);
    checked.fails(1, &["--repair"]);
    assert!(checked.stdout.contains("is damaged: its content is"), "{}", checked.stdout);
    project.run(&["fsck", "--quick"]).ok();
    project.run(&["fsck", "--repair"]).fails(1, &["repaired"]);
    assert_eq!(build(&project).image().digest, digest);
    // And in a layer that was unpacked.
    let passwd =
        files(&project, "snapshots").into_iter().find(|path| path.ends_with("etc/passwd")).expect("file");
    fs::write(&passwd, "root:x:0:0:\n").expect("change");
    project.run(&["fsck", "--repair"]).fails(1, &["repaired"]);
    let again = build(&project);
    assert_eq!(again.image().digest, digest);
    assert_eq!(again.executed().len(), 3, "what stood on it ran again: {}", again.log());
    project.run(&["fsck"]).ok();
}

#[test]
fn a_cut_database() {
    let Some((project, digest)) = built() else { return };
    crate::project::Ended::of(&mut project.build_command(["-t", "kept"])).ok();
    let path = project.store().join("kiln.db");
    let whole = fs::read(&path).expect("database");
    for length in [0, 50, 4096, whole.len() / 2, whole.len() - 1] {
        fs::File::options().write(true).open(&path).expect("open").set_len(length as u64).expect("cut");
        let again = build(&project);
        assert_eq!(again.image().digest, digest, "{length}: {}", again.log());
        assert!(
            again.log().contains("kiln.db") || again.log().contains("database of the store"),
            "{}",
            again.log()
        );
        assert_eq!(project.run(&["images", "-q"]).ok().stdout.lines().count(), 1, "the image keeps its name");
        project.run(&["fsck", "--repair"]);
        project.run(&["fsck"]).ok();
    }
    // In the middle, where opening does not look.
    let mut bytes = fs::read(&path).expect("database");
    let length = bytes.len();
    bytes[4096..length].fill(0xa5);
    fs::write(&path, bytes).expect("write");
    project.run(&["fsck"]).fails(1, &[]);
    project.run(&["fsck", "--repair"]).fails(1, &["database", "repaired"]);
    assert_eq!(build(&project).image().digest, digest);
    project.run(&["fsck", "--repair"]);
    project.run(&["fsck"]).ok();
}
