//! `kiln layers`, `ls`, `cat` and `cp`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

use serde_json::{Value, json};

use crate::base::{self, Member};
use crate::project::{Ended, Project, is_root, tree};

fn json_of(ended: Ended) -> Value {
    serde_json::from_str(&ended.ok().stdout).expect("JSON")
}

/// An image `wasteful` in which files are removed, overwritten and repeated; also as `wasteful.tar`.
fn wasteful() -> Option<Project> {
    let project = Project::with_base()?;
    project.write("big", vec![b'b'; 100_000]);
    project.write("kept", vec![b'k'; 30_000]);
    project.write(
        "Buildfile",
        "FROM base\nCOPY big kept /d/\nRUN mkdir /e && head -c 5000 /dev/zero > /e/zeros && ln /e/zeros /e/link\n\
         RUN rm /d/big && rm /e/zeros && chmod 600 /d/kept\n",
    );
    for output in ["type=image", "type=oci,dest=wasteful.tar"] {
        Ended::of(&mut project.build_command(["-t", "wasteful", "-o", output])).ok();
    }
    Some(project)
}

#[test]
fn layers_tell_what_is_wasted() {
    let Some(project) = wasteful() else { return };
    for name in ["wasteful", "./wasteful.tar"] {
        let costs = json_of(project.run(&["layers", "--json", name]));
        let layers = costs["layers"].as_array().expect("layers");
        assert_eq!(layers.len(), 4, "{costs:#}");
        let numbers = |key: &str| -> Vec<u64> {
            layers.iter().map(|layer| layer[key].as_u64().expect("number")).collect()
        };
        assert_eq!(numbers("unpacked")[1..], [130_000, 5000, 30_000]);
        assert_eq!(numbers("files")[1..], [2, 1, 1]);
        // The second name of the removed file keeps its bytes.
        assert_eq!(numbers("wasted"), [0, 130_000, 0, 0]);
        assert_eq!(costs["wasted"], 130_000);
        assert_eq!(costs["size"], numbers("size").iter().sum::<u64>());
        assert_eq!(
            layers[1]["waste"],
            json!([
                { "path": "d/big", "size": 100_000, "why": "removed", "by": 3 },
                { "path": "d/kept", "size": 30_000, "why": "repeated", "by": 3 },
            ])
        );
        assert_eq!(layers[1]["largest"][0], json!({ "path": "d/big", "size": 100_000 }));
        assert!(layers[1]["created_by"].as_str().expect("text").starts_with("COPY big kept /d/"));
    }
    let text = project.run(&["layers", "wasteful"]).ok().stdout;
    for part in ["MADE BY", "  COPY big kept /d/", "100kB  /d/big", "removed by 3", "same content again in 3"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn layers_judge_for_ci() {
    let Some(project) = wasteful() else { return };
    let layers = |limit: &[&str]| project.run(&[&["layers", "wasteful"], limit].concat());
    layers(&["--max-size=1g", "--max-waste=130000", "--max-waste=99%"]).fails(2, &["--max-waste"]);
    layers(&["--max-size=1g", "--max-waste=130000"]).ok();
    layers(&["--max-waste=99.5%"]).ok();
    let beyond = layers(&["--max-size=10", "--max-waste=129999"]);
    beyond.fails(3, &["beyond its limits", "--max-size", "130kB (130000 bytes) are wasted"]);
    assert!(beyond.stdout.contains("MADE BY"), "the table is still there: {}", beyond.stdout);
    layers(&["--max-waste=0.5%"]).fails(3, &["more than the 0.5% of --max-waste"]);
    project.run(&["layers", "nothing"]).fails(1, &["nothing"]);
}

#[test]
fn files_are_listed_and_printed() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(
        "FROM base\nRUN mkdir -p /d/sub && printf 'one\\ntwo' > /d/f && chmod 4750 /d/f && ln -s /d/f /d/sub/link && \
         ln -s /nowhere /d/dangling && mkfifo /d/fifo && touch -d @86400 /d/f && ln -s d /e\n",
    );
    Ended::of(&mut project.build_command(["-t", "files"])).ok();
    let run = |args: &[&str]| project.run(args);
    assert_eq!(run(&["ls", "files", "/d"]).ok().stdout, "dangling\nf\nfifo\nsub\n");
    assert_eq!(run(&["ls", "files", "e"]).ok().stdout, "dangling\nf\nfifo\nsub\n");
    assert_eq!(run(&["ls", "-R", "files", "/d/"]).ok().stdout, "dangling\nf\nfifo\nsub\nsub/link\n");
    let top = run(&["ls", "files"]).ok().stdout;
    assert!(top.lines().any(|line| line == "bin") && top.lines().any(|line| line == "e"), "{top}");
    let long = run(&["ls", "-l", "files", "/d"]).ok().stdout;
    for part in ["-rwsr-x---", "0:0", "1970-01-02T00:00:00Z   f", "prw-r--r--", "dangling -> /nowhere"] {
        assert!(long.contains(part), "{part}\n{long}");
    }
    let found = json_of(run(&["ls", "--json", "files", "/d/sub/link"]));
    assert_eq!(found[0]["type"], "file");
    assert_eq!(
        (&found[0]["mode"], &found[0]["size"], &found[0]["mtime"]),
        (&"4750".into(), &7.into(), &86400.into())
    );
    assert_eq!(run(&["cat", "files", "/d/sub/link", "/e/f"]).ok().stdout, "one\ntwoone\ntwo");
    run(&["cat", "files", "/d"]).fails(1, &["`/d` is a directory"]);
    run(&["cat", "files", "/d/fifo"]).fails(1, &["`/d/fifo` is a fifo"]);
    run(&["cat", "files", "/d/dangling"]).fails(1, &["symlink to `/nowhere`"]);
    run(&["ls", "files", "/d/none"]).fails(1, &["has no `/d/none`", "kiln ls files /d"]);
}

#[test]
fn files_are_copied_out() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(
        "FROM base\nRUN mkdir -p /d/shut && echo text > /d/shut/f && ln /d/shut/f /d/hard && ln -s ../outside /d/link && \
         mkfifo /d/fifo && chown -R 7:8 /d && chmod 6755 /d/hard && touch -d @1000 /d/shut && chmod 555 /d/shut\n",
    );
    Ended::of(&mut project.build_command(["-t", "files"])).ok();
    let cp = |from: &str, to: &str| Ended::of(&mut project.kiln(["cp", from, to]));
    // A new name, then into a directory that is there.
    let first = cp("files:/d", "new").ok();
    assert!(first.stderr.contains("one device, fifo or dangling link left out"), "{}", first.stderr);
    fs::create_dir(project.path("there")).expect("directory");
    cp("files:/d", "there").ok();
    cp("files:/d/.", "there").ok();
    assert_eq!(tree(&project.path("new")), ["hard", "link", "shut", "shut/f"]);
    assert_eq!(
        tree(&project.path("there")),
        ["d", "d/hard", "d/link", "d/shut", "d/shut/f", "hard", "link", "shut", "shut/f"]
    );
    let about = |name: &str| fs::symlink_metadata(project.path(name)).expect(name);
    let (file, hard) = (about("new/shut/f"), about("new/hard"));
    assert_eq!(file.ino(), hard.ino());
    assert_eq!(hard.permissions().mode() & 0o7777, 0o755, "set-user-id is not taken along");
    assert_eq!(file.uid(), rustix::process::geteuid().as_raw());
    assert_eq!((about("new/shut").permissions().mode() & 0o7777, about("new/shut").mtime()), (0o555, 1000));
    assert_eq!(fs::read_link(project.path("new/link")).expect("link").to_str(), Some("../outside"));
    // A file under a name of its own, over one that is there, and through a link.
    cp("files:/d/hard", "file").ok();
    cp("files:/etc/group", "file").ok();
    assert!(fs::read_to_string(project.path("file")).expect("file").starts_with("root:x:0:"));
    symlink("file", project.path("alias")).expect("link");
    cp("files:/d/hard", "alias").ok();
    assert!(about("alias").is_symlink());
    assert_eq!(fs::read_to_string(project.path("file")).expect("file"), "text\n");
    assert_eq!(cp("files:/d/hard", "/dev/stdout").ok().stdout, "text\n");
    cp("files:/d", "file").fails(1, &["cannot copy a directory onto the file `file`"]);
    cp("files:/d/hard", "none/").fails(1, &["no directory `none/`"]);
    cp("files:/none", "x").fails(1, &["has no `/none`"]);
    cp("files", "x").fails(2, &["absolute path"]);
    if is_root() {
        Ended::of(&mut project.kiln(["cp", "-a", "files:/d", "kept"])).ok();
        let kept = about("kept/hard");
        assert_eq!((kept.uid(), kept.gid(), kept.permissions().mode() & 0o7777), (7, 8, 0o6755));
        assert!(tree(&project.path("kept")).contains(&"fifo".to_owned()));
    }
    // What nobody may write to gets in the way of the temporary directory's end.
    for name in ["new/shut", "there/shut", "there/d/shut", "kept/shut"] {
        let _ = fs::set_permissions(project.path(name), fs::Permissions::from_mode(0o755));
    }
}

