//! Making a record while a build runs: a consumer of its events, like progress.
//!
//! Invariants:
//! - nothing is written before a step starts, so a build that finds everything stored writes once, at its end;
//! - whatever cannot be written is told once, as a warning at the end, and the build goes on;
//! - a killed build leaves a record that says so (`unfinished`) and the logs up to then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::base::digest::{CacheKey, Digest};
use crate::base::events::{Event, EventSink, Outcome};
use crate::plan::graph::{Graph, Op, VertexId};
use crate::plan::public_spec;

use super::shelf::{Entry, Shelf, pack};
use super::{
    About, BuildRecord, BuildResult, Head, Refused, StepOutcome, StepRecord, Totals, VERSION, explain,
};

/// Logs longer than this are compressed when their step ends.
const PACK_FROM_BYTES: u64 = 1 << 20;
/// Earlier builds that are compared with.
const MAX_COMPARED: usize = 20;

/// What the scheduler found out about a vertex.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// Definition key.
    pub key: Option<CacheKey>,
    /// What it reads from outside.
    pub outside: Option<Digest>,
    /// Content key.
    pub content_key: Option<CacheKey>,
    /// What it reads of its inputs.
    pub contents: Vec<Digest>,
    /// Identity of its result.
    pub result: Option<Digest>,
    /// Bytes of files in what it has added, when it ran.
    pub written_bytes: u64,
    /// Taken by content key.
    pub by_content: bool,
    /// No stored result was wanted.
    pub refused: Option<Refused>,
}

/// How a build ended, and what it was made of.
#[derive(Debug, Default)]
pub struct Ending<'a> {
    /// Its graph, when it came to have one.
    pub graph: Option<&'a Graph>,
    /// Vertices that people count as steps.
    pub counted: Vec<VertexId>,
    /// What the scheduler found out.
    pub noted: BTreeMap<VertexId, Noted>,
    /// How.
    pub result: BuildResult,
    /// Why it failed.
    pub error: Option<String>,
    /// Exit status of commands that failed, by number of the step.
    pub exit_codes: BTreeMap<u32, i32>,
    /// Digest of the image's manifest or index.
    pub image: Option<Digest>,
    /// Names of build arguments that the file declares.
    pub arguments: BTreeSet<String>,
}

/// Records one build. Clones share it.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Inner>>);

struct Inner {
    shelf: Shelf,
    entry: Entry,
    head: Head,
    began: Instant,
    steps: BTreeMap<u32, Live>,
    /// There is a directory, with an unfinished record.
    begun: bool,
    below: Option<EventSink>,
    /// The first thing that could not be written.
    trouble: Option<io::Error>,
    record: Option<BuildRecord>,
}

/// What events said of a step.
#[derive(Default)]
struct Live {
    name: String,
    started_ms: Option<u64>,
    took: Duration,
    outcome: Option<Outcome>,
    log: Option<File>,
    log_bytes: u64,
}

impl Recorder {
    /// Begins a record on `shelf`. Events must come without values of secrets ([`super::masked`]).
    ///
    /// # Errors
    /// When the machine has no random numbers.
    pub fn new(shelf: Shelf, about: About) -> io::Result<Self> {
        let began = SystemTime::now();
        let entry = Entry::new(began)?;
        let head = Head {
            version: VERSION,
            id: entry.id().to_owned(),
            kiln: env!("CARGO_PKG_VERSION").to_owned(),
            began_ms: milliseconds(began.duration_since(UNIX_EPOCH).unwrap_or_default()),
            about,
            ..Head::default()
        };
        Ok(Self(Arc::new(Mutex::new(Inner {
            shelf,
            entry,
            head,
            began: Instant::now(),
            steps: BTreeMap::new(),
            begun: false,
            below: None,
            trouble: None,
            record: None,
        }))))
    }

    /// A sink that records every event and passes it on to `below`.
    pub fn listen(&self, below: EventSink) -> EventSink {
        self.lock().below = Some(below.clone());
        let recorder = self.clone();
        EventSink::new(move |event| {
            recorder.lock().handle(&event);
            below.send(event);
        })
    }

