//! From the text of a file to logical lines: directives, the escape character, comments, continuations and
//! the bodies of here-documents (language.md 1.1, 1.2 and 1.10).
//!
//! Invariants:
//! - a logical line knows where each of its bytes stands in the file;
//! - the reader goes over the file once, so its cost is linear;
//! - it knows nothing of instructions: the caller says which here-documents a line opens.

use std::ops::Range;

use crate::ast::Directives;
use crate::diagnostic::Diagnostic;
use crate::span::{Span, Spanned};

/// Longest physical line in bytes, without its newline (BuildKit's limit).
pub(crate) const MAX_LINE_BYTES: usize = 65_535;

const DIRECTIVES: [&str; 3] = ["syntax", "escape", "check"];

/// An instruction's text with its continuations joined.
#[derive(Debug)]
pub(crate) struct LogicalLine {
    /// The joined text.
    pub(crate) text: String,
    /// First byte to the end of the last physical line, without the newline.
    pub(crate) span: Span,
    /// Comment lines above.
    pub(crate) comments: Vec<Spanned<String>>,
    /// The last blank line inside the continued line.
    pub(crate) empty_continuation: Option<Span>,
    /// Where the pieces of `text` come from: offset in `text`, offset in the file; ascending.
    pieces: Vec<(usize, usize)>,
}

impl LogicalLine {
    /// Where bytes of `text` stand in the file.
    pub(crate) fn locate(&self, range: Range<usize>) -> Span {
        let start = self.offset(range.start);
        // The end is taken from the last byte: the byte after it may belong to a later physical line.
        let end = if range.end > range.start { self.offset(range.end - 1) + 1 } else { start };
        Span::new(start, end)
    }

    fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|(logical, _)| *logical <= at);
        match piece.checked_sub(1).and_then(|i| self.pieces.get(i)) {
            Some((logical, file)) => file + (at - logical),
            None => self.span.start,
        }
    }

    fn push(&mut self, piece: &str, offset: usize) {
        if !piece.is_empty() {
            self.pieces.push((self.text.len(), offset));
            self.text.push_str(piece);
        }
    }
}

/// The body of a here-document.
#[derive(Debug)]
pub(crate) struct Body {
    /// The body's lines, the terminator excluded.
    pub(crate) span: Span,
    /// End of the terminator line, without its newline.
    pub(crate) end: usize,
}

/// A physical line.
struct Physical<'t> {
    /// Without the newline and the carriage returns before it.
    text: &'t str,
    start: usize,
}

