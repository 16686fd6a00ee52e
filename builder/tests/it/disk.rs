//! A full disk and a machine without user namespaces: clear messages, and the store works afterwards.

use std::process::Command;

use crate::base::{Member, image, tar};
use crate::project::{Ended, Project, binary, is_root, skipped};
use crate::server::Server;

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

#[test]
fn a_copy_that_does_not_fit() {
    let project = Project::new().file("big", noise(30 << 20));
    let Some((first, second)) = on_a_small_disk(&project, "FROM scratch\nCOPY big /\n") else { return };
    first.fails(102, &["o space left", "--root"]);
    second.ok();
}

#[test]
fn an_image_that_does_not_fit() {
    let data = noise(30 << 20);
    let server = Server::registry(image(&tar(&[Member::File("big", 0o644, &data)]), serde_json::json!({})));
    let project = Project::new().file("f", "");
    let text = format!("FROM {}/big:1\nCOPY f /\n", server.address);
    let Some((first, second)) = on_a_small_disk(&project, &text) else { return };
    first.fails(102, &["o space left", "--root"]);
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
