//! A long build leaves kiln as it was: descriptors, mounts, control groups, processes, threads and memory.
//!
//! `KILN_TEST_RUNS=1000` makes it as long as you like; `KILN_TEST_REPORT=1` prints what was measured.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::leftovers::unique_seconds;
use crate::processes::{family, wait_until, with_argument};
use crate::project::{Ended, Project};

/// Steps unless the environment says otherwise.
const STEPS: u32 = 100;
/// By how much memory may grow, beside what a step's name and outcome take in kiln: allocators keep what they once had.
const SLACK_KIB: u64 = 8 * 1024;
const STEP_KIB: u64 = 8;

/// What a process has at one moment.
type Sample = BTreeMap<String, u64>;

/// Of kiln, of everything that it has started, and of this machine.
fn sample(kiln: u32) -> Sample {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let mut sample = Sample::new();
    let family = family(kiln);
    sample.insert("processes".to_owned(), family.len() as u64);
    for (pid, _) in &family {
        // By command line, as the zygote is kiln too; the command itself is left out.
        let line = read(format!("/proc/{pid}/cmdline"));
        let name = match line.split('\0').next() {
            Some("kiln-zygote") => "zygote",
            _ if *pid == kiln => "kiln",
            _ => continue,
        };
        let mut put = |what: &str, value: u64| {
            sample.insert(format!("{name} {what}"), value);
        };
        put("descriptors", fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |found| found.count() as u64));
        put("mounts", read(format!("/proc/{pid}/mountinfo")).lines().count() as u64);
        let status = read(format!("/proc/{pid}/status"));
        for (key, what) in [("Threads:", "threads"), ("VmRSS:", "memory (KiB)")] {
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
            put(what, value.unwrap_or(0));
        }
    }
    let groups = walkdir::WalkDir::new("/sys/fs/cgroup").max_depth(4).into_iter().flatten();
    let own = format!("kiln-{kiln}-");
    let groups = groups.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count();
    sample.insert("control groups".to_owned(), groups as u64);
    sample
}

#[test]
fn many_steps_leave_kiln_as_it_was() {
    let Some(project) = Project::with_base() else { return };
    let steps = std::env::var("KILN_TEST_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(STEPS);
    let stops: Vec<String> = (0..3).map(|_| unique_seconds()).collect();
    // The first stop comes when everything has happened once, the others in the middle and at the end. Each is left
    // when the test ends its `sleep`.
    let at = [10, steps / 2, steps];
    let mut text = "FROM base\n".to_owned();
    for step in 0..=steps {
        let stop = at.iter().position(|at| *at == step).and_then(|index| stops.get(index));
        text += &match stop {
            Some(seconds) => format!("RUN sleep {seconds} || true\n"),
            // Every tenth step makes a layer.
            None if step % 10 == 9 => format!("RUN echo {step} > /f{step}\n"),
            None => format!("RUN true {step}\n"),
        };
    }
    project.write("Buildfile", text);
    let mut command = project.build_command(["-o", "type=cacheonly"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kiln starts");
    let mut samples = Vec::new();
    for stop in &stops {
        let came = wait_until(Duration::from_secs(600), || {
            !with_argument(stop).is_empty() || child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        let found = with_argument(stop);
        assert!(came && !found.is_empty(), "the build did not come to its stop");
        samples.push(sample(child.id()));
        for pid in found {
            let pid = Pid::from_raw(pid.cast_signed()).expect("process id");
            kill_process(pid, Signal::TERM).expect("end of the sleep");
        }
    }
    let ended = Ended::from_output(child.wait_with_output().expect("kiln ends"));
    assert_eq!(ended.code, Some(0));
    if std::env::var_os("KILN_TEST_REPORT").is_some() {
        for (key, value) in &samples[0] {
            println!("{key}: {value}, {}, {}", samples[1][key], samples[2][key]);
        }
    }
    let (first, last) = (&samples[0], &samples[2]);
    assert!(first["kiln descriptors"] > 5 && first["zygote descriptors"] > 3, "{first:?}");
    for (key, value) in first {
        let allowed = if key.ends_with("memory (KiB)") {
            value + SLACK_KIB + u64::from(steps) * STEP_KIB
        } else {
            *value
        };
        assert!(last[key] <= allowed, "{key} went from {value} to {}", last[key]);
    }
}
