//! A full disk and a machine without user namespaces: clear messages, and the store works afterwards.

use std::process::Command;

use crate::base::{Member, image, tar};
use crate::project::{Ended, Project, binary, is_root, skipped};
use crate::server::{Response, Server};

/// Whether `unshare` with these flags works here.
fn can_unshare(flags: &[&str]) -> bool {
    Command::new("unshare").args(flags).arg("true").output().is_ok_and(|done| done.status.success())
}

/// Bytes that do not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size / 8).flat_map(|_| next()).collect()
}

/// Runs `kiln build` with a store of 12 MiB, then once more with a larger one. `full` is the Buildfile.
fn on_a_small_disk(project: &Project, full: &str) -> Option<(Ended, Ended)> {
    if !is_root() {
        skipped("a small file system can be mounted by root only");
        return None;
    }
    if !can_unshare(&["-m"]) {
        skipped("`unshare -m` does not work here");
        return None;
    }
    project.write("Buildfile", full);
    let store = project.store();
    std::fs::create_dir(&store).expect("mount point");
    let script = "set -e; mount -t tmpfs -o size=12m,mode=700 kiln-it \"$1\"; shift\n\
                  set +e; \"$@\" 2> first; echo $? > first.code\n\
                  mount -o remount,size=200m \"$KILN_ROOT\"\n\
                  \"$@\" 2> second; echo $? > second.code\n";
    let build = project.build_command(["-o", "type=oci,dest=out.tar"]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&store).arg(binary()).args(build.get_args());
    command.current_dir(project.path(".")).env("KILN_ROOT", &store).env("HOME", project.path("."));
    Ended::of(&mut command).ok();
    let read = |name: &str| Ended {
        code: std::fs::read_to_string(project.path(&format!("{name}.code")))
            .expect("code")
            .trim()
            .parse()
            .ok(),
        stdout: String::new(),
        stderr: std::fs::read_to_string(project.path(name)).expect("messages"),
    };
    Some((read("first"), read("second")))
}

/// Whoever comes first finds the disk full: a file, or the database.
#[track_caller]
fn tells_of_a_full_disk(ended: &Ended) {
    ended.fails(102, &["--root"]);
    let told = ["o space left", "disk is full"].iter().any(|text| ended.stderr.contains(text));
    assert!(told, "{}", ended.stderr);
}

#[test]
fn a_copy_that_does_not_fit() {
    let project = Project::new().file("big", noise(30 << 20));
    let Some((first, second)) = on_a_small_disk(&project, "FROM scratch\nCOPY big /\n") else { return };
    tells_of_a_full_disk(&first);
    second.ok();
}

#[test]
fn an_image_that_does_not_fit() {
    let data = noise(30 << 20);
    let server = Server::registry(image(&tar(&[Member::File("big", 0o644, &data)]), serde_json::json!({})));
    let project = Project::new().file("f", "");
    let text = format!("FROM {}/big:1\nCOPY f /\n", server.address);
    let Some((first, second)) = on_a_small_disk(&project, &text) else { return };
    tells_of_a_full_disk(&first);
    second.ok();
}

#[test]
fn a_command_that_fills_the_disk() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN dd if=/dev/urandom of=/big bs=1M count=30\n";
    let Some((first, second)) = on_a_small_disk(&project, text) else { return };
    // The command itself sees the full disk; its own message and status are what kiln can pass on.
    assert!(matches!(first.code, Some(1 | 102)), "{:?}\n{}", first.code, first.stderr);
    assert!(first.stderr.contains("o space left"), "{}", first.stderr);
    second.ok();
}

#[test]
fn a_command_that_fills_the_disk_and_does_not_mind() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN dd if=/dev/urandom of=/big bs=1M count=30 || true\n";
    let Some((first, second)) = on_a_small_disk(&project, text) else { return };
    first.fails(102, &["--root"]);
    second.ok();
}

#[test]
fn a_download_that_does_not_fit() {
    let data = noise(30 << 20);
    let server = Server::start(move |_| Response::new(200, data.clone()));
    let project = Project::new();
    let text = format!("FROM scratch\nADD http://{}/big /\n", server.address);
    let Some((first, second)) = on_a_small_disk(&project, &text) else { return };
    tells_of_a_full_disk(&first);
    second.ok();
}

#[test]
fn layers_that_do_not_fit_when_they_are_written() {
    // The snapshot fits, its layer does not.
    let project = Project::new().file("big", noise(8 << 20));
    let Some((first, second)) = on_a_small_disk(&project, "FROM scratch\nCOPY big /\n") else { return };
    tells_of_a_full_disk(&first);
    second.ok();
}

