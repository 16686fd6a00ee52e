//! Text that came from outside, made fit for a terminal: control characters, width, cutting.
//!
//! Invariants:
//! - what [`visible`], [`plain`] and [`fit`] return holds no control character, no escape sequence and no
//!   character that reorders text;
//! - [`width`] and [`fit`] agree: `width(fit(text, n)) <= n`.

use std::borrow::Cow;
use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

/// Columns that a tab is shown as.
pub const TAB_COLUMNS: usize = 4;

/// Shows every character: tabs as spaces, control and reordering characters as `\x1b` or `\u{202e}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        push_visible(&mut shown, character);
    }
    Cow::Owned(shown)
}

/// Appends what [`visible`] shows for one character.
pub fn push_visible(shown: &mut String, character: char) {
    match character {
        '\t' => shown.extend(std::iter::repeat_n(' ', TAB_COLUMNS)),
        '\r' => shown.push_str("\\r"),
        '\n' => shown.push_str("\\n"),
        c if is_unprintable(c) && c.is_ascii() => {
            let _ = write!(shown, "\\x{:02x}", u32::from(c));
        }
        c if is_unprintable(c) => {
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
        }
        c => shown.push(c),
    }
}

/// Removes escape sequences and the other unprintable characters; for a step's output, where colours are
/// common and carry nothing that must be seen.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\t' => shown.extend(std::iter::repeat_n(' ', TAB_COLUMNS)),
            '\u{1b}' => skip_escape(&mut rest),
            // The eight-bit form of `ESC [`.
            '\u{9b}' => skip_parameters(&mut rest),
            c if is_unprintable(c) => {}
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Skips what follows an ESC (ECMA-48 5.4 and 5.6; OSC ends with BEL too, as xterm has it).
fn skip_escape(rest: &mut std::str::Chars<'_>) {
    match rest.next() {
        Some('[') => skip_parameters(rest),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = rest.next() {
                if c == '\u{7}' || c == '\u{9c}' {
                    return;
                }
                if c == '\u{1b}' {
                    rest.next();
                    return;
                }
            }
        }
        // Intermediate bytes come before the final one, e.g. `ESC ( B`.
        Some(' '..='/') => {
            rest.find(|c| !(' '..='/').contains(c));
        }
        _ => {}
    }
}

fn skip_parameters(rest: &mut std::str::Chars<'_>) {
    rest.find(|c| ('@'..='~').contains(c));
}

/// Columns that `text` takes.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Columns that `character` takes.
pub fn char_width(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// Cuts `text` to `columns`, with `...` at its end when something is missing.
pub fn fit(text: &str, columns: usize) -> Cow<'_, str> {
    // A prefix is enough to decide, and bounds the work on a line of megabytes; zero-width characters are few.
    let head = &text[..text.floor_char_boundary(columns.saturating_mul(16).saturating_add(64))];
    let whole = head.len() == text.len();
    let head = visible(head);
    if whole && width(&head) <= columns {
        return head;
    }
    let dots = if columns >= 8 { "..." } else { "" };
    let mut cut = String::new();
    let mut used = dots.len();
    for character in head.chars() {
        used += char_width(character);
        if used > columns {
            break;
        }
        cut.push(character);
    }
    cut.push_str(dots);
    Cow::Owned(cut)
}

/// True for characters that a terminal would act on or that change the order or shape of what is shown.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unprintable_characters_are_shown() {
        assert_eq!(visible("a\tb"), "a    b");
        assert_eq!(visible("\u{1b}[31mred\r\0"), "\\x1b[31mred\\r\\x00");
        assert_eq!(visible("x\u{202e}y\u{85}"), "x\\u{202e}y\\u{85}");
        assert!(matches!(visible("plain é 漢"), Cow::Borrowed(_)));
    }

    #[test]
    fn escape_sequences_are_removed() {
        for (text, expected) in [
            ("\u{1b}[1;31merror\u{1b}[0m: x", "error: x"),
            ("\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{1b}\\.", "link."),
            ("\u{1b}(Bx\u{1b}Mz\u{7}", "xz"),
            ("\u{9b}2Ja", "a"),
            ("open\u{1b}[", "open"),
            ("open\u{1b}", "open"),
        ] {
            assert_eq!(plain(text), expected, "{text:?}");
        }
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(fit("short", 10), "short");
        assert_eq!(fit("0123456789a", 10), "0123456...");
        assert_eq!(fit("漢字漢字漢字", 10), "漢字漢...");
        assert_eq!(fit("abcdef", 3), "abc");
        assert_eq!(fit("abc", 0), "");
        assert_eq!(fit(&"y".repeat(1 << 20), 12), "yyyyyyyyy...");
    }

    proptest! {
        #[test]
        fn nothing_dangerous_passes(text in any::<String>(), columns in 0usize..50) {
            for shown in [visible(&text), plain(&text), fit(&text, columns)] {
                prop_assert!(!shown.contains(is_unprintable));
            }
            prop_assert!(width(&fit(&text, columns)) <= columns);
        }
    }
}