#[test]
fn a_tar_on_standard_output_has_everything() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(
        "FROM base\nRUN mkdir /d && echo text > /d/f && ln /d/f /d/g && chown 7:8 /d/f && chmod 4755 /d/f && ln -s f /d/s\n",
    );
    Ended::of(&mut project.build_command(["-t", "files"])).ok();
    let mut command = project.kiln(["cp", "files:/d", "-"]);
    let output = command.output().expect("kiln");
    assert!(output.status.success());
    let mut archive = tar::Archive::new(&output.stdout[..]);
    let mut found = Vec::new();
    for entry in archive.entries().expect("tar") {
        let entry = entry.expect("entry");
        let header = entry.header();
        let link = entry.link_name().expect("link").map(|link| link.display().to_string());
        found.push((
            entry.path().expect("path").display().to_string(),
            header.uid().expect("uid"),
            header.mode().expect("mode"),
            link,
        ));
    }
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(found[0].0, "d/");
    assert_eq!(
        found[1..],
        [
            ("d/f".to_owned(), 7, 0o4755, None),
            ("d/g".to_owned(), 7, 0o4755, text("d/f")),
            ("d/s".to_owned(), 0, 0o777, text("f")),
        ]
    );
}

/// A member with a name that no tar program would write.
fn raw(name: &str, kind: tar::EntryType, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.set_link_name_literal(link).expect("link");
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn a_hostile_image_writes_nothing_outside() {
    use tar::EntryType::{Link, Regular, Symlink};
    let project = Project::new();
    let outside = project.path("outside");
    fs::create_dir(&outside).expect("directory");
    fs::write(outside.join("victim"), "as it was").expect("file");
    let write = |name: &str, members: &[Vec<u8>]| {
        let mut layer = members.concat();
        layer.extend([0; 1024]);
        base::write_image(&base::image(&layer, json!({})), &project.path(name));
    };
    let absolute = outside.display().to_string();
    // The links of the image lead to the directory beside the copy, relative and absolute.
    write(
        "links",
        &[
            raw("d/up", Symlink, "../../outside", b""),
            raw("d/up/planted", Regular, "", b"x"),
            raw("d/abs", Symlink, &absolute, b""),
            raw("d/abs/planted", Regular, "", b"x"),
            raw("d/file", Symlink, "../outside/victim", b""),
            raw("d/file", Regular, "", b"replaced the link"),
            raw("d/hard", Link, "d/up/victim", b""),
            raw("/d/rooted", Regular, "", b"x"),
            raw("d/./a/../b/c", Regular, "", b"x"),
        ],
    );
    write("names", &[raw("d/f", Regular, "", b"x"), raw("d/../../outside/planted", Regular, "", b"x")]);
    let cp = |from: &str, to: &str| Ended::of(&mut project.kiln(["cp", from, to]));
    for to in ["copy", "copy", "other"] {
        cp("./links:/", to).ok();
        cp("./links:/d", "again").ok();
    }
    cp("./names:/", "copy").fails(1, &["leads out of the image"]);
    assert_eq!(tree(&outside), ["victim"]);
    assert_eq!(fs::read_to_string(outside.join("victim")).expect("file"), "as it was");
    assert_eq!(fs::read_to_string(project.path("copy/d/file")).expect("file"), "replaced the link");
    // What stands below the links is inside of the image.
    assert_eq!(Ended::of(&mut project.kiln(["cat", "./links", "/outside/planted"])).ok().stdout, "x");
    // A link that is in the destination already is not a way out either.
    fs::create_dir(project.path("trap")).expect("directory");
    symlink(&outside, project.path("trap/d")).expect("link");
    symlink(outside.join("victim"), project.path("trap/file")).expect("link");
    Ended::of(&mut project.kiln(["cp", "./links:/", "trap"]));
    Ended::of(&mut project.kiln(["cp", "./links:/d/.", "trap"])).ok();
    assert_eq!(tree(&outside), ["victim"]);
    assert_eq!(fs::read_to_string(outside.join("victim")).expect("file"), "as it was");
    // Names that would drive a terminal are shown, not obeyed.
    write("shown", &[raw("a\u{1b}[2Jb", Regular, "", b"x")]);
    assert_eq!(Ended::of(&mut project.kiln(["ls", "./shown"])).ok().stdout, "a\\x1b[2Jb\n");
}

#[test]
fn looking_needs_no_store() {
    let project = Project::new();
    let members = [Member::Directory("d", 0o755), Member::File("d/f", 0o644, b"text")];
    base::write_image(&base::image(&base::tar(&members), json!({})), &project.path("layout"));
    assert_eq!(project.run(&["cat", "oci-layout://layout", "/d/f"]).ok().stdout, "text");
    project.run(&["layers", "./layout"]).ok();
    project.run(&["ls", "none"]).fails(1, &["kiln images"]);
    assert!(!project.store().exists(), "looking made a store");
    let archive = project.path("layout.tar");
    let packed =
        Command::new("tar").arg("-C").arg(project.path("layout")).arg("-cf").arg(&archive).arg(".").status();
    assert!(packed.expect("tar").success());
    assert_eq!(project.run(&["ls", "./layout.tar", "/d"]).ok().stdout, "f\n");
}