#[test]
fn an_archive_whose_content_does_not_fit() {
    let big = noise(30 << 20);
    let archive = tar(&[Member::File("big", 0o644, &big)]);
    let project = Project::new().file("a.tar", archive);
    let Some((first, second)) = on_a_small_disk(&project, "FROM scratch\nADD a.tar /\n") else { return };
    tells_of_a_full_disk(&first);
    second.ok();
}

#[test]
fn a_copy_from_a_stage_that_does_not_fit() {
    let project = Project::new().file("big", noise(5 << 20));
    let text =
        "FROM scratch AS one\nCOPY big /\nFROM scratch\nCOPY --from=one / /a\nCOPY --link --from=one / /b\n";
    let Some((first, second)) = on_a_small_disk(&project, text) else { return };
    tells_of_a_full_disk(&first);
    second.ok();
}

#[test]
fn a_cache_mount_that_fills_the_disk() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN --mount=type=cache,target=/c dd if=/dev/urandom of=/c/big bs=1M count=30\n";
    let Some((first, second)) = on_a_small_disk(&project, text) else { return };
    assert!(matches!(first.code, Some(1 | 102)), "{:?}\n{}", first.code, first.stderr);
    assert!(first.stderr.contains("o space left"), "{}", first.stderr);
    second.ok();
}

/// On a disk without a byte left builds fail clearly, and `kiln prune` still makes room.
#[test]
fn a_disk_that_is_full_altogether() {
    if !is_root() || !can_unshare(&["-m"]) {
        skipped("a small file system can be mounted by root only");
        return;
    }
    let Some(project) = Project::with_base() else { return };
    project.write("Buildfile", "FROM base\nRUN head -c 3000000 /dev/urandom > /f\n");
    let store = project.store();
    std::fs::create_dir(&store).expect("mount point");
    let script = "set -e; mount -t tmpfs -o size=24m,mode=700 kiln-it \"$KILN_ROOT\"; kiln=$1\n\
                  \"$@\" 2> first\n\
                  (head -c 100000000 /dev/zero > \"$KILN_ROOT/filler\" || true) 2> /dev/null\n\
                  sed -i s/3000000/3000001/ context/Buildfile\n\
                  code=0; \"$@\" 2> full || code=$?; echo $code > full.code\n\
                  $kiln du > du\n\
                  $kiln prune --all > pruned 2>&1\n\
                  sed -i s/3000001/1000/ context/Buildfile\n\
                  \"$@\" 2> third\n\
                  $kiln fsck > fsck 2>&1\n";
    let build = project.build_command(["-o", "type=oci,dest=out.tar"]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(binary()).args(build.get_args());
    command.current_dir(project.path(".")).env("KILN_ROOT", &store).env("HOME", project.path("."));
    Ended::of(&mut command).ok();
    let read = |name: &str| std::fs::read_to_string(project.path(name)).expect("output");
    assert_eq!(read("full.code").trim(), "102", "{}", read("full"));
    assert!(read("full").contains("--root"), "{}", read("full"));
    assert!(read("pruned").contains("freed ") && !read("pruned").contains("freed 0B"), "{}", read("pruned"));
}

/// Runs `kiln build` of a RUN in a user namespace that may not have further ones.
fn without_namespaces(before: &str) -> Option<Ended> {
    let project = Project::with_base()?.buildfile("FROM base\nRUN true\n");
    if !can_unshare(&["-Ur"]) {
        skipped("`unshare -Ur` does not work here");
        return None;
    }
    let script = format!("echo 0 > /proc/sys/user/max_user_namespaces || exit 99; exec {before} \"$@\"");
    let build = project.build_command(["-o", "type=oci,dest=out.tar"]);
    let mut command = Command::new("unshare");
    command.args(["-Ur", "sh", "-c", &script, "sh"]).arg(binary()).args(build.get_args());
    command.current_dir(project.path(".")).env("KILN_ROOT", project.store()).env("HOME", project.path("."));
    let ended = Ended::of(&mut command);
    if ended.code == Some(99) || ended.stderr.contains("setpriv") {
        skipped("the limit of user namespaces cannot be set here");
        return None;
    }
    assert!(!project.path("out.tar").exists());
    Some(ended)
}

#[test]
fn an_ordinary_user_who_may_not_have_user_namespaces() {
    let Some(ended) = without_namespaces("setpriv --bounding-set=-all --inh-caps=-all") else { return };
    ended.fails(1, &["user namespace", "max_user_namespaces", "sysctl"]);
}

#[test]
fn root_of_a_namespace_that_may_not_have_further_ones() {
    let Some(ended) = without_namespaces("") else { return };
    // The kernel says ENOSPC; that must not be told as a full disk.
    ended.fails(1, &["user namespace"]);
    assert!(!ended.stderr.contains("free some space"), "{}", ended.stderr);
}
