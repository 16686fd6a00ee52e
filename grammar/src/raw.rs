//! From the pest pairs of one logical line to plain pieces with byte ranges.
//!
//! Invariants:
//! - ranges are offsets into the text given to the function;
//! - no rule name and no pest error leaves this file: the rules accept any line, and where one does not
//!   match the answer is "not of this form".

use std::ops::Range;

use pest::Parser;
use pest::iterators::Pairs;

#[derive(pest_derive::Parser)]
#[grammar = "instruction.pest"]
struct Instruction;

/// Keyword and flags of a line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    /// The keyword.
    pub(crate) keyword: Range<usize>,
    /// Flags before the arguments, without a bare `--`.
    pub(crate) flags: Vec<Flag>,
    /// The arguments, without blanks around them.
    pub(crate) rest: Range<usize>,
}

/// A word that begins with `--`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    /// Where it stands.
    pub(crate) range: Range<usize>,
    /// With quotes and escapes taken off.
    pub(crate) text: String,
}

/// A word of the form `3<<-WORD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeredocWord {
    /// 0 when none is written.
    pub(crate) descriptor: u32,
    /// `<<-`.
    pub(crate) strip_tabs: bool,
    /// What follows, quotes included.
    pub(crate) word: String,
}

/// Finds keyword, flags and arguments.
pub(crate) fn head(line: &str, escape: char) -> Head {
    let trimmed = line.trim();
    let base = line.len() - line.trim_start().len();
    let mut head = Head { rest: base + trimmed.len()..base + trimmed.len(), ..Head::default() };
    let input = format!("{escape}{trimmed}");
    let Ok(pairs) = Instruction::parse(Rule::head, &input) else { return head };
    // The escape character in front shifts everything by one.
    let shift = |span: pest::Span<'_>| base + span.start() - 1..base + span.end() - 1;
    let mut end = base;
    for pair in pairs.flat_map(pest::iterators::Pair::into_inner) {
        match pair.as_rule() {
            Rule::keyword => {
                head.keyword = shift(pair.as_span());
                end = head.keyword.end;
            }
            Rule::flag => {
                let range = shift(pair.as_span());
                end = range.end;
                let text = unquote(pair.as_str(), escape);
                if text == "--" {
                    break;
                }
                head.flags.push(Flag { range, text });
            }
            _ => {}
        }
    }
    let rest = line.get(end..).unwrap_or("").trim();
    if !rest.is_empty() {
        let start = line.len() - line.get(end..).unwrap_or("").trim_start().len();
        head.rest = start..start + rest.len();
    }
    head
}

/// Words in which quotes and escapes protect blanks.
pub(crate) fn words(text: &str, escape: char) -> Vec<Range<usize>> {
    let input = format!("{escape}{text}");
    match Instruction::parse(Rule::words, &input) {
        Ok(pairs) => ranges(pairs, Rule::word).map(|range| range.start - 1..range.end - 1).collect(),
        Err(_) => Vec::new(),
    }
}

/// Words separated by blanks, quotes meaning nothing.
pub(crate) fn fields(text: &str) -> Vec<Range<usize>> {
    match Instruction::parse(Rule::fields, text) {
        Ok(pairs) => ranges(pairs, Rule::field).collect(),
        Err(_) => Vec::new(),
    }
}

/// The strings of a JSON array of strings, with the places of the strings without their quotes.
pub(crate) fn json_strings(text: &str) -> Option<Vec<(Range<usize>, String)>> {
    let pairs = Instruction::parse(Rule::json_array, text).ok()?;
    let strings = ranges(pairs, Rule::json_string).map(|range| {
        let inside = range.start + 1..range.end - 1;
        let value = json_unescape(text.get(inside.clone()).unwrap_or(""));
        (inside, value)
    });
    Some(strings.collect())
}

/// Reads one word as the opening of a here-document.
pub(crate) fn heredoc_word(word: &str) -> Option<HeredocWord> {
    let pairs = Instruction::parse(Rule::heredoc, word).ok()?;
    let mut found = HeredocWord { descriptor: 0, strip_tabs: false, word: String::new() };
    for pair in pairs.flat_map(pest::iterators::Pair::into_inner) {
        match pair.as_rule() {
            Rule::descriptor if !pair.as_str().is_empty() => {
                found.descriptor = pair.as_str().parse().unwrap_or(u32::MAX);
            }
            Rule::strip => found.strip_tabs = !pair.as_str().is_empty(),
            Rule::terminator => found.word = pair.as_str().to_string(),
            _ => {}
        }
    }
    Some(found)
}

fn ranges(pairs: Pairs<'_, Rule>, wanted: Rule) -> impl Iterator<Item = Range<usize>> {
    let inner = pairs.flat_map(pest::iterators::Pair::into_inner);
    inner
        .filter(move |pair| pair.as_rule() == wanted)
        .map(|pair| pair.as_span().start()..pair.as_span().end())
}

/// A flag without its quotes and escapes; an escape works in both kinds of quotes.
fn unquote(flag: &str, escape: char) -> String {
    let mut text = String::with_capacity(flag.len());
    let mut quote = None;
    let mut chars = flag.chars();
    while let Some(c) = chars.next() {
        if c == escape {
            text.extend(chars.next());
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '"' || c == '\'') {
            quote = Some(c);
        } else {
            text.push(c);
        }
    }
    text
}

