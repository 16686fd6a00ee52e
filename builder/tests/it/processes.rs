//! What runs on this machine, from `/proc`: descendants of a process and commands with a certain argument.
//!
//! Invariants: a process is told apart from a later one with the same id by its start time.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

/// A process: id and start time.
pub type Process = (u32, u64);

/// (process, parent) of everything that runs, zombies left out.
fn all() -> Vec<(Process, u32)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, so fields count from its closing parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        Some(((pid, fields.get(19)?.parse().ok()?), fields.get(1)?.parse().ok()?))
    })
    .collect()
}

/// Everything below `root`, and itself.
pub fn family(root: u32) -> BTreeSet<Process> {
    let all = all();
    let mut ids = BTreeSet::from([root]);
    loop {
        let before = ids.len();
        ids.extend(
            all.iter()
                .filter(|(_, parent)| ids.contains(parent))
                .map(|((pid, _), _)| *pid)
                .collect::<Vec<_>>(),
        );
        if ids.len() == before {
            return all
                .into_iter()
                .map(|(process, _)| process)
                .filter(|(pid, _)| ids.contains(pid))
                .collect();
        }
    }
}

/// Processes that have `argument` as a whole argument.
pub fn with_argument(argument: &str) -> Vec<u32> {
    let found = all().into_iter().map(|((pid, _), _)| pid).filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes())
    });
    found.collect()
}

/// Which of `family` still run.
pub fn alive(family: &BTreeSet<Process>) -> Vec<u32> {
    all().into_iter().map(|(process, _)| process).filter(|p| family.contains(p)).map(|(pid, _)| pid).collect()
}

/// Waits until `condition` holds.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
