//! What builds leave behind, and what `kiln history`, `log` and `explain` make of it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::project::{Ended, Project};

const APP: &str = "FROM base\nARG FOO=1\nCOPY . /app\nRUN cat /app/src/main.rs; echo \"foo=$FOO\" > /foo\n";

fn app() -> Option<Project> {
    let project = Project::with_base()?.file("src/main.rs", "one\n").file("readme", "x").buildfile(APP);
    // The Buildfile itself is no part of what is copied.
    project.write(".dockerignore", "Buildfile\n.dockerignore\n");
    Some(project)
}

/// The lines of `kiln explain` about the last build.
fn explained(project: &Project) -> Vec<String> {
    project.run(&["explain"]).ok().stdout.lines().map(str::to_owned).collect()
}

#[track_caller]
fn has(lines: &[String], parts: &[&str]) {
    assert!(
        lines.iter().any(|line| parts.iter().all(|part| line.contains(part))),
        "no line has {parts:?}: {lines:?}"
    );
}

fn history(project: &Project) -> Vec<Value> {
    serde_json::from_str(&project.run(&["history", "--json"]).ok().stdout).expect("JSON")
}

/// Directories of the records, the oldest first.
fn records(project: &Project) -> Vec<PathBuf> {
    let entries = fs::read_dir(project.store().join("records")).expect("records").flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|path| !path.ends_with("listings")).collect();
    found.sort();
    found
}

#[test]
fn files_are_named_that_changed_came_or_went() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(project) = app() else { return };
    let first = project.build(&["--explain"]);
    first.succeeds();
    assert!(first.log().contains("COPY . /app: first build of this step"), "{}", first.log());
    project.write("src/main.rs", "two\n");
    let built = project.build(&["--explain"]);
    assert!(built.log().contains("] COPY . /app: src/main.rs changed (sha256 "), "{}", built.log());
    assert!(built.log().contains("an input ran again: [2/3] COPY . /app"), "{}", built.log());
    assert!(built.log().contains("\n  because  COPY . /app: src/main.rs changed"), "{}", built.log());
    has(&explained(&project), &["COPY . /app: src/main.rs changed (sha256 ", "→"]);
    project.write("src/new", "");
    project.build(&[]).succeeds();
    has(&explained(&project), &["COPY . /app: src/new was added"]);
    fs::remove_file(project.context("src/new")).expect("remove");
    project.write("src/other", "");
    fs::remove_file(project.context("readme")).expect("remove");
    project.build(&[]).succeeds();
    has(&explained(&project), &["COPY . /app: readme was removed, and 2 more files"]);
    fs::set_permissions(project.context("src/other"), fs::Permissions::from_mode(0o755)).expect("mode");
    project.build(&[]).succeeds();
    has(&explained(&project), &["COPY . /app: src/other changed its mode (0644→0755)"]);
    if !has_attribute(&project.context("src/other"), "one") {
        crate::project::skipped("this file system has no user attributes");
        return;
    }
    project.build(&[]).succeeds();
    has(&explained(&project), &["COPY . /app: src/other changed its extended attributes"]);
    has_attribute(&project.context("src/other"), "two");
    project.build(&[]).succeeds();
    has(&explained(&project), &["COPY . /app: src/other changed its extended attributes"]);
    project.write("src/other", "content");
    project.build(&[]).succeeds();
    has(&explained(&project), &["COPY . /app: src/other changed (sha256 "]);
    project.build(&[]).succeeds();
    assert_eq!(explained(&project), ["no step ran: 2 of 2 were stored"]);
}

/// Sets an extended attribute; false where that cannot be.
fn has_attribute(path: &std::path::Path, value: &str) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "user.kiln", value.as_bytes(), flags).is_ok()
}

