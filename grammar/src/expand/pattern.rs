//! The patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*`, `?` and escapes, nothing else (language.md 1.6).
//!
//! Invariants:
//! - a match is found as a backtracking engine with left-first preference would find it, in time
//!   O(pattern x text) and memory O(pattern);
//! - `*` and `?` never match a newline.

use std::ops::Range;

/// How much a `*` takes when it has the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greed {
    Shortest,
    Longest,
}

/// Where a match may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anchor {
    Start,
    Anywhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    Any,
    Star,
}

/// A pattern ready to be matched.
#[derive(Debug)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// Reads a pattern; the error says which escape is wrong.
    pub(super) fn parse(pattern: &[char]) -> Result<Self, String> {
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut chars = pattern.iter().copied().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::Any),
                // `}` and `/` need an escape only because they end the pattern.
                '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\')) => tokens.push(Token::Literal(c)),
                    Some(c) => return Err(format!("invalid escape '\\{c}'")),
                    None => return Err("invalid escape at the end".to_string()),
                },
                c => tokens.push(Token::Literal(c)),
            }
        }
        Ok(Self { tokens })
    }

    /// `text` without the prefix that matches.
    pub(super) fn trim_prefix<'t>(&self, text: &'t [char], greed: Greed) -> &'t [char] {
        match self.find(text, 0, Anchor::Start, greed) {
            Some(found) => text.get(found.end..).unwrap_or_default(),
            None => text,
        }
    }

    /// The leftmost match at or after `from`, stars as long as possible.
    pub(super) fn find_from(&self, text: &[char], from: usize) -> Option<Range<usize>> {
        self.find(text, from, Anchor::Anywhere, Greed::Longest)
    }

    /// Simulates all threads of a backtracking matcher at once, the preferred ones first: the first thread
    /// that reaches the end of the pattern wins over all behind it, and only those before it go on.
    fn find(&self, text: &[char], from: usize, anchor: Anchor, greed: Greed) -> Option<Range<usize>> {
        let mut threads = Threads::new(self.tokens.len());
        let mut next = Threads::new(self.tokens.len());
        let mut found = None;
        for at in from..=text.len() {
            if found.is_none() && (at == from || anchor == Anchor::Anywhere) {
                self.enter(&mut threads, 0, at, greed);
            }
            let c = text.get(at).copied();
            next.clear();
            for (token, start) in threads.list.iter().copied() {
                match (self.tokens.get(token), c) {
                    (None, _) => {
                        found = Some(start..at);
                        break;
                    }
                    (Some(Token::Literal(wanted)), Some(c)) if *wanted == c => {
                        self.enter(&mut next, token + 1, start, greed);
                    }
                    (Some(Token::Any), Some(c)) if c != '\n' => {
                        self.enter(&mut next, token + 1, start, greed);
                    }
                    (Some(Token::Star), Some(c)) if c != '\n' => self.enter(&mut next, token, start, greed),
                    _ => {}
                }
            }
            std::mem::swap(&mut threads, &mut next);
            if threads.list.is_empty() && (found.is_some() || anchor == Anchor::Start) {
                break;
            }
        }
        found
    }

    /// Adds a thread at `token`, and behind or before it those that skip its star.
    fn enter(&self, threads: &mut Threads, token: usize, start: usize, greed: Greed) {
        // Of a run of stars the order of preference does not change where a match ends, so one of them
        // stands for all; the loop replaces recursion.
        let mut token = token;
        let mut stars = Vec::new();
        while let Some(Token::Star) = self.tokens.get(token) {
            if greed == Greed::Longest {
                threads.add(token, start);
            } else {
                stars.push(token);
            }
            token += 1;
        }
        threads.add(token, start);
        for star in stars.into_iter().rev() {
            threads.add(star, start);
        }
    }
}

/// A list of distinct threads in order of preference.
struct Threads {
    list: Vec<(usize, usize)>,
    present: Vec<bool>,
}

impl Threads {
    fn new(tokens: usize) -> Self {
        Self { list: Vec::new(), present: vec![false; tokens + 1] }
    }

    fn add(&mut self, token: usize, start: usize) {
        if let Some(present) = self.present.get_mut(token)
            && !*present
        {
            *present = true;
            self.list.push((token, start));
        }
    }

    fn clear(&mut self) {
        for (token, _) in self.list.drain(..) {
            if let Some(present) = self.present.get_mut(token) {
                *present = false;
            }
        }
    }
}

/// `pattern` read from its end, escapes kept in front of what they escape.
pub(super) fn reversed(pattern: &[char]) -> Vec<char> {
    let mut groups: Vec<&[char]> = Vec::with_capacity(pattern.len());
    let mut rest = pattern;
    while !rest.is_empty() {
        let length = if rest.first() == Some(&'\\') { rest.len().min(2) } else { 1 };
        let (group, after) = rest.split_at(length);
        groups.push(group);
        rest = after;
    }
    groups.into_iter().rev().flatten().copied().collect()
}