    /// Writes the record, with reasons for what ran.
    pub fn end(&self, ending: &Ending<'_>) {
        let mut inner = self.lock();
        let record = inner.finish(ending);
        let written = inner.shelf.write(&inner.entry, &record);
        inner.keep(written);
        let ran = inner.begun;
        inner.shelf.prune(ran);
        if let (Some(error), Some(below)) = (&inner.trouble, &inner.below) {
            below.warn(format!("this build's record is not complete: {error}"));
        }
        inner.record = Some(record);
    }

    /// Number of the build.
    pub fn id(&self) -> String {
        self.lock().head.id.clone()
    }

    /// The record, once the build has ended.
    pub fn record(&self) -> Option<BuildRecord> {
        self.lock().record.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

impl Inner {
    fn handle(&mut self, event: &Event) {
        match event {
            Event::Planned { step, name } => self.step(*step).name.clone_from(name),
            Event::Started { step } => {
                let now = milliseconds(self.began.elapsed());
                self.step(*step).started_ms = Some(now);
                self.begin();
            }
            Event::Log { step, data, .. } => self.log(*step, data),
            Event::Finished { step, outcome, took } => {
                let live = self.step(*step);
                live.outcome = Some(outcome.clone());
                live.took = *took;
                self.close_log(*step);
            }
            Event::LookingUp { .. }
            | Event::Waiting { .. }
            | Event::Progress { .. }
            | Event::Warning { .. } => {}
        }
    }

    fn step(&mut self, number: u32) -> &mut Live {
        self.steps.entry(number).or_default()
    }

    /// Remembers the first error and drops all others.
    fn keep(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.trouble.get_or_insert(error);
        }
    }

    /// Leaves word that there is a build, in case that it is killed.
    fn begin(&mut self) {
        if self.begun {
            return;
        }
        self.begun = true;
        let steps = self.steps.iter().map(|(number, live)| live.to_record(*number)).collect();
        let written = self.shelf.write(&self.entry, &BuildRecord { head: self.head.clone(), steps });
        self.keep(written);
    }

    fn log(&mut self, step: u32, data: &[u8]) {
        let path = self.shelf.log_path(&self.entry, step);
        let Self { steps, trouble, .. } = self;
        let live = steps.entry(step).or_default();
        if live.log.is_none() {
            // The first error is told; a full disk would give one for every line.
            if trouble.is_some() {
                return;
            }
            match File::create(path) {
                Ok(file) => live.log = Some(file),
                Err(error) => {
                    trouble.get_or_insert(error);
                }
            }
        }
        let Some(log) = &mut live.log else { return };
        match log.write_all(data) {
            Ok(()) => live.log_bytes += data.len() as u64,
            Err(error) => {
                trouble.get_or_insert(error);
                live.log = None;
            }
        }
    }

    fn close_log(&mut self, step: u32) {
        let path = self.shelf.log_path(&self.entry, step);
        let Some(live) = self.steps.get_mut(&step) else { return };
        if live.log.take().is_some() && live.log_bytes > PACK_FROM_BYTES {
            self.keep(pack(&path));
        }
    }

    fn finish(&mut self, ending: &Ending<'_>) -> BuildRecord {
        let unclosed: Vec<u32> = self.steps.keys().copied().collect();
        for step in unclosed {
            self.close_log(step);
        }
        let mut record = BuildRecord { head: self.head.clone(), steps: self.steps_of(ending) };
        record.head.took_ms = milliseconds(self.began.elapsed());
        record.head.result = ending.result;
        record.head.error.clone_from(&ending.error);
        record.head.image = ending.image;
        let about = &mut record.head.about;
        let others = ending.arguments.iter().filter(|name| !about.build_args.contains(name));
        about.arguments = others.cloned().collect();
        record.head.totals = totals(&record.steps);
        if record.head.totals.ran + record.head.totals.failed > 0 {
            let earlier = self.earlier();
            explain(&mut record, &earlier, &self.shelf.listings());
        }
        record
    }

    /// Records to compare with, the newest first. Damaged ones are none.
    fn earlier(&self) -> Vec<BuildRecord> {
        let entries = self.shelf.entries().unwrap_or_default();
        let others = entries.iter().filter(|entry| **entry != self.entry);
        others.filter_map(|entry| self.shelf.read(entry).ok()).take(MAX_COMPARED).collect()
    }

    fn steps_of(&self, ending: &Ending<'_>) -> Vec<StepRecord> {
        let mut steps: Vec<StepRecord> = Vec::new();
        let vertices = ending.graph.map(|graph| &graph.vertices[..]).unwrap_or_default();
        for (at, vertex) in vertices.iter().enumerate() {
            let id = VertexId(u32::try_from(at).unwrap_or(u32::MAX));
            let Some(noted) = ending.noted.get(&id) else { continue };
            let number = id.0 + 1;
            let mut live = self
                .steps
                .get(&number)
                .map(|live| live.to_record(number))
                .unwrap_or(StepRecord { number, ..StepRecord::default() });
            // A part of another step, whose events tell of both.
            if live.outcome == StepOutcome::NotReached && noted.result.is_some() {
                live.outcome = if noted.by_content { StepOutcome::Cached } else { StepOutcome::Ran };
            }
            let image = match &vertex.op {
                Op::Image(spec) => spec.image.as_ref().map(|image| (image.name.clone(), image.digest)),
                _ => None,
            };
            steps.push(StepRecord {
                name: vertex.name.clone(),
                stage: vertex.stage.clone(),
                counted: ending.counted.contains(&id),
                platform: vertex.platform.to_string(),
                inputs: vertex.inputs.iter().map(|input| input.0 + 1).collect(),
                spec: serde_json::to_value(public_spec(&vertex.op)).unwrap_or_default(),
                image,
                guards: vertex.guards.clone(),
                written_bytes: noted.written_bytes,
                key: noted.key,
                outside: noted.outside,
                content_key: noted.content_key,
                contents: noted.contents.clone(),
                result: noted.result,
                by_content: noted.by_content,
                refused: noted.refused,
                exit_code: ending.exit_codes.get(&number).copied(),
                ..live
            });
        }
        mark_covered(&mut steps);
        let known: Vec<u32> = steps.iter().map(|step| step.number).collect();
        let others = self.steps.iter().filter(|(number, _)| known.binary_search(number).is_err());
        steps.extend(others.map(|(number, live)| live.to_record(*number)));
        steps.sort_by_key(|step| step.number);
        steps
    }
}

impl Live {
    fn to_record(&self, number: u32) -> StepRecord {
        let (outcome, error) = match &self.outcome {
            None => (StepOutcome::NotReached, None),
            Some(Outcome::Done) => (StepOutcome::Ran, None),
            Some(Outcome::Cached) => (StepOutcome::Cached, None),
            Some(Outcome::Failed(error)) => (StepOutcome::Failed, Some(error.clone())),
            Some(Outcome::Cancelled) => (StepOutcome::Cancelled, None),
        };
        StepRecord {
            number,
            name: self.name.clone(),
            outcome,
            error,
            started_ms: self.started_ms,
            took_ms: milliseconds(self.took),
            log_bytes: self.log_bytes,
            ..StepRecord::default()
        }
    }
}

/// Marks the steps that nobody asked for: all that reads them was taken from the store. Readers come after what they
/// read.
fn mark_covered(steps: &mut [StepRecord]) {
    let mut needed: BTreeMap<u32, bool> = BTreeMap::new();
    for step in steps.iter_mut().rev() {
        let is_local = step.spec.get("kind").is_some_and(|kind| kind == "local");
        let unasked = needed.get(&step.number) == Some(&false);
        if step.outcome == StepOutcome::NotReached && (unasked || is_local) {
            step.outcome = StepOutcome::Covered;
        }
        let looks_below =
            !matches!(step.outcome, StepOutcome::Covered | StepOutcome::Cached) || step.by_content;
        for input in &step.inputs {
            *needed.entry(*input).or_insert(false) |= looks_below;
        }
    }
}

fn totals(steps: &[StepRecord]) -> Totals {
    let mut totals = Totals::default();
    for step in steps.iter().filter(|step| step.counted) {
        totals.steps += 1;
        totals.written_bytes += step.written_bytes;
        match step.outcome {
            StepOutcome::Cached | StepOutcome::Covered => totals.cached += 1,
            StepOutcome::Ran => totals.ran += 1,
            StepOutcome::Failed => totals.failed += 1,
            StepOutcome::NotReached | StepOutcome::Cancelled => {}
        }
    }
    totals
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
