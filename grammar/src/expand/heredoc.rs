//! The two uses of the lexer for here-documents (language.md 1.10).
//!
//! Invariants:
//! - the escape character is the backslash, whatever the file says;
//! - no variable has a value: they stay as written.

use super::lexer::{Escapes, Lexer, Options, Quotes, Unset};
use super::words::SplitWord;
use super::{Env, ExpandError};

struct NoVariables;

impl Env for NoVariables {
    fn get(&self, _: &str) -> Option<String> {
        None
    }
}

/// Splits an instruction into the words among which here-documents are looked for: quotes, escapes and
/// variables stay as written. A line whose quotes are not closed has none.
pub(crate) fn heredoc_words(line: &str) -> Vec<SplitWord> {
    let options = Options { quotes: Quotes::Keep, unset: Unset::Keep, escapes: Escapes::Keep };
    let mut lexer = Lexer::new(line, '\\', &NoVariables, options);
    match lexer.run() {
        Ok(_) => lexer.take_words(),
        Err(_) => Vec::new(),
    }
}

/// The terminator that `word` (what follows `<<`) stands for, and whether nothing of it was quoted; `None`
/// when it is not exactly one word.
pub(crate) fn heredoc_terminator(word: &str) -> Result<Option<(String, bool)>, ExpandError> {
    let split = |quotes: Quotes| -> Result<Vec<SplitWord>, ExpandError> {
        let options = Options { quotes, unset: Unset::Keep, escapes: Escapes::Remove };
        let mut lexer = Lexer::new(word, '\\', &NoVariables, options);
        lexer.run()?;
        Ok(lexer.take_words())
    };
    let plain = split(Quotes::Remove)?;
    let raw = split(Quotes::Keep)?;
    let (Ok([plain]), Some(raw)) = (<[SplitWord; 1]>::try_from(plain), raw.into_iter().next()) else {
        return Ok(None);
    };
    let quotes = |text: &str| text.chars().filter(|c| matches!(c, '\'' | '"')).count();
    let unquoted = quotes(&plain.text) == quotes(&raw.text);
    Ok(Some((plain.text, unquoted)))
}
