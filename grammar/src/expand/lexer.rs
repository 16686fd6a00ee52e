//! The lexer behind the expansion functions.
//!
//! Invariants:
//! - every character is read once; the position only moves forward;
//! - `Options` is the whole difference between its uses.

use std::collections::BTreeSet;

use super::pattern::{Greed, Pattern, replace_all, reversed};
use super::words::{SplitWord, Words};
use super::{Env, ExpandError, Expanded};

/// Deepest nesting of `${x:-${y:-…}}`.
const MAX_NESTING: usize = 100;

/// What becomes of quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Quotes {
    /// They quote and disappear.
    #[default]
    Remove,
    /// They quote and stay.
    Keep,
    /// They mean nothing.
    Plain,
}

/// What becomes of a variable without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Unset {
    /// It disappears.
    #[default]
    Empty,
    /// It stays as written.
    Keep,
}

/// What becomes of escape characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Escapes {
    #[default]
    Remove,
    Keep,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    pub(super) quotes: Quotes,
    pub(super) unset: Unset,
    pub(super) escapes: Escapes,
}

pub(super) struct Lexer<'a> {
    source: &'a str,
    at: usize,
    escape: char,
    env: &'a dyn Env,
    options: Options,
    escapes: Escapes,
    nesting: usize,
    words: Words,
    used: BTreeSet<String>,
    undefined: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a str, escape: char, env: &'a dyn Env, options: Options) -> Self {
        Self {
            source,
            at: 0,
            escape,
            env,
            options,
            escapes: options.escapes,
            nesting: 0,
            words: Words::default(),
            used: BTreeSet::new(),
            undefined: BTreeSet::new(),
            unset: BTreeSet::new(),
        }
    }

    pub(super) fn run(&mut self) -> Result<String, ExpandError> {
        let value = self.until(None)?;
        self.words.flush();
        Ok(value)
    }

    pub(super) fn take_words(&mut self) -> Vec<SplitWord> {
        self.words.take()
    }

    pub(super) fn finish(self, value: String) -> Expanded {
        Expanded {
            value,
            used: self.used.into_iter().collect(),
            undefined: self.undefined.into_iter().collect(),
            unset: self.unset.into_iter().collect(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.source.get(self.at..).and_then(|rest| rest.chars().next())
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Reads up to `stop`, or to the end of the source without one.
    fn until(&mut self, stop: Option<char>) -> Result<String, ExpandError> {
        let mut result = String::new();
        while let Some(c) = self.peek() {
            let start = self.at;
            if Some(c) == stop {
                self.bump();
                return Ok(result);
            }
            let quotes = self.options.quotes != Quotes::Plain;
            let piece = match c {
                '$' => {
                    let value = self.dollar()?;
                    self.split(&value, start);
                    value
                }
                '<' => self.angle(start),
                '\'' if quotes => {
                    let text = self.single_quoted()?;
                    self.keep(&text, start);
                    text
                }
                '"' if quotes => {
                    let text = self.double_quoted()?;
                    self.keep(&text, start);
                    text
                }
                c if c == self.escape => self.escaped(start),
                c => {
                    self.bump();
                    let text = c.to_string();
                    self.split(&text, start);
                    text
                }
            };
            result.push_str(&piece);
        }
        match stop {
            None => Ok(result),
            Some(stop) => {
                Err(failure(format!("unexpected end of statement while looking for matching {stop}"), None))
            }
        }
    }

    /// Like [`Self::until`] inside `${…}`: the words of the outside are not touched by what is read.
    fn nested(&mut self, stop: char, escapes: Escapes) -> Result<String, ExpandError> {
        if self.nesting == MAX_NESTING {
            return Err(failure(format!("substitution nested more than {MAX_NESTING} levels deep"), None));
        }
        // BuildKit uses one buffer for the words of all levels and empties it here: of an unquoted
        // `80${X:-80}` only the second part becomes a word. Which here-documents a line opens depends on it.
        self.words.discard();
        self.nesting += 1;
        let outer = std::mem::replace(&mut self.escapes, escapes);
        let result = self.until(Some(stop));
        self.escapes = outer;
        self.nesting -= 1;
        result
    }

    fn split(&mut self, text: &str, start: usize) {
        if self.nesting == 0 {
            self.words.add_splitting(text, start..self.at);
        }
    }

    fn keep(&mut self, text: &str, start: usize) {
        if self.nesting == 0 {
            self.words.add(text, start..self.at);
        }
    }

    /// An escape outside quotes: the next character is literal; at the end it disappears.
    fn escaped(&mut self, start: usize) -> String {
        let mut text = String::new();
        if let Some(escape) = self.bump()
            && self.escapes == Escapes::Keep
        {
            text.push(escape);
        }
        text.extend(self.bump());
        self.keep(&text, start);
        text
    }

    /// `<`, or `<<` together with the blanks behind it: those belong to the word of a here-document.
    fn angle(&mut self, start: usize) -> String {
        self.bump();
        if self.peek() == Some('<') {
            self.bump();
            while matches!(self.peek(), Some('\t' | '\r' | ' ')) {
                self.bump();
            }
        }
        let text = self.source.get(start..self.at).unwrap_or("").to_string();
        self.keep(&text, start);
        text
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let keep = self.options.quotes == Quotes::Keep;
        let mut text = String::new();
        self.bump();
        if keep {
            text.push('\'');
        }
        loop {
            match self.bump() {
                Some('\'') => break,
                Some(c) => text.push(c),
                None => return Err(unmatched("single-quote")),
            }
        }
        if keep {
            text.push('\'');
        }
        Ok(text)
    }

    /// Variables work in double quotes; the escape character escapes `"`, `$` and itself only.
    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let keep = self.options.quotes == Quotes::Keep;
        let mut text = String::new();
        self.bump();
        if keep {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(unmatched("double-quote")),
                Some('"') => break,
                Some('$') => text.push_str(&self.dollar()?),
                Some(mut c) => {
                    self.bump();
                    if c == self.escape {
                        if self.escapes == Escapes::Keep {
                            text.push(c);
                        }
                        match self.peek() {
                            None => continue,
                            Some(next) if next == '"' || next == '$' || next == self.escape => {
                                self.bump();
                                c = next;
                            }
                            Some(_) => {}
                        }
                    }
                    text.push(c);
                }
            }
        }
        self.bump();
        if keep {
            text.push('"');
        }
        Ok(text)
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.bump();
        if self.peek() == Some('{') {
            self.bump();
            return self.braced();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_string());
        }
        match self.lookup(&name) {
            None if self.options.unset == Unset::Keep => Ok(format!("${name}")),
            value => Ok(value.unwrap_or_default()),
        }
    }

    /// `${…}`, after the brace.
    fn braced(&mut self) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(missing_brace(None)),
            Some('{' | '}' | ':') => return Err(failure("syntax error: bad substitution".to_string(), None)),
            Some(_) => {}
        }
        let name = self.name();
        match self.bump() {
            None => Err(missing_brace(Some(name))),
            Some('}') => match self.lookup(&name) {
                None if self.options.unset == Unset::Keep => Ok(format!("${{{name}}}")),
                value => Ok(value.unwrap_or_default()),
            },
            Some(':') => match self.bump() {
                None => Err(missing_brace(Some(name))),
                Some(operator @ ('#' | '%')) => Err(unsupported(&format!(":{operator}"), name)),
                Some(operator) => self.operator(name, operator, Empty::CountsAsUnset),
            },
            Some(operator @ ('+' | '-' | '?' | '#' | '%')) => {
                self.operator(name, operator, Empty::CountsAsSet)
            }
            Some('/') => self.replacement(name),
            Some(other) => Err(unsupported(&other.to_string(), name)),
        }
    }

    /// `${name<operator>word}`, after the operator.
    fn operator(&mut self, name: String, operator: char, empty: Empty) -> Result<String, ExpandError> {
        let pattern = operator == '#' || operator == '%';
        let escapes = if pattern { Escapes::Keep } else { Escapes::Remove };
        let word = match self.nested('}', escapes) {
            Ok(word) => word,
            Err(_) if self.peek().is_none() => return Err(missing_brace(Some(name))),
            Err(error) => return Err(error),
        };
        let colon = if empty == Empty::CountsAsUnset { ":" } else { "" };
        let value = self.lookup_with_operator(&name);
        if value.is_none() && self.options.unset == Unset::Keep {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let is_set = value.as_ref().is_some_and(|v| !(empty == Empty::CountsAsUnset && v.is_empty()));
        match operator {
            '-' if is_set => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' if is_set => Ok(word),
            '+' => Ok(String::new()),
            '?' if is_set => Ok(value.unwrap_or_default()),
            '?' => {
                let state = if value.is_some() { "empty" } else { "unset" };
                let reason = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                Err(failure(format!("{name}: {reason}"), Some(name)))
            }
            '#' | '%' => trim(&word, value.unwrap_or_default(), operator, name),
            other => Err(unsupported(&format!("{colon}{other}"), name)),
        }
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}`, after the first slash.
    fn replacement(&mut self, name: String) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.bump();
        }
        let pattern = match self.nested('/', Escapes::Keep) {
            Ok(pattern) => pattern,
            Err(_) if self.peek().is_none() => {
                return Err(failure("syntax error: missing '/' in ${}".to_string(), Some(name)));
            }
            Err(error) => return Err(error),
        };
        let replacement = match self.nested('}', Escapes::Keep) {
            Ok(replacement) => replacement,
            Err(_) if self.peek().is_none() => return Err(missing_brace(Some(name))),
            Err(error) => return Err(error),
        };
        let value = self.lookup_with_operator(&name);
        if value.is_none() && self.options.unset == Unset::Keep {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let text: Vec<char> = value.unwrap_or_default().chars().collect();
        let chars: Vec<char> = pattern.chars().collect();
        let compiled = Pattern::parse(&chars).map_err(|reason| bad_pattern(&pattern, &reason, name))?;
        if all {
            let template: Vec<char> = replacement.chars().collect();
            return Ok(replace_all(&compiled, &text, &template));
        }
        let Some(found) = compiled.find_from(&text, 0) else { return Ok(text.into_iter().collect()) };
        let head = text.get(..found.start).unwrap_or_default().iter();
        let tail = text.get(found.end..).unwrap_or_default().iter();
        Ok(head.copied().chain(replacement.chars()).chain(tail.copied()).collect())
    }

    /// A name: letters, digits and `_`; or digits only; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_numeric() => self.skip_while(char::is_numeric),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                self.bump();
            }
            _ => self.skip_while(|c| c.is_alphanumeric() || c == '_'),
        }
        self.source.get(start..self.at).unwrap_or("").to_string()
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.bump();
        }
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name);
        let names = if value.is_some() { &mut self.used } else { &mut self.undefined };
        names.insert(name.to_string());
        value
    }

    fn lookup_with_operator(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name);
        let names = if value.is_some() { &mut self.used } else { &mut self.unset };
        names.insert(name.to_string());
        value
    }
}

/// Whether an empty value counts as a value: the `:` of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Empty {
    CountsAsSet,
    CountsAsUnset,
}

/// `${name#word}` and its three siblings; `##` and `%%` arrive as a word that begins with the operator.
fn trim(word: &str, value: String, operator: char, name: String) -> Result<String, ExpandError> {
    let (word, greed) = match word.strip_prefix(operator) {
        Some(word) => (word, Greed::Longest),
        None => (word, Greed::Shortest),
    };
    let mut pattern: Vec<char> = word.chars().collect();
    let mut text: Vec<char> = value.chars().collect();
    // A suffix is the prefix of the reversed text.
    if operator == '%' {
        pattern = reversed(&pattern);
        text.reverse();
    }
    let compiled = Pattern::parse(&pattern).map_err(|reason| bad_pattern(word, &reason, name))?;
    let kept = compiled.trim_prefix(&text, greed).iter().copied();
    Ok(if operator == '%' { kept.rev().collect() } else { kept.collect() })
}

fn failure(message: String, variable: Option<String>) -> ExpandError {
    ExpandError { message, variable: variable.filter(|name| !name.is_empty()) }
}

fn unmatched(what: &str) -> ExpandError {
    failure(format!("unexpected end of statement while looking for matching {what}"), None)
}

fn missing_brace(name: Option<String>) -> ExpandError {
    failure("syntax error: missing '}'".to_string(), name)
}

fn unsupported(modifier: &str, name: String) -> ExpandError {
    failure(format!("unsupported modifier ({modifier}) in substitution"), Some(name))
}

fn bad_pattern(pattern: &str, reason: &str, name: String) -> ExpandError {
    failure(format!("invalid pattern ({pattern}) in substitution: {reason}"), Some(name))
}
