//! Whether a command printed what its document shows.
//!
//! Invariants: what differs from machine to machine and from day to day (digests, ids, times, sizes) is not compared; a
//! line `…` stands for any number of lines, and `…` in a line for anything. Steps may run in any order, so lines `#N text`
//! are compared in the order of N.

use regex_lite::Regex;

/// What is not compared, and what stands for it.
const VARIABLE: [(&str, &str); 8] = [
    (r"\b[0-9a-f]{64}\b|\b[0-9a-f]{10,16}\b", "HEX"),
    (r"\b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?Z?)?\b", "DATE"),
    (r"\b\d+ (second|minute|hour)s? ago\b|\bLess than a second ago\b|\bAbout an? (minute|hour) ago\b", "AGO"),
    (r"\b(\d+h ?)?(\d+m ?)?\d+(\.\d+)?(ms|s)\b", "TIME"),
    (r"\b\d+(\.\d+)? ?([kKMGT]i?)?B\b", "SIZE"),
    (r"^(#\d+ )\d+\.\d+ ", "${1}TIME "),
    (r"/tmp/kiln-it-[A-Za-z0-9]+", "~"),
    (r"[ \t]+", " "),
];

/// Lines that are there or not, as the machine is fast or slow: registries that take their time, transfers under way, the
/// slowest steps.
const BY_CHANCE: &str = r"^looking up |^#\d+ sha256:[0-9a-f]+ |^  slowest  |^#\d+ \.\.\.";

/// Compares output with what is shown.
pub struct Compare {
    variable: Vec<(Regex, &'static str)>,
    by_chance: Regex,
}

impl Compare {
    pub fn new() -> Self {
        let regex = |pattern| Regex::new(pattern).expect("a pattern");
        let variable = VARIABLE.map(|(pattern, name)| (regex(pattern), name)).into();
        Self { variable, by_chance: regex(BY_CHANCE) }
    }

    fn plain(&self, line: &str) -> String {
        let mut text = line.trim_end().to_owned();
        for (pattern, name) in &self.variable {
            text = pattern.replace_all(&text, *name).into_owned();
        }
        text
    }

    /// Whether `printed` is what `shown` shows.
    pub fn is_same(&self, shown: &[String], printed: &[String]) -> bool {
        let normal = |lines: &[String]| -> Vec<String> {
            let kept = lines.iter().filter(|line| !line.trim().is_empty() && !self.by_chance.is_match(line));
            let mut lines: Vec<String> = kept.map(|line| self.plain(line)).collect();
            for block in lines.chunk_by_mut(|a, b| step(a).is_some() == step(b).is_some()) {
                block.sort_by_key(|line| step(line));
            }
            lines
        };
        lines_match(&normal(shown), &normal(printed))
    }
}

/// N of a line `#N text`.
fn step(line: &str) -> Option<u32> {
    line.strip_prefix('#')?.split(' ').next()?.parse().ok()
}

fn is_gap(line: &str) -> bool {
    matches!(line.trim(), "…" | "...")
}

fn lines_match(shown: &[String], printed: &[String]) -> bool {
    match shown {
        [] => printed.is_empty(),
        [gap, rest @ ..] if is_gap(gap) => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        [line, rest @ ..] => match printed {
            [first, others @ ..] => line_matches(line, first) && lines_match(rest, others),
            [] => false,
        },
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let Some((first, others)) = shown.split_once('…') else { return shown == printed };
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = others.split('…').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn only_what_varies_may_differ() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let compare = Compare::new();
    let same = |shown: &str, printed: &str| compare.is_same(&lines(shown), &lines(printed));
    assert!(same(
        "built app sha256:0123456789ab in 1.3s, 29MB",
        "built app sha256:ba9876543210 in 12ms,  1.1MB"
    ));
    assert!(same("#5 0.123 text\n#5 DONE 0.3s", "#5 11.400 text\n#5 DONE 0.0s\n"));
    assert!(same("a\n…\nd", "a\nb\nc\nd") && same("…", "") && same("a … c", "a b c") && same("a…", "a b"));
    assert!(!same("a\n…\nd", "a\nb\nc"));
    assert!(
        !same("2 steps", "3 steps")
            && !same("#5 DONE 0.3s", "#6 DONE 0.3s")
            && !same("a", "")
            && !same("", "a")
    );
    assert!(!same("a … c", "a b d"));
    assert!(
        same("#1 a\n#1 b\n\n#2 c\nbuilt", "#2 c\n#1 a\n#1 b\nbuilt") && !same("#1 a\n#1 b", "#1 b\n#1 a")
    );
    assert!(same("#1 sha256:00 1MB\nx", "x\n  slowest  1.0s RUN x"));
}