#[test]
fn arguments_commands_environment_and_settings_are_named() {
    let Some(project) = app() else { return };
    project.build(&["--build-arg", "FOO=1"]).succeeds();
    project.build(&["--build-arg", "FOO=2"]).succeeds();
    has(&explained(&project), &["RUN cat", "build argument FOO was \"1\", is \"2\""]);
    let change = |text: &str, expected: &str| {
        project.write("Buildfile", format!("FROM base\n{text}\n"));
        project.build(&["--allow=network.host"]).succeeds();
        has(&explained(&project), &["RUN", expected]);
    };
    project.write("Buildfile", "FROM base\nENV A=1\nRUN echo x\n");
    project.build(&[]).succeeds();
    change("ENV A=2\nRUN echo x", "environment A was \"1\", is \"2\"");
    change("ENV A=2\nRUN echo y", "command was \"echo x\", is \"echo y\"");
    change("ENV A=2\nUSER 7\nRUN echo y", "user was \"\", is \"7\"");
    change("ENV A=2\nUSER 7\nRUN --network=none echo y", "network mode was \"default\", is \"none\"");
    change(
        "ENV A=2\nUSER 7\nRUN --network=none --mount=type=tmpfs,target=/t echo y",
        "mount added: \"tmpfs /t\"",
    );
    project.build(&["--no-cache"]).succeeds();
    has(&explained(&project), &["RUN", ": --no-cache"]);
}

#[test]
fn inputs_arguments_orders_and_filters_are_named() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("a.txt", "a");
    let change = |text: &str, flags: &[&str], expected: &str| {
        project.write("Buildfile", format!("FROM base AS one\n{text}\n"));
        let built = project.build(flags);
        built.succeeds();
        if !expected.is_empty() {
            has(&explained(&project), &[expected]);
        }
        built
    };
    change("COPY a.txt /1\nCOPY a.txt /2", &[], "first build of this step");
    change(
        "COPY a.txt /2\nCOPY a.txt /1",
        &[],
        "COPY a.txt /2: input was [2/3] COPY a.txt /1, is the base image ",
    );
    change("RUN echo x", &[], "first build of this step");
    change("ARG N=5\nRUN echo x", &[], "RUN echo x: build argument N was not set, is \"5\"");
    change("ENV A=1 B=2\nRUN echo y", &[], "");
    change("ENV B=2 A=1\nRUN echo y", &[], "RUN echo y: the order of the environment variables changed");
    change("ENV B=2 A=1\nRUN echo y", &["--no-cache-filter", "one"], "RUN echo y: --no-cache-filter");
    let built = change("ENV B=2 A=1\nRUN echo y", &["--no-cache-filter", "ono"], "no step ran");
    let log = built.log();
    assert!(log.contains("no stage is named `ono`") && log.contains("did you mean `one`?"), "{log}");
}

#[test]
fn a_linked_copy_is_one_step() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("a", "a").buildfile("FROM base\nRUN echo 1 > /x\nCOPY --link a /a\n");
    let first = project.build(&[]);
    assert_eq!(first.executed().len(), 2, "{}", first.log());
    project.write("Buildfile", "FROM base\nRUN echo 2 > /x\nCOPY --link a /a\n");
    let second = project.build(&[]);
    assert_eq!(second.executed(), ["RUN echo 2 > /x"], "{}", second.log());
    assert!(!second.log().contains("LINK COPY"), "{}", second.log());
    let third = project.build(&[]);
    assert!(third.log().contains("2 steps, all cached") && third.log().contains("CACHED"), "{}", third.log());
    let all = history(&project);
    let counts = |name: &str| -> Vec<u64> {
        all.iter().map(|build| build["totals"][name].as_u64().expect("a number")).collect()
    };
    assert_eq!((counts("steps"), counts("ran")), (vec![2, 2, 2], vec![0, 1, 2]));
    assert_eq!(counts("cached"), [2, 1, 0]);
}

