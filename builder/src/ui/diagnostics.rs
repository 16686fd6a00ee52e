//! Findings about a Buildfile as text: message, place, source line, caret, hint.
//!
//! Invariants:
//! - the work and the output are bounded whatever the file holds: at most [`MAX_SHOWN_LINES`] source lines per
//!   finding, each cut to the width around the caret;
//! - nothing of the file reaches the terminal unescaped;
//! - lines and columns come from `LineIndex`, never from the text as it is displayed.

use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use kiln_grammar::diagnostic::{Diagnostic, Severity};
use kiln_grammar::span::{LineColumn, LineIndex, Span};

use super::text;

/// How to render.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// With colours.
    pub colour: bool,
    /// Columns to keep source lines within.
    pub columns: usize,
}

impl Style {
    /// No colour, 100 columns: for files, pipes and tests.
    pub const PLAIN: Self = Self { colour: false, columns: 100 };

    /// What suits stderr now.
    pub fn stderr() -> Self {
        let columns =
            if super::terminal::stderr_is_terminal() { super::terminal::stderr_size().columns } else { 100 };
        Self { colour: super::terminal::stderr_colour(), columns }
    }

    /// What suits stdout now.
    pub fn stdout() -> Self {
        let columns =
            if super::terminal::stdout_is_terminal() { super::terminal::stderr_size().columns } else { 100 };
        Self { colour: super::terminal::stdout_colour(), columns }
    }
}

/// Source lines shown of a span over several lines: its beginning and its last line.
pub const MAX_SHOWN_LINES: usize = 5;
/// Narrowest source excerpt; a smaller terminal wraps.
const MIN_EXCERPT_COLUMNS: usize = 20;
/// Columns that the line number, the bar and the multi-line bracket take.
const GUTTER_COLUMNS: usize = 10;
/// Longest message shown, in columns; messages quote the file.
const MAX_MESSAGE_COLUMNS: usize = 2000;

/// Renders findings about `source`, in the order given, an empty line between two.
pub fn render(file_name: &str, source: &str, diagnostics: &[Diagnostic], style: Style) -> String {
    let index = LineIndex::new(source);
    let mut rendered = String::new();
    for diagnostic in diagnostics {
        if !rendered.is_empty() {
            rendered.push('\n');
        }
        let level = match diagnostic.severity {
            Severity::Warning => Level::WARNING,
            Severity::Error => Level::ERROR,
        };
        let title = match diagnostic.rule {
            Some(rule) => format!("{} ({rule})", message(&diagnostic.message)),
            None => message(&diagnostic.message),
        };
        let excerpt = Excerpt::new(source, &index, diagnostic.span, style.columns);
        let label = message(&diagnostic.label);
        let title = Group::with_title(level.clone().primary_title(title));
        rendered.push_str(&renderer(style).render(&[title]));
        rendered.push('\n');
        rendered.push_str(&excerpt.render(file_name, level, &label, style));
        if let Some(hint) = &diagnostic.hint {
            rendered.push_str(&hint_line(hint, style));
        }
    }
    rendered
}

/// Renders place, excerpt with label, and hint of a finding, without its message.
pub(super) fn render_finding(file_name: &str, source: &str, diagnostic: &Diagnostic, style: Style) -> String {
    let index = LineIndex::new(source);
    let level = match diagnostic.severity {
        Severity::Warning => Level::WARNING,
        Severity::Error => Level::ERROR,
    };
    let excerpt = Excerpt::new(source, &index, diagnostic.span, style.columns);
    let mut rendered = excerpt.render(file_name, level, &message(&diagnostic.label), style);
    if let Some(hint) = &diagnostic.hint {
        rendered.push_str(&hint_line(hint, style));
    }
    rendered
}

/// Renders only the place: ` --> file:line:column`, source line and caret.
pub fn render_place(file_name: &str, source: &str, span: Span, style: Style) -> String {
    let index = LineIndex::new(source);
    let excerpt = Excerpt::new(source, &index, span, style.columns);
    excerpt.render(file_name, Level::ERROR, "", style)
}

/// `hint: text` and a line end.
pub(super) fn hint_line(hint: &str, style: Style) -> String {
    paint("hint:", "1;36", style) + " " + &message(hint) + "\n"
}

