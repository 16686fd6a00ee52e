//! What is known about every step, whatever is shown of it.
//!
//! Invariants: an event for a step that was never planned is taken as it is; the step has no name then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::base::events::{Event, Outcome, StepNumber, Stream};

use super::TAIL_LINES;
use super::lines::Lines;
use super::rate::Rate;

/// Transfers that are remembered of one step.
const MAX_TRANSFERS: usize = 256;
/// Bytes of a line that the tail keeps.
const MAX_TAIL_LINE_BYTES: usize = 4 * 1024;

/// Sums for a summary line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Steps planned.
    pub planned: u32,
    /// Steps taken from the store.
    pub cached: u32,
    /// Steps executed to their end.
    pub executed: u32,
    /// Steps that failed.
    pub failed: u32,
    /// Steps stopped because of something else.
    pub cancelled: u32,
    /// Warnings.
    pub warnings: u32,
    /// Time since the display was made.
    pub time: Duration,
}

/// All steps.
#[derive(Debug, Default)]
pub struct Steps {
    steps: BTreeMap<StepNumber, Step>,
    warnings: u32,
    looking_up: Option<(String, Duration)>,
}

/// One step.
#[derive(Debug, Default)]
pub struct Step {
    name: Option<String>,
    /// Since when it runs; `None` before and after.
    pub running_since: Option<Duration>,
    outcome: Option<Outcome>,
    /// Another process runs it.
    elsewhere: bool,
    tail: VecDeque<String>,
    streams: [Lines; 2],
    last_stream: usize,
    /// Bytes on the move, in the order in which they began.
    pub transfers: Vec<Transfer>,
}

/// One transfer of a step.
#[derive(Debug)]
pub struct Transfer {
    /// What.
    pub what: String,
    /// So far.
    pub done_bytes: u64,
    /// In all.
    pub total_bytes: Option<u64>,
    /// How fast.
    pub rate: Rate,
}

impl Transfer {
    /// True when everything has moved.
    pub fn is_complete(&self) -> bool {
        self.total_bytes.is_some_and(|total| self.done_bytes >= total)
    }
}

impl Steps {
    /// Takes an event in.
    pub fn handle(&mut self, event: &Event, now: Duration) {
        match event {
            Event::LookingUp { image } => self.looking_up = image.clone().map(|image| (image, now)),
            Event::Planned { step, name } => self.step(*step).name = Some(name.clone()),
            Event::Started { step } => self.step(*step).start(now),
            Event::Waiting { step } => self.step(*step).wait(now),
            Event::Log { step, stream, data, .. } => self.step(*step).log(*stream, data),
            Event::Progress { step, what, done_bytes, total_bytes } => {
                self.step(*step).transfer(what, *done_bytes, *total_bytes, now);
            }
            Event::Finished { step, outcome, .. } => self.step(*step).finish(outcome),
            Event::Warning { .. } => self.warnings += 1,
        }
    }

    /// The image that a registry is asked about, and since when.
    pub fn looking_up(&self) -> Option<(&str, Duration)> {
        self.looking_up.as_ref().map(|(image, since)| (image.as_str(), *since))
    }

    /// Name of a planned step.
    pub fn name(&self, step: StepNumber) -> Option<String> {
        self.steps.get(&step)?.name.clone()
    }

    /// Last lines of a step, an unfinished one included.
    pub fn tail(&self, step: StepNumber) -> Vec<String> {
        let Some(step) = self.steps.get(&step) else { return Vec::new() };
        let partial = step.streams.iter().map(Lines::partial).filter(|partial| !partial.is_empty());
        let mut lines: Vec<String> = step.tail.iter().cloned().chain(partial.map(tail_line)).collect();
        lines.drain(..lines.len().saturating_sub(TAIL_LINES));
        lines
    }

