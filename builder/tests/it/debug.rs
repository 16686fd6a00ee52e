//! `kiln debug` and `kiln build --on-failure=shell`: a shell in the place of a step.

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use rustix::termios::LocalModes;

use crate::project::{Ended, Project};
use crate::pty::Session;

const BROKEN: &str = "FROM base\nENV GREETING=hello\nWORKDIR /src\nCOPY data .\nRUN echo kept > /kept\n\
     USER 7:8\nRUN --mount=type=cache,target=/cache,mode=0777 --mount=type=tmpfs,target=/scratch \\\n    \
     echo $GREETING; touch /tmp/partial /cache/made; exit 3\n";

fn broken() -> Option<Project> {
    let project = Project::with_base()?.file("data", "data\n").buildfile(BROKEN);
    project.write(".dockerignore", "Buildfile\n");
    let built = project.build(&[]);
    built.fails(
        1,
        &["exit code: 3", "  ran as: user 7:8, directory /src, linux/", "hint: `kiln debug` opens a shell"],
    );
    Some(project)
}

/// `kiln debug` with commands on standard input.
fn debug(project: &Project, flags: &[&str], commands: &str) -> Ended {
    let input = project.path("commands");
    fs::write(&input, commands).expect("commands");
    let mut command = project.kiln(["debug"].iter().chain(flags));
    Ended::of(command.stdin(fs::File::open(input).expect("commands")))
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing:\n{text}");
    }
}

#[test]
fn the_last_failure_is_entered_as_it_was_before_its_command() {
    let Some(project) = broken() else { return };
    let shown = debug(
        &project,
        &[],
        "id -u; id -g; pwd; echo $GREETING; cat data /kept; ls /tmp; echo in /cache: $(ls /cache)\n\
         grep -c ' /scratch ' /proc/self/mounts; /dev/pipes/step; echo status $?; touch /cache/mine; exit 9\n",
    );
    assert_eq!(shown.code, Some(9), "{}", shown.stderr);
    // The command itself leaves /tmp/partial, which was not there before.
    assert_eq!(
        shown.stdout, "7\n8\n/src\nhello\ndata\nkept\nin /cache: made\n1\nhello\nstatus 3\n",
        "{}",
        shown.stderr
    );
    has(
        &shown.stderr,
        &["] RUN --mount=type=cache", "exit code: 3", "user 7:8, directory /src", "/dev/pipes/step"],
    );
    let again = debug(&project, &[], "ls /tmp /cache\n").ok();
    assert_eq!(again.stdout, "/cache:\nmade\n\n/tmp:\n", "what a shell changed outlived it");
}

#[test]
fn any_step_of_any_build_is_entered_before_or_after_it() {
    let Some(project) = broken() else { return };
    let history: serde_json::Value =
        serde_json::from_str(&project.run(&["history", "--json"]).ok().stdout).expect("JSON");
    let id = history[0]["id"].as_str().expect("an id").to_owned();
    project.write("Buildfile", "FROM base\nRUN echo other\n");
    project.build(&[]).succeeds();
    let log: serde_json::Value =
        serde_json::from_str(&project.run(&["log", "--json", &id]).ok().stdout).expect("JSON");
    let number = |part: &str| {
        let steps = log.as_array().expect("steps");
        let step = steps.iter().find(|step| step["name"].as_str().is_some_and(|name| name.contains(part)));
        step.unwrap_or_else(|| panic!("no step {part}: {log}"))["step"].to_string()
    };
    let kept = number("] RUN echo kept");
    let before = debug(&project, &[&id, "--step", &kept], "cat data; ls /kept; id -u\n");
    has(&before.stdout, &["data\n0\n"]);
    has(&before.stderr, &["/kept: No such file"]);
    assert_eq!(debug(&project, &[&id, "--step", &kept, "--after"], "cat /kept\n").ok().stdout, "kept\n");
    let copy = number("] COPY data");
    assert_eq!(debug(&project, &[&id, "--step", &copy], "pwd; ls /src\n").ok().stdout, "/\n");
    let base = number("] FROM");
    let run = debug(&project, &[&id, "--step", &base, "--", "ls", "-d", "/bin"], "").ok();
    assert_eq!(run.stdout, "/bin\n");
    // The last build has no failed step, so the one before it is entered.
    assert_eq!(debug(&project, &[], "id -u\n").ok().stdout, "7\n");
    debug(&project, &[&id, "--step", "77"], "").fails(1, &["has no step 77", "] COPY data"]);
    debug(&project, &[&id, "--step", &number("build context")], "").fails(1, &["no file system of its own"]);
    debug(&project, &[&id, "--after"], "").fails(1, &["did not succeed", "--on-failure=shell"]);
    debug(&project, &["ffffffffff"], "").fails(1, &["no record of a build", "kiln history"]);
}

