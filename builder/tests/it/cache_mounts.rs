//! `kiln cache`: cache mounts from one store to another.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::leftovers::unique_seconds;
use crate::processes::{wait_until, with_argument};
use crate::project::Project;

const FILL: &str = "FROM base\nRUN --mount=type=cache,id=npm,target=/c chmod 0750 /c && \
    echo content > /c/file && ln /c/file /c/link && ln -s /etc/passwd /c/symlink && mkdir /c/dir && \
    chown -R 1000:1001 /c/dir && chmod 1711 /c/dir && printf x > '/c/.wh.odd'\n";

#[test]
fn a_cache_mount_travels() {
    let Some(project) = Project::with_base() else { return };
    project.write("Buildfile", FILL);
    project.build(&[]).succeeds();
    let listed = project.run(&["cache", "ls", "--json"]).ok();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!((&listed[0]["id"], &listed[0]["inUse"]), (&"npm".into(), &false.into()));
    assert!(listed[0]["size"].as_u64().expect("size") > 0);
    assert_eq!(project.run(&["cache", "ls", "-q"]).ok().stdout, "npm\n");
    let facts: serde_json::Value =
        serde_json::from_str(&project.run(&["cache", "inspect", "npm"]).ok().stdout).expect("JSON");
    assert_eq!((&facts[0]["mode"], &facts[0]["entries"]), (&"0750".into(), &5.into()));
    project.run(&["cache", "export", "npm", "-o", "npm.tar.zst"]).ok();
    let archive = fs::read(project.path("npm.tar.zst")).expect("archive");
    assert_eq!(archive[..4], [0x28, 0xb5, 0x2f, 0xfd], "zstd");

    let other = Project::with_base().expect("as before");
    fs::write(other.path("npm.tar.zst"), archive).expect("archive");
    other.run(&["cache", "import", "npm", "npm.tar.zst"]).ok();
    // What a RUN sees of the one, a RUN sees of the other.
    let look = "cd /c; stat -c '%n %a %u:%g %h' . * .wh.odd; cat link; readlink symlink";
    let look = format!("FROM base\nRUN --mount=type=cache,id=npm,target=/c {look}\n");
    let told = |project: &Project| {
        project.write("Buildfile", &look);
        let built = project.build(&[]);
        built.succeeds();
        let lines = built.log().lines().filter(|line| line.starts_with('#'));
        let output = lines.filter_map(|line| line.split(' ').nth(1)?.parse::<f64>().ok().map(|_| line));
        output.map(|line| line.splitn(3, ' ').last().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let (there, here) = (told(&other), told(&project));
    assert!(here.iter().any(|line| line.starts_with("file 644") && line.ends_with(" 2")), "{here:?}");
    assert!(here.iter().any(|line| line.starts_with(". 750")), "{here:?}");
    assert_eq!(there, here);
}

#[test]
fn a_mount_that_a_build_uses_is_kept() {
    let Some(project) = Project::with_base() else { return };
    let sleep = unique_seconds();
    project
        .write("Buildfile", format!("FROM base\nRUN --mount=type=cache,id=used,target=/c sleep {sleep}\n"));
    let mut build = project.build_command(["-o", "type=oci,dest=out.tar"]);
    let mut child = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kiln starts");
    assert!(wait_until(Duration::from_secs(120), || !with_argument(&sleep).is_empty()), "it did not start");
    project.run(&["cache", "rm", "used"]).fails(1, &["`used` is in use", "--force"]);
    project.run(&["cache", "export", "used", "-o", "x"]).fails(1, &["`used` is in use"]);
    assert!(!project.path("x").exists());
    assert_eq!(project.run(&["cache", "ls", "-q"]).ok().stdout, "used\n");
    let removed = project.run(&["cache", "rm", "--force", "used"]).ok();
    assert!(removed.stderr.contains("its files go when"), "{}", removed.stderr);
    assert_eq!(project.run(&["cache", "ls", "-q"]).ok().stdout, "");
    let kept = fs::read_dir(project.store().join("mounts")).expect("mounts").count();
    assert!(kept > 0, "the running command keeps its files");
    child.kill().expect("kill");
    child.wait().expect("wait");
    let is_empty = || {
        project.run(&["fsck"]).ok();
        fs::read_dir(project.store().join("mounts")).expect("mounts").count() == 0
    };
    assert!(wait_until(Duration::from_secs(120), is_empty), "nobody uses the files any more");
    project.run(&["cache", "rm", "used"]).fails(1, &["no cache mount `used`", "kiln cache ls"]);
}

#[test]
fn a_hostile_archive_stays_in_its_place() {
    let project = Project::new();
    let evil = |path: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        header.set_mode(0o644);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        let mut archive = header.as_bytes().to_vec();
        archive.extend(b"evil");
        archive.resize(2048, 0);
        archive
    };
    fs::write(project.path("evil.tar"), evil("../../../escaped")).expect("archive");
    project.run(&["cache", "import", "id", "evil.tar"]).fails(1, &["outside the root"]);
    assert!(!project.path("escaped").exists() && !project.store().join("escaped").exists());
    fs::write(project.path("cut.tar"), &evil("name")[..514]).expect("archive");
    project.run(&["cache", "import", "id", "cut.tar"]).fails(1, &["cut.tar", "ends in the middle"]);
    assert_eq!(project.run(&["cache", "ls", "-q"]).ok().stdout, "");
    assert_eq!(fs::read_dir(project.store().join("mounts")).expect("mounts").count(), 0);
}

#[test]
fn looking_makes_no_store() {
    let project = Project::new();
    assert_eq!(project.run(&["cache", "ls", "-q"]).ok().stdout, "");
    project.run(&["cache", "inspect", "x"]).fails(1, &["no cache mount `x`"]);
    assert!(!project.store().exists());
}

#[test]
fn what_is_no_archive_is_refused() {
    let Some(project) = Project::with_base() else { return };
    project.write("Buildfile", FILL);
    project.build(&[]).succeeds();
    project.run(&["cache", "export", "npm", "-o", "npm.tar", "--compression", "uncompressed"]).ok();
    let whole = fs::read(project.path("npm.tar")).expect("archive");
    let exported = project.run(&["cache", "export", "npm", "-o", "npm.tar.zst"]).ok();
    assert!(exported.stderr.contains(": 5 entries, "), "{}", exported.stderr);
    let zstd = fs::read(project.path("npm.tar.zst")).expect("archive");
    let mark = whole.len() - 1024;
    for (content, why) in [
        (&b""[..], "it is empty"),
        (&b"no archive at all"[..], "ends in the middle of"),
        (&[b'x'; 4096], "no tar header"),
        (&whole[..mark], "its end is missing"),
        (&whole[..512], "ends in the middle of"),
        (&zstd[..zstd.len() - 9], "damaged or ends early"),
    ] {
        fs::write(project.path("other"), content).expect("write");
        project.run(&["cache", "import", "npm", "other"]).fails(1, &["cannot import `other`", why, "export"]);
    }
    let entries = || {
        let facts = project.run(&["cache", "inspect", "npm"]).ok().stdout;
        let facts: serde_json::Value = serde_json::from_str(&facts).expect("JSON");
        facts[0]["entries"].as_u64().expect("entries")
    };
    assert_eq!(entries(), 5, "nothing was changed");
    // Archives of other programs have no entry for the directory itself, or none for those on the way.
    let mut archive = tar::Builder::new(Vec::new());
    for path in ["one", "sub/two"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, &b""[..]).expect("entry");
    }
    fs::write(project.path("other"), archive.into_inner().expect("archive")).expect("write");
    let imported = project.run(&["cache", "import", "npm", "other"]).ok();
    assert!(imported.stderr.contains(": 3 entries, "), "{}", imported.stderr);
    assert_eq!(entries(), 3);
}

