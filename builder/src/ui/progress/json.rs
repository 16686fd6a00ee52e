//! Progress as JSON lines; the schema is a promise, written down in docs/progress-json.md.
//!
//! Invariants:
//! - one object per line, keys in a fixed order, no key ever changes its meaning within a [`VERSION`];
//! - text of a step is never split inside a character: the bytes of an unfinished one wait for the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::base::events::{Event, Outcome, StepNumber, Stream};

use super::Output;
use super::lines::char_boundary;
use super::state::{Totals, stream_index};

/// Version of the schema; new keys and new kinds of events do not change it.
pub const VERSION: u32 = 1;

/// The writer of JSON lines.
pub struct Json {
    out: Output,
    begun: bool,
    held: BTreeMap<(StepNumber, usize), (Stream, Duration, Vec<u8>)>,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    ms: u64,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Begin { version: u32 },
    Planned { step: StepNumber, name: &'a str },
    Started { step: StepNumber },
    Log { step: StepNumber, stream: &'static str, at_ms: u64, text: &'a str },
    Progress { step: StepNumber, what: &'a str, done_bytes: u64, total_bytes: Option<u64> },
    Finished { step: StepNumber, outcome: &'static str, error: Option<&'a str>, took_ms: u64 },
    Warning { message: &'a str },
    End { planned: u32, cached: u32, executed: u32, failed: u32, cancelled: u32, warnings: u32 },
}

impl Json {
    /// Writes to `out`.
    pub fn new(out: Output) -> Self {
        Self { out, begun: false, held: BTreeMap::new() }
    }

    /// Writes one event.
    pub fn handle(&mut self, event: &Event, now: Duration) {
        match event {
            // Programs have nothing to do meanwhile.
            Event::LookingUp { .. } => {}
            Event::Planned { step, name } => self.line("planned", now, Body::Planned { step: *step, name }),
            Event::Waiting { step } => self.line("waiting", now, Body::Started { step: *step }),
            Event::Started { step } => self.line("started", now, Body::Started { step: *step }),
            Event::Log { step, stream, at, data } => self.log(*step, *stream, *at, data, now),
            Event::Progress { step, what, done_bytes, total_bytes } => {
                let (done_bytes, total_bytes) = (*done_bytes, *total_bytes);
                self.line("progress", now, Body::Progress { step: *step, what, done_bytes, total_bytes });
            }
            Event::Finished { step, outcome, took } => {
                self.release(*step, now);
                let (outcome, error) = match outcome {
                    Outcome::Done => ("done", None),
                    Outcome::Cached => ("cached", None),
                    Outcome::Failed(error) => ("failed", Some(error.as_str())),
                    Outcome::Cancelled => ("cancelled", None),
                };
                let body = Body::Finished { step: *step, outcome, error, took_ms: milliseconds(*took) };
                self.line("finished", now, body);
            }
            Event::Warning { message } => self.line("warning", now, Body::Warning { message }),
        }
    }

    /// Writes the last line.
    pub fn finish(&mut self, totals: &Totals, now: Duration) {
        let steps: Vec<StepNumber> = self.held.keys().map(|(step, _)| *step).collect();
        for step in steps {
            self.release(step, now);
        }
        let Totals { planned, cached, executed, failed, cancelled, warnings, time: _ } = *totals;
        self.line("end", now, Body::End { planned, cached, executed, failed, cancelled, warnings });
    }

    fn log(&mut self, step: StepNumber, stream: Stream, at: Duration, data: &[u8], now: Duration) {
        let key = (step, stream_index(stream));
        let mut bytes = self.held.remove(&key).map(|(_, _, held)| held).unwrap_or_default();
        bytes.extend_from_slice(data);
        let rest = bytes.split_off(char_boundary(&bytes));
        if !rest.is_empty() {
            self.held.insert(key, (stream, at, rest));
        }
        if !bytes.is_empty() {
            self.text(step, stream, at, &bytes, now);
        }
    }

    /// Writes the bytes of a step that turned out to be no whole character.
    fn release(&mut self, step: StepNumber, now: Duration) {
        for index in 0..2 {
            if let Some((stream, at, bytes)) = self.held.remove(&(step, index)) {
                self.text(step, stream, at, &bytes, now);
            }
        }
    }

    fn text(&mut self, step: StepNumber, stream: Stream, at: Duration, bytes: &[u8], now: Duration) {
        let text = String::from_utf8_lossy(bytes);
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        self.line("log", now, Body::Log { step, stream, at_ms: milliseconds(at), text: &text });
    }

    fn line(&mut self, event: &'static str, now: Duration, body: Body<'_>) {
        if !self.begun {
            self.begun = true;
            self.line("begin", now, Body::Begin { version: VERSION });
        }
        // Only a map with keys that are no strings can fail, and there is none.
        if let Ok(mut bytes) = serde_json::to_vec(&Line { event, ms: milliseconds(now), body }) {
            bytes.push(b'\n');
            self.out.write(&bytes);
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
