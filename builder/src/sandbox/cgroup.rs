//! The control group of a RUN with limits: cgroup v2 first, v1 where a controller is only there.
//!
//! ```text
//! kiln     Placement::find: where groups may be made, which controllers are there
//! zygote   Group::create ─▶ clone ─▶ Group::add(pid) ─▶ "go" ─▶ … ─▶ Group::hits ─▶ Group::remove
//! ```
//!
//! | limit | v2 | v1 |
//! | --- | --- | --- |
//! | memory | memory.max | memory.limit_in_bytes |
//! | memory and swap | memory.swap.max (the difference) | memory.memsw.limit_in_bytes (the sum) |
//! | processor time | cpu.max | cpu.cfs_quota_us, cpu.cfs_period_us |
//! | shares | cpu.weight | cpu.shares |
//! | processors, memory nodes | cpuset.cpus, cpuset.mems | the same |
//! | processes | pids.max | the same |
//!
//! Invariants:
//! - without limits there is no group: it costs a RUN nothing;
//! - the command is in its group before it runs anything, and its cgroup namespace begins there;
//! - the zygote makes and removes groups, so that they go also when kiln is killed; what a killed zygote leaves is an
//!   empty directory, which the next one removes;
//! - nothing is moved that kiln did not start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

mod layout;
#[cfg(test)]
mod tests;

use layout::{Hierarchies, inside};

/// Names of groups: this, the zygote's process id and a number.
const PREFIX: &str = "kiln-";
/// What a group of v1 has to be given before it can have processes, and groups with something of their own.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// Period of processor time unless `--cpu-period` says otherwise; the kernel's and docker's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses a smaller quota.
const MIN_CPU_QUOTA_US: u64 = 1_000;
/// How long an empty group may refuse to go: its last process has been reaped, the kernel lets go of it a little later.
const REMOVE_ATTEMPTS: u32 = 100;

/// What one RUN may use of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together. With a memory limit and without this: twice the memory, as docker has it.
    pub memory_swap: Option<Swap>,
    /// Processor time in each period.
    pub cpu_quota_us: Option<u64>,
    /// The period.
    pub cpu_period_us: Option<u64>,
    /// Weight among others, docker's scale: 1024 is one share.
    pub cpu_shares: Option<u64>,
    /// Processors, e.g. `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes and threads at a time.
    pub pids: Option<u64>,
}

/// A limit of memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Swap {
    Unlimited,
    Bytes(u64),
}

/// A resource that groups control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Controller {
    Cpu,
    Cpuset,
    Memory,
    Pids,
}

impl Controller {
    /// All that kiln uses.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Cpuset, Self::Memory, Self::Pids];

    /// Its name in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

impl Limits {
    /// The share of `cpus_milli` thousandths of a processor as a quota.
    pub fn quota_us(cpus_milli: u64, period_us: Option<u64>) -> u64 {
        let period = period_us.unwrap_or(CPU_PERIOD_US);
        (cpus_milli.saturating_mul(period) / 1000).max(MIN_CPU_QUOTA_US)
    }

    /// These limits and those of an instruction: the smaller one holds, since a Buildfile must not lift what the
    /// command line limits.
    #[must_use]
    pub fn tightened(&self, memory_bytes: Option<u64>, cpus_milli: Option<u64>) -> Self {
        let smaller = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let quota = cpus_milli.map(|milli| Self::quota_us(milli, self.cpu_period_us));
        Self {
            memory_bytes: smaller(self.memory_bytes, memory_bytes),
            cpu_quota_us: smaller(self.cpu_quota_us, quota),
            ..self.clone()
        }
    }

    /// The controllers that these limits need.
    pub fn controllers(&self) -> BTreeSet<Controller> {
        let needs = [
            (
                Controller::Cpu,
                self.cpu_quota_us.is_some() || self.cpu_period_us.is_some() || self.cpu_shares.is_some(),
            ),
            (Controller::Cpuset, self.cpuset_cpus.is_some() || self.cpuset_mems.is_some()),
            (Controller::Memory, self.memory_bytes.is_some() || self.memory_swap.is_some()),
            (Controller::Pids, self.pids.is_some()),
        ];
        needs.into_iter().filter(|(_, needed)| *needed).map(|(controller, _)| controller).collect()
    }
}

/// Which of the two interfaces a directory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Version {
    One,
    Two,
}

