//! Here-documents: which ones an instruction opens, and their bodies (language.md 1.10).
//!
//! Invariants:
//! - bodies are consumed even when the instruction turns out to be wrong, so that they are never read as
//!   instructions;
//! - openings are looked for in the whole line, as BuildKit does, not only in its arguments.

use super::{Input, json};
use crate::ast::Heredoc;
use crate::diagnostic::Diagnostic;
use crate::line::Lines;
use crate::span::Span;
use crate::{expand, raw};

/// Reads the bodies of the here-documents that `input` opens; gives the end of the last terminator line.
pub(super) fn read(
    input: &mut Input<'_>,
    text: &str,
    lines: &mut Lines<'_>,
) -> Result<Option<usize>, Diagnostic> {
    if !input.line.text.contains("<<") || !may_open(input) {
        return Ok(None);
    }
    let mut end = None;
    for opening in expand::heredoc_words(&input.line.text) {
        let word_span = input.span(opening.source.clone());
        let Some(mut heredoc) = open(&opening.text, word_span)? else { continue };
        let Some(body) = lines.heredoc(&heredoc.name, heredoc.strip_tabs) else {
            return Err(Diagnostic::error(word_span, "unterminated heredoc")
                .with_label("opened here")
                .with_hint(format!("end it with a line that holds `{}` and nothing else", heredoc.name)));
        };
        let raw = text.get(body.span.start..body.span.end).unwrap_or("");
        input.heredoc_text.push('\n');
        input.heredoc_text.push_str(raw);
        input.heredoc_text.push_str(&heredoc.name);
        heredoc.body = if heredoc.strip_tabs { without_tabs(raw) } else { raw.to_string() };
        heredoc.span = body.span;
        input.heredocs.push(heredoc);
        end = Some(body.end);
    }
    Ok(end)
}

/// Reads one word as the opening of a here-document, without a body yet.
pub(super) fn open(word: &str, word_span: Span) -> Result<Option<Heredoc>, Diagnostic> {
    let Some(found) = raw::heredoc_word(word) else { return Ok(None) };
    let terminator = expand::heredoc_terminator(&found.word)
        .map_err(|error| Diagnostic::error(word_span, error.message).with_label("in this here-document"))?;
    let heredoc = terminator.map(|(name, expand)| Heredoc {
        name,
        descriptor: found.descriptor,
        expand,
        strip_tabs: found.strip_tabs,
        body: String::new(),
        span: word_span,
        word_span,
    });
    Ok(heredoc)
}

/// RUN, COPY and ADD open here-documents, also behind ONBUILD, except in the exec form.
fn may_open(input: &Input<'_>) -> bool {
    let opens = |keyword: &str, arguments: &str| {
        let keyword = keyword.to_ascii_lowercase();
        matches!(keyword.as_str(), "run" | "copy" | "add") && !json::is_array(arguments)
    };
    let keyword = input.text(input.keyword.clone());
    let arguments = input.arguments();
    if !keyword.eq_ignore_ascii_case("ONBUILD") {
        return opens(keyword, arguments);
    }
    let trigger = raw::head(arguments, input.escape);
    opens(arguments.get(trigger.keyword).unwrap_or(""), arguments.get(trigger.rest).unwrap_or(""))
}

fn without_tabs(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}
