//! `.dockerignore` files and `--exclude` patterns (language.md 1.8 and 1.11): moby's pattern matcher.
//!
//! Invariants:
//! - the last pattern that applies decides; a pattern that matches a directory applies to all below it;
//! - a verdict takes time O(patterns x path components x path length), never more, whatever the patterns;
//! - paths are bytes separated by `/`, relative, without `.` and `..` components.
//!
//! Go's matcher turns patterns into regular expressions and so gives accidental meanings to a few of them
//! (`\d`, `*` within a class, `^` in the middle). Here an escaped character is that character and a class is
//! a class.

mod pattern;

use crate::glob::BadPattern;
use pattern::Program;

/// Longest line of an ignore file (the limit of Go's line scanner).
const MAX_LINE_BYTES: usize = 65_535;

/// One pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// The cleaned pattern, without the `!`.
    pub text: String,
    /// Written with `!`: what it matches is taken back in.
    pub negated: bool,
    /// Line in the file, or position in the list, from 1.
    pub line: usize,
    program: Program,
}

/// Why patterns cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreError {
    /// What is wrong.
    pub message: String,
    /// Line in the file, or position in the list, from 1.
    pub line: usize,
}

impl std::fmt::Display for IgnoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for IgnoreError {}

/// What the patterns say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Left out.
    pub ignored: bool,
    /// Index in [`Matcher::patterns`] of the pattern that decided; `None` when none applied.
    pub pattern: Option<usize>,
}

/// A list of patterns, ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
}

impl Matcher {
    /// Reads the text of an ignore file.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut matcher = Self::default();
        for (index, line) in text.split('\n').enumerate() {
            if line.len() > MAX_LINE_BYTES {
                let message = format!("line greater than the maximum size of {MAX_LINE_BYTES} bytes");
                return Err(IgnoreError { message, line: index + 1 });
            }
            // Only at the very start of a line: an indented `#` is part of a name.
            if line.starts_with('#') {
                continue;
            }
            let trimmed = line.trim();
            if trimmed.is_empty() {
                continue;
            }
            let (mark, name) = match trimmed.strip_prefix('!') {
                Some(name) => ("!", name.trim()),
                None => ("", trimmed),
            };
            let mut name = if name.is_empty() { String::new() } else { clean(name) };
            if name.len() > 1 && name.starts_with('/') {
                name.remove(0);
            }
            matcher.add(&format!("{mark}{name}"), index + 1)?;
        }
        Ok(matcher)
    }

    /// Takes patterns as they are, as `COPY --exclude` and `COPY --parents` do.
    pub fn from_patterns(patterns: &[String]) -> Result<Self, IgnoreError> {
        let mut matcher = Self::default();
        for (index, pattern) in patterns.iter().enumerate() {
            matcher.add(pattern, index + 1)?;
        }
        Ok(matcher)
    }

    fn add(&mut self, pattern: &str, line: usize) -> Result<(), IgnoreError> {
        let pattern = pattern.trim();
        if pattern.is_empty() {
            return Ok(());
        }
        let cleaned = clean(pattern);
        let (negated, text) = match cleaned.strip_prefix('!') {
            Some("") => {
                return Err(IgnoreError { message: "illegal exclusion pattern: \"!\"".to_string(), line });
            }
            Some(text) => (true, text.to_string()),
            None => (false, cleaned),
        };
        let program = crate::glob::matches(text.as_bytes(), b".").and_then(|_| Program::new(&text)).map_err(
            |BadPattern| IgnoreError { message: format!("syntax error in pattern `{text}`"), line },
        )?;
        self.patterns.push(Pattern { text, negated, line, program });
        Ok(())
    }

    /// What the patterns say of `path`.
    pub fn verdict(&self, path: &str) -> Verdict {
        self.verdict_bytes(path.as_bytes())
    }

    /// Like [`Self::verdict`], for names that need not be UTF-8.
    pub fn verdict_bytes(&self, path: &[u8]) -> Verdict {
        let mut verdict = Verdict { ignored: false, pattern: None };
        // The root itself cannot be left out.
        if path.is_empty() || path == b"." {
            return verdict;
        }
        for (index, pattern) in self.patterns.iter().enumerate() {
            if pattern.negated == verdict.ignored && pattern.applies(path) {
                verdict = Verdict { ignored: !pattern.negated, pattern: Some(index) };
            }
        }
        verdict
    }

    /// Whether something below the ignored directory `dir` could still be taken back in, so that a walk has
    /// to enter it. True for a directory that is not ignored.
    pub fn may_match_below(&self, dir: &str) -> bool {
        self.may_match_below_bytes(dir.as_bytes())
    }

    /// Like [`Self::may_match_below`], for names that need not be UTF-8.
    pub fn may_match_below_bytes(&self, dir: &[u8]) -> bool {
        let verdict = self.verdict_bytes(dir);
        let Some(index) = verdict.pattern.filter(|_| verdict.ignored) else { return true };
        // The pattern that decided applies to everything below, so only later ones count.
        let later = self.patterns.iter().skip(index + 1);
        later.filter(|pattern| pattern.negated).any(|pattern| pattern.program.may_match_below(dir))
    }

    /// No pattern at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// At least one `!` pattern.
    pub fn has_negations(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }

    /// The patterns in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }
}

impl Pattern {
    /// Whether the pattern matches `path` or a directory above it.
    fn applies(&self, path: &[u8]) -> bool {
        self.program.matches_with_parents(path)
    }
}

/// The shortest equivalent of a path, as Go's `filepath.Clean`: purely lexical, for patterns and for paths in an image.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(last) if *last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_string(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests;