/// `text` in the colour with that SGR code when the style has colours.
pub(super) fn paint(text: &str, code: &str, style: Style) -> String {
    if style.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

fn message(text: &str) -> String {
    text::fit(text, MAX_MESSAGE_COLUMNS).into_owned()
}

fn renderer(style: Style) -> Renderer {
    let renderer = if style.colour { Renderer::styled().hyperlink(false) } else { Renderer::plain() };
    // Excerpts are cut here, where the column of the caret is known to survive; the renderer must not cut again.
    renderer.decor_style(DecorStyle::Ascii).term_width(100_000)
}

/// The part of the source that is shown, already fit for a terminal.
struct Excerpt {
    text: String,
    annotated: Range<usize>,
    first_line: usize,
    place: LineColumn,
}

impl Excerpt {
    fn new(source: &str, index: &LineIndex, span: Span, columns: usize) -> Self {
        let start = source.floor_char_boundary(span.start.min(source.len()));
        let end = source.floor_char_boundary(span.end.clamp(start, source.len()));
        let mut place = index.line_column(source, start);
        if place.line == 1 && source.starts_with('\u{feff}') {
            place.column = place.column.saturating_sub(1).max(1);
        }
        let columns = columns.saturating_sub(GUTTER_COLUMNS).max(MIN_EXCERPT_COLUMNS);
        // A span that ends with a line end does not reach into the next line.
        let last = index.line(end.saturating_sub(1).max(start)).max(place.line);
        let mut excerpt = Self { text: String::new(), annotated: 0..0, first_line: place.line, place };
        let from = line_start(source, start);
        let mut offset = from;
        for line in place.line..=last {
            let content = source[offset..].split('\n').next().unwrap_or("");
            let next = offset + content.len() + 1;
            // Of a long span only the beginning and the end are shown; the renderer folds what is empty here.
            if line - place.line < MAX_SHOWN_LINES - 1 || line == last {
                let inside = start.saturating_sub(offset)..end.saturating_sub(offset).min(content.len());
                excerpt.push_line(content, inside, line == place.line, columns);
            }
            if line < last {
                excerpt.text.push('\n');
            }
            offset = next;
        }
        excerpt
    }

    /// Adds a line; `inside` is the part of it that the span covers.
    fn push_line(&mut self, content: &str, inside: Range<usize>, is_first: bool, columns: usize) {
        let content = content.strip_suffix('\r').unwrap_or(content);
        let bom = if content.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let inside = inside.start.clamp(bom.min(content.len()), content.len())..inside.end.min(content.len());
        let content = &content[bom..];
        let (start, end) = (inside.start - bom, inside.end.saturating_sub(bom).max(inside.start - bom));
        let cut = cut_around(content, start, columns);
        if cut.start > 0 {
            self.text.push_str("...");
        }
        let mut marks = (None, None);
        let mut position = cut.start;
        for character in content[cut.clone()].chars() {
            if position >= start {
                marks.0.get_or_insert(self.text.len());
            }
            if position >= end {
                marks.1.get_or_insert(self.text.len());
            }
            text::push_visible(&mut self.text, character);
            position += character.len_utf8();
        }
        let line_end = self.text.len();
        if cut.end < content.len() {
            self.text.push_str("...");
        }
        if is_first {
            self.annotated.start = marks.0.unwrap_or(line_end);
        }
        self.annotated.end = marks.1.unwrap_or(line_end).max(self.annotated.start);
    }

    /// The arrow line is written here: the renderer would count the column in the text as it is displayed.
    fn render(self, file_name: &str, level: Level<'_>, label: &str, style: Style) -> String {
        let last_line = self.first_line + self.text.matches('\n').count();
        let arrow = " ".repeat(last_line.to_string().len()) + "-->";
        let place = format!(" {}:{}:{}\n", text::visible(file_name), self.place.line, self.place.column);
        let annotation = AnnotationKind::Primary.span(self.annotated);
        let annotation = if label.is_empty() { annotation } else { annotation.label(label) };
        let snippet = Snippet::source(self.text).line_start(self.first_line).annotation(annotation);
        let source = renderer(style).render(&[Group::with_level(level).element(snippet)]);
        paint(&arrow, "1;94", style) + &place + &source + "\n"
    }
}

fn line_start(source: &str, offset: usize) -> usize {
    source[..offset].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The part of a line that fits into `columns` and holds byte `focus`, with a third of the room before it.
fn cut_around(content: &str, focus: usize, columns: usize) -> Range<usize> {
    let shown_width = |c: char| {
        let mut shown = String::new();
        text::push_visible(&mut shown, c);
        text::width(&shown)
    };
    let take = |characters: &mut dyn Iterator<Item = char>, room: usize| {
        let mut used = 0;
        let mut bytes = 0;
        for character in characters {
            used += shown_width(character);
            if used > room {
                return (bytes, used, false);
            }
            bytes += character.len_utf8();
        }
        (bytes, used, true)
    };
    let (head, _, whole) = take(&mut content.chars(), columns);
    if whole {
        return 0..content.len();
    }
    let room = columns.saturating_sub(6);
    if focus < content.floor_char_boundary(head) && focus <= take(&mut content.chars(), room * 2 / 3).0 {
        return 0..take(&mut content.chars(), room).0;
    }
    let (before, _, _) = take(&mut content[..focus].chars().rev(), room / 3);
    let start = focus - before;
    let (length, _, _) = take(&mut content[start..].chars(), room);
    start..start + length
}

#[cfg(test)]
mod tests;
