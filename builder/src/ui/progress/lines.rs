//! Bytes of a step's output cut into lines.
//!
//! Invariants:
//! - every byte ends up in exactly one line, except what a later carriage return overwrote;
//! - a line never holds a line feed; it holds at most [`MAX_LINE_BYTES`] and is never cut inside a character.

/// Longer lines are cut.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// Holds the unfinished line of one stream.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// The last byte was a carriage return: what follows overwrites the line unless it is a line feed.
    returned: bool,
}

impl Lines {
    /// Adds output; calls `each` with every finished line, without its end.
    pub fn push(&mut self, data: &[u8], mut each: impl FnMut(&[u8])) {
        for &byte in data {
            match byte {
                b'\n' => {
                    each(&self.partial);
                    self.partial.clear();
                    self.returned = false;
                }
                b'\r' => self.returned = true,
                _ => {
                    // A progress bar redraws its line: only the last state is worth a line.
                    if std::mem::take(&mut self.returned) {
                        self.partial.clear();
                    }
                    self.partial.push(byte);
                    if self.partial.len() >= MAX_LINE_BYTES {
                        let cut = char_boundary(&self.partial);
                        each(&self.partial[..cut]);
                        self.partial.drain(..cut);
                    }
                }
            }
        }
    }

    /// Ends the output; calls `each` with an unfinished last line.
    pub fn finish(&mut self, each: impl FnOnce(&[u8])) {
        if !self.partial.is_empty() {
            each(&self.partial);
            self.partial.clear();
        }
        self.returned = false;
    }

    /// The unfinished line so far.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }
}

/// The largest cut of `bytes` that does not split a UTF-8 character; all of it when it is not UTF-8.
pub fn char_boundary(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for start in (tail..bytes.len()).rev() {
        let needed = match bytes.get(start) {
            Some(0xc0..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            Some(0xf0..=0xf7) => 4,
            Some(0x80..=0xbf) => continue,
            _ => break,
        };
        return if start + needed > bytes.len() { start } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |line| all.push(String::from_utf8_lossy(line).into_owned()));
        }
        lines.finish(|line| all.push(String::from_utf8_lossy(line).into_owned()));
        all
    }

    #[test]
    fn chunks_become_lines() {
        assert_eq!(split(&[b"a\nb", b"c\n", b"\nd"]), ["a", "bc", "", "d"]);
        assert_eq!(split(&[b"dos\r\nnext\r", b"\n"]), ["dos", "next"]);
        assert_eq!(split(&[b"10%\r20%", b"\r", b"30%\ndone"]), ["30%", "done"]);
        assert_eq!(split(&[b"bar\r"]), ["bar"]);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let mut text = "x".repeat(MAX_LINE_BYTES - 1);
        text.push_str("é end");
        let lines = split(&[text.as_bytes()]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "é end");
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter(data in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let cut = cut.min(data.len());
            prop_assert_eq!(split(&[&data]), split(&[&data[..cut], &data[cut..]]));
        }
    }
}
