//! Showing what a build does: the consumer of events, in one of several modes.
//!
//! Invariants:
//! - whatever the mode, names, tails and totals of all steps are kept;
//! - memory is bounded: per step [`TAIL_LINES`] lines of [`lines::MAX_LINE_BYTES`] and what a mode holds back;
//! - a write error (a reader that went away) silences the output and never stops the build;
//! - time comes in through `now`, so that every mode can be tested without waiting.

use std::io::Write;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::events::{Event, EventSink, StepNumber};

use super::terminal::{self, Size};

mod bar;
mod json;
mod lines;
mod palette;
mod plain;
mod rate;
mod screen;
mod state;
mod tty;

use palette::Palette;
pub use state::Totals;
use tty::Appearance;

/// What is said of a step that another process runs.
const ELSEWHERE: &str = "waiting for another kiln that runs this step";

/// Lines of output that are kept of each step.
pub const TAIL_LINES: usize = 40;

/// How progress is shown (cli.md 2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `Tty` on a capable terminal, else `Plain`.
    #[default]
    Auto,
    /// A live display; falls back to `Plain` where there is no terminal.
    Tty,
    /// One line after the other.
    Plain,
    /// Nothing; the caller prints the image's id.
    Quiet,
    /// One JSON object per line (docs/progress-json.md).
    RawJson,
    /// Nothing.
    None,
}

/// Why a text is not a mode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a kind of progress; use auto, tty, plain, quiet, rawjson or none")]
pub struct ModeError(pub String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        Ok(match text {
            "auto" => Self::Auto,
            "tty" => Self::Tty,
            "plain" => Self::Plain,
            "quiet" => Self::Quiet,
            "rawjson" => Self::RawJson,
            "none" => Self::None,
            other => return Err(ModeError(other.chars().take(40).collect())),
        })
    }
}

/// Where progress is written.
pub enum Target {
    /// Standard error; a terminal when it is one.
    Stderr,
    /// Something that is no terminal.
    Writer(Box<dyn Write + Send>),
    /// Something that behaves like a terminal of the size that the function tells.
    Terminal {
        /// Takes text and ANSI escape sequences.
        out: Box<dyn Write + Send>,
        /// Asked before every frame.
        size: Box<dyn Fn() -> Size + Send>,
        /// With colours.
        colour: bool,
    },
}

/// Shows events until it is finished. Clones share one display.
#[derive(Clone)]
pub struct Progress(Arc<Handle>);

/// Ends the ticking thread when the last `Progress` and the last sink are gone.
struct Handle {
    shared: Arc<Shared>,
    began: Instant,
}

struct Shared {
    /// Guards the state and the output together: lines of two events must not mix.
    inner: Mutex<Inner>,
    /// Wakes the ticking thread when it should end.
    ended: Condvar,
}

struct Inner {
    steps: state::Steps,
    display: Display,
    finished: bool,
}

enum Display {
    Silent,
    Plain(plain::Plain),
    Json(json::Json),
    Tty(tty::Tty),
}

/// How often a live display is drawn, and how often plain output looks for a step that waited long enough.
const TICK: Duration = Duration::from_millis(100);

impl Progress {
    /// Starts showing progress.
    pub fn new(mode: Mode, target: Target) -> Self {
        let display = Display::new(mode, target);
        let ticks = matches!(display, Display::Plain(_) | Display::Tty(_));
        let inner = Inner { steps: state::Steps::default(), display, finished: false };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), ended: Condvar::new() });
        let began = Instant::now();
        if ticks {
            let shared = shared.clone();
            // Without the thread the output only comes later, so a failure to start it is no reason to stop.
            let _ = std::thread::Builder::new()
                .name("progress".to_owned())
                .spawn(move || tick_until_finished(&shared, began));
        }
        Self(Arc::new(Handle { shared, began }))
    }

    /// Where to send events.
    pub fn sink(&self) -> EventSink {
        let handle = self.0.clone();
        EventSink::new(move |event| {
            let now = handle.began.elapsed();
            let mut inner = handle.shared.lock();
            inner.handle(event, now);
        })
    }

    /// The last lines of output of a step, colours and other escape sequences included.
    pub fn tail(&self, step: StepNumber) -> Vec<String> {
        self.0.shared.lock().steps.tail(step)
    }

    /// The name of a step, once it is planned.
    pub fn name(&self, step: StepNumber) -> Option<String> {
        self.0.shared.lock().steps.name(step)
    }

    /// What happened so far.
    pub fn totals(&self) -> Totals {
        let inner = self.0.shared.lock();
        inner.steps.totals(self.0.began.elapsed())
    }

    /// Says something beside the steps, without disturbing a live display. Nothing where people do not read along.
    pub fn say(&self, line: &str) {
        let now = self.0.began.elapsed();
        let mut inner = self.0.shared.lock();
        let Inner { steps, display, finished } = &mut *inner;
        match display {
            Display::Tty(tty) if !*finished => tty.say(line, steps, now),
            Display::Plain(plain) if !*finished => plain.say(line),
            Display::Json(_) => {}
            _ => crate::ui::print::talk(line),
        }
    }

    /// Writes what is held back, removes the live display and shows nothing more. May be called twice.
    pub fn finish(&self) {
        let now = self.0.began.elapsed();
        self.0.shared.finish(now);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.finish(self.began.elapsed());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, now: Duration) {
        let mut inner = self.lock();
        if !inner.finished {
            inner.finish(now);
        }
        drop(inner);
        self.ended.notify_all();
    }
}

