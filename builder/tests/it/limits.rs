//! Limits of commands: control groups, time and attempts.

use std::fs;
use std::path::PathBuf;

use crate::project::{Built, Project, is_root, skipped};

/// Whether the limits of a build hold here. Root can always set them where the kernel has control groups.
fn limited(built: &Built) -> bool {
    let Some(line) = built.log().lines().find(|line| line.contains("has no effect")) else { return true };
    assert!(!is_root(), "root could not set a limit: {line}");
    skipped(line);
    false
}

/// Groups that a kiln made and that are still there, of any kiln: their names begin with `kiln-`.
fn groups() -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new("/sys/fs/cgroup").max_depth(6).into_iter().flatten();
    walk.filter(|entry| entry.file_name().to_string_lossy().starts_with("kiln-"))
        .map(walkdir::DirEntry::into_path)
        .collect()
}

/// Processes that made one of `groups` and have ended.
fn left_behind(groups: &[PathBuf]) -> Vec<&PathBuf> {
    let owner = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("kiln-")?.split('-').next()?.to_owned();
        Some(name.parse::<u32>().is_ok() && !PathBuf::from("/proc").join(name).exists())
    };
    groups.iter().filter(|path| owner(path) == Some(true)).collect()
}

/// Takes too much memory. It asks to be the one that the kernel ends: between two commands of a size, and while
/// the first is still being torn down, the kernel may otherwise choose the shell.
pub const HUNGRY: &str =
    "head -c 300m /dev/zero | sh -c 'echo 1000 > /proc/self/oom_score_adj; exec tail' > /dev/null";

#[test]
fn a_command_that_takes_too_much_memory() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(&format!("FROM base\nRUN {HUNGRY}\n"));
    let built = project.build(&["--memory=48m"]);
    if !limited(&built) {
        return;
    }
    built.fails(1, &["ran out of memory", "its limit of 48 MiB was reached", "Buildfile:2:1", "--memory"]);
    // Of the instruction's limit and the command line's the smaller one holds.
    project.write("Buildfile", format!("FROM base\nRUN --memory=32m {HUNGRY}\n"));
    project.build(&["--memory=1g"]).fails(1, &["its limit of 32 MiB"]);
    project.write("Buildfile", format!("FROM base\nRUN --memory=1g {HUNGRY}\n"));
    project.build(&["--memory=48m"]).fails(1, &["its limit of 48 MiB"]);
    // A limit is not in the key, and is not needed for a step that is there.
    project.write("Buildfile", format!("FROM base\nRUN {HUNGRY}; echo $? > /status\n"));
    // Nothing keeps the kernel from ending the shell as well, which did happen once in some hundred times.
    let built =
        (0..5).map(|_| project.build(&["--memory=48m"])).find(|built| built.log().contains("it ended well"));
    let built = built.expect("the command ended once without its shell");
    assert!(built.log().contains("it ended well, but check what it made"), "{}", built.log());
    assert_eq!(built.image().text("status"), "137\n");
    let again = project.build(&["--memory=1g"]);
    assert!(again.executed().is_empty(), "{}", again.log());
    assert!(left_behind(&groups()).is_empty(), "{:?}", groups());
}

#[test]
fn a_command_that_makes_too_many_processes() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN for i in 1 2 3 4 5 6 7 8 9; do sleep 2 & done; wait\n");
    let built = project.build(&["--pids-limit=5"]);
    if limited(&built) {
        built.fails(1, &["could start no more processes", "its limit of 5 was reached", "--pids-limit"]);
        project.build(&["--pids-limit=50"]).succeeds();
    }
}