/// Where groups are made for a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Interface.
    pub version: Version,
    /// The directory that gets the group.
    pub parent: PathBuf,
}

/// Where the group of a RUN goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Controllers that can be used.
    pub homes: BTreeMap<Controller, Home>,
    /// Those that are needed and cannot, with the reason.
    pub missing: BTreeMap<Controller, String>,
}

impl Placement {
    /// Looks where a group with these controllers may be made: below `--cgroup-parent` when that is given, else beside
    /// the group that kiln is in (v2: a group with processes can have no children with controllers) or below it (v1).
    /// May switch controllers on for children of a v2 group.
    pub fn find(needed: &BTreeSet<Controller>, parent: Option<&str>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let hierarchies = Hierarchies::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let mut placement = Self::default();
        let (mut unified, mut wanted) = (BTreeSet::new(), needed.clone());
        if parent.is_some() {
            // Without limits the group still counts there.
            wanted.extend([Controller::Cpu, Controller::Memory, Controller::Pids]);
        }
        for controller in &wanted {
            match hierarchies.version_one(*controller, parent) {
                Some(dir) if may_make_groups(&dir, parent.is_some()) => {
                    if *controller == Controller::Cpuset {
                        CPUSET_FILES.iter().for_each(|file| drop(inherit(&dir, file)));
                    }
                    let home = Home { version: Version::One, parent: dir };
                    placement.homes.insert(*controller, home);
                }
                Some(_) => {
                    let reason = "this user may not make groups of cgroup v1; only v2 can be given to a user";
                    placement.refuse(*controller, reason.to_owned());
                }
                None => {
                    unified.insert(*controller);
                }
            }
        }
        if !unified.is_empty() {
            placement.find_unified(&hierarchies, &unified, parent);
        }
        placement.missing.retain(|controller, _| needed.contains(controller));
        placement
    }

    fn refuse(&mut self, controller: Controller, reason: String) {
        self.missing.insert(controller, reason);
    }

    fn find_unified(
        &mut self,
        hierarchies: &Hierarchies,
        needed: &BTreeSet<Controller>,
        parent: Option<&str>,
    ) {
        let Some((root, own)) = hierarchies.unified() else {
            for controller in needed {
                self.refuse(*controller, "this kernel has no such controller".to_owned());
            }
            return;
        };
        let candidates: Vec<PathBuf> = match parent {
            Some(parent) => vec![inside(root, parent)],
            // A group that has processes cannot share out controllers, unless it is the root of all.
            None if own == root => vec![root.to_owned()],
            None => {
                own.ancestors().skip(1).take_while(|dir| dir.starts_with(root)).map(Path::to_owned).collect()
            }
        };
        let mut best: Option<(PathBuf, BTreeSet<Controller>)> = None;
        for dir in candidates {
            if !may_make_groups(&dir, parent.is_some()) {
                continue;
            }
            if parent.is_some() {
                // From the top down: a group shares out what it was given.
                let above: Vec<&Path> =
                    dir.ancestors().skip(1).take_while(|dir| dir.starts_with(root)).collect();
                above.iter().rev().for_each(|dir| drop(share_out(dir, needed)));
            }
            let found = share_out(&dir, needed);
            if best.as_ref().is_none_or(|(_, most)| found.len() > most.len()) {
                let complete = found.len() == needed.len();
                best = Some((dir, found));
                if complete {
                    break;
                }
            }
        }
        for controller in needed {
            match &best {
                Some((dir, found)) if found.contains(controller) => {
                    self.homes.insert(*controller, Home { version: Version::Two, parent: dir.clone() });
                }
                Some((dir, _)) => {
                    let name = controller.name();
                    self.refuse(*controller, format!("`{}` has no `{name}` to share out", dir.display()));
                }
                None => self.refuse(
                    *controller,
                    "no group that this user may write to has it; under systemd start kiln with \
                     `systemd-run --user --scope -p Delegate=yes kiln …`"
                        .to_owned(),
                ),
            }
        }
    }
}

