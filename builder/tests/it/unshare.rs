//! `kiln unshare`: a command with kiln's rights over its store, and images mounted for it.

use crate::project::Project;

fn built() -> Option<Project> {
    let project =
        Project::with_base()?.buildfile("FROM base\nRUN echo inside > /f && chmod 600 /f && chown 7:8 /f\n");
    let mut build = project.build_command(["-t", "app:1"]);
    crate::project::Ended::of(&mut build).ok();
    Some(project)
}

#[test]
fn images_are_mounted_read_only_and_leave_nothing() {
    let Some(project) = built() else { return };
    let script = "cat $ROOT/f; ls $OTHER/bin/sh > /dev/null && id -u && echo x 2> /dev/null > $ROOT/new || echo kept; \
                  echo $ROOT";
    let ended =
        project.run(&["unshare", "--mount", "ROOT=app:1", "--mount=OTHER=app:1", "sh", "-c", script]).ok();
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[..3], ["inside", "0", "kept"], "{}", ended.stderr);
    assert!(!std::path::Path::new(lines[3]).exists(), "{}", lines[3]);
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(lines[3]), "{mounts}");
    project.run(&["unshare", "--mount=ROOT=none.invalid/x", "true"]).fails(1, &["none.invalid/x"]);
    project.run(&["unshare", "--mount=1=app", "true"]).fails(2, &["VARIABLE=IMAGE"]);
}

#[test]
fn the_store_is_the_same_and_the_status_is_passed_on() {
    let project = Project::new();
    let store = project.store().display().to_string();
    assert_eq!(project.run(&["unshare", "sh", "-c", "echo $KILN_ROOT"]).ok().stdout.trim(), store);
    assert_eq!(project.run(&["unshare", "sh", "-c", "exit 7"]).code, Some(7));
    assert_eq!(project.run(&["unshare", "sh", "-c", "kill -KILL $$"]).code, Some(137));
    project.run(&["unshare", "/no/such/program"]).fails(1, &["cannot start `/no/such/program`"]);
    assert!(!project.store().exists(), "a command without images made a store");
}
