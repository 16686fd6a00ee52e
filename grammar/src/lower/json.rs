//! The exec form: a JSON array of strings (language.md 1.1).
//!
//! Invariants:
//! - text that is no valid JSON array is the shell form, silently, as in BuildKit;
//! - the check for validity keeps its own stack, so nesting cannot exhaust the program's.

use std::ops::Range;

use super::{Findings, Input};
use crate::ast::Word;
use crate::diagnostic::Diagnostic;
use crate::raw;
use crate::span::Spanned;

/// Deepest nesting that counts as JSON (the limit of Go's decoder).
const MAX_NESTING: usize = 10_000;

/// What the arguments of an instruction look like.
pub(super) enum Form {
    /// An array of strings.
    Exec(Vec<Word>),
    /// Anything that is not a JSON array.
    Shell,
    /// An array with something else than strings in it; reported.
    Bad,
}

/// Reads `range` of the arguments as an exec form.
pub(super) fn read(input: &Input<'_>, range: Range<usize>, findings: &mut Findings) -> Form {
    let start = input.rest.start + range.start;
    let text = input.text(start..input.rest.start + range.end);
    if let Some(strings) = raw::json_strings(text) {
        let words = strings
            .into_iter()
            .map(|(at, value)| Spanned::new(value, input.span(start + at.start..start + at.end)));
        return Form::Exec(words.collect());
    }
    match other_element(text) {
        Some(at) => {
            let message = "when using JSON array syntax, arrays must be comprised of strings only";
            findings.push(
                Diagnostic::error(input.span(start + at.start..start + at.end), message)
                    .with_label("not a string")
                    .with_hint("put it in double quotes"),
            );
            Form::Bad
        }
        None => Form::Shell,
    }
}

/// Whether `text` is a JSON array, of whatever.
pub(super) fn is_array(text: &str) -> bool {
    raw::json_strings(text).is_some() || other_element(text).is_some()
}

/// The first element that is not a string, when `text` as a whole is a valid JSON array.
fn other_element(text: &str) -> Option<Range<usize>> {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0 };
    scanner.blanks();
    if scanner.peek() != Some(b'[') {
        return None;
    }
    let mut open: Vec<u8> = Vec::new();
    let mut found: Option<Range<usize>> = None;
    let mut element = None;
    loop {
        scanner.blanks();
        // A value stands here.
        if open.len() == 1 {
            element = Some(scanner.at);
        }
        let first = scanner.peek()?;
        match first {
            b'[' | b'{' => {
                scanner.at += 1;
                open.push(first);
                if open.len() > MAX_NESTING {
                    return None;
                }
                scanner.blanks();
                if scanner.peek() != Some(closing(first)) {
                    if first == b'{' {
                        scanner.key()?;
                    }
                    continue;
                }
            }
            _ => scanner.scalar()?,
        }
        // Behind a value, or before the end of an empty container.
        loop {
            scanner.blanks();
            let container = *open.last()?;
            match scanner.peek()? {
                byte if byte == closing(container) => {
                    // The end of the outermost array also ends its last element.
                    if open.len() == 1 && found.is_none() {
                        found = element.and_then(|start| not_a_string(text, start..scanner.at));
                    }
                    scanner.at += 1;
                    open.pop();
                    if open.is_empty() {
                        scanner.blanks();
                        return found.filter(|_| scanner.peek().is_none());
                    }
                }
                b',' => {
                    if open.len() == 1 && found.is_none() {
                        found = element.and_then(|start| not_a_string(text, start..scanner.at));
                    }
                    scanner.at += 1;
                    scanner.blanks();
                    if container == b'{' {
                        scanner.key()?;
                    }
                    break;
                }
                _ => return None,
            }
        }
    }
}

fn not_a_string(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let element = text.get(range.clone())?.trim_end();
    let other = !element.is_empty() && !element.starts_with('"');
    other.then(|| range.start..range.start + element.len())
}

fn closing(open: u8) -> u8 {
    if open == b'[' { b']' } else { b'}' }
}

struct Scanner<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    /// `"key" :`
    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.blanks();
        self.expect(b':')
    }

    fn scalar(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string(),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Option<()> {
        self.bytes.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            match self.peek()? {
                b'"' => return self.expect(b'"'),
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
                        b'u' => {
                            let digits = self.bytes.get(self.at + 1..self.at + 5)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return None;
                            }
                            self.at += 5;
                        }
                        _ => return None,
                    }
                }
                0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_what_is_not_a_string() {
        let table = [
            ("[1]", Some("1")),
            ("[\"a\", null ]", Some("null")),
            ("[\"a\",[\"b\"]]", Some("[\"b\"]")),
            (" [ {\"a\": [1, {}], \"b\":-0.5e+3} , 2]", Some("{\"a\": [1, {}], \"b\":-0.5e+3}")),
            ("[[]]", Some("[]")),
            ("[true,false]", Some("true")),
            ("[]", None),
            ("[\"a\"]", None),
            ("[1", None),
            ("[01]", None),
            ("[1,]", None),
            ("[a]", None),
            ("[1] x", None),
            ("[{\"a\"}]", None),
            ("[[]", None),
            ("[1}", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(other_element(text).map(|r| &text[r]), expected, "{text}");
        }
        assert_eq!(other_element(&"[".repeat(1_000_000)), None);
    }

    proptest! {
        #[test]
        fn agrees_with_serde(text in r#"\[?[\[\]{},:"a1 -.e\\un]{0,12}\]?"#) {
            let valid = serde_json::from_str::<Vec<serde_json::Value>>(&text);
            let expected = valid.is_ok_and(|values| values.iter().any(|value| !value.is_string()));
            prop_assert_eq!(other_element(&text).is_some(), expected, "{}", text);
        }
    }
}
