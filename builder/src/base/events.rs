//! What a build reports while it runs. `ui` and the build record are the only consumers.
//!
//! Invariants:
//! - events are plain data; whoever makes one knows nothing about who shows it;
//! - for one vertex the order is `Started`, then any number of `Log` and `Progress`, then `Finished`; a cached vertex
//!   has `Finished` only; `Waiting` may come once, before any of these.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Number of a vertex, for people: counted from 1 in the order in which vertices were planned.
pub type StepNumber = u32;

/// Which stream a line of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// How a vertex ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Executed now.
    Done,
    /// Taken from the store.
    Cached,
    /// Failed; the text is one line.
    Failed(String),
    /// Stopped because something else failed or the user asked.
    Cancelled,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Before anything is planned, a registry is asked what an image is.
    LookingUp {
        /// The image's name; `None`: it has answered.
        image: Option<String>,
    },
    /// A vertex will be needed. Sent once for each before anything runs.
    Planned {
        /// Which.
        step: StepNumber,
        /// `[stage 2/5] RUN make`.
        name: String,
    },
    /// Another kiln runs this very step; its result is waited for.
    Waiting {
        /// Which.
        step: StepNumber,
    },
    /// Execution begins.
    Started {
        /// Which.
        step: StepNumber,
    },
    /// Output of the step: whole or partial lines, bytes as they came.
    Log {
        /// Which.
        step: StepNumber,
        /// From where.
        stream: Stream,
        /// Time since the step started.
        at: Duration,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A transfer moves on. `total_bytes` is `None` while unknown.
    Progress {
        /// Which.
        step: StepNumber,
        /// What is moved, e.g. `sha256:0123456789ab` or `exporting layers`.
        what: String,
        /// So far.
        done_bytes: u64,
        /// In all.
        total_bytes: Option<u64>,
    },
    /// Execution ended.
    Finished {
        /// Which.
        step: StepNumber,
        /// How.
        outcome: Outcome,
        /// How long it took; zero when cached.
        took: Duration,
    },
    /// Something the user should know; the build goes on.
    Warning {
        /// One line, lower case, no final period.
        message: String,
    },
}

/// Where events go. Cheap to clone; may be called from any thread.
#[derive(Clone)]
pub struct EventSink(Arc<dyn Fn(Event) + Send + Sync>);

impl Default for EventSink {
    fn default() -> Self {
        Self::none()
    }
}

impl EventSink {
    /// Sends every event to `consumer`.
    pub fn new(consumer: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(consumer))
    }

    /// Drops every event.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    /// Reports one event.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }

    /// Reports a warning.
    pub fn warn(&self, message: impl Into<String>) {
        self.send(Event::Warning { message: message.into() });
    }
}

/// Reports bytes as they move, whose total nobody knows beforehand. What is done in no time is not reported at all.
#[derive(Debug)]
pub struct Meter {
    sink: EventSink,
    step: StepNumber,
    what: String,
    /// Bytes so far, when the last report was made, and whether there was one.
    state: Mutex<(u64, Instant, bool)>,
}

impl Meter {
    /// Time between two reports, and before the first.
    const EVERY: Duration = Duration::from_millis(200);

    /// Begins with no bytes.
    pub fn new(sink: &EventSink, step: StepNumber, what: impl Into<String>) -> Self {
        Self { sink: sink.clone(), step, what: what.into(), state: Mutex::new((0, Instant::now(), false)) }
    }

    /// Counts bytes.
    pub fn add(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.saturating_add(bytes);
        if state.1.elapsed() >= Self::EVERY {
            (state.1, state.2) = (Instant::now(), true);
            self.report(state.0, None);
        }
    }

    /// Nothing more comes.
    pub fn finish(self) {
        let (bytes, _, reported) = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if reported {
            self.report(bytes, Some(bytes));
        }
    }

    fn report(&self, done_bytes: u64, total_bytes: Option<u64>) {
        let (step, what) = (self.step, self.what.clone());
        self.sink.send(Event::Progress { step, what, done_bytes, total_bytes });
    }
}

impl std::fmt::Debug for EventSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventSink")
    }
}
