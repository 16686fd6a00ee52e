//! Progress as plain lines, as buildx writes them (cli.md 2.6): `#N name`, `#N 0.123 text`, `#N DONE 0.3s`.
//!
//! Invariants:
//! - every line carries the number of its step; a step's lines keep their order;
//! - lines of a step stay together while it keeps writing: another step gets its turn when the current one ends,
//!   is silent for [`IDLE`], or another has waited for [`PATIENCE`];
//! - a step's bytes are passed through, colours included, except line ends and overwritten progress bars;
//! - what waits is bounded: [`MAX_WAITING_BYTES`] per step, then it is written at once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::events::{Event, Outcome, StepNumber, Stream};

use super::Output;
use super::lines::Lines;
use super::state::{Steps, stream_index};
use crate::ui::{size, text};

/// A step that wrote nothing for so long gives way to one that waits.
pub const IDLE: Duration = Duration::from_secs(1);
/// A step does not wait for longer while another keeps writing.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// More than this does not wait.
pub const MAX_WAITING_BYTES: usize = 256 * 1024;
/// A registry that takes so long to say what an image is, is told of.
const LOOK_UP: Duration = Duration::from_secs(3);
/// A running transfer is reported this often.
const TRANSFER_EVERY: Duration = Duration::from_secs(3);

/// The writer of plain lines.
pub struct Plain {
    out: Output,
    current: Option<StepNumber>,
    last_written: Duration,
    steps: BTreeMap<StepNumber, Pending>,
    anything_written: bool,
    /// Since when the registry is asked that was told of.
    told_of: Option<Duration>,
}

/// What is held of one step.
#[derive(Default)]
struct Pending {
    header: String,
    header_written: bool,
    waiting: Vec<u8>,
    waiting_since: Option<Duration>,
    finished: bool,
    streams: [Lines; 2],
    last_at: Duration,
    transfers: BTreeMap<String, Reported>,
}

/// What was said of a transfer.
struct Reported {
    began: Duration,
    last: Duration,
    state: String,
    complete: bool,
}

impl Plain {
    /// Writes to `out`.
    pub fn new(out: Output) -> Self {
        Self {
            out,
            current: None,
            last_written: Duration::ZERO,
            steps: BTreeMap::new(),
            anything_written: false,
            told_of: None,
        }
    }

    /// Takes an event in and writes what may be written now.
    pub fn handle(&mut self, event: &Event, known: &Steps, now: Duration) {
        match event {
            Event::Planned { .. } => {}
            Event::LookingUp { .. } => self.told_of = None,
            Event::Started { step } => self.add(*step, known, now, |_, _| {}),
            Event::Waiting { step } => self.add(*step, known, now, |pending, number| {
                pending.waiting.extend_from_slice(format!("#{number} {}\n", super::ELSEWHERE).as_bytes());
            }),
            Event::Log { step, stream, at, data } => {
                self.add(*step, known, now, |pending, number| pending.log(number, *stream, *at, data));
            }
            Event::Progress { step, what, done_bytes, total_bytes } => {
                let report = TransferReport { what, done_bytes: *done_bytes, total_bytes: *total_bytes };
                self.add(*step, known, now, |pending, number| pending.transfer(number, &report, now));
            }
            Event::Finished { step, outcome, took } => {
                self.add(*step, known, now, |pending, number| pending.finish(number, outcome, *took));
            }
            Event::Warning { message } => {
                self.out.write(format!("WARNING: {}\n", text::visible(message)).as_bytes());
                self.anything_written = true;
            }
        }
        self.tick(known, now);
    }

    /// Writes a line that belongs to no step.
    pub fn say(&mut self, line: &str) {
        self.out.write(format!("{}\n", text::visible(line)).as_bytes());
    }

    /// Writes what waited long enough.
    pub fn tick(&mut self, known: &Steps, now: Duration) {
        if let Some((image, since)) = known.looking_up()
            && self.told_of.is_none()
            && now.saturating_sub(since) >= LOOK_UP
        {
            self.told_of = Some(since);
            self.say(&format!("looking up {image}"));
        }
        while let Some(step) = self.turn(now) {
            self.write(step, now);
        }
    }

    /// Writes everything, and how many warnings there were.
    pub fn finish(&mut self, known: &Steps, now: Duration) {
        for (number, pending) in &mut self.steps {
            pending.finish_lines(*number);
        }
        let waiting: Vec<StepNumber> =
            self.steps.iter().filter(|(_, pending)| pending.waits()).map(|(number, _)| *number).collect();
        for step in waiting {
            self.write(step, now);
        }
        let warnings = known.totals(now).warnings;
        if warnings > 0 {
            let plural = if warnings == 1 { "" } else { "s" };
            self.out.write(format!("\n{warnings} warning{plural} found\n").as_bytes());
        }
    }

    fn add(
        &mut self,
        step: StepNumber,
        known: &Steps,
        now: Duration,
        change: impl FnOnce(&mut Pending, StepNumber),
    ) {
        let pending = self.steps.entry(step).or_insert_with(|| {
            let name = known.name(step).unwrap_or_default();
            Pending { header: text::visible(&name).into_owned(), ..Pending::default() }
        });
        change(pending, step);
        if pending.waits() {
            pending.waiting_since.get_or_insert(now);
        }
    }