#[test]
fn another_base_image_is_named() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo x\n");
    project.build(&[]).succeeds();
    project.write("Inner", "FROM base\nRUN echo more > /more\n");
    let inner = format!("type=oci,tar=false,dest={}", project.path("inner").display());
    Ended::of(&mut project.build_command(["-f", "context/Inner", "-o", &inner])).ok();
    let base = format!("base=oci-layout://{}", project.path("inner").display());
    // The last context of a name holds.
    project.build(&["--build-context", &base]).succeeds();
    has(&explained(&project), &["RUN echo x: base image ", "digest ", "→"]);
}

#[test]
fn a_result_that_was_removed_is_told() {
    let Some(project) = app() else { return };
    project.build(&[]).succeeds();
    for name in fs::read_dir(project.store().join("snapshots")).expect("snapshots").flatten() {
        let removed = fs::remove_dir_all(name.path());
        if removed.is_err() {
            crate::project::skipped("snapshots of subordinate ids cannot be removed by this user");
            return;
        }
    }
    project.build(&[]).succeeds();
    has(
        &explained(&project),
        &["COPY . /app: the stored result was removed (by prune, gc or repair) or found lost"],
    );
}

#[test]
fn early_cutoff_is_told_and_leaves_everything_below_cached() {
    let Some(project) = Project::with_base() else { return };
    let text =
        "FROM base\nRUN --mount=target=/c sort /c/list > /sorted\nRUN cat /sorted > /a\nRUN cat /a > /b\n";
    let project = project.file("list", "b\na\n").buildfile(text);
    project.write(".dockerignore", "Buildfile\n.dockerignore\n");
    let first = project.build(&[]);
    project.write("list", "a\nb\n");
    let second = project.build(&["--explain"]);
    assert_eq!(second.executed(), ["RUN --mount=target=/c sort /c/list > /sorted"], "{}", second.log());
    assert_eq!(first.image().digest, second.image().digest);
    let lines = explained(&project);
    has(
        &lines,
        &[
            "RUN --mount=target=/c sort",
            "list changed (sha256",
            "re-ran, same result: everything below stayed cached",
        ],
    );
    assert_eq!(lines.iter().filter(|line| line.contains("RUN")).count(), 1, "{lines:?}");
}

#[test]
fn old_results_run_again_when_asked() {
    let Some(project) = app() else { return };
    project.build(&[]).succeeds();
    assert_eq!(project.build(&["--cache-ttl", "1h"]).executed(), Vec::<String>::new());
    // Times of results have whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let built = project.build(&["--cache-ttl", "1s"]);
    assert_eq!(built.executed().len(), 2, "{}", built.log());
    has(&explained(&project), &["COPY . /app: the stored result is ", "--cache-ttl"]);
    assert_eq!(project.build(&["--cache-ttl=0"]).executed().len(), 2);
    has(&explained(&project), &["COPY . /app: the stored result is ", "--cache-ttl"]);
    project.build(&["--cache-ttl", "soon"]).fails(2, &["`soon` is not a duration"]);
}

#[test]
fn logs_are_whole_and_searchable() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN for i in $(seq 1 30000); do echo \"line $i of many, with some text to make it long\"; done\n\
                RUN echo needle; printf 'no end'\n";
    let project = project.buildfile(text);
    project.build(&[]).succeeds();
    let all = project.run(&["log"]).ok().stdout;
    assert_eq!(all.lines().filter(|line| line.starts_with("line ")).count(), 30_000);
    assert!(all.ends_with("needle\nno end\n"), "{}", &all[all.len() - 100..]);
    let found = project.run(&["log", "--grep", "^line 2999[89] |needle"]).ok().stdout;
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), 5, "{found}");
    assert!(lines[0].starts_with('#') && lines[1].starts_with("line 29998 ") && lines[4] == "needle");
    project.run(&["log", "--grep", "nothing like it"]).fails(1, &[]);
    project.run(&["log", "--grep", "("]).fails(2, &["--grep"]);
    let number = lines[3].trim_start_matches('#').split(' ').next().expect("number");
    let json: Value =
        serde_json::from_str(&project.run(&["log", "--step", number, "--json"]).ok().stdout).expect("JSON");
    assert_eq!(json[0]["log"], "needle\nno end");
    project.run(&["log", "--step", "99"]).fails(1, &["has no step 99"]);
    // What comes from the store has the log of the build that ran it only.
    project.build(&[]).succeeds();
    assert_eq!(project.run(&["log"]).ok().stdout, "");
    let first = history(&project)[1]["id"].as_str().expect("id").to_owned();
    assert!(project.run(&["log", &first[..6], "--grep", "needle"]).ok().stdout.contains("needle"));
}