/// Whether groups can be made in a directory; `make` makes it first when it is not there, and leaves it, as docker does
/// with `--cgroup-parent`.
fn may_make_groups(dir: &Path, make: bool) -> bool {
    let writable = |path: &Path| access(path, Access::WRITE_OK).is_ok();
    if make && fs::create_dir_all(dir).is_err() {
        return false;
    }
    writable(dir) && writable(&dir.join("cgroup.procs"))
}

/// Gives a v1 group, and those above it, what the nearest group above has where `file` is still empty: new groups begin
/// with nothing, and none can have more than the one above. Says what is there now.
fn inherit(dir: &Path, file: &str) -> Option<String> {
    let path = dir.join(file);
    // Above the hierarchy there is no such file.
    let own = fs::read_to_string(&path).ok()?;
    if !own.trim().is_empty() {
        return Some(own.trim().to_owned());
    }
    let above = inherit(dir.parent()?, file)?;
    fs::write(&path, &above).ok()?;
    Some(above)
}

/// Switches controllers on for the children of a v2 group, as far as the kernel lets it, and says which are on.
fn share_out(dir: &Path, needed: &BTreeSet<Controller>) -> BTreeSet<Controller> {
    let file = dir.join("cgroup.subtree_control");
    let on = || -> BTreeSet<Controller> {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let names: BTreeSet<&str> = text.split_whitespace().collect();
        needed.iter().copied().filter(|controller| names.contains(controller.name())).collect()
    };
    for controller in needed.difference(&on()) {
        // Refused where the group above does not share it, or where processes are in the way.
        let _ = fs::write(&file, format!("+{}", controller.name()));
    }
    on()
}

/// Limits and where they go, as the zygote is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// The limits.
    pub limits: Limits,
    /// Where.
    pub homes: BTreeMap<Controller, Home>,
}

/// How often a limit was hit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    /// Processes that were killed for memory.
    pub oom_kills: u64,
    /// Processes that could not be made.
    pub refused_forks: u64,
}

/// Why a group could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{path}`: {source}", path = .path.display())]
pub struct GroupError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl GroupError {
    fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// The group of a running command.
#[derive(Debug)]
pub struct Group {
    /// In the order made; one for all controllers of v2, one for each hierarchy of v1.
    dirs: Vec<PathBuf>,
    homes: BTreeMap<Controller, (Version, PathBuf)>,
}

impl Group {
    /// Makes the group `number` of this process and sets its limits.
    pub fn create(spec: &GroupSpec, number: u64) -> Result<Self, GroupError> {
        let own = rustix::process::getpid().as_raw_nonzero();
        let mut group = Self { dirs: Vec::new(), homes: BTreeMap::new() };
        for (controller, Home { version, parent }) in &spec.homes {
            let dir = parent.join(format!("{PREFIX}{own}-{number}"));
            if !group.dirs.contains(&dir) {
                if number == 0 {
                    sweep(parent);
                }
                fs::create_dir(&dir).map_err(GroupError::new("make the control group", &dir))?;
                group.dirs.push(dir.clone());
            }
            group.homes.insert(*controller, (*version, dir));
        }
        for (controller, (version, dir)) in &group.homes {
            for (file, value) in settings(*controller, *version, &spec.limits, dir) {
                let path = dir.join(file);
                match fs::write(&path, &value) {
                    Err(error) if *controller == Controller::Cpuset => {
                        let source = out_of_set(error, dir, file, &value);
                        return Err(GroupError::new("set the limit", &path)(source));
                    }
                    // Swap is not accounted for on every machine; then there is nothing to limit.
                    Err(error)
                        if error.kind() == io::ErrorKind::NotFound
                            && (file.contains("swap") || file.contains("memsw")) => {}
                    result => result.map_err(GroupError::new("set the limit", &path))?,
                }
            }
        }
        Ok(group)
    }

    /// Puts a process into the group.
    pub fn add(&self, pid: Pid) -> Result<(), GroupError> {
        for dir in &self.dirs {
            let file = dir.join("cgroup.procs");
            fs::write(&file, pid.as_raw_nonzero().to_string())
                .map_err(GroupError::new("put the command into", &file))?;
        }
        Ok(())
    }

