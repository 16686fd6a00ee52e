//! A store that the disk, or somebody, has damaged: found, named, and healed by fetching or running again; never a wrong
//! image.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::project::{Built, Project};
use crate::registry::Registry;

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
        project.run(&["fsck"]).ok();
    }
    // What no build asks for is forgotten by a collection.
    for path in snapshots().map(|entry| entry.path()) {
        fs::remove_dir_all(path.join("fs")).expect("remove");
    }
    project.run(&["prune", "--filter", "until=24h"]).ok();
    project.run(&["fsck"]).ok();
    assert_eq!(build(&project).image().digest, digest);
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
    for part in [0.0, 0.001, 0.1, 0.5, 0.999] {
        let length = (fs::metadata(&path).expect("database").len() as f64 * part) as u64;
        fs::File::options().write(true).open(&path).expect("open").set_len(length).expect("cut");
        let again = build(&project);
        assert_eq!(again.image().digest, digest, "{length}: {}", again.log());
        // Opening does not see that a part of the last page is gone, when it does not need that.
        let told = again.log().contains("the database of the store");
        assert!(told || part > 0.9, "{length}: {}", again.log());
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

#[test]
fn a_damaged_layer_that_has_to_be_unpacked_again() {
    let Some((project, digest)) = built() else { return };
    for _ in 0..2 {
        flip(&files(&project, "blobs/sha256").remove(0));
        // Takes the unpacked layers away, so that the next build needs the blob.
        fs::remove_dir_all(project.store().join("snapshots")).expect("remove");
        fs::create_dir(project.store().join("snapshots")).expect("create");
        let again = build(&project);
        assert_eq!(again.image().digest, digest, "{}", again.log());
        assert!(again.log().contains("it is made or fetched again"), "{}", again.log());
    }
}

#[test]
fn a_damaged_layer_of_a_local_image() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo one > /one\nCMD [\"cat\", \"/one\"]\n");
    let build = || {
        let mut command = project.build_command(["-t", "kept:1"]);
        crate::project::Ended::of(&mut command)
    };
    let damage = || {
        project.run(&["prune", "--all"]).ok();
        flip(&files(&project, "blobs/sha256").remove(0));
    };
    build().ok();
    damage();
    // Nothing says where else the layer might be.
    let ran = project.run(&["run", "kept:1"]);
    ran.fails(1, &["cannot be read from where the image is", "kiln fsck --repair"]);
    build().ok();
    assert_eq!(project.run(&["run", "kept:1"]).ok().stdout, "one\n");
    damage();
    project.write("Buildfile", "FROM kept:1\nRUN cat /one\n");
    project.build(&[]).fails(1, &["cannot be read from where the image is", "kiln fsck --repair"]);
    project.write("Buildfile", "FROM base\nRUN echo one > /one\nCMD [\"cat\", \"/one\"]\n");
    build().ok();
    project.write("Buildfile", "FROM kept:1\nRUN cat /one\n");
    project.build(&[]).succeeds();
    project.run(&["fsck"]).ok();
}

#[test]
fn a_local_image_with_damaged_documents_is_not_looked_for_elsewhere() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo one > /one\n");
    crate::project::Ended::of(&mut project.build_command(["-t", "localhost:1/kept:1"])).ok();
    let documents: Vec<PathBuf> = files(&project, "blobs/sha256")
        .into_iter()
        .filter(|path| fs::read(path).expect("read").starts_with(b"{"))
        .collect();
    project.write("Buildfile", "FROM localhost:1/kept:1\nRUN cat /one\n");
    let mut found = 0;
    for path in documents {
        let whole = fs::read(&path).expect("read");
        flip(&path);
        let built = project.build(&[]);
        if built.ended.code != Some(0) {
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            built.fails(1, &["of the store is damaged", &name, "kiln fsck --repair"]);
            found += 1;
        }
        fs::write(&path, whole).expect("write");
    }
    assert_eq!(found, 2, "manifest and config");
}

