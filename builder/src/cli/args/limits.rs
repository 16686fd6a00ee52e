//! What commands may use of the machine: docker's options of `docker run`, and buildx' `--resource`.
//!
//! Invariants: a later `--resource` and the option of its own name mean the same thing; the last one given holds.

use clap::Args;

use super::amount;
use crate::sandbox::cgroup::{Limits, Swap};

const LIMITS: &str = "Limits";
/// Limits below this are refused: the kernel would, too.
const MIN_CPU_PERIOD_US: u64 = 1_000;
const MAX_CPU_PERIOD_US: u64 = 1_000_000;

/// Options of limits.
#[derive(Debug, Default, Args)]
pub struct LimitArgs {
    /// Memory of each command, e.g. 2g
    #[arg(short = 'm', long, value_name = "SIZE", value_parser = amount::size, help_heading = LIMITS)]
    pub memory: Option<u64>,
    /// Memory and swap together, -1 for any amount of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = swap, help_heading = LIMITS)]
    pub memory_swap: Option<Swap>,
    /// Processors of each command, e.g. 1.5
    #[arg(long, value_name = "N", value_parser = cpus_milli, help_heading = LIMITS)]
    pub cpus: Option<u64>,
    /// Weight of each command among others [default: 1024]
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=262_144),
          help_heading = LIMITS)]
    pub cpu_shares: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1_000..), help_heading = LIMITS)]
    pub cpu_quota: Option<u64>,
    /// The period, in microseconds [default: 100000]
    #[arg(long, value_name = "US",
          value_parser = clap::value_parser!(u64).range(MIN_CPU_PERIOD_US..=MAX_CPU_PERIOD_US), help_heading = LIMITS)]
    pub cpu_period: Option<u64>,
    /// Processors to run on, e.g. 0-3,8
    #[arg(long, value_name = "LIST", value_parser = list, help_heading = LIMITS)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use, e.g. 0,1
    #[arg(long, value_name = "LIST", value_parser = list, help_heading = LIMITS)]
    pub cpuset_mems: Option<String>,
    /// Processes of each command, -1 for any number
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = pids, help_heading = LIMITS)]
    pub pids_limit: Option<Pids>,
    /// Control group in which those of commands are made
    #[arg(long, value_name = "GROUP", value_parser = group, help_heading = LIMITS)]
    pub cgroup_parent: Option<String>,
    /// A limit as buildx writes it: memory=2g, memory-swap, cpu-shares, cpu-quota, cpu-period, cpuset-cpus or
    /// cpuset-mems
    #[arg(long = "resource", value_name = "NAME=VALUE", value_delimiter = ';', value_parser = resource,
          help_heading = LIMITS)]
    pub resources: Vec<Resource>,
}

/// A limit of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pids(Option<u64>);

/// One `--resource`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Resource {
    Memory(u64),
    MemorySwap(Swap),
    CpuShares(u64),
    CpuQuota(u64),
    CpuPeriod(u64),
    CpusetCpus(String),
    CpusetMems(String),
}

/// Why a text is not a limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A size.
    #[error(transparent)]
    Size(#[from] amount::AmountError),
    /// `--cpus`.
    #[error("`{0}` is not a number of processors such as 2 or 0.5")]
    Cpus(String),
    /// `--pids-limit`.
    #[error("`{0}` is not a number of processes; -1 is any number")]
    Pids(String),
    /// `--cpuset-cpus`.
    #[error("`{0}` is not a list such as 0-3,8")]
    List(String),
    /// `--cgroup-parent`.
    #[error("`{0}` is not the path of a control group: it has a `..` or is empty")]
    Group(String),
    /// `--resource`.
    #[error(
        "`{0}` is not NAME=VALUE with one of memory, memory-swap, cpu-shares, cpu-quota, cpu-period, cpuset-cpus, cpuset-mems"
    )]
    Resource(String),
    /// A number out of range.
    #[error("`{0}` is out of range")]
    Range(String),
}

impl LimitArgs {
    /// All of them together.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for resource in &self.resources {
            match resource.clone() {
                Resource::Memory(bytes) => limits.memory_bytes = Some(bytes),
                Resource::MemorySwap(swap) => limits.memory_swap = Some(swap),
                Resource::CpuShares(shares) => limits.cpu_shares = Some(shares),
                Resource::CpuQuota(us) => limits.cpu_quota_us = Some(us),
                Resource::CpuPeriod(us) => limits.cpu_period_us = Some(us),
                Resource::CpusetCpus(cpus) => limits.cpuset_cpus = Some(cpus),
                Resource::CpusetMems(mems) => limits.cpuset_mems = Some(mems),
            }
        }
        limits.memory_bytes = self.memory.or(limits.memory_bytes);
        limits.memory_swap = self.memory_swap.or(limits.memory_swap);
        limits.cpu_shares = self.cpu_shares.or(limits.cpu_shares);
        limits.cpu_period_us = self.cpu_period.or(limits.cpu_period_us);
        limits.cpu_quota_us = self.cpu_quota.or(limits.cpu_quota_us);
        limits.cpuset_cpus = self.cpuset_cpus.clone().or(limits.cpuset_cpus);
        limits.cpuset_mems = self.cpuset_mems.clone().or(limits.cpuset_mems);
        limits.pids = self.pids_limit.and_then(|Pids(pids)| pids);
        limits.tightened(None, self.cpus)
    }
}

