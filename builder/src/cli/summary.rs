//! The last lines of a build that succeeded: what it gave, what it cost, and why it did not cost less.
//!
//! Invariants: a build that found everything stored has one line, any other at most four.

use crate::record::{BuildRecord, MissReason, StepOutcome, StepRecord};
use crate::ui::{size, text};

/// Columns of a step's name.
const MAX_NAME_COLUMNS: usize = 60;
/// Columns of a reason.
const MAX_REASON_COLUMNS: usize = 300;
/// Steps that are named as slow.
const MAX_SLOWEST: usize = 3;
/// Steps that took less are not worth a name.
const SLOW_MS: u64 = 500;

/// What a build gave.
pub(super) struct Built<'a> {
    /// Names of the image, familiar.
    pub names: Vec<String>,
    /// Digest of the image, or what else there is.
    pub what: String,
    /// Size of the image.
    pub size_bytes: Option<u64>,
    /// Wall time.
    pub seconds: f64,
    /// Steps that ran, and that were stored.
    pub steps: (usize, usize),
    /// Warnings that were shown.
    pub warnings: usize,
    /// What the steps did.
    pub record: Option<&'a BuildRecord>,
}

impl Built<'_> {
    /// The lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let (executed, cached) = self.steps;
        let mut head = "built".to_owned();
        for part in self.names.iter().chain(std::iter::once(&self.what)) {
            head.push_str(&format!(" {part}"));
        }
        head.push_str(&format!(" in {:.1}s", self.seconds));
        if let Some(bytes) = self.size_bytes {
            head.push_str(&format!(", {}", size::human(bytes)));
        }
        if self.warnings > 0 {
            head.push_str(&format!(", {}", counted(self.warnings, "warning")));
        }
        if executed == 0 {
            head.push_str(&match cached {
                0 => ": no steps".to_owned(),
                1 => ": 1 step, cached".to_owned(),
                all => format!(": {all} steps, all cached"),
            });
            return vec![head];
        }
        let mut ran = format!("  ran      {executed} of {}", counted(executed + cached, "step"));
        if cached > 0 {
            ran.push_str(&format!(", {cached} cached"));
        }
        let mut lines = vec![head];
        if let Some(record) = self.record {
            if record.head.totals.written_bytes > 0 {
                ran.push_str(&format!(", {} written", size::human(record.head.totals.written_bytes)));
            }
            lines.push(ran);
            lines.extend(slowest(record));
            lines.extend(because(record));
        } else {
            lines.push(ran);
        }
        lines
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Without the number in brackets.
fn short(name: &str) -> String {
    let name = name.split_once("] ").map_or(name, |(_, name)| name);
    text::fit(name, MAX_NAME_COLUMNS).into_owned()
}

/// The steps that took longest, sources included: a pull is worth knowing of.
fn slowest(record: &BuildRecord) -> Option<String> {
    let ran = record.steps.iter().filter(|step| step.outcome == StepOutcome::Ran);
    let mut slow: Vec<&StepRecord> = ran.filter(|step| step.took_ms >= SLOW_MS).collect();
    slow.sort_by_key(|step| (std::cmp::Reverse(step.took_ms), step.number));
    let told = slow.iter().take(MAX_SLOWEST).map(|step| {
        let seconds = step.took_ms as f64 / 1000.0;
        format!("{seconds:.1}s {}", short(&step.name))
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| format!("  slowest  {}", told.join("; ")))
}

/// Whether there is nothing to explain.
fn is_asked_for(miss: &MissReason) -> bool {
    matches!(miss, MissReason::FirstBuild | MissReason::NoCache | MissReason::NoCacheFilter)
}

/// The first miss that was caused by a change.
fn because(record: &BuildRecord) -> Option<String> {
    let mut told = record.misses().filter(|(_, miss)| !is_asked_for(miss));
    let (step, miss) = told.next()?;
    let reason = format!("{}: {miss}", short(&step.name));
    Some(format!("  because  {}", text::fit(&reason, MAX_REASON_COLUMNS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Head, Totals};

    fn step(number: u32, name: &str, took_ms: u64, miss: Option<MissReason>) -> StepRecord {
        let outcome = if took_ms > 0 { StepOutcome::Ran } else { StepOutcome::Cached };
        StepRecord { number, name: name.to_owned(), took_ms, outcome, miss, ..StepRecord::default() }
    }

    fn built(record: Option<&BuildRecord>, steps: (usize, usize), warnings: usize) -> String {
        let built = Built {
            names: vec!["app".to_owned()],
            what: "sha256:12".to_owned(),
            size_bytes: Some(29_000_000),
            seconds: 12.34,
            steps,
            warnings,
            record,
        };
        built.lines().join("\n")
    }

    #[test]
    fn nothing_ran() {
        assert_eq!(built(None, (0, 5), 0), "built app sha256:12 in 12.3s, 29MB: 5 steps, all cached");
        assert_eq!(built(None, (0, 1), 0), "built app sha256:12 in 12.3s, 29MB: 1 step, cached");
        assert_eq!(built(None, (0, 0), 2), "built app sha256:12 in 12.3s, 29MB, 2 warnings: no steps");
    }

    #[test]
    fn something_ran() {
        let totals = Totals { written_bytes: 4_100_000, ..Totals::default() };
        let mut record = BuildRecord {
            head: Head { totals, ..Head::default() },
            steps: vec![
                step(1, "[1/4] FROM x", 700, None),
                step(2, "[2/4] RUN a", 0, None),
                step(3, "[3/4] COPY . /app", 1200, Some(MissReason::FirstBuild)),
                step(4, "[4/4] RUN make", 9800, Some(MissReason::Removed)),
            ],
        };
        insta::assert_snapshot!(built(Some(&record), (2, 1), 1), @r"
        built app sha256:12 in 12.3s, 29MB, 1 warning
          ran      2 of 3 steps, 1 cached, 4.1MB written
          slowest  9.8s RUN make; 1.2s COPY . /app; 0.7s FROM x
          because  RUN make: the stored result was removed (by prune, gc or repair) or found lost
        ");
        record.steps.truncate(2);
        record.steps[0].took_ms = 10;
        record.head.totals.written_bytes = 0;
        insta::assert_snapshot!(built(Some(&record), (1, 0), 0), @r"
        built app sha256:12 in 12.3s, 29MB
          ran      1 of 1 step
        ");
    }
}