#[test]
fn a_damaged_layer_is_not_sent_to_a_cache_or_a_registry() {
    let Some((project, _)) = built() else { return };
    let registry = Registry::start();
    let damage = || {
        let layers: Vec<PathBuf> = files(&project, "blobs/sha256")
            .into_iter()
            .filter(|path| fs::read(path).expect("read").starts_with(&[0x1f, 0x8b]))
            .collect();
        assert_eq!(layers.len(), 4);
        layers.iter().for_each(|path| flip(path));
    };
    damage();
    let cache = format!("--cache-to=type=local,dest={},mode=max", project.path("cache").display());
    let sent = crate::project::Ended::of(&mut project.build_command([
        "--source-date-epoch",
        "1700000000",
        cache.as_str(),
        "-o",
        "type=cacheonly",
    ]));
    assert!(sent.ok().stderr.contains("it is made or fetched again"));
    // Whatever the cache has is whole.
    for blob in walkdir::WalkDir::new(project.path("cache/blobs/sha256")).into_iter().flatten() {
        if blob.file_type().is_file() {
            let sum = kiln::base::digest::Digest::of(&fs::read(blob.path()).expect("read"));
            assert_eq!(sum.hex(), blob.file_name().to_string_lossy());
        }
    }
    build(&project).succeeds();
    damage();
    let name = format!("{}/app:1", registry.host());
    let mut command = project.build_command(["--source-date-epoch", "1700000000", "-t", &name, "--push"]);
    let pushed = crate::project::Ended::of(&mut command).ok();
    assert!(pushed.stderr.contains("it is made or fetched again"), "{}", pushed.stderr);
}

#[test]
fn what_was_removed_of_a_store_is_made_again() {
    let Some((project, digest)) = built() else { return };
    for name in ["snapshots", "tmp"] {
        fs::remove_dir_all(project.store().join(name)).expect("remove");
        let again = build(&project);
        assert_eq!(again.image().digest, digest, "{}", again.log());
        project.run(&["fsck"]).ok();
    }
    fs::remove_file(project.store().join("oci-layout")).expect("remove");
    project.run(&["prune"]).ok();
    assert!(project.store().join("oci-layout").exists());
    build(&project).succeeds();
    let blob = files(&project, "blobs/sha256").remove(0);
    fs::remove_file(&blob).expect("remove");
    fs::create_dir_all(blob.join("below")).expect("create");
    project.run(&["fsck", "--repair"]).fails(1, &["repaired"]);
    assert_eq!(build(&project).image().digest, digest);
    project.run(&["fsck"]).ok();
}

#[test]
fn a_database_that_is_damaged_inside_is_told_with_what_helps() {
    let Some((project, digest)) = built() else { return };
    crate::project::Ended::of(&mut project.build_command(["-t", "kept"])).ok();
    let path = project.store().join("kiln.db");
    let mut bytes = fs::read(&path).expect("database");
    let length = bytes.len();
    bytes[4096..length].fill(0);
    fs::write(&path, bytes).expect("write");
    build(&project).fails(1, &["is malformed", "kiln fsck --repair"]);
    for command in [
        &["run", "kept", "true"][..],
        &["images"],
        &["rmi", "kept"],
        &["tag", "kept", "other"],
        &["push", "kept"],
        &["copy", "kept", "oci:out"],
        &["inspect", "kept"],
        &["layers", "kept"],
        &["cat", "kept", "/one"],
        &["diff", "kept", "kept"],
        &["info"],
        &["du"],
        &["prune"],
        &["cache", "ls"],
    ] {
        project.run(command).fails(1, &["is malformed", "kiln fsck --repair"]);
    }
    let repaired = project.run(&["fsck", "--repair"]);
    repaired.fails(1, &["found and repaired"]);
    assert!(repaired.stdout.contains("the database was damaged (repaired)"), "{}", repaired.stdout);
    project.run(&["fsck"]).ok();
    assert_eq!(project.run(&["images", "-q"]).ok().stdout.lines().count(), 1, "the image keeps its name");
    assert_eq!(build(&project).image().digest, digest);
}