fn swap(text: &str) -> Result<Swap, LimitError> {
    Ok(if text == "-1" { Swap::Unlimited } else { Swap::Bytes(amount::size(text)?) })
}

fn cpus_milli(text: &str) -> Result<u64, LimitError> {
    let bad = || LimitError::Cpus(text.to_owned());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 6 || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    let number = |part: &str| part.parse::<u64>().unwrap_or(0);
    let milli = number(whole) * 1000 + number(&format!("{fraction:0<3}")[..3]);
    if milli == 0 { Err(bad()) } else { Ok(milli) }
}

fn pids(text: &str) -> Result<Pids, LimitError> {
    match text {
        // As in docker, where 0 is "not set".
        "-1" | "0" => Ok(Pids(None)),
        _ => text.parse().map(|pids| Pids(Some(pids))).map_err(|_| LimitError::Pids(text.to_owned())),
    }
}

fn list(text: &str) -> Result<String, LimitError> {
    let number =
        |part: &str| !part.is_empty() && part.len() < 7 && part.bytes().all(|byte| byte.is_ascii_digit());
    let range =
        |part: &str| part.split_once('-').map_or_else(|| number(part), |(a, b)| number(a) && number(b));
    if text.split(',').all(range) { Ok(text.to_owned()) } else { Err(LimitError::List(text.to_owned())) }
}

fn group(text: &str) -> Result<String, LimitError> {
    let good = !text.trim_matches('/').is_empty() && !text.split('/').any(|part| part == "..");
    if good { Ok(text.to_owned()) } else { Err(LimitError::Group(text.to_owned())) }
}

fn resource(text: &str) -> Result<Resource, LimitError> {
    let unknown = || LimitError::Resource(text.to_owned());
    let (name, value) = text.split_once('=').ok_or_else(unknown)?;
    let within = |low: u64, high: u64| -> Result<u64, LimitError> {
        let number = value.parse::<u64>().ok().filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| LimitError::Range(text.to_owned()))
    };
    Ok(match name {
        "memory" => Resource::Memory(amount::size(value)?),
        "memory-swap" => Resource::MemorySwap(swap(value)?),
        "cpu-shares" => Resource::CpuShares(within(2, 262_144)?),
        "cpu-quota" => Resource::CpuQuota(within(1_000, u64::MAX)?),
        "cpu-period" => Resource::CpuPeriod(within(MIN_CPU_PERIOD_US, MAX_CPU_PERIOD_US)?),
        "cpuset-cpus" => Resource::CpusetCpus(list(value)?),
        "cpuset-mems" => Resource::CpusetMems(list(value)?),
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(cpus_milli("1.5"), Ok(1500));
        assert_eq!(cpus_milli(".25"), Ok(250));
        assert_eq!(cpus_milli("2."), Ok(2000));
        assert_eq!(cpus_milli("0.0019"), Ok(1));
        assert_eq!(pids("-1"), Ok(Pids(None)));
        assert_eq!(pids("100"), Ok(Pids(Some(100))));
        assert_eq!(swap("-1"), Ok(Swap::Unlimited));
        assert_eq!(list("0-3,8"), Ok("0-3,8".to_owned()));
        assert_eq!(resource("memory=1g"), Ok(Resource::Memory(1 << 30)));
        for bad in ["", ".", "0", "-1", "1e3", "1.2.3", "99999999", "x"] {
            assert!(cpus_milli(bad).is_err(), "{bad}");
        }
        for bad in ["", ",", "1-", "-1", "1-2-3", "a", "0 1"] {
            assert!(list(bad).is_err(), "{bad}");
        }
        for bad in ["", "/", "..", "a/../b"] {
            assert!(group(bad).is_err(), "{bad}");
        }
        for bad in ["memory", "disk=1", "cpu-shares=1", "cpu-period=5", "memory=x"] {
            assert!(resource(bad).is_err(), "{bad}");
        }
        assert!(pids("many").is_err() && pids("-2").is_err());
    }

    #[test]
    fn options_win_over_resources() {
        let args = LimitArgs {
            memory: Some(1),
            cpus: Some(500),
            cpu_period: Some(10_000),
            resources: vec![Resource::Memory(2), Resource::CpuShares(5)],
            pids_limit: Some(Pids(Some(7))),
            ..LimitArgs::default()
        };
        let limits = args.limits();
        assert_eq!((limits.memory_bytes, limits.cpu_shares, limits.pids), (Some(1), Some(5), Some(7)));
        assert_eq!(limits.cpu_quota_us, Some(5_000), "half of the period");
    }
}
