//! Splitting an expanded text into words.
//!
//! Invariants:
//! - empty words do not exist: `""` alone gives none;
//! - a word knows where it stands in the source.

use std::ops::Range;

/// A word of a split text.
#[derive(Debug)]
pub(crate) struct SplitWord {
    /// The word.
    pub(crate) text: String,
    /// Where it stands in the source.
    pub(crate) source: Range<usize>,
}

/// Collects words; blanks that come from unquoted text separate them.
#[derive(Debug, Default)]
pub(super) struct Words {
    done: Vec<SplitWord>,
    text: String,
    source: Range<usize>,
}

impl Words {
    /// Adds text whose blanks separate words.
    pub(super) fn add_splitting(&mut self, text: &str, at: Range<usize>) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.flush();
            } else {
                self.add(c.encode_utf8(&mut [0; 4]), at.clone());
            }
        }
    }

    /// Adds text whose blanks are part of the word.
    pub(super) fn add(&mut self, text: &str, at: Range<usize>) {
        if self.text.is_empty() {
            self.source.start = at.start;
        }
        self.source.end = at.end;
        self.text.push_str(text);
    }

    /// Ends the word.
    pub(super) fn flush(&mut self) {
        if !self.text.is_empty() {
            self.done.push(SplitWord { text: std::mem::take(&mut self.text), source: self.source.clone() });
        }
    }

    /// Forgets the word that is being collected.
    pub(super) fn discard(&mut self) {
        self.text.clear();
    }

    /// The words that are complete.
    pub(super) fn take(&mut self) -> Vec<SplitWord> {
        std::mem::take(&mut self.done)
    }
}