    /// The step that may write now.
    fn turn(&self, now: Duration) -> Option<StepNumber> {
        let oldest = self
            .steps
            .iter()
            .filter(|(_, pending)| pending.waits())
            .min_by_key(|(number, pending)| (pending.waiting_since, **number));
        let (oldest, oldest_pending) = oldest?;
        let current = self.current.and_then(|number| Some((number, self.steps.get(&number)?)));
        let Some((current, current_pending)) = current else { return Some(*oldest) };
        let waited = now.saturating_sub(oldest_pending.waiting_since.unwrap_or(now));
        let too_much = self.steps.iter().find(|(_, pending)| pending.waiting.len() > MAX_WAITING_BYTES);
        if let Some((number, _)) = too_much {
            return Some(*number);
        }
        if waited >= PATIENCE {
            return Some(*oldest);
        }
        if current_pending.waits() {
            return Some(current);
        }
        let idle = now.saturating_sub(self.last_written) >= IDLE;
        (current_pending.finished || idle).then_some(*oldest)
    }

    fn write(&mut self, step: StepNumber, now: Duration) {
        let Some(pending) = self.steps.get_mut(&step) else { return };
        let mut bytes = Vec::new();
        if self.current != Some(step) {
            if self.anything_written {
                bytes.push(b'\n');
            }
            self.current = Some(step);
            // Said again when a step comes back, as buildx does: the first time may be pages ago.
            bytes.extend_from_slice(format!("#{step} {}\n", pending.header).as_bytes());
            pending.header_written = true;
        }
        bytes.append(&mut pending.waiting);
        pending.waiting_since = None;
        if pending.finished {
            pending.transfers.clear();
        }
        self.last_written = now;
        self.anything_written = true;
        self.out.write(&bytes);
    }
}

/// A progress event without its step.
struct TransferReport<'a> {
    what: &'a str,
    done_bytes: u64,
    total_bytes: Option<u64>,
}

impl Pending {
    fn waits(&self) -> bool {
        !self.header_written || !self.waiting.is_empty()
    }

    fn log(&mut self, step: StepNumber, stream: Stream, at: Duration, data: &[u8]) {
        self.last_at = at;
        let waiting = &mut self.waiting;
        if let Some(lines) = self.streams.get_mut(stream_index(stream)) {
            lines.push(data, |line| push_log_line(waiting, step, at, line));
        }
    }

    fn transfer(&mut self, step: StepNumber, report: &TransferReport<'_>, now: Duration) {
        let complete = report.total_bytes.is_some_and(|total| report.done_bytes >= total);
        let entry = self.transfers.entry(report.what.to_owned()).or_insert_with(|| Reported {
            began: now,
            last: now,
            state: String::new(),
            complete: false,
        });
        if entry.complete {
            return;
        }
        let total = report.total_bytes.map(|total| format!(" / {}", size::human(total))).unwrap_or_default();
        let seconds = now.saturating_sub(entry.began).as_secs_f64();
        entry.state = format!(
            "#{step} {} {}{total} {seconds:.1}s",
            text::visible(report.what),
            size::human(report.done_bytes)
        );
        entry.complete = complete;
        if complete {
            self.waiting.extend_from_slice(format!("{} done\n", entry.state).as_bytes());
        } else if now.saturating_sub(entry.last) >= TRANSFER_EVERY {
            entry.last = now;
            self.waiting.extend_from_slice(format!("{}\n", entry.state).as_bytes());
        }
    }

    fn finish(&mut self, step: StepNumber, outcome: &Outcome, took: Duration) {
        self.finish_lines(step);
        let done = matches!(outcome, Outcome::Done);
        for reported in self.transfers.values().filter(|reported| !reported.complete) {
            let end = if done { " done" } else { "" };
            self.waiting.extend_from_slice(format!("{}{end}\n", reported.state).as_bytes());
        }
        self.transfers.clear();
        let line = match outcome {
            Outcome::Done => format!("#{step} DONE {:.1}s\n", took.as_secs_f64()),
            Outcome::Cached => format!("#{step} CACHED\n"),
            Outcome::Failed(message) => format!("#{step} ERROR: {}\n", text::visible(message)),
            Outcome::Cancelled => format!("#{step} CANCELED\n"),
        };
        self.waiting.extend_from_slice(line.as_bytes());
        self.finished = true;
    }

    fn finish_lines(&mut self, step: StepNumber) {
        let waiting = &mut self.waiting;
        let at = self.last_at;
        for lines in &mut self.streams {
            lines.finish(|line| push_log_line(waiting, step, at, line));
        }
    }
}

fn push_log_line(waiting: &mut Vec<u8>, step: StepNumber, at: Duration, line: &[u8]) {
    waiting.extend_from_slice(format!("#{step} {:.3} ", at.as_secs_f64()).as_bytes());
    waiting.extend_from_slice(line);
    waiting.push(b'\n');
}
