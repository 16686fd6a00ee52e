//! What holds a RUN in bounds: control group, time, attempts; and what its end says about them.
//!
//! Invariants:
//! - nothing of this is in a key: it decides whether a command may go on, not what it gives;
//! - a limit that cannot be set here is told once, and the build goes on, as docker does;
//! - a command that ended well is not failed for a limit that it met on its way.

use std::time::{Duration, Instant};

use super::OpError;
use super::local::LocalExecutor;
use crate::plan::graph::{Guards, RunSpec};
use crate::sandbox::cgroup::{Controller, GroupSpec, Limits, Placement};
use crate::sandbox::runner::Ended;

/// The first pause before a command is run again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(50);

/// The limits of one RUN: those of the command line and its own, the smaller one of each.
pub(super) fn limits(executor: &LocalExecutor<'_>, guards: &Guards) -> Limits {
    executor.defaults.limits.tightened(guards.memory_bytes, guards.cpus_milli)
}

/// The control group for these limits; none where nothing is limited, or nothing can be.
pub(super) fn group(executor: &LocalExecutor<'_>, limits: &Limits) -> Option<GroupSpec> {
    let needed = limits.controllers();
    let parent = executor.defaults.cgroup_parent.as_deref();
    if needed.is_empty() && parent.is_none() {
        return None;
    }
    let placement = Placement::find(&needed, parent);
    for (controller, reason) in &placement.missing {
        let warning = format!("{} has no effect: {reason}", options(*controller));
        if executor.sandboxes.first_time(&warning) {
            executor.events.warn(warning);
        }
    }
    let homes = placement.homes;
    (!homes.is_empty()).then(|| GroupSpec { limits: limits.clone(), homes })
}

fn options(controller: Controller) -> &'static str {
    match controller {
        Controller::Cpu => "the limit of processor time (--cpus, --cpu-shares)",
        Controller::Cpuset => "the choice of processors (--cpuset-cpus, --cpuset-mems)",
        Controller::Memory => "the limit of memory (--memory)",
        Controller::Pids => "the limit of processes (--pids-limit)",
    }
}

/// The limit that a command met; for processes only where it did not end well, since many programs try again.
pub(super) fn met(spec: &RunSpec, limits: &Limits, ended: &Ended) -> Option<OpError> {
    let command = || spec.args.join(" ");
    if ended.hits.oom_kills > 0 {
        let limit = match limits.memory_bytes {
            Some(bytes) => format!("its limit of {} was reached", binary(bytes)),
            None => "the limit of its control group was reached".to_owned(),
        };
        let kills = match ended.hits.oom_kills {
            1 => "a process of it".to_owned(),
            count => format!("{count} processes of it"),
        };
        return Some(OpError::OutOfMemory { command: command(), limit, kills });
    }
    match limits.pids {
        Some(pids) if ended.hits.refused_forks > 0 && ended.code != Some(0) => {
            let limit = format!("its limit of {pids} was reached");
            Some(OpError::TooManyProcesses { command: command(), limit })
        }
        _ => None,
    }
}

/// What the end of a command means; `warn` is told of what went wrong in a command that succeeded all the same.
pub(super) fn verdict(
    spec: &RunSpec,
    limits: &Limits,
    ended: &Ended,
    warn: impl FnOnce(String),
) -> Result<(), OpError> {
    let command = || spec.args.join(" ");
    match met(spec, limits, ended) {
        Some(error) if ended.code != Some(0) => return Err(error),
        Some(error) => warn(format!("{error}; it ended well, but check what it made")),
        None => {}
    }
    if ended.code == Some(0) {
        return Ok(());
    }
    match (ended.code, ended.signal.unwrap_or_default()) {
        (Some(code), _) => Err(OpError::ExitCode { command: command(), code }),
        (None, signal) => Err(OpError::Signal { command: command(), signal, name: signal_name(signal) }),
    }
}

/// A size in the units that the flags take: `64 MiB`.
fn binary(size_bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| size_bytes >= *unit) {
        // A limit is a round number in nearly every case.
        Some((unit, name)) if size_bytes.is_multiple_of(unit) => format!("{} {name}", size_bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", size_bytes as f64 / unit as f64),
        None => format!("{size_bytes} bytes"),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGHUP => "SIGHUP",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL, often a lack of memory",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS: the seccomp policy ended it",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU: the limit of processor time, --ulimit cpu, was reached",
        libc::SIGXFSZ => "SIGXFSZ: the limit of file size, --ulimit fsize, was reached",
        _ => "see signal(7)",
    }
}

/// Runs `attempt` until it succeeds, fails for another reason than its command, or has failed once more than the
/// retries of `guards`. `say` is told of each failure that another attempt follows.
pub(super) fn attempts<T>(
    executor: &LocalExecutor<'_>,
    guards: &Guards,
    mut say: impl FnMut(String),
    mut attempt: impl FnMut() -> Result<T, OpError>,
) -> Result<T, OpError> {
    let mut pause = FIRST_PAUSE;
    for number in 1..=guards.retries {
        match attempt() {
            Err(error) if error.is_of_command() => {
                let attempts = guards.retries + 1;
                let seconds = pause.as_secs();
                let ending = error.ending();
                say(format!("attempt {number} of {attempts} failed: {ending}; the next one in {seconds}s\n"));
            }
            result => return result,
        }
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if executor.cancel.is_cancelled() {
                return Err(OpError::Cancelled);
            }
            std::thread::sleep(TICK);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::cgroup::Hits;

    fn ended(code: Option<i32>, signal: Option<i32>, hits: Hits) -> Ended {
        Ended { code, signal, hits, made_mount_points: Vec::new(), lost_owners: 0 }
    }

    #[test]
    fn sizes_in_the_units_of_the_flags() {
        let texts = [512, 1 << 10, 3 << 29, 1 << 30].map(binary);
        assert_eq!(texts, ["512 bytes", "1 KiB", "1.5 GiB", "1 GiB"]);
    }

    #[test]
    fn an_end_is_called_what_it_was() {
        let spec = RunSpec { args: vec!["make".to_owned()], ..RunSpec::default() };
        let limits = Limits { memory_bytes: Some(64 << 20), pids: Some(9), ..Limits::default() };
        let oom = Hits { oom_kills: 2, refused_forks: 0 };
        let forks = Hits { oom_kills: 0, refused_forks: 4 };
        let said =
            |ended: &Ended, limits: &Limits| verdict(&spec, limits, ended, |_| ()).unwrap_err().to_string();
        let mut warning = String::new();
        assert!(verdict(&spec, &limits, &ended(Some(0), None, oom), |text| warning = text).is_ok());
        assert!(warning.contains("ran out of memory"), "{warning}");
        assert_eq!(
            said(&ended(None, Some(9), oom), &limits),
            "process `make` ran out of memory: its limit of 64 MiB was reached, and the kernel killed 2 \
             processes of it"
        );
        assert!(said(&ended(Some(2), None, oom), &Limits::default()).contains("control group"));
        assert!(said(&ended(Some(1), None, forks), &limits).contains("limit of 9"));
        assert!(said(&ended(Some(1), None, forks), &Limits::default()).contains("exit code: 1"));
        assert!(said(&ended(None, Some(libc::SIGXCPU), Hits::default()), &limits).contains("--ulimit cpu"));
    }
}
