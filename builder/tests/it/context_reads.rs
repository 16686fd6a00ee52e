//! Which files of a context are read to find out whether it changed: those that did.
//!
//! Invariants: opens are counted by strace, from outside of kiln.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::project::{Ended, Project, is_root, skipped};

const FILES: usize = 2000;

fn name(number: usize) -> String {
    format!("d{}/file-{number}", number / 100)
}

/// Builds under strace and gives the names of the files that were opened before the first one was copied.
fn opened(project: &Project) -> BTreeSet<String> {
    let trace = project.path("trace");
    let build = project.build_command(["-otype=cacheonly"]);
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=open,openat,openat2", "-o"]).arg(&trace).arg(build.get_program());
    command.args(build.get_args()).current_dir(project.path("."));
    command.env("KILN_ROOT", project.store()).env("HOME", project.path("."));
    Ended::of(&mut command).ok();
    let text = fs::read_to_string(&trace).expect("trace");
    let of_files: Vec<&str> = text.lines().filter(|line| line.contains("\"file-")).collect();
    // The thread that copies opens its first source before its first copy.
    let thread = |line: &str| line.split(' ').next().map(str::to_owned);
    let copies = of_files.iter().position(|line| line.contains("O_CREAT")).unwrap_or(of_files.len());
    let copier = of_files.get(copies).and_then(|line| thread(line));
    let before = of_files.iter().take(copies).filter(|line| copier.is_none() || thread(line) != copier);
    before.filter_map(|line| Some(line.split_once("\"file-")?.1.split('"').next()?.to_owned())).collect()
}

#[test]
fn only_changed_files_are_read() {
    if !is_root() {
        skipped("under strace newuidmap has no privileges, so only root can be traced");
        return;
    }
    if !Command::new("strace").arg("true").output().is_ok_and(|traced| traced.status.success()) {
        skipped("there is no strace, or it may not trace");
        return;
    }
    let project = Project::new().buildfile("FROM scratch\nCOPY . /\n");
    project.write(".dockerignore", "Buildfile\n.dockerignore\n");
    for number in 0..FILES {
        project.write(&name(number), format!("content {number}"));
    }
    // Files that changed just now are not remembered: they may change again unseen.
    let settle = || std::thread::sleep(Duration::from_millis(3100));
    settle();
    assert_eq!(opened(&project).len(), FILES, "the first build reads all of them");
    assert_eq!(opened(&project), BTreeSet::new(), "what did not change is not read");
    project.write(&name(777), "other");
    settle();
    assert_eq!(opened(&project), BTreeSet::from(["777".to_owned()]));
    // New times and equal bytes: it is read, and then nothing runs.
    project.write(&name(778), "content 778");
    settle();
    assert_eq!(opened(&project), BTreeSet::from(["778".to_owned()]));
    assert_eq!(project.build(&[]).executed(), Vec::<String>::new());
}