/// Runs a step that waits, and reads what its control groups have meanwhile. Those of `pids` processes are its own: other
/// tests have groups as well. None, said aloud, where this user may not make any.
fn seen(flags: &[&str], pids: &str) -> Option<Vec<(String, String)>> {
    let project = Project::with_base()?;
    // A v1 hierarchy shows its files in sysfs of no sandbox, so the test looks from outside while the step waits.
    let project = project.buildfile("FROM base\nRUN --cpus=0.5 sleep 3\n");
    let pids_limit = format!("--pids-limit={pids}");
    let mut command = project.build_command(flags.iter().chain(&[pids_limit.as_str(), "-otype=cacheonly"]));
    command.stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("kiln starts");
    let mut found: Vec<(String, String)> = Vec::new();
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let read = |dir: &PathBuf, file: &str| {
            let text = fs::read_to_string(dir.join(file)).ok()?;
            Some((file.to_owned(), text.trim().to_owned()))
        };
        let files = [
            "memory.max",
            "memory.limit_in_bytes",
            "memory.swap.max",
            "cpu.max",
            "cpu.cfs_quota_us",
            "cpu.weight",
            "cpu.shares",
            "cpuset.cpus",
            "cpuset.mems",
            "pids.max",
        ];
        let groups = groups();
        let ours = groups.iter().find(|dir| read(dir, "pids.max").is_some_and(|(_, value)| value == pids));
        let Some(name) = ours.and_then(|dir| dir.file_name()) else { continue };
        found = groups
            .iter()
            .filter(|dir| dir.file_name() == Some(name))
            .flat_map(|dir| files.iter().filter_map(|file| read(dir, file)))
            .collect();
        // The limits are written one after the other.
        if found.iter().any(|(file, value)| file.starts_with("memory") && value == "67108864") {
            break;
        }
    }
    let output = child.wait_with_output().expect("kiln ends");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    if log.contains("has no effect") {
        assert!(!is_root(), "{log}");
        skipped("this user may not make control groups");
        return None;
    }
    Some(found)
}

/// Whether one of `pairs` is among what was found: a v1 and a v2 hierarchy have names of their own.
fn has(found: &[(String, String)], pairs: &[(&str, &str)]) -> bool {
    pairs.iter().any(|(file, value)| found.contains(&((*file).to_owned(), (*value).to_owned())))
}

#[test]
fn limits_reach_the_kernel() {
    let flags = ["--memory=64m", "--memory-swap=80m", "--cpus=2", "--cpuset-cpus=0"];
    let Some(found) = seen(&flags, "77") else { return };
    let has = |pairs: &[(&str, &str)]| has(&found, pairs);
    assert!(has(&[("memory.max", "67108864"), ("memory.limit_in_bytes", "67108864")]), "{found:?}");
    assert!(has(&[("cpu.max", "50000 100000"), ("cpu.cfs_quota_us", "50000")]), "{found:?}");
    assert!(has(&[("cpuset.cpus", "0")]) && has(&[("pids.max", "77")]), "{found:?}");
}

#[test]
fn limits_in_buildx_words_reach_the_kernel() {
    let flags = [
        "--resource=memory=64m",
        "--resource=cpu-shares=512",
        "--resource=cpu-quota=40000",
        "--resource=cpu-period=200000",
        "--resource=cpuset-cpus=0",
        "--resource=cpuset-mems=0",
    ];
    let Some(found) = seen(&flags, "78") else { return };
    let has = |pairs: &[(&str, &str)]| has(&found, pairs);
    assert!(has(&[("memory.max", "67108864"), ("memory.limit_in_bytes", "67108864")]), "{found:?}");
    assert!(has(&[("cpu.weight", "20"), ("cpu.shares", "512")]), "{found:?}");
    // Of the instruction's half a processor and a fifth the smaller one holds.
    assert!(has(&[("cpu.max", "40000 200000"), ("cpu.cfs_quota_us", "40000")]), "{found:?}");
    assert!(has(&[("cpuset.cpus", "0")]) && has(&[("cpuset.mems", "0")]), "{found:?}");
}

#[test]
fn limits_that_cannot_be_are_explained() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN true\n");
    let swap = ["--memory=20m", "--memory-swap=10m"];
    project.build(&swap).fails(2, &["--memory-swap is less than --memory", "memory and swap together"]);
    let built = project.build(&["--cpuset-cpus=9999"]);
    if limited(&built) {
        built.fails(1, &["of the processors 9999 not all are here; there are 0"]);
    }
}