#[test]
fn a_mount_tells_what_was_built_with_it_last() {
    let Some(project) = Project::with_base() else { return };
    let step = |id: &str| format!("FROM base\nRUN --mount=type=cache,id={id},target=/c date +%s%N > /c/f\n");
    project.write("Buildfile", step("shared"));
    project.write("other/Buildfile", step("shared"));
    project.write("third/Buildfile", step("own"));
    let build = |file: &str, name: &str| {
        let flags = ["-f", file, "-t", name, "--no-cache-filter=stage-0", "-otype=image"];
        crate::project::Ended::of(&mut project.build_command(flags)).ok();
    };
    let user = |id: &str| {
        let listed: serde_json::Value =
            serde_json::from_str(&project.run(&["cache", "ls", "--json"]).ok().stdout).expect("JSON");
        let all = listed.as_array().expect("list").iter();
        all.clone().find(|mount| mount["id"] == id).expect("mount")["lastUsedBy"].clone()
    };
    let ids = |what: &str| project.run(&["cache", "ls", "-q", "--used-by", what]).ok().stdout;
    build("context/Buildfile", "one");
    build("context/third/Buildfile", "three");
    assert_eq!(user("shared")["names"][0], "docker.io/library/one:latest");
    assert_eq!((ids("one"), ids("context/third/Buildfile")), ("shared\n".to_owned(), "own\n".to_owned()));
    build("context/other/Buildfile", "two");
    assert_eq!(user("shared")["file"], project.context("other/Buildfile").to_str().expect("UTF-8"));
    assert_eq!((ids("one"), ids("two:latest")), (String::new(), "shared\n".to_owned()));
    assert_eq!(ids("context"), "own\nshared\n");
    // A build that takes the step from the store used nothing.
    let cached = ["-f", "context/Buildfile", "-t", "four", "-otype=image"];
    crate::project::Ended::of(&mut project.build_command(cached)).ok();
    assert_eq!(ids("four"), "");
    let table = project.run(&["cache", "ls"]).ok().stdout;
    assert!(table.lines().any(|line| line.starts_with("shared") && line.ends_with("two:latest")), "{table}");
}
