//! COPY: destinations, owners, modes, patterns, ignore files.

use crate::image::Kind;
use crate::project::Project;

#[test]
fn a_file_arrives_with_content_mode_and_root_as_owner() {
    let project =
        Project::new().file("a.txt", "content\n").buildfile("FROM scratch\nCOPY a.txt /dir/b.txt\n");
    let image = project.build(&[]).image();
    assert_eq!(image.text("dir/b.txt"), "content\n");
    let (file, dir) = (image.entry("dir/b.txt"), image.entry("dir"));
    assert_eq!((file.mode, file.uid, file.gid), (0o644, 0, 0));
    assert_eq!((dir.mode, dir.uid, dir.gid), (0o755, 0, 0));
    assert_eq!(image.layers.len(), 1);
    assert_eq!(image.layers[0].names, ["dir/", "dir/b.txt"]);
    assert_eq!(image.history(), ["COPY a.txt /dir/b.txt # buildkit"]);
}

#[test]
fn a_directory_gives_its_contents() {
    let project = Project::new()
        .file("src/x", "1")
        .file("src/sub/y", "2")
        .symlink("src/link", "sub/y")
        .buildfile("FROM scratch\nCOPY src /to\n");
    let image = project.build(&[]).image();
    assert_eq!(image.files.keys().collect::<Vec<_>>(), ["to", "to/link", "to/sub", "to/sub/y", "to/x"]);
    assert_eq!(image.entry("to/link").kind, Kind::Symlink("sub/y".to_owned()));
}

#[test]
fn patterns_take_what_matches_and_nothing_is_no_error() {
    let project = Project::new()
        .file("a.c", "")
        .file("b.c", "")
        .file("c.h", "")
        .buildfile("FROM scratch\nCOPY *.c none* /src/\n");
    let image = project.build(&[]).image();
    assert_eq!(image.files.keys().collect::<Vec<_>>(), ["src", "src/a.c", "src/b.c"]);
}

#[test]
fn chown_and_chmod_apply_to_new_parents_too() {
    let project = Project::new()
        .file("f", "")
        .buildfile("FROM scratch\nCOPY --chown=12:34 --chmod=700 f /a/b/\nCOPY --chown=7 f /c/\n");
    let image = project.build(&[]).image();
    for path in ["a", "a/b", "a/b/f"] {
        let entry = image.entry(path);
        assert_eq!((entry.mode, entry.uid, entry.gid), (0o700, 12, 34), "{path}");
    }
    let entry = image.entry("c/f");
    assert_eq!((entry.uid, entry.gid), (7, 7), "the group of a lone number is the same number");
}

#[test]
fn named_owners_come_from_the_image() {
    let Some(project) = Project::with_base() else { return };
    let project =
        project.file("f", "").buildfile("FROM base\nCOPY --chown=app f /a\nCOPY --chown=app:extra f /b\n");
    let image = project.build(&[]).image();
    assert_eq!((image.entry("a").uid, image.entry("a").gid), (1000, 1001));
    assert_eq!((image.entry("b").uid, image.entry("b").gid), (1000, 1002));
}

#[test]
fn a_symlink_in_the_destination_stays_inside_the_image() {
    let Some(project) = Project::with_base() else { return };
    let outside = project.path("outside");
    std::fs::create_dir(&outside).expect("directory");
    let text = format!(
        "FROM base\nRUN ln -s {0} /link && ln -s ../../../../tmp /up\nCOPY f /link/\nCOPY f /up/g\n",
        outside.display()
    );
    let project = project.file("f", "x").buildfile(&text);
    let image = project.build(&[]).image();
    assert_eq!(std::fs::read_dir(&outside).expect("outside").count(), 0, "written on the host");
    assert!(image.has(&format!("{}/f", outside.display())));
    assert!(image.has("tmp/g"));
}

#[test]
fn ignored_files_stay_out_and_exceptions_come_back() {
    let project = Project::new()
        .file(".dockerignore", "*.log\nsecret\n!keep.log\n")
        .file("a.log", "")
        .file("keep.log", "")
        .file("secret/key", "")
        .file("b", "")
        .buildfile("FROM scratch\nCOPY . /\n");
    let image = project.build(&[]).image();
    let names: Vec<_> = image.files.keys().map(String::as_str).collect();
    assert_eq!(names, [".dockerignore", "Buildfile", "b", "keep.log"]);
}

#[test]
fn an_ignore_file_can_be_named() {
    let project = Project::new()
        .file("a", "")
        .file("b", "")
        .file("only-b", "*\n!b\n")
        .buildfile("FROM scratch\nCOPY . /\n");
    let image = project.build(&["--ignorefile", "context/only-b"]).image();
    assert_eq!(image.files.keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn link_makes_a_layer_that_does_not_depend_on_what_is_below() {
    let text = |first: &str| format!("FROM scratch\nCOPY {first} /below\nCOPY --link b /dir/\n");
    let project = Project::new().file("a", "1").file("c", "2").file("b", "3").buildfile(&text("a"));
    let one = project.build(&[]).image();
    project.write("Buildfile", text("c"));
    let two = project.build(&[]).image();
    assert_ne!(one.layers[0].digest, two.layers[0].digest);
    assert_eq!(one.layers[1].names, ["dir/", "dir/b"]);
    assert_eq!(one.layers[1].digest, two.layers[1].digest);
}

#[test]
fn parents_and_exclude() {
    let project = Project::new()
        .file("a/b/keep", "")
        .file("a/b/drop.tmp", "")
        .buildfile("FROM scratch\nCOPY --parents --exclude=*.tmp --exclude=**/*.tmp a/b /x/\n");
    let image = project.build(&[]).image();
    assert!(image.has("x/a/b/keep"));
    assert!(!image.has("x/a/b/drop.tmp"));
}

#[test]
fn a_file_over_a_directory_is_refused() {
    let project =
        Project::new().file("d/x/y", "").file("e/x", "").buildfile("FROM scratch\nCOPY d /\nCOPY e /\n");
    project.build(&[]).fails(1, &["x", "Buildfile:3"]);
}
