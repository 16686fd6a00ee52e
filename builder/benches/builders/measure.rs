//! One run of a program and what it took.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub wall_seconds: f64,
    /// Of the program and of all of its children that it waited for.
    pub cpu_seconds: f64,
    /// The largest of all its processes.
    pub peak_bytes: u64,
}

/// The runs of one builder in one phase.
#[derive(Debug, Default)]
pub struct Figures {
    pub samples: Vec<Sample>,
    pub failure: Option<String>,
}

impl Figures {
    pub fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    pub fn median_seconds(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.wall_seconds).collect())
    }

    pub fn median_cpu_seconds(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.cpu_seconds).collect())
    }

    pub fn least_and_most(&self) -> (f64, f64) {
        let seconds = || self.samples.iter().map(|sample| sample.wall_seconds);
        (seconds().fold(f64::NAN, f64::min), seconds().fold(f64::NAN, f64::max))
    }

    pub fn peak_bytes(&self) -> u64 {
        self.samples.iter().map(|sample| sample.peak_bytes).max().unwrap_or(0)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// The machine's load, for the reader to judge the figures by.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// Runs a program to its end; what it says is shown only when it fails.
pub fn run(command: &mut Command) -> Result<Sample, String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        // Ends when the program and all that hold its standard error have ended.
        let _ = stderr.read_to_end(&mut said);
    }
    let (status, cpu_seconds, peak_bytes) = wait(child.id())?;
    let wall_seconds = begun.elapsed().as_secs_f64();
    if !status.success() {
        let text = String::from_utf8_lossy(&said);
        let last: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        return Err(format!("failed: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")));
    }
    Ok(Sample { wall_seconds, cpu_seconds, peak_bytes })
}

fn wait(pid: u32) -> Result<(ExitStatus, f64, u64), String> {
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both places outlive the call; the child has not been waited for, so its number is its own.
        let result = unsafe { libc::wait4(pid as libc::pid_t, &raw mut status, 0, &raw mut usage) };
        if result >= 0 {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error.to_string());
        }
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let peak = u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024;
    Ok((ExitStatus::from_raw(status), seconds(usage.ru_utime) + seconds(usage.ru_stime), peak))
}