impl Physical<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// Reads logical lines one after the other.
pub(crate) struct Lines<'t> {
    source: &'t str,
    position: usize,
    /// False as soon as a line was seen that is no directive.
    directives_allowed: bool,
    seen: Vec<&'static str>,
    directives: Directives,
    diagnostics: Vec<Diagnostic>,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(source: &'t str) -> Self {
        Self {
            source,
            position: 0,
            directives_allowed: true,
            seen: Vec::new(),
            directives: Directives::default(),
            diagnostics: Vec::new(),
        }
    }

    /// The directives read so far; complete once the first logical line was returned.
    pub(crate) fn directives(&self) -> &Directives {
        &self.directives
    }

    /// Takes what was found wrong since the last call.
    pub(crate) fn take_diagnostics(&mut self) -> Vec<Diagnostic> {
        std::mem::take(&mut self.diagnostics)
    }

    /// Whether a line over the limit ended the reading.
    pub(crate) fn stopped_early(&self) -> bool {
        self.position > self.source.len()
    }

    /// The next logical line.
    pub(crate) fn next_line(&mut self) -> Option<LogicalLine> {
        let mut comments = Vec::new();
        loop {
            let line = self.physical()?;
            let text = line.text.trim_start();
            let start = line.start + (line.text.len() - text.len());
            if text.starts_with('#') {
                if !self.directive(text, start) {
                    note_comment(&line, &mut comments);
                }
                continue;
            }
            self.directives_allowed = false;
            if text.is_empty() {
                continue;
            }
            let mut logical = LogicalLine {
                text: String::new(),
                span: Span::new(start, line.end()),
                comments,
                empty_continuation: None,
                pieces: Vec::new(),
            };
            self.join(&mut logical, text, start);
            return Some(logical);
        }
    }

    /// Reads the body of a here-document up to the line `terminator`; `None` when the file ends before it.
    pub(crate) fn heredoc(&mut self, terminator: &str, strip_tabs: bool) -> Option<Body> {
        let start = self.position;
        while let Some(line) = self.physical() {
            let text = if strip_tabs { line.text.trim_start_matches('\t') } else { line.text };
            if text == terminator {
                return Some(Body { span: Span::new(start, line.start), end: line.end() });
            }
        }
        None
    }

    fn join(&mut self, logical: &mut LogicalLine, first: &str, start: usize) {
        let escape = self.directives.escape;
        let Some(head) = cut_continuation(first, escape) else {
            logical.push(first, start);
            return;
        };
        logical.push(head, start);
        while let Some(line) = self.physical() {
            logical.span.end = line.end();
            let trimmed = line.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                logical.empty_continuation = Some(Span::new(line.start, line.end()));
                continue;
            }
            match cut_continuation(line.text, escape) {
                Some(head) => logical.push(head, line.start),
                None => {
                    logical.push(line.text, line.start);
                    return;
                }
            }
        }
    }

    fn physical(&mut self) -> Option<Physical<'t>> {
        if self.position == 0 && self.source.starts_with('\u{feff}') {
            self.position = '\u{feff}'.len_utf8();
        }
        let start = self.position;
        let rest = self.source.get(start..).filter(|rest| !rest.is_empty())?;
        let line = rest.split('\n').next().unwrap_or(rest);
        if line.len() > MAX_LINE_BYTES {
            let message = format!("line greater than the maximum size of {MAX_LINE_BYTES} bytes");
            self.diagnostics.push(
                Diagnostic::error(Span::new(start, start), message)
                    .with_hint("split the line with the escape character, or copy the text from a file"),
            );
            self.position = self.source.len() + 1;
            return None;
        }
        self.position = (start + line.len() + 1).min(self.source.len());
        Some(Physical { text: line.trim_end_matches('\r'), start })
    }

    /// Reads a comment as a parser directive; false when it is an ordinary comment.
    fn directive(&mut self, comment: &str, offset: usize) -> bool {
        if !self.directives_allowed {
            return false;
        }
        let Some((name, value)) = split_directive(comment) else {
            self.directives_allowed = false;
            return false;
        };
        let key = comment.get(name.clone()).unwrap_or("").to_ascii_lowercase();
        let Some(known) = DIRECTIVES.into_iter().find(|directive| *directive == key) else {
            self.directives_allowed = false;
            return false;
        };
        let name_span = Span::new(offset + name.start, offset + name.end);
        if self.seen.contains(&known) {
            let message = format!("only one `{known}` parser directive can be used");
            self.diagnostics.push(Diagnostic::error(name_span, message).with_hint("remove the second one"));
            return true;
        }
        self.seen.push(known);
        let text = comment.get(value.clone()).unwrap_or("").to_string();
        let value = Spanned::new(text, Span::new(offset + value.start, offset + value.end));
        match known {
            "escape" => self.set_escape(&value),
            "syntax" => self.directives.syntax = Some(value),
            _ => self.directives.check = Some(value),
        }
        true
    }

    fn set_escape(&mut self, value: &Spanned<String>) {
        match value.value.as_str() {
            "\\" => self.directives.escape = '\\',
            "`" => self.directives.escape = '`',
            other => self.diagnostics.push(
                Diagnostic::error(value.span, format!("invalid escape token `{other}`"))
                    .with_label("not an escape character")
                    .with_hint("the escape character is a backslash or a backtick"),
            ),
        }
    }
}

/// Keeps a comment for the instruction below it; an empty one separates.
fn note_comment(line: &Physical<'_>, comments: &mut Vec<Spanned<String>>) {
    // BuildKit takes the first byte of the line off, not the `#`: an indented comment keeps its `#`, and so
    // is never a description. Kept, because descriptions and `check=skip` read these texts.
    let mut chars = line.text.chars();
    chars.next();
    let body = chars.as_str();
    let text = body.trim();
    if text.is_empty() {
        comments.clear();
        return;
    }
    let start = line.end() - body.trim_start().len();
    comments.push(Spanned::new(text.to_string(), Span::new(start, start + text.len())));
}

/// The line without its continuation mark: an escape character at the end, blanks after it allowed, that is
/// not itself escaped.
fn cut_continuation(line: &str, escape: char) -> Option<&str> {
    let head = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    if head.ends_with(escape) { None } else { Some(head) }
}

/// Name and value of `# name = value`, as ranges of `comment`.
fn split_directive(comment: &str) -> Option<(Range<usize>, Range<usize>)> {
    let body = comment.strip_prefix('#')?.trim_start();
    let name_start = comment.len() - body.len();
    let name_length = body.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(body.len());
    if !body.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let blank = |c: char| matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ');
    let after = body.get(name_length..)?.trim_start_matches(blank).strip_prefix('=')?;
    let value = after.trim_matches(blank);
    if value.is_empty() {
        return None;
    }
    let value_start = comment.len() - after.trim_start_matches(blank).len();
    Some((name_start..name_start + name_length, value_start..value_start + value.len()))
}
