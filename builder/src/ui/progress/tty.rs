//! The live display: finished steps above, running ones below with their time, last line and transfers.
//!
//! Invariants:
//! - the frame is a pure function of the steps, the size and the time ([`frame`]);
//! - it is always smaller than the terminal, in both directions, down to one row of one column;
//! - every finished step is written once, above the frame.

use std::time::Duration;

use crate::base::events::{Event, Outcome};

use super::bar;
use super::palette::Palette;
use super::screen::{Colour, Screen, Styled};
use super::state::{Step, Steps, Transfer};
use crate::ui::terminal::Size;
use crate::ui::{size, text};

/// Transfers shown of one step.
const MAX_SHOWN_TRANSFERS: usize = 4;
/// Events that come faster than this are drawn together.
const FRAME_EVERY: Duration = Duration::from_millis(50);

/// What the user chose about the live display.
#[derive(Debug, Clone, Copy)]
pub struct Appearance {
    /// None for no colours.
    pub palette: Option<Palette>,
    /// Lines of output shown of each running step, where there is room.
    pub log_lines: usize,
}

impl Appearance {
    /// Lines of output of a running step, unless `BUILDKIT_TTY_LOG_LINES` says otherwise.
    pub const LOG_LINES: usize = 1;
}

/// The live display.
pub struct Tty {
    screen: Screen,
    size: Box<dyn Fn() -> Size + Send>,
    appearance: Appearance,
    above: Vec<Styled>,
    drawn_at: Option<Duration>,
}

impl Tty {
    /// A display on `screen`; `size` is asked before every frame.
    pub fn new(screen: Screen, size: Box<dyn Fn() -> Size + Send>, appearance: Appearance) -> Self {
        Self { screen, size, appearance, above: Vec::new(), drawn_at: None }
    }

    /// Takes an event in; draws unless a frame was drawn just now.
    pub fn handle(&mut self, event: &Event, steps: &Steps, now: Duration) {
        let palette = self.appearance.palette.unwrap_or_default();
        match event {
            // The next tick shows it, if it is still so then: most registries answer at once.
            Event::LookingUp { .. } => return,
            Event::Finished { step, outcome, took } => {
                let columns = usable((self.size)().columns);
                let name = steps.name(*step).unwrap_or_default();
                self.above.push(finished(&name, outcome, *took, columns, &palette));
                if let Outcome::Failed(message) = outcome {
                    let line = format!("    {message}");
                    self.above
                        .push(Styled { text: text::fit(&line, columns).into_owned(), colour: palette.error });
                }
            }
            // A warning is kept whole: it may wrap, as it is never drawn over.
            Event::Warning { message } => {
                let text = format!(" WARNING: {}", text::visible(message));
                self.above.push(Styled { text, colour: palette.warning });
            }
            _ => {}
        }
        if self.drawn_at.is_none_or(|at| now.saturating_sub(at) >= FRAME_EVERY) {
            self.draw(steps, now);
        }
    }

    /// Writes a line above the frame.
    pub fn say(&mut self, line: &str, steps: &Steps, now: Duration) {
        self.above.push(Styled { text: text::visible(line).into_owned(), colour: Colour::Plain });
        self.draw(steps, now);
    }

    /// Draws a frame.
    pub fn draw(&mut self, steps: &Steps, now: Duration) {
        let size = (self.size)();
        let is_busy = steps.running().next().is_some() || steps.looking_up().is_some();
        let log_lines = self.appearance.log_lines;
        let lines = if is_busy { frame(steps, size, now, log_lines) } else { Vec::new() };
        self.put(lines, size.columns);
        self.drawn_at = Some(now);
    }

    /// Removes the frame, leaving what stands above it.
    pub fn finish(&mut self) {
        let columns = (self.size)().columns;
        self.put(Vec::new(), columns);
    }

    fn put(&mut self, mut frame: Vec<Styled>, columns: usize) {
        let mut above = std::mem::take(&mut self.above);
        if self.appearance.palette.is_none() {
            for line in above.iter_mut().chain(&mut frame) {
                line.colour = Colour::Plain;
            }
        }
        self.screen.draw(&above, &frame, columns);
    }
}

