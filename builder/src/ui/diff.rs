//! The difference between a file and a rewrite of it that keeps its lines apart.
//!
//! Invariants: line n of the new text stands for line n of the old one, so both have the same number of lines; `patch`
//! and `git apply` take what comes out.

use super::diagnostics::{Style, paint};

/// Unchanged lines shown around a change.
const CONTEXT: usize = 3;

/// A unified diff; empty when nothing changed.
pub fn unified(file_name: &str, old: &str, new: &str, style: Style) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let changed: Vec<usize> =
        (0..old.len().max(new.len())).filter(|line| old.get(*line) != new.get(*line)).collect();
    let mut rendered = String::new();
    let mut rest = changed.as_slice();
    while let Some((first, _)) = rest.split_first() {
        if rendered.is_empty() {
            rendered.push_str(&paint(&format!("--- a/{file_name}"), "1", style));
            rendered.push('\n');
            rendered.push_str(&paint(&format!("+++ b/{file_name}"), "1", style));
            rendered.push('\n');
        }
        // Changes whose contexts touch are one hunk.
        let gap = rest.windows(2).position(|pair| matches!(pair, [a, b] if b - a > 2 * CONTEXT));
        let (hunk, later) = rest.split_at(gap.map_or(rest.len(), |at| at + 1));
        rest = later;
        let from = first.saturating_sub(CONTEXT);
        let upto = (hunk.last().unwrap_or(first) + 1 + CONTEXT).min(old.len());
        let length = upto - from;
        rendered.push_str(&paint(
            &format!("@@ -{},{length} +{},{length} @@", from + 1, from + 1),
            "36",
            style,
        ));
        rendered.push('\n');
        push_hunk(&mut rendered, &old, &new, from..upto, style);
    }
    rendered
}

fn push_hunk(rendered: &mut String, old: &[&str], new: &[&str], lines: std::ops::Range<usize>, style: Style) {
    let mut line = lines.start;
    while line < lines.end {
        if old.get(line) == new.get(line) {
            push_line(rendered, ' ', old.get(line).copied().unwrap_or(""), style);
            line += 1;
            continue;
        }
        let end = (line..lines.end).find(|n| old.get(*n) == new.get(*n)).unwrap_or(lines.end);
        for text in old.get(line..end).unwrap_or_default() {
            push_line(rendered, '-', text, style);
        }
        for text in new.get(line..end).unwrap_or_default() {
            push_line(rendered, '+', text, style);
        }
        line = end;
    }
}

/// The text goes out as it is: a diff is data, and is coloured only on a terminal.
fn push_line(rendered: &mut String, mark: char, text: &str, style: Style) {
    let content = text.strip_suffix('\n').unwrap_or(text);
    let shown = if style.colour { super::text::visible(content).into_owned() } else { content.to_owned() };
    let line = format!("{mark}{shown}");
    rendered.push_str(&match mark {
        '-' => paint(&line, "31", style),
        '+' => paint(&line, "32", style),
        _ => line,
    });
    rendered.push('\n');
    if !text.ends_with('\n') {
        rendered.push_str("\\ No newline at end of file\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(old: &str, new: &str) -> String {
        unified("Buildfile", old, new, Style::PLAIN)
    }

    #[test]
    fn shows_hunks_with_context() {
        let old: String = (1..=20).map(|n| format!("line {n}\n")).collect();
        let new = old
            .replace("line 2\n", "two\n")
            .replace("line 3\n", "three\n")
            .replace("line 19\n", "nineteen\n");
        insta::assert_snapshot!(plain(&old, &new), @r"
        --- a/Buildfile
        +++ b/Buildfile
        @@ -1,6 +1,6 @@
         line 1
        -line 2
        -line 3
        +two
        +three
         line 4
         line 5
         line 6
        @@ -16,5 +16,5 @@
         line 16
         line 17
         line 18
        -line 19
        +nineteen
         line 20
        ");
    }

    #[test]
    fn keeps_odd_line_ends() {
        assert_eq!(plain("a\n", "a\n"), "");
        assert_eq!(
            plain("a\r\nb", "A\r\nb"),
            "--- a/Buildfile\n+++ b/Buildfile\n@@ -1,2 +1,2 @@\n-a\r\n+A\r\n b\n\\ No newline at end of file\n"
        );
    }
}