fn tick_until_finished(shared: &Shared, began: Instant) {
    let mut inner = shared.lock();
    while !inner.finished {
        inner = shared.ended.wait_timeout(inner, TICK).unwrap_or_else(PoisonError::into_inner).0;
        inner.tick(began.elapsed());
    }
}

impl Display {
    fn new(mode: Mode, target: Target) -> Self {
        let live = match (mode, &target) {
            (Mode::Tty | Mode::Auto, Target::Stderr) => terminal::stderr_can_redraw(),
            (Mode::Tty | Mode::Auto, Target::Terminal { .. }) => true,
            _ => false,
        };
        let appearance = match &target {
            Target::Stderr => Appearance {
                palette: terminal::stderr_colour()
                    .then(|| Palette::parse(&terminal::variable("BUILDKIT_COLORS").unwrap_or_default())),
                log_lines: terminal::variable("BUILDKIT_TTY_LOG_LINES")
                    .and_then(|lines| lines.parse().ok())
                    .map_or(Appearance::LOG_LINES, |lines: usize| lines.min(TAIL_LINES)),
            },
            Target::Writer(_) => Appearance { palette: None, log_lines: Appearance::LOG_LINES },
            Target::Terminal { colour, .. } => {
                Appearance { palette: colour.then(Palette::default), log_lines: Appearance::LOG_LINES }
            }
        };
        let (out, size): (Box<dyn Write + Send>, Box<dyn Fn() -> Size + Send>) = match target {
            Target::Stderr => (Box::new(std::io::stderr()), Box::new(terminal::stderr_size)),
            Target::Writer(out) => (out, Box::new(|| terminal::DEFAULT_SIZE)),
            Target::Terminal { out, size, .. } => (out, size),
        };
        let out = Output::new(out);
        match mode {
            Mode::Quiet | Mode::None => Self::Silent,
            Mode::RawJson => Self::Json(json::Json::new(out)),
            Mode::Auto | Mode::Tty if live => {
                Self::Tty(tty::Tty::new(screen::Screen::new(out), size, appearance))
            }
            Mode::Auto | Mode::Tty | Mode::Plain => Self::Plain(plain::Plain::new(out)),
        }
    }
}

impl Inner {
    fn handle(&mut self, event: Event, now: Duration) {
        self.steps.handle(&event, now);
        if self.finished {
            return;
        }
        match &mut self.display {
            Display::Silent => {}
            Display::Plain(plain) => plain.handle(&event, &self.steps, now),
            Display::Json(json) => json.handle(&event, now),
            Display::Tty(tty) => tty.handle(&event, &self.steps, now),
        }
    }

    fn tick(&mut self, now: Duration) {
        if self.finished {
            return;
        }
        match &mut self.display {
            Display::Silent | Display::Json(_) => {}
            Display::Plain(plain) => plain.tick(&self.steps, now),
            Display::Tty(tty) => tty.draw(&self.steps, now),
        }
    }

    fn finish(&mut self, now: Duration) {
        self.finished = true;
        match &mut self.display {
            Display::Silent => {}
            Display::Plain(plain) => plain.finish(&self.steps, now),
            Display::Json(json) => json.finish(&self.steps.totals(now), now),
            Display::Tty(tty) => tty.finish(),
        }
    }
}

/// A writer that goes silent at its first error.
struct Output {
    out: Option<Box<dyn Write + Send>>,
}

impl Output {
    fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out: Some(out) }
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(out) = &mut self.out
            && out.write_all(bytes).and_then(|()| out.flush()).is_err()
        {
            self.out = None;
        }
    }
}

#[cfg(test)]
mod tests;