/// The text of a JSON string, whose escapes the grammar has checked.
fn json_unescape(inside: &str) -> String {
    let mut text = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(at) = rest.find('\\') {
        text.push_str(rest.get(..at).unwrap_or(""));
        rest = rest.get(at + 1..).unwrap_or("");
        let Some(kind) = rest.chars().next() else { break };
        rest = rest.get(kind.len_utf8()..).unwrap_or("");
        match kind {
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'u' => {
                let first = code_unit(rest);
                rest = rest.get(4..).unwrap_or("");
                let second = rest.strip_prefix("\\u").map(code_unit);
                match char::decode_utf16([first].into_iter().chain(second)).next() {
                    Some(Ok(c)) => {
                        if c.len_utf16() == 2 {
                            rest = rest.get(6..).unwrap_or("");
                        }
                        text.push(c);
                    }
                    _ => text.push(char::REPLACEMENT_CHARACTER),
                }
            }
            other => text.push(other),
        }
    }
    text.push_str(rest);
    text
}

fn code_unit(digits: &str) -> u16 {
    digits.get(..4).and_then(|hex| u16::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(line: &str, escape: char) -> (String, Vec<String>, String) {
        let found = head(line, escape);
        let flags = found.flags.iter().map(|flag| flag.text.clone()).collect();
        (line[found.keyword].to_string(), flags, line[found.rest].to_string())
    }

    #[test]
    fn splits_the_head() {
        let table: &[(&str, &str, &[&str], &str)] = &[
            ("RUN", "RUN", &[], ""),
            ("  run\t echo  a ", "run", &[], "echo  a"),
            ("COPY --from=a --link  b  c", "COPY", &["--from=a", "--link"], "b  c"),
            ("RUN --mount=\"type=x y\" 'a'", "RUN", &["--mount=type=x y"], "'a'"),
            ("RUN --a=b\\ c'\\'d' -- --e f", "RUN", &["--a=b c'd"], "--e f"),
            ("RUN --a --", "RUN", &["--a"], ""),
            ("RUN --a=b\\", "RUN", &["--a=b"], ""),
            ("RUN - --a", "RUN", &[], "- --a"),
            ("RUN --\"\" x", "RUN", &[], "x"),
            ("RUN --a=\"open x", "RUN", &["--a=open x"], ""),
        ];
        for (line, keyword, flags, rest) in table {
            let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
            assert_eq!(parts(line, '\\'), (keyword.to_string(), flags, rest.to_string()), "{line}");
        }
        assert_eq!(parts("RUN --a=b`\"c\\ d", '`').1, ["--a=b\"c\\"]);
    }

    #[test]
    fn splits_words() {
        let split =
            |text: &str| words(text, '\\').into_iter().map(|r| text[r].to_string()).collect::<Vec<_>>();
        assert_eq!(split("a=b  c=\"d e\" f='g h'i j\\ k"), ["a=b", "c=\"d e\"", "f='g h'i", "j\\ k"]);
        assert_eq!(split("a='b\\' c"), ["a='b\\'", "c"]);
        assert_eq!(split("a=\"b\\\" c"), ["a=\"b\\\" c"]);
        assert_eq!(split("a \\"), ["a"]);
        assert_eq!(split("a\\"), ["a"]);
        assert_eq!(split("\"a b\\"), ["\"a b"]);
        assert_eq!(split(""), Vec::<String>::new());
        assert_eq!(split("''"), ["''"]);
    }

    #[test]
    fn reads_json() {
        let read = |text: &str| json_strings(text).map(|s| s.into_iter().map(|(_, v)| v).collect::<Vec<_>>());
        assert_eq!(read("[]"), Some(vec![]));
        assert_eq!(read(" [ \"a\" , \"b\\n\\u00e9\" ] "), Some(vec!["a".to_string(), "b\né".to_string()]));
        assert_eq!(
            read(r#"["\ud83d\ude00","\ud83dx","\u0041"]"#),
            Some(vec!["😀".into(), "\u{fffd}x".into(), "A".into()])
        );
        for not in ["[", "['a']", "[\"a\",]", "[\"a\"] x", "[1]", "[\"\\x\"]", "[\"a\tb\"]", "", "[[\"a\"]]"]
        {
            assert_eq!(read(not), None, "{not}");
        }
    }

    #[test]
    fn reads_heredoc_words() {
        let read = |word: &str| heredoc_word(word).map(|h| (h.descriptor, h.strip_tabs, h.word));
        assert_eq!(read("<<EOF"), Some((0, false, "EOF".to_string())));
        assert_eq!(read("3<<-\"E F\""), Some((3, true, "\"E F\"".to_string())));
        assert_eq!(read("<< EOF"), Some((0, false, "EOF".to_string())));
        for not in ["<<", "<EOF", "<<<EOF", "a<<EOF", "<<A<B", "<<-"] {
            assert_eq!(read(not), None, "{not}");
        }
    }

    proptest! {
        #[test]
        fn every_line_has_a_form(line in any::<String>(), tick: bool) {
            let escape = if tick { '`' } else { '\\' };
            let found = head(&line, escape);
            prop_assert!(line.get(found.rest).is_some());
            if !line.trim().is_empty() {
                prop_assert!(!line[found.keyword].is_empty());
            }
            let input = format!("{escape}{line}");
            prop_assert!(Instruction::parse(Rule::words, &input).is_ok());
            prop_assert!(Instruction::parse(Rule::fields, &line).is_ok());
            json_strings(&line);
            heredoc_word(&line);
        }
    }
}