#[test]
fn what_is_gone_is_told_with_the_way_to_get_it_back() {
    let Some(project) = broken() else { return };
    project.run(&["prune", "--all", "--force"]).ok();
    debug(&project, &[], "").fails(1, &["] RUN echo kept", "is not in the store any more", "build again"]);
    project.build(&[]).fails(1, &["exit code: 3"]);
    assert_eq!(debug(&project, &[], "cat /kept\n").ok().stdout, "kept\n");
}

#[test]
fn a_store_without_failures_lists_its_steps() {
    let Some(project) = Project::with_base() else { return };
    debug(&project, &[], "").fails(1, &["no build has been recorded"]);
    let project = project.buildfile("FROM base\nRUN echo fine\n");
    project.build(&[]).succeeds();
    debug(&project, &[], "")
        .fails(1, &["no step of any recorded build failed", "--step 2: [2/2] RUN echo fine"]);
}

#[test]
fn secrets_are_given_again_or_missed_aloud() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(
        "FROM base\nRUN --mount=type=secret,id=token,required=true --mount=type=secret,id=word,env=WORD \\\n    false\n",
    );
    fs::write(project.path("token"), "abc").expect("secret");
    let secret = format!("id=token,src={}", project.path("token").display());
    project.build(&["--secret", &secret]).fails(1, &["exit code: 1"]);
    let show = "cat /run/secrets/token; echo \" $WORD\"\n";
    let without = debug(&project, &[], show);
    assert_eq!(without.stdout, " \n");
    has(&without.stderr, &["secret `token` is not there", "--secret id=token,src=FILE", "secret `word`"]);
    let with = debug(&project, &["--secret", &secret, "--secret", "id=word,src=token"], show).ok();
    assert_eq!(with.stdout, "abc abc\n");
    assert!(!with.stderr.contains("is not there"), "{}", with.stderr);
}

#[test]
fn an_image_without_a_shell_gets_this_machines_busybox() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(
        "FROM scratch\nCOPY --from=base /bin/busybox /program\nRUN [\"/program\", \"false\", \"it's\"]\n",
    );
    project.build(&[]).fails(1, &["/program false"]);
    let path = project.path("empty");
    fs::create_dir(&path).expect("directory");
    let mut command = project.kiln(["debug"]);
    Ended::of(command.env("PATH", &path)).fails(1, &["has no shell", "--shell PATH", "busybox-static"]);
    let shown = debug(&project, &["--shell", "/nowhere"], "");
    shown.fails(1, &["cannot start `/nowhere`"]);
    let shown = debug(&project, &[], "ls /; tail -1 /dev/pipes/step\n").ok();
    has(&shown.stdout, &["program\n", r"exec /program false 'it'\''s'"]);
    has(&shown.stderr, &["the image has no shell: this machine's /"]);
}

#[test]
fn a_shell_at_a_terminal_has_one_of_its_own_and_gives_the_users_back() {
    let Some(project) = broken() else { return };
    let mut session = Session::start(project.kiln(["debug"]).env("TERM", "vt100"), 33, 77);
    let before = session.modes();
    session.wait_for("what you change is thrown away");
    session.wait_for("$ ");
    assert!(!session.modes().local_modes.contains(LocalModes::ICANON), "the user's terminal is raw");
    session.send("tty; stty size; echo TERM is $TERM, $(id -u)\r");
    session.wait_for("/dev/pts/0\r\n33 77\r\nTERM is vt100, 7\r\n");
    session.resize(22, 55);
    session.send("stty size\r");
    session.wait_for("22 55\r\n");
    // The terminal is the controlling one: an interrupt ends the command in front, and the shell goes on.
    // The command itself says that it is in front; before that an interrupt is the shell's alone.
    session.send("/bin/sh -c 'echo sleeping; exec sleep 1000'\r");
    session.wait_for("\nsleeping\r\n");
    session.send("\u{3}");
    session.wait_for("$ ");
    session.send("echo still $((40 + 2)) here; exit 5\r");
    session.wait_for("still 42 here\r\n");
    let slave_modes = {
        let mut session = session;
        session.wait_end();
        let modes = session.modes();
        assert_eq!(session.end().0, Some(5));
        modes
    };
    assert_eq!(slave_modes.local_modes, before.local_modes);
    assert_eq!(slave_modes.input_modes, before.input_modes);
    assert_eq!(slave_modes.output_modes, before.output_modes);
}

#[test]
fn a_signal_ends_the_shell_and_gives_the_terminal_back() {
    let Some(project) = broken() else { return };
    let mut session = Session::start(&mut project.kiln(["debug"]), 24, 80);
    let before = session.modes();
    session.wait_for("$ ");
    session.signal(Signal::TERM);
    session.wait_end();
    let after = session.modes();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(session.end().0, Some(130));
}