/// The line that stays of a finished step.
fn finished(name: &str, outcome: &Outcome, took: Duration, columns: usize, palette: &Palette) -> Styled {
    let (word, colour) = match outcome {
        Outcome::Done => ("", palette.run),
        Outcome::Cached => ("CACHED ", palette.run),
        Outcome::Failed(_) => ("ERROR ", palette.error),
        Outcome::Cancelled => ("CANCELED ", palette.cancel),
    };
    let time = if matches!(outcome, Outcome::Cached) { String::new() } else { seconds(took) };
    Styled { text: bar::line(&format!(" => {word}{name}"), &time, columns), colour }
}

/// The lines below.
pub fn frame(steps: &Steps, size: Size, now: Duration, log_lines: usize) -> Vec<Styled> {
    let columns = usable(size.columns);
    // The cursor takes a row of its own.
    let rows = size.rows.saturating_sub(1).max(1);
    let running: Vec<&Step> = steps.running().map(|(_, step)| step).collect();
    let totals = steps.totals(now);
    let ended = totals.cached + totals.executed + totals.failed + totals.cancelled;
    let heading = match steps.looking_up() {
        Some((image, _)) => format!("[+] looking up {}", text::visible(image)),
        None => format!("[+] {ended}/{} steps, {} cached", totals.planned, totals.cached),
    };
    let mut lines = vec![Styled { text: bar::line(&heading, &seconds(now), columns), colour: Colour::Plain }];
    let room = rows.saturating_sub(lines.len());
    // With more steps than rows, the last row says how many are missing.
    let shown = if running.len() > room { room.saturating_sub(1) } else { running.len() };
    let mut spare = room.saturating_sub(running.len().min(room));
    for step in running.iter().take(shown) {
        let time = seconds(now.saturating_sub(step.running_since.unwrap_or(now)));
        let name = format!(" => {}", step.shown_name());
        lines.push(Styled { text: bar::line(&name, &time, columns), colour: Colour::Plain });
        for detail in details(step, now, columns, log_lines) {
            if spare == 0 {
                break;
            }
            spare -= 1;
            lines.push(Styled { text: detail, colour: Colour::Dim });
        }
    }
    if shown < running.len() && room > 0 {
        let more = format!(" ... and {} more running", running.len() - shown);
        lines.push(Styled { text: text::fit(&more, columns).into_owned(), colour: Colour::Dim });
    }
    lines
}

/// What a step moves and what it said last, `log_lines` of it.
fn details(step: &Step, now: Duration, columns: usize, log_lines: usize) -> Vec<String> {
    let moving: Vec<&Transfer> = step.transfers.iter().filter(|transfer| !transfer.is_complete()).collect();
    let mut lines: Vec<String> = moving
        .iter()
        .take(MAX_SHOWN_TRANSFERS)
        .map(|transfer| {
            let (name, moved) = (format!("    {}", transfer.what), moved(transfer, now));
            bar::transfer(&name, &moved, transfer.done_bytes, transfer.total_bytes, columns)
        })
        .collect();
    if moving.len() > MAX_SHOWN_TRANSFERS {
        let more = format!("    ... and {} more", moving.len() - MAX_SHOWN_TRANSFERS);
        lines.push(text::fit(&more, columns).into_owned());
    }
    for line in step.last_lines(log_lines) {
        let line = format!("    {}", text::plain(&line).trim_end());
        lines.push(text::fit(&line, columns).into_owned());
    }
    lines
}

/// `12.3MB / 29MB 5.1MB/s`.
fn moved(transfer: &Transfer, now: Duration) -> String {
    let mut shown = size::human(transfer.done_bytes);
    if let Some(total) = transfer.total_bytes {
        shown.push_str(&format!(" / {}", size::human(total)));
    }
    if let Some(rate) = transfer.rate.bytes_per_second(transfer.done_bytes, now) {
        shown.push_str(&format!(" {}/s", size::human(rate)));
    }
    shown
}

fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..100 => format!("{:.1}s", duration.as_secs_f64()),
        s @ 100..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

/// The last column stays free: a line that fills it would wrap in some terminals.
fn usable(columns: usize) -> usize {
    columns.saturating_sub(1).max(1)
}
