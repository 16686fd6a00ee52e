//! The part of a terminal that is drawn again and again, below lines that stay.
//!
//! indicatif draws the lines ([`super::bar`] says why not the whole); here they are put on the terminal, with three
//! escape sequences (cursor up, cursor down, erase line).
//!
//! Invariants:
//! - one frame is one write, so a kill between frames leaves no half escape sequence; the cursor is never hidden;
//! - the cursor rests at the start of the line below the frame;
//! - lines given here are at most one column narrower than the terminal, so that none wraps when it is written.

use super::super::text;
use super::Output;

/// What was drawn last.
pub struct Screen {
    out: Output,
    /// Widths of the lines of the last frame.
    drawn: Vec<usize>,
    columns: usize,
}

/// A line with its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Styled {
    /// The text, without control characters.
    pub text: String,
    /// SGR code, e.g. `31`; empty for none.
    pub code: &'static str,
}

impl Screen {
    /// A screen on `out`, with nothing drawn.
    pub fn new(out: Output) -> Self {
        Self { out, drawn: Vec::new(), columns: 0 }
    }

    /// Writes `above` where it stays, then the frame below it.
    pub fn draw(&mut self, above: &[Styled], frame: &[Styled], columns: usize) {
        if above.is_empty() && frame.is_empty() && self.drawn.is_empty() {
            return;
        }
        let mut bytes = String::new();
        let rows = self.rows(columns);
        if rows > 0 {
            bytes.push_str(&format!("\x1b[{rows}A\r"));
        }
        // Rows that a resize wrapped stay marked as one line until they are erased, and the next resize would join
        // what is written over them. Otherwise lines are overwritten in place, which flickers less.
        if columns != self.columns {
            erase(&mut bytes, rows);
        }
        self.columns = columns;
        for line in above.iter().chain(frame) {
            if line.code.is_empty() {
                bytes.push_str(&line.text);
            } else {
                bytes.push_str(&format!("\x1b[{}m{}\x1b[0m", line.code, line.text));
            }
            bytes.push_str("\x1b[K\n");
        }
        erase(&mut bytes, rows.saturating_sub(above.len() + frame.len()));
        self.drawn = frame.iter().map(|line| text::width(&line.text)).collect();
        self.out.write(bytes.as_bytes());
    }

    /// Rows that the last frame takes now: a terminal that became narrower has wrapped its lines.
    fn rows(&self, columns: usize) -> usize {
        self.drawn.iter().map(|width| width.div_ceil(columns.max(1)).max(1)).sum()
    }
}

/// Erases rows from the cursor's on and returns to it. Row by row, as `erase below` at the top of the screen makes
/// tmux keep the rows in its history.
fn erase(bytes: &mut String, rows: usize) {
    if rows > 0 {
        bytes.push_str(&"\x1b[2K\x1b[B".repeat(rows));
        bytes.push_str(&format!("\x1b[{rows}A"));
    }
}