#[test]
fn shared_memory_of_no_size_is_the_default() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN df -k /dev/shm | tail -n 1 > /size\n");
    for (flag, size) in [("--shm-size=0", "65536"), ("--shm-size=1m", "1024")] {
        let line = project.build(&[flag]).image().text("size");
        assert_eq!(line.split_whitespace().nth(1), Some(size), "{flag}: {line}");
    }
}

#[test]
fn a_command_sees_its_group_as_the_root() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN cat /proc/self/cgroup > /group\n");
    let image = project.build(&["--memory=1g"]).image();
    assert!(image.lines("group").iter().all(|line| line.ends_with(":/")), "{:?}", image.lines("group"));
}

#[test]
fn a_parent_group_of_the_users_choice() {
    let Some(project) = Project::with_base() else { return };
    if !is_root() {
        return skipped("needs root to make a group anywhere");
    }
    let parent = format!("kiln-it-parent-{}", std::process::id());
    let text = "FROM base\nRUN sleep 1\n";
    let project = project.buildfile(text);
    let mut command =
        project.build_command(["--cgroup-parent", &parent, "--cpuset-cpus=0", "-otype=cacheonly"]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("kiln starts");
    let parents = || -> Vec<PathBuf> { groups().into_iter().filter(|dir| dir.ends_with(&parent)).collect() };
    let mut children = 0;
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let dirs = parents().into_iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        children = children.max(dirs.filter(|entry| entry.path().is_dir()).count());
    }
    assert!(child.wait().expect("kiln ends").success());
    let made = parents();
    for dir in &made {
        fs::remove_dir(dir).expect("nothing is left in it");
    }
    assert!(children > 0 && !made.is_empty(), "no group was made below {parent}");
    project.build(&["--cgroup-parent=../x"]).fails(2, &["`../x` is not the path of a control group"]);
}

#[test]
fn a_command_that_takes_too_long() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN --timeout=700ms echo begun; sleep 60 & sleep 60\n");
    let built = project.build(&[]);
    built.fails(1, &["was stopped: it took longer than its --timeout of 700ms", "begun", "Buildfile:2:1"]);
    project.write("Buildfile", "FROM base\nRUN --timeout=1h echo done\n");
    project.build(&[]).succeeds();
}

#[test]
fn a_command_is_tried_again() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN --retry=2 --mount=type=cache,target=/c echo x >> /c/n; echo x >> /n; \
                test $(wc -l < /c/n) = 2\n";
    let project = project.buildfile(text);
    let built = project.build(&[]);
    assert!(built.log().contains("attempt 1 of 3 failed: exit code: 1"), "{}", built.log());
    assert_eq!(built.image().text("n"), "x\n", "each attempt begins anew");
    project.write("Buildfile", "FROM base\nRUN --retry=1 echo again; exit 7\n");
    let built = project.build(&[]);
    built.fails(1, &["exit code: 7"]);
    assert_eq!(built.log().lines().filter(|line| line.ends_with(" again")).count(), 2, "{}", built.log());
}

#[test]
fn limits_of_an_instruction_are_kilns_own() {
    let project = Project::new().buildfile("FROM a\nRUN --memory=1g true\n");
    let ended = project.run(&["check", "--strict-dockerfile", "-f", "context/Buildfile", "context"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains("`--memory` of RUN is kiln's own"), "{}", ended.stdout);
    assert!(ended.stdout.contains("context/Buildfile:2"), "{}", ended.stdout);
    let ended = project.run(&["check", "-f", "context/Buildfile", "context"]);
    assert!(!ended.stdout.contains("kiln's own"), "{}", ended.stdout);
    project.write("Buildfile", "FROM base\nRUN --timeout=5 true\n");
    project.build(&[]).fails(1, &["invalid value \"5\" for --timeout", "Buildfile:2:15", "10m"]);
}