#[test]
fn history_lists_builds_of_every_kind() {
    let Some(project) = app() else { return };
    project.run(&["history"]).ok();
    assert!(!project.store().exists(), "looking makes no store");
    project.run(&["log"]).fails(1, &["no build has been recorded"]);
    project.build(&["-t", "shop:1"]).succeeds();
    project.build(&["--build-arg", "FOO=3"]).succeeds();
    project.write("Buildfile", format!("{APP}RUN echo oh no; exit 7\n"));
    project.build(&["--target", "nowhere"]).fails(1, &[]);
    project.build(&[]).fails(1, &["exit code: 7"]);
    let all = history(&project);
    let field = |path: &str| -> Vec<Value> {
        all.iter().map(|build| build.pointer(path).cloned().unwrap_or_default()).collect()
    };
    assert_eq!(field("/result"), ["failed", "failed", "succeeded", "succeeded"]);
    assert_eq!(field("/totals/ran"), [0, 0, 1, 2]);
    assert_eq!(field("/totals/failed"), [1, 0, 0, 0]);
    assert_eq!(field("/about/target")[1], "nowhere");
    let table = project.run(&["history", "-n", "4"]).ok().stdout;
    assert!(table.contains("shop:1") && table.contains("failed") && table.contains("(nowhere)"), "{table}");
    let log: Value = serde_json::from_str(&project.run(&["log", "--json"]).ok().stdout).expect("JSON");
    let failed =
        log.as_array().expect("array").iter().find(|step| step["outcome"] == "failed").expect("failed step");
    assert_eq!((failed["exit_code"].as_i64(), failed["log"].as_str()), (Some(7), Some("oh no\n")));
    has(&explained(&project), &["RUN echo oh no; exit 7: first build of this step"]);
    project.run(&["explain", "zz"]).fails(1, &["no record of a build `zz`", "kiln history"]);
    project.run(&["explain", ""]).fails(1, &["may mean the builds"]);
}

#[test]
fn damaged_records_stop_nothing() {
    let Some(project) = app() else { return };
    for value in ["1", "2", "3", "4"] {
        project.build(&["--build-arg", &format!("FOO={value}")]).succeeds();
    }
    let dirs = records(&project);
    let text = fs::read(dirs[3].join("build.json")).expect("record");
    fs::write(dirs[3].join("build.json"), &text[..text.len() / 2]).expect("cut");
    fs::write(dirs[2].join("build.json"), b"\xff\0{").expect("garbage");
    fs::remove_file(dirs[1].join("build.json")).expect("remove");
    for listing in fs::read_dir(project.store().join("records/listings")).expect("listings").flatten() {
        fs::write(listing.path(), "damaged").expect("damage");
    }
    let table = project.run(&["history"]).ok().stdout;
    assert!(
        table.contains("is damaged") && table.contains("cannot read") && table.contains("done"),
        "{table}"
    );
    assert_eq!(history(&project).len(), 4);
    project.run(&["explain"]).fails(1, &["is damaged"]);
    project.run(&["log"]).fails(1, &["is damaged"]);
    project.write("src/main.rs", "changed\n");
    let built = project.build(&["--build-arg", "FOO=5", "--explain"]);
    built.succeeds();
    assert!(built.log().contains("COPY . /app: files changed"), "{}", built.log());
}