/// Replaces every match of `pattern` by `template`, in which `$0`, `${0}` and `$$` mean what Go's
/// `ReplaceAllString` takes them for (semantics fact 72); other names stand for nothing.
pub(super) fn replace_all(pattern: &Pattern, text: &[char], template: &[char]) -> String {
    let mut out = String::new();
    let mut last = 0;
    let mut from = 0;
    while from <= text.len() {
        let Some(found) = pattern.find_from(text, from) else { break };
        out.extend(text.get(last..found.start).unwrap_or_default());
        // An empty match right behind another match is none.
        if found.end > last || found.start == 0 {
            fill(&mut out, template, text.get(found.clone()).unwrap_or_default());
        }
        last = found.end;
        from = found.end.max(from + 1);
    }
    out.extend(text.get(last..).unwrap_or_default());
    out
}

fn fill(out: &mut String, template: &[char], whole: &[char]) {
    let mut rest = template;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != '$' {
            out.push(*first);
            continue;
        }
        if rest.first() == Some(&'$') {
            out.push('$');
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        match reference(rest) {
            Some((name, after)) => {
                if name.iter().all(char::is_ascii_digit) && name.iter().all(|c| *c == '0') {
                    out.extend(whole);
                }
                rest = after;
            }
            None => out.push('$'),
        }
    }
}

/// The name in `name` or `{name}` and what follows it.
fn reference(rest: &[char]) -> Option<(&[char], &[char])> {
    let braced = rest.first() == Some(&'{');
    let rest = if braced { rest.get(1..)? } else { rest };
    let length = rest.iter().position(|c| !(c.is_alphanumeric() || *c == '_')).unwrap_or(rest.len());
    let (name, after) = rest.split_at(length);
    if name.is_empty() {
        return None;
    }
    if braced {
        return after.split_first().filter(|(c, _)| **c == '}').map(|(_, after)| (name, after));
    }
    Some((name, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(&chars(text)).unwrap()
    }

    /// Backtracking as a regular expression engine does it, for comparison.
    fn oracle(tokens: &[Token], text: &[char], greed: Greed) -> Option<usize> {
        let Some((first, rest)) = tokens.split_first() else { return Some(0) };
        let stop = || oracle(rest, text, greed);
        let more = |tokens: &[Token]| oracle(tokens, &text[1..], greed).map(|n| n + 1);
        let c = text.first();
        match first {
            Token::Literal(wanted) => (c == Some(wanted)).then(|| more(rest)).flatten(),
            Token::Any => (c.is_some_and(|c| *c != '\n')).then(|| more(rest)).flatten(),
            Token::Star => {
                let take = || (c.is_some_and(|c| *c != '\n')).then(|| more(tokens)).flatten();
                if greed == Greed::Longest { take().or_else(stop) } else { stop().or_else(take) }
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_backtracking(p in "[ab*?]{0,6}", t in "[ab\n]{0,9}", longest: bool) {
            let greed = if longest { Greed::Longest } else { Greed::Shortest };
            let pattern = pattern(&p);
            let text = chars(&t);
            let expected = oracle(&pattern.tokens, &text, greed);
            prop_assert_eq!(pattern.find(&text, 0, Anchor::Start, greed).map(|r| r.end), expected);
            let leftmost = (0..=text.len())
                .find_map(|s| oracle(&pattern.tokens, &text[s..], greed).map(|n| s..s + n));
            prop_assert_eq!(pattern.find(&text, 0, Anchor::Anywhere, greed), leftmost);
        }
    }

    #[test]
    fn refuses_other_escapes() {
        for bad in ["\\", "\\x", "\\\\\\"] {
            assert!(Pattern::parse(&chars(bad)).is_err(), "{bad}");
        }
        assert_eq!(pattern("\\}").tokens, vec![Token::Literal('}')]);
    }

    #[test]
    fn reverses_with_escapes() {
        for (text, expected) in [("a\\*c", "c\\*a"), ("\\\\\\ab", "b\\a\\\\"), ("ab\\", "\\ba")] {
            assert_eq!(reversed(&chars(text)), chars(expected));
        }
    }

    #[test]
    fn replaces_like_go() {
        let all = |p: &str, t: &str, r: &str| replace_all(&pattern(p), &chars(t), &chars(r));
        assert_eq!(all("b", "abcb", "x"), "axcx");
        assert_eq!(all("", "abc", "-"), "-a-b-c-");
        assert_eq!(all("*", "abc", "<$0>"), "<abc>");
        assert_eq!(all("b", "abc", "[${0}$$$1$x!$]"), "a[b$!$]c");
    }
}