    /// Steps that run, by number.
    pub fn running(&self) -> impl Iterator<Item = (StepNumber, &Step)> {
        self.steps
            .iter()
            .filter(|(_, step)| step.running_since.is_some())
            .map(|(number, step)| (*number, step))
    }

    /// Sums up.
    pub fn totals(&self, time: Duration) -> Totals {
        let mut totals = Totals { time, warnings: self.warnings, ..Totals::default() };
        for step in self.steps.values() {
            totals.planned += 1;
            match step.outcome {
                Some(Outcome::Done) => totals.executed += 1,
                Some(Outcome::Cached) => totals.cached += 1,
                Some(Outcome::Failed(_)) => totals.failed += 1,
                Some(Outcome::Cancelled) => totals.cancelled += 1,
                None => {}
            }
        }
        totals
    }

    fn step(&mut self, number: StepNumber) -> &mut Step {
        self.steps.entry(number).or_default()
    }
}

impl Step {
    /// The last lines of output that are not blank, an unfinished one included; the oldest first.
    pub fn last_lines(&self, most: usize) -> Vec<String> {
        if self.elsewhere {
            return vec![super::ELSEWHERE.to_owned()];
        }
        let partial = tail_line(self.streams.get(self.last_stream).map_or(&[][..], Lines::partial));
        let lines = std::iter::once(&partial).chain(self.tail.iter().rev());
        let mut last: Vec<String> =
            lines.filter(|line| !line.trim().is_empty()).take(most).cloned().collect();
        last.reverse();
        last
    }

    /// What it is called.
    pub fn shown_name(&self) -> &str {
        self.name.as_deref().unwrap_or("")
    }

    fn start(&mut self, now: Duration) {
        self.running_since = Some(now);
        self.elsewhere = false;
    }

    /// Shown like a step that runs, since it is waited for.
    fn wait(&mut self, now: Duration) {
        self.running_since.get_or_insert(now);
        self.elsewhere = true;
    }

    fn log(&mut self, stream: Stream, data: &[u8]) {
        self.last_stream = stream_index(stream);
        let Some(lines) = self.streams.get_mut(self.last_stream) else { return };
        let tail = &mut self.tail;
        lines.push(data, |line| keep(tail, line));
    }

    fn transfer(&mut self, what: &str, done_bytes: u64, total_bytes: Option<u64>, now: Duration) {
        let known = self.transfers.iter().position(|transfer| transfer.what == what);
        let transfer = match known.and_then(|index| self.transfers.get_mut(index)) {
            Some(transfer) => transfer,
            None => {
                if self.transfers.len() >= MAX_TRANSFERS {
                    let complete = self.transfers.iter().position(Transfer::is_complete).unwrap_or(0);
                    self.transfers.remove(complete);
                }
                self.transfers.push(Transfer {
                    what: what.to_owned(),
                    done_bytes: 0,
                    total_bytes: None,
                    rate: Rate::default(),
                });
                match self.transfers.last_mut() {
                    Some(transfer) => transfer,
                    None => return,
                }
            }
        };
        transfer.done_bytes = done_bytes;
        transfer.total_bytes = total_bytes;
        transfer.rate.sample(done_bytes, now);
    }

    fn finish(&mut self, outcome: &Outcome) {
        self.running_since = None;
        self.elsewhere = false;
        self.outcome = Some(outcome.clone());
        self.transfers.clear();
        let tail = &mut self.tail;
        for stream in &mut self.streams {
            stream.finish(|line| keep(tail, line));
        }
    }
}

/// Index of a stream in a pair.
pub fn stream_index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

fn keep(tail: &mut VecDeque<String>, line: &[u8]) {
    if tail.len() >= TAIL_LINES {
        tail.pop_front();
    }
    tail.push_back(tail_line(line));
}

fn tail_line(line: &[u8]) -> String {
    let cut = line.get(..MAX_TAIL_LINE_BYTES).map_or(line, |head| &head[..super::lines::char_boundary(head)]);
    String::from_utf8_lossy(cut).into_owned()
}