    /// Which limits were hit so far.
    pub fn hits(&self) -> Hits {
        let count = |controller, one: &str, two: &str, key: &str| -> u64 {
            let Some((version, dir)) = self.homes.get(&controller) else { return 0 };
            let file = if *version == Version::One { one } else { two };
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            value.unwrap_or_default()
        };
        Hits {
            oom_kills: count(Controller::Memory, "memory.oom_control", "memory.events", "oom_kill "),
            refused_forks: count(Controller::Pids, "pids.events", "pids.events", "max "),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in &self.dirs {
            for _ in 0..REMOVE_ATTEMPTS {
                match fs::remove_dir(dir) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// The kernel's words for processors or memory nodes that a group cannot have do not name them.
fn out_of_set(error: io::Error, dir: &Path, file: &str, value: &str) -> io::Error {
    let above = dir.parent().unwrap_or(dir);
    let read = |file: &str| fs::read_to_string(above.join(file)).unwrap_or_default().trim().to_owned();
    let there = [format!("{file}.effective"), file.to_owned()]
        .iter()
        .map(|file| read(file))
        .find(|set| !set.is_empty());
    let kind = if file == "cpuset.mems" { "memory nodes" } else { "processors" };
    match there {
        Some(there) => {
            io::Error::other(format!("of the {kind} {value} not all are here; there are {there} ({error})"))
        }
        None => error,
    }
}

/// Removes empty groups of zygotes that are gone.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            // Fails where a process is left, which then is not kiln's to end.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// What is written into which file, in order.
fn settings(
    controller: Controller,
    version: Version,
    limits: &Limits,
    dir: &Path,
) -> Vec<(&'static str, String)> {
    use Version::{One, Two};
    let mut files = Vec::new();
    match (controller, version) {
        (Controller::Memory, One) => {
            files.extend(limits.memory_bytes.map(|bytes| ("memory.limit_in_bytes", bytes.to_string())));
            files.extend(swap(limits).map(|swap| {
                let sum = match swap {
                    Swap::Unlimited => "-1".to_owned(),
                    Swap::Bytes(sum) => sum.to_string(),
                };
                ("memory.memsw.limit_in_bytes", sum)
            }));
        }
        (Controller::Memory, Two) => {
            files.extend(limits.memory_bytes.map(|bytes| ("memory.max", bytes.to_string())));
            files.extend(swap(limits).map(|swap| {
                let rest = match swap {
                    Swap::Unlimited => "max".to_owned(),
                    Swap::Bytes(sum) => {
                        sum.saturating_sub(limits.memory_bytes.unwrap_or_default()).to_string()
                    }
                };
                ("memory.swap.max", rest)
            }));
        }
        (Controller::Cpu, One) => {
            files.extend(limits.cpu_period_us.map(|us| ("cpu.cfs_period_us", us.to_string())));
            files.extend(limits.cpu_quota_us.map(|us| ("cpu.cfs_quota_us", us.to_string())));
            files.extend(limits.cpu_shares.map(|shares| ("cpu.shares", shares.to_string())));
        }
        (Controller::Cpu, Two) => {
            if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
                let quota = limits.cpu_quota_us.map_or_else(|| "max".to_owned(), |us| us.to_string());
                let period = limits.cpu_period_us.unwrap_or(CPU_PERIOD_US);
                files.push(("cpu.max", format!("{quota} {period}")));
            }
            files.extend(limits.cpu_shares.map(|shares| ("cpu.weight", weight(shares).to_string())));
        }
        (Controller::Cpuset, version) => {
            for (file, value) in [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)]
            {
                // A new group of v1 has none at all and takes no process until it has.
                let inherited = || {
                    let above = dir.parent().unwrap_or(dir).join(file);
                    (version == One).then(|| fs::read_to_string(above).unwrap_or_default().trim().to_owned())
                };
                files.extend(value.clone().or_else(inherited).map(|value| (file, value)));
            }
        }
        (Controller::Pids, _) => files.extend(limits.pids.map(|pids| ("pids.max", pids.to_string()))),
    }
    files
}

fn swap(limits: &Limits) -> Option<Swap> {
    limits.memory_swap.or_else(|| limits.memory_bytes.map(|bytes| Swap::Bytes(bytes.saturating_mul(2))))
}

/// docker's shares (2 to 262144) on the scale of v2 (1 to 10000), as runc turns one into the other.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}
