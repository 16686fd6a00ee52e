//! Quotes, escapes and `$VARIABLE`s in a word (language.md 1.6): what BuildKit's shell lexer does.
//!
//! Invariants:
//! - the only place that interprets quotes and variables; it knows variables through [`Env`] alone;
//! - one pass over the word; nesting is bounded, so hostile input cannot exhaust the stack;
//! - letters and digits of names are Unicode's, as Rust's standard library knows them (a few combining
//!   marks and letter-like numbers count as letters here that do not for BuildKit).

mod heredoc;
mod lexer;
mod pattern;
mod words;

use std::collections::BTreeMap;

pub(crate) use heredoc::{heredoc_terminator, heredoc_words};
use lexer::{Lexer, Options};

/// Variables by name.
pub trait Env {
    /// The value of `name`, `None` when it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
}

/// The result of an expansion. The lists are sorted and without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The text.
    pub value: String,
    /// Names that had a value.
    pub used: Vec<String>,
    /// Names without a value and without an operator that provides for it.
    pub undefined: Vec<String>,
    /// Names without a value, read with an operator (`${x:-w}`, `${x+w}`, `${x#p}`, …).
    pub unset: Vec<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandError {
    /// One line, as BuildKit words it.
    pub message: String,
    /// The variable whose expansion failed, when it is known.
    pub variable: Option<String>,
}

impl std::fmt::Display for ExpandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExpandError {}

/// Expands a word: quotes are removed, variables replaced, the result is one string.
///
/// ```
/// let env = std::collections::BTreeMap::from([("v".to_string(), "1.2".to_string())]);
/// assert_eq!(kiln_grammar::expand::word("app-${v%.*}'$v'", '\\', &env).unwrap().value, "app-1$v");
/// ```
pub fn word(word: &str, escape: char, env: &dyn Env) -> Result<Expanded, ExpandError> {
    let mut lexer = Lexer::new(word, escape, env, Options::default());
    let value = lexer.run()?;
    Ok(lexer.finish(value))
}

/// Expands a text and splits the result at blanks that are neither quoted nor escaped (for EXPOSE).
pub fn words(word: &str, escape: char, env: &dyn Env) -> Result<(Vec<String>, Expanded), ExpandError> {
    let mut lexer = Lexer::new(word, escape, env, Options::default());
    let value = lexer.run()?;
    let words = lexer.take_words().into_iter().map(|word| word.text).collect();
    Ok((words, lexer.finish(value)))
}

/// Expands the body of a COPY or ADD here-document: quotes are ordinary characters, the escape character
/// is the backslash whatever the file says, and an escape is removed from before any character
/// (semantics fact 31, and BuildKit's own tests of it).
pub fn heredoc_body(body: &str, env: &dyn Env) -> Result<Expanded, ExpandError> {
    let options = Options { quotes: lexer::Quotes::Plain, ..Options::default() };
    let mut lexer = Lexer::new(body, '\\', env, options);
    let value = lexer.run()?;
    Ok(lexer.finish(value))
}

#[cfg(test)]
mod tests;
