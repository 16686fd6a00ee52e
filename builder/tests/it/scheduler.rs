//! Steps that two builds need at once, and builds that go on after a failure.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::leftovers::unique_seconds;
use crate::processes::{wait_until, with_argument};
use crate::project::{Ended, Project};

const LONG: Duration = Duration::from_secs(30);

/// A build in the background whose messages go to a file.
struct Background {
    child: Child,
    log: std::path::PathBuf,
}

impl Background {
    fn start(project: &Project, name: &str, flags: &[&str]) -> Self {
        let log = project.path(name);
        let out = fs::File::create(&log).expect("log");
        let mut command = project.build_command(flags);
        command.arg("-otype=cacheonly").stdout(Stdio::null()).stderr(out);
        Self { child: command.spawn().expect("kiln starts"), log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("log")
    }

    #[track_caller]
    fn waits(&self) {
        let said = wait_until(LONG, || self.said().contains("waiting for another kiln that runs this step"));
        assert!(said, "it does not say that it waits: {}", self.said());
    }

    #[track_caller]
    fn succeeds(mut self) -> String {
        let status = self.child.wait().expect("kiln ends");
        assert!(status.success(), "{}", self.said());
        self.said()
    }
}

/// How often a step's own output has this line.
fn lines(log: &str, text: &str) -> usize {
    let own = |line: &&str| line.split(' ').nth(1).is_some_and(|time| time.parse::<f64>().is_ok());
    log.lines().filter(own).filter(|line| line.ends_with(&format!(" {text}"))).count()
}

/// A RUN that counts how often it ran, in a cache mount, and then waits for a file of that mount; `show` prints the
/// count in a build of its own.
const COUNTED: &str = "FROM base\nRUN --mount=type=cache,id=c,target=/c echo x >> /c/ran; [ -e /c/go ] || sleep SLEEP; echo made\n";

fn count(project: &Project) -> usize {
    project
        .write("Show", "FROM base\nRUN --mount=type=cache,id=c,target=/c echo ran=$(cat /c/ran | wc -l)\n");
    let mut command =
        project.build_command(["-f", "context/Show", "-otype=cacheonly", "--no-cache-filter=none"]);
    let shown = Ended::of(&mut command).ok().stderr;
    let mut numbers = shown.lines().rev().filter_map(|line| line.rsplit_once(" ran=")?.1.trim().parse().ok());
    numbers.next().expect("a count")
}

/// Lets the running command end: its shell goes on when the sleep is gone.
fn end_sleep(sleep: &str) {
    for pid in with_argument(sleep) {
        // Only the sleep has the number as a whole argument.
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("process id");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    }
}

#[test]
fn two_processes_run_a_step_once() {
    let Some(project) = Project::with_base() else { return };
    let sleep = unique_seconds();
    let project = project.buildfile(&COUNTED.replace("SLEEP", &sleep));
    let first = Background::start(&project, "first", &[]);
    assert!(wait_until(LONG, || !with_argument(&sleep).is_empty()), "{}", first.said());
    let second = Background::start(&project, "second", &[]);
    second.waits();
    end_sleep(&sleep);
    let (first, second) = (first.succeeds(), second.succeeds());
    assert!(lines(&first, "made") == 1 && !first.contains("waiting for another"), "{first}");
    assert!(lines(&second, "made") == 0 && second.contains("CACHED"), "{second}");
    assert_eq!(count(&project), 1);
    assert_eq!(
        fs::read_dir(project.store().join("locks")).expect("locks").count(),
        0,
        "no lock file is left"
    );
}

#[test]
fn when_the_first_is_killed_the_second_runs_the_step() {
    let Some(project) = Project::with_base() else { return };
    let sleep = unique_seconds();
    let project = project.buildfile(&COUNTED.replace("SLEEP", &sleep));
    let mut first = Background::start(&project, "first", &[]);
    assert!(wait_until(LONG, || !with_argument(&sleep).is_empty()), "{}", first.said());
    let second = Background::start(&project, "second", &[]);
    second.waits();
    let of_the_first = with_argument(&sleep);
    first.child.kill().expect("kill -9");
    first.child.wait().expect("wait");
    // The first one's sleep may be there for a moment still: another one is the second's. Its count says so as well, once
    // it may go on.
    let another = || with_argument(&sleep).iter().any(|pid| !of_the_first.contains(pid));
    assert!(wait_until(LONG, || second.said().contains("RUN --mount") && another()), "{}", second.said());
    assert!(wait_until(LONG, || with_argument(&sleep).len() == 1));
    end_sleep(&sleep);
    let second = second.succeeds();
    assert_eq!(lines(&second, "made"), 1, "{second}");
    assert_eq!(count(&project), 2);
}

#[test]
fn when_the_first_fails_the_second_tries_itself() {
    let Some(project) = Project::with_base() else { return };
    let sleep = unique_seconds();
    let text = format!(
        "FROM base\nRUN --mount=type=cache,id=c,target=/c echo x >> /c/ran; [ $(cat /c/ran | wc -l) = 2 ] || {{ sleep {sleep}; false; }}\n"
    );
    let project = project.buildfile(&text);
    let mut first = Background::start(&project, "first", &[]);
    assert!(wait_until(LONG, || !with_argument(&sleep).is_empty()), "{}", first.said());
    let second = Background::start(&project, "second", &[]);
    second.waits();
    end_sleep(&sleep);
    assert_eq!(first.child.wait().expect("wait").code(), Some(1), "{}", first.said());
    second.succeeds();
    assert_eq!(count(&project), 2);
}

#[test]
fn a_waiting_build_can_be_stopped_and_a_forced_one_does_not_wait() {
    let Some(project) = Project::with_base() else { return };
    let sleep = unique_seconds();
    let project = project.buildfile(&format!("FROM base\nRUN sleep {sleep}; echo made\n"));
    let first = Background::start(&project, "first", &[]);
    assert!(wait_until(LONG, || !with_argument(&sleep).is_empty()), "{}", first.said());
    let mut second = Background::start(&project, "second", &[]);
    second.waits();
    let pid = rustix::process::Pid::from_raw(second.child.id().cast_signed()).expect("process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signal");
    assert_eq!(second.child.wait().expect("wait").code(), Some(130), "{}", second.said());
    let forced = Background::start(&project, "forced", &["--no-cache"]);
    assert!(wait_until(LONG, || with_argument(&sleep).len() == 2), "{}", forced.said());
    end_sleep(&sleep);
    let forced = forced.succeeds();
    assert!(lines(&forced, "made") == 1 && !forced.contains("waiting for another"), "{forced}");
    first.succeeds();
}

#[test]
fn builds_with_overlapping_steps_in_opposite_order_end() {
    let Some(project) = Project::with_base() else { return };
    let stages = |order: [u32; 4]| {
        let mut text = String::new();
        for (at, number) in order.iter().enumerate() {
            text.push_str(&format!(
                "FROM base AS s{at}\nRUN echo {number} > /f; usleep 100000; echo made {number}\n"
            ));
        }
        text.push_str("FROM scratch\n");
        for at in 0..order.len() {
            text.push_str(&format!("COPY --from=s{at} /f /{at}\n"));
        }
        text
    };
    project.write("One", stages([1, 2, 3, 4]));
    project.write("Two", stages([4, 3, 2, 1]));
    let one = Background::start(&project, "one", &["-f", "context/One", "--jobs=2"]);
    let two = Background::start(&project, "two", &["-f", "context/Two", "--jobs=2"]);
    let said = one.succeeds() + &two.succeeds();
    for number in 1..=4 {
        assert_eq!(lines(&said, &format!("made {number}")), 1, "step {number}: {said}");
    }
}

const THREE: &str = "FROM base AS good\nRUN echo fine > /f && echo good ran\n\
                     FROM base AS bad\nRUN echo bad one; exit 3\n\
                     FROM base AS worse\nRUN usleep 300000; echo bad two; exit 4\nRUN echo never\n\
                     FROM scratch\nCOPY --from=bad / /bad\nCOPY --from=worse / /worse\nCOPY --from=good /f /f\n";

#[test]
fn keeping_going_reports_all_failures() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(THREE);
    for jobs in ["--jobs=1", "--jobs=4"] {
        let built = project.build(&["--keep-going", "--no-cache", jobs]);
        built.fails(1, &["exit code: 3", "exit code: 4", "Buildfile:4:1", "Buildfile:6:1", "2 steps failed"]);
        assert!(built.said("good ran") && !built.said("never"), "{}", built.log());
        let log = project.run(&["log", "--grep", "bad"]).ok().stdout;
        assert!(log.contains("bad one\n") && log.contains("bad two\n"), "{log}");
    }
    // What did not depend on the failures is stored.
    project.write("Buildfile", THREE.replace("exit 3", "true").replace("exit 4", "true"));
    let built = project.build(&[]);
    built.succeeds();
    assert!(!built.said("good ran"), "{}", built.log());
}

#[test]
fn without_it_the_first_failure_stops_the_others() {
    let Some(project) = Project::with_base() else { return };
    let sleep = unique_seconds();
    let text = format!(
        "FROM base AS slow\nRUN echo begun; sleep {sleep}\nFROM base AS bad\nRUN usleep 500000; exit 3\n\
         FROM scratch\nCOPY --from=slow / /a\nCOPY --from=bad / /b\n"
    );
    let project = project.buildfile(&text);
    let built = project.build(&["--jobs=2"]);
    built.fails(1, &["exit code: 3", "CANCELED"]);
    assert!(!built.log().contains("steps failed"), "{}", built.log());
    assert_eq!(with_argument(&sleep), Vec::<u32>::new(), "a step outlived the build");
}