#[test]
fn no_secret_is_in_the_records() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN --mount=type=secret,id=s --mount=type=secret,id=e,env=E cat /run/secrets/s; echo \"$E\"; echo end\n";
    let project = project.buildfile(text);
    fs::write(project.path("s"), "file-secret-value\n").expect("secret");
    let built = project.build_with(
        &[
            "--secret",
            "id=s,src=s",
            "--secret",
            "id=e,env=EE",
            "--build-arg",
            "http_proxy=http://u:proxypass@127.0.0.1:1/",
        ],
        |command| {
            command.env("EE", "variable-secret-value");
        },
    );
    built.succeeds();
    assert!(built.said("*****") && built.said("end"), "{}", built.log());
    let log = project.run(&["log"]).ok().stdout;
    assert!(log.contains("*****") && log.contains("end\n"), "{log}");
    for path in crate::project::tree(&project.store().join("records")) {
        let bytes = fs::read(project.store().join("records").join(&path)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for secret in ["file-secret-value", "variable-secret-value", "proxypass"] {
            assert!(!text.contains(secret), "{path} holds {secret}");
        }
    }
}

#[test]
fn a_secret_counts_when_its_mount_says_so() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN --mount=type=secret,id=s,cachekey=true echo ran\n");
    let build = |value: &str| {
        fs::write(project.path("s"), value).expect("secret");
        project.build(&["--secret", "id=s,src=s"])
    };
    assert!(build("one").said("ran") && !build("one").said("ran"));
    assert!(build("two").said("ran"));
    has(&explained(&project), &["RUN", "a secret with cachekey=true changed"]);
    assert!(!build("one").said("ran"), "the earlier result is there still");
    assert!(project.build(&[]).said("ran"), "no secret is another value too");
    let key = fs::metadata(project.store().join("secret-key")).expect("key");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
    // The store's database knows keys only, and no key is the bare hash of the value.
    let hash = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
    for path in crate::project::tree(&project.store()) {
        let bytes = fs::read(project.store().join(&path)).unwrap_or_default();
        assert!(!bytes.windows(hash.len()).any(|part| part == hash.as_bytes()), "{path}");
    }
}

#[test]
fn a_killed_build_is_unfinished() {
    let Some(project) = Project::with_base() else { return };
    let sleep = crate::leftovers::unique_seconds();
    let project = project.buildfile(&format!("FROM base\nRUN echo begun; sleep {sleep}\n"));
    let mut child = project
        .build_command(["-otype=cacheonly"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("kiln");
    let started = crate::processes::wait_until(std::time::Duration::from_secs(120), || {
        !crate::processes::with_argument(&sleep).is_empty()
    });
    assert!(started, "the command did not start");
    // What it said is on its way through a pipe.
    let logged = crate::processes::wait_until(std::time::Duration::from_secs(120), || {
        project.run(&["log"]).stdout.contains("begun\n")
    });
    assert!(logged, "the log is not written while the command runs");
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(history(&project)[0]["result"], "unfinished");
    assert!(project.run(&["log"]).ok().stdout.contains("begun\n"));
    has(&explained(&project), &["has not finished"]);
}

#[test]
fn a_part_of_a_stage_that_is_mounted_counts_alone() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base AS one\nARG V\nRUN mkdir /out; echo same > /out/f; echo $V > /log\n\
                FROM base\nRUN --mount=from=one,source=/out,target=/m cat /m/f; echo ran\n";
    let project = project.buildfile(text);
    assert!(project.build(&["--build-arg", "V=1"]).said("ran"));
    let built = project.build(&["--build-arg", "V=2"]);
    assert_eq!(built.executed().len(), 1, "{}", built.log());
    assert!(!built.said("ran"), "{}", built.log());
    project.write("Buildfile", text.replace("same", "other"));
    assert!(project.build(&["--build-arg", "V=2"]).said("ran"));
}