#[test]
fn kiln_run_at_a_terminal_has_job_control() {
    let Some(project) = Project::with_base() else { return };
    let image = format!("oci-layout://{}", project.path("base").display());
    let mut session = Session::start(&mut project.kiln(["run", &image, "/bin/sh"]), 24, 80);
    session.wait_for("# ");
    session.send("tty; exit 4\r");
    session.wait_for("/dev/pts/0\r\n");
    assert_eq!(session.end().0, Some(4));
}

#[test]
fn a_build_enters_the_step_that_failed_with_what_it_wrote() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("data", "data\n").buildfile(BROKEN);
    let build = |commands: &str| {
        fs::write(project.path("commands"), commands).expect("commands");
        let mut command = project.build_command(["--on-failure=shell"]);
        Ended::of(command.stdin(fs::File::open(project.path("commands")).expect("commands")))
    };
    let shown = build("ls /tmp; id -u; /dev/pipes/step; exit 0\n");
    // However the shell ends, the build has failed.
    assert_eq!(shown.code, Some(1), "{}", shown.stderr);
    assert_eq!(shown.stdout, "partial\n7\nhello\n", "{}", shown.stderr);
    has(&shown.stderr, &["error: process `/bin/sh -c echo $GREETING", "with what it wrote"]);
    has(&shown.stderr, &["  ran as: user 7:8, directory /src, linux/"]);
    assert!(!shown.stderr.contains("`kiln debug`"), "it is entered already:\n{}", shown.stderr);
    assert_eq!(shown.stderr.matches("error: ").count(), 1, "told twice:\n{}", shown.stderr);
    // With steps that go on meanwhile, and a result of the first build.
    project.write("Buildfile", format!("{BROKEN}FROM base\nRUN echo side\nCOPY --from=0 /kept /kept\n"));
    assert_eq!(build("ls /tmp\n").stdout, "partial\n");
    // A step that failed before its turn has nothing to enter.
    project.write("Buildfile", "FROM base\nCOPY nothing /\n");
    let shown = build("ls /tmp\n");
    assert_eq!((shown.code, shown.stdout.as_str()), (Some(1), ""), "{}", shown.stderr);
    project.write("Buildfile", "FROM base\nRUN echo fine\n");
    assert_eq!(build("").code, Some(0));
    let wrong = Ended::of(project.build_command(["--on-failure=panic"]).stdin(Stdio::null()));
    wrong.fails(2, &["none of stop, shell"]);
}

#[test]
fn limits_of_a_step_hold_in_its_place() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN --network=none --timeout=1m false\n");
    project.build(&["--ulimit", "nofile=77:88"]).fails(1, &["exit code: 1"]);
    let shown = debug(&project, &[], "ulimit -n; ls /sys/class/net\n").ok();
    assert_eq!(shown.stdout, "77\nlo\n", "{}", shown.stderr);
    has(&shown.stderr, &["no network"]);
}

#[test]
fn a_build_ends_after_a_step() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(
        "FROM base AS tools\nRUN echo tools > /tools\n\nFROM base\nCOPY --from=tools /tools /\nENV A=1\nRUN \\\n    \
         echo one > /one\nRUN echo two > /two\n",
    );
    let until = |place: &str| project.build(&["--until", place]);
    let stopped = until("7");
    stopped.succeeds();
    assert_eq!(
        stopped.executed(),
        ["RUN echo tools > /tools", "COPY --from=tools /tools /", "RUN     echo one > /one"]
    );
    has(stopped.log(), &["stopped after step", "RUN     echo one > /one; to enter it: kiln debug --step"]);
    assert!(!stopped.archive.exists(), "an output was written");
    // The line may be any of the instruction's; one without a step means the last step before it.
    for (place, step) in [
        ("8", "RUN     echo one"),
        ("6", "COPY --from=tools"),
        ("tools", "RUN echo tools"),
        ("2", "RUN echo tools"),
    ] {
        let stopped = until(place);
        assert_eq!(stopped.executed(), Vec::<String>::new(), "{place}");
        let line = stopped
            .log()
            .lines()
            .find(|line| line.starts_with("stopped after"))
            .unwrap_or_default()
            .to_owned();
        assert!(line.contains(step), "--until {place}: {line}");
    }
    assert_eq!(until("stage-1").executed(), ["RUN echo two > /two"]);
    until("nowhere").fails(1, &["no step of this build is in a stage `nowhere`", "stage-1, tools"]);
    until("4").fails(1, &["no step of this build is on line 4"]);
    until("99").fails(1, &["the Buildfile has 9 lines"]);
    project
        .build(&["--until", "7", "--target", "tools"])
        .fails(1, &["no step of this build is on line 7", "--target"]);
    until("0").fails(2, &["neither the number of a line"]);
}
