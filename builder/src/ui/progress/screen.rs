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

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// As other text.
    Plain,
    /// Fainter.
    Dim,
    /// One of the eight colours of every terminal: 30 is black, 37 white.
    Basic(u8),
    /// Red, green and blue.
    Exact(u8, u8, u8),
}

impl Colour {
    pub const RED: Self = Self::Basic(31);
    pub const YELLOW: Self = Self::Basic(33);
    pub const BLUE: Self = Self::Basic(34);

    /// Parameters of the escape sequence; `None` for none.
    fn code(self) -> Option<String> {
        match self {
            Self::Plain => None,
            Self::Dim => Some("2".to_owned()),
            Self::Basic(code) => Some(code.to_string()),
            Self::Exact(red, green, blue) => Some(format!("38;2;{red};{green};{blue}")),
        }
    }
}

/// A line with its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Styled {
    /// The text, without control characters.
    pub text: String,
    /// How it is written.
    pub colour: Colour,
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
            match line.colour.code() {
                None => bytes.push_str(&line.text),
                Some(code) => bytes.push_str(&format!("\x1b[{code}m{}\x1b[0m", line.text)),
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
