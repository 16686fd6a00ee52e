//! What is left when a build is stopped: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{Process, alive, family, wait_until, with_argument};
use crate::project::{Ended, Project};

/// How long a stopped build may take to be gone.
const SOON: Duration = Duration::from_secs(2);

/// A number of seconds that no other process on this machine sleeps for.
pub fn unique_seconds() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("6{:07}{:02}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

struct Running {
    child: Child,
    sleep: String,
    family: BTreeSet<Process>,
}

/// Starts a build and waits until its RUN sleeps. `command` has `SLEEP` where the number goes.
fn start(project: &Project, command: &str) -> Running {
    let sleep = unique_seconds();
    project.write("Buildfile", format!("FROM base\nRUN {}\n", command.replace("SLEEP", &sleep)));
    let mut build = project.build_command(["-o", "type=oci,dest=out.tar"]);
    let child = build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kiln starts");
    let started = wait_until(Duration::from_secs(120), || !with_argument(&sleep).is_empty());
    assert!(started, "the command did not start");
    let family = family(child.id());
    assert!(family.len() >= 3, "kiln, its zygote and the command were expected: {family:?}");
    Running { child, sleep, family }
}

impl Running {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("process id");
        kill_process(pid, signal).expect("signal");
    }

    /// Waits for the end and checks that nothing of it runs or is mounted.
    fn ends(self, project: &Project) -> Ended {
        let gone = wait_until(SOON, || {
            with_argument(&self.sleep).is_empty() && {
                // kiln itself stays a zombie, which does not count, until it is waited for.
                alive(&self.family).is_empty()
            }
        });
        let left = (alive(&self.family), with_argument(&self.sleep));
        assert!(gone, "these processes still run: {left:?}");
        let place = project.path("").display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(place.trim_end_matches('/')), "a mount is left");
        Ended::from_output(self.child.wait_with_output().expect("kiln ends"))
    }
}

/// Checks that the store works and that the step of the stopped build was not recorded.
fn next_build_works(project: &Project) {
    assert!(!project.path("out.tar").exists(), "a stopped build left an output");
    project.write("Buildfile", "FROM base\nRUN echo fine > /f\n");
    assert_eq!(project.build(&[]).image().text("f"), "fine\n");
    let strays = crate::project::tree(&project.store().join("tmp"));
    assert!(strays.len() <= 4, "much is left in the store's tmp: {strays:?}");
}

#[test]
fn a_killed_build() {
    let Some(project) = Project::with_base() else { return };
    let running = start(&project, "sleep SLEEP");
    running.signal(Signal::KILL);
    let ended = running.ends(&project);
    assert_eq!(ended.code, None);
    next_build_works(&project);
}

#[test]
fn an_interrupted_and_a_terminated_build() {
    for signal in [Signal::INT, Signal::TERM] {
        let Some(project) = Project::with_base() else { return };
        let running = start(&project, "sleep SLEEP");
        running.signal(signal);
        running.ends(&project).fails(130, &["stopped"]);
        let strays = crate::project::tree(&project.store().join("tmp"));
        assert!(strays.is_empty(), "left in the store's tmp: {strays:?}");
        next_build_works(&project);
    }
}

const STUBBORN: &str =
    "trap '' INT TERM HUP QUIT; (setsid sh -c \"trap '' INT TERM HUP QUIT; sleep SLEEP\" &) ; ";

#[test]
fn a_daemon_that_ignores_signals_ends_with_a_stopped_build() {
    for signal in [Signal::TERM, Signal::KILL] {
        let Some(project) = Project::with_base() else { return };
        let running = start(&project, &format!("{STUBBORN} sleep SLEEP"));
        running.signal(signal);
        running.ends(&project);
        next_build_works(&project);
    }
}

#[test]
fn a_daemon_that_ignores_signals_ends_with_its_step() {
    let Some(project) = Project::with_base() else { return };
    let sleep = unique_seconds();
    let command = STUBBORN.replace("SLEEP", &sleep);
    let text =
        format!("FROM base\nRUN {command} while ! ps | grep -v grep | grep -q 'sleep {sleep}'; do :; done\n");
    project.write("Buildfile", text);
    project.build(&[]).succeeds();
    assert!(wait_until(SOON, || with_argument(&sleep).is_empty()), "the daemon outlived its step");
}

#[test]
fn a_killed_kiln_run() {
    let Some(project) = Project::with_base() else { return };
    let sleep = unique_seconds();
    let layout = format!("oci-layout:{}", project.path("base").display());
    // Through the shell, so that the number is no argument of kiln itself.
    let mut command = project.kiln(["run", &layout, "sh", "-c", &format!("sleep {sleep}; true")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kiln starts");
    assert!(wait_until(Duration::from_secs(120), || !with_argument(&sleep).is_empty()), "it did not start");
    let family = family(child.id());
    child.kill().expect("kill");
    let gone = wait_until(SOON, || alive(&family).is_empty() && with_argument(&sleep).is_empty());
    assert!(gone, "still running: {:?}", alive(&family));
    child.wait().expect("wait");
}

#[test]
fn a_fork_bomb_ends_with_a_stopped_build() {
    let Some(project) = Project::with_base() else { return };
    // It ends by itself at 255 processes, so that it never takes the machine along.
    let bomb =
        "b() { [ $1 = 0 ] || { sleep SLEEP & b $(($1 - 1)) & b $(($1 - 1)) & }; }; (b 7 &); sleep SLEEP";
    let mut running = start(&project, bomb);
    let grown = wait_until(Duration::from_secs(120), || with_argument(&running.sleep).len() > 20);
    assert!(grown, "it did not multiply");
    running.family = family(running.child.id());
    running.signal(Signal::INT);
    running.ends(&project).fails(130, &["stopped"]);
    next_build_works(&project);
}
