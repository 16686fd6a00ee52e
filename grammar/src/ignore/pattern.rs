//! One ignore pattern, compiled.
//!
//! Invariants:
//! - matching simulates all alternatives at once: time O(pattern x path), no backtracking;
//! - the shortcuts for plain, `prefix/**` and `**/suffix` patterns decide as moby's own shortcuts do, which
//!   differ from the general rule (`foo**` matches any path that begins with `foo`).

use crate::glob::{BadPattern, Class, Unit, first_unit};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`: any character but `/`.
    AnyChar,
    /// `*`: any run without `/`.
    Star,
    /// `**/` or `**` before other text: nothing, or anything that ends in `/`.
    Directories,
    /// `**` at the end: anything.
    Everything,
    Class(Class),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    Exact,
    Prefix(String),
    Suffix(String),
    General,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Program {
    text: String,
    shape: Shape,
    tokens: Vec<Token>,
    /// Bytes every match begins with.
    head: String,
    /// Bytes every match ends with.
    tail: String,
}

impl Program {
    pub(super) fn new(text: &str) -> Result<Self, BadPattern> {
        let (tokens, shape) = compile(text)?;
        let literal = |token: &Token| match token {
            Token::Literal(c) => Some(*c),
            _ => None,
        };
        let head = tokens.iter().map_while(literal).collect();
        let tail: Vec<char> = tokens.iter().rev().map_while(literal).collect();
        let tail = tail.into_iter().rev().collect();
        Ok(Self { text: text.to_string(), shape, tokens, head, tail })
    }

    /// Whether the whole of `path` matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact => path == self.text.as_bytes(),
            Shape::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
            Shape::Suffix(suffix) => {
                path.ends_with(suffix.as_bytes())
                    || suffix.strip_prefix('/').is_some_and(|name| path == name.as_bytes())
            }
            Shape::General => {
                path.starts_with(self.head.as_bytes())
                    && path.ends_with(self.tail.as_bytes())
                    && self.run(path).is_some_and(|state| state.last() == Some(&true))
            }
        }
    }

    /// Whether `path` or a directory above it matches. One pass over the path, so that a deep path costs no more than a
    /// long name.
    pub(super) fn matches_with_parents(&self, path: &[u8]) -> bool {
        let Shape::General = self.shape else {
            let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
            return self.matches(path)
                || ends.any(|end| path.get(..end).is_some_and(|parent| self.matches(parent)));
        };
        // What a parent begins with, the path begins with.
        if !path.starts_with(self.head.as_bytes()) {
            return false;
        }
        let mut found = false;
        let last = self.read(path, |state| {
            found |= state.last() == Some(&true);
            !found
        });
        found || last.is_some_and(|state| state.last() == Some(&true))
    }

    /// Whether some path below the directory `dir` could match, or one of the directories on the way did.
    pub(super) fn may_match_below(&self, dir: &[u8]) -> bool {
        if let Shape::Suffix(_) = self.shape {
            return true;
        }
        let mut below = dir.to_vec();
        below.push(b'/');
        let ancestors = below.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut ends = ancestors.map(|(end, _)| end);
        let alive = match &self.shape {
            Shape::Prefix(prefix) => {
                let prefix = prefix.as_bytes();
                below.starts_with(prefix) || prefix.starts_with(&below)
            }
            _ => self.run(&below).is_some_and(|state| state.contains(&true)),
        };
        alive || ends.any(|end| dir.get(..end).is_some_and(|parent| self.matches(parent)))
    }

    /// The set of tokens before which matching could stand after reading `path`; its last element means
    /// that all of the pattern was matched. `None` as soon as the set is empty.
    fn run(&self, path: &[u8]) -> Option<Vec<bool>> {
        self.read(path, |_| true)
    }

    /// Like [`Self::run`]; asks `at_directory` before each `/` whether to go on.
    fn read(&self, path: &[u8], mut at_directory: impl FnMut(&[bool]) -> bool) -> Option<Vec<bool>> {
        let mut now = vec![false; self.tokens.len() + 1];
        let mut next = now.clone();
        self.enter(&mut now, 0);
        let mut rest = path;
        while let Some((unit, after)) = first_unit(rest) {
            if unit == Unit::Char('/') && !at_directory(&now) {
                return Some(now);
            }
            rest = after;
            next.fill(false);
            let mut alive = false;
            for (index, token) in self.tokens.iter().enumerate() {
                if now.get(index) == Some(&true) {
                    alive |= self.step(&mut next, index, token, unit);
                }
            }
            if !alive {
                return None;
            }
            std::mem::swap(&mut now, &mut next);
        }
        Some(now)
    }

    fn step(&self, next: &mut [bool], index: usize, token: &Token, unit: Unit) -> bool {
        match token {
            Token::Literal(c) if unit == Unit::Char(*c) => self.enter(next, index + 1),
            Token::AnyChar if unit != Unit::Char('/') => self.enter(next, index + 1),
            Token::Class(class) if class.contains(unit) => self.enter(next, index + 1),
            Token::Star if unit != Unit::Char('/') => self.enter(next, index),
            Token::Everything => self.enter(next, index),
            Token::Directories => {
                // Inside the run of directories matching stays here; behind a `/` it may go on.
                if let Some(state) = next.get_mut(index) {
                    *state = true;
                }
                if unit == Unit::Char('/') {
                    self.enter(next, index + 1);
                }
                return true;
            }
            _ => return false,
        }
        true
    }

    /// Marks `index` and what can be reached from it without reading anything.
    fn enter(&self, state: &mut [bool], index: usize) {
        let mut index = index;
        loop {
            match state.get_mut(index) {
                // A directory run that is entered anew may be skipped, one that is under way may not: it is
                // marked without coming through here, so a mark found here does not end the way.
                Some(marked) => *marked = true,
                None => return,
            }
            match self.tokens.get(index) {
                Some(Token::Star | Token::Everything | Token::Directories) => index += 1,
                _ => return,
            }
        }
    }
}

/// Reads a pattern, and finds out which of the shortcuts it falls under.
fn compile(text: &str) -> Result<(Vec<Token>, Shape), BadPattern> {
    let mut tokens = Vec::new();
    let mut shape = Shape::Exact;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let first = rest.len() == text.len();
        rest = rest.get(c.len_utf8()..).unwrap_or("");
        match c {
            '*' if rest.starts_with('*') => {
                rest = rest.strip_prefix('*').unwrap_or(rest);
                // `**/` and `**` mean the same.
                rest = rest.strip_prefix('/').unwrap_or(rest);
                if rest.is_empty() {
                    tokens.push(Token::Everything);
                    shape = match shape {
                        Shape::Exact => Shape::Prefix(text.strip_suffix("**").unwrap_or(text).to_string()),
                        _ => Shape::General,
                    };
                } else {
                    // Several in a row are one, and one is quicker.
                    if !matches!(tokens.last(), Some(Token::Directories)) {
                        tokens.push(Token::Directories);
                    }
                    shape = Shape::General;
                }
                if first {
                    shape = Shape::Suffix(text.strip_prefix("**").unwrap_or(text).to_string());
                }
                continue;
            }
            '*' => tokens.push(Token::Star),
            '?' => tokens.push(Token::AnyChar),
            '[' => {
                let (class, after) = Class::parse(rest.as_bytes())?;
                rest = rest.get(rest.len() - after.len()..).unwrap_or("");
                tokens.push(Token::Class(class));
            }
            '\\' => {
                let escaped = rest.chars().next().ok_or(BadPattern)?;
                rest = rest.get(escaped.len_utf8()..).unwrap_or("");
                tokens.push(Token::Literal(escaped));
            }
            c => {
                tokens.push(Token::Literal(c));
                continue;
            }
        }
        shape = Shape::General;
    }
    Ok((tokens, shape))
}
