//! File name patterns as Go's `filepath.Match` reads them (language.md 1.8: sources of COPY and ADD).
//!
//! Invariants:
//! - names are bytes; `?` and classes take one UTF-8 character, or one byte where the name is not UTF-8;
//! - `*` and `?` never match `/`; a class may (so does Go's);
//! - a malformed pattern is an error whatever the name is.

/// A pattern that cannot be read: an open class, an empty class, or an escape at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPattern;

impl std::fmt::Display for BadPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("syntax error in pattern")
    }
}

impl std::error::Error for BadPattern {}

/// One character of a byte string: decoded where it is UTF-8, else a single byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Char(char),
    Byte(u8),
}

/// Splits off the first character of `bytes`.
pub(crate) fn first_unit(bytes: &[u8]) -> Option<(Unit, &[u8])> {
    let first = *bytes.first()?;
    let length = match first {
        0..=0x7f => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 0,
    };
    let decoded =
        bytes.get(..length).and_then(|b| std::str::from_utf8(b).ok()).and_then(|s| s.chars().next());
    match decoded {
        Some(c) => Some((Unit::Char(c), bytes.get(length..).unwrap_or_default())),
        None => Some((Unit::Byte(first), bytes.get(1..).unwrap_or_default())),
    }
}

/// A class like `[^a-z0]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    pub(crate) fn contains(&self, unit: Unit) -> bool {
        // Go reads a byte that is not UTF-8 as U+FFFD.
        let c = match unit {
            Unit::Char(c) => c,
            Unit::Byte(_) => char::REPLACEMENT_CHARACTER,
        };
        self.ranges.iter().any(|(low, high)| *low <= c && c <= *high) != self.negated
    }

    /// Reads the class after its `[`; gives what follows the `]`.
    pub(crate) fn parse(mut rest: &[u8]) -> Result<(Class, &[u8]), BadPattern> {
        let negated = rest.first() == Some(&b'^');
        if negated {
            rest = rest.get(1..).unwrap_or_default();
        }
        let mut ranges = Vec::new();
        loop {
            if rest.first() == Some(&b']') && !ranges.is_empty() {
                return Ok((Class { negated, ranges }, rest.get(1..).unwrap_or_default()));
            }
            let (low, after) = class_char(rest)?;
            rest = after;
            let mut high = low;
            if rest.first() == Some(&b'-') {
                (high, rest) = class_char(rest.get(1..).unwrap_or_default())?;
            }
            ranges.push((low, high));
        }
    }
}

/// One possibly escaped character of a class. Something has to follow it.
fn class_char(rest: &[u8]) -> Result<(char, &[u8]), BadPattern> {
    let (mut unit, mut after) = first_unit(rest).ok_or(BadPattern)?;
    match unit {
        Unit::Char('-' | ']') => return Err(BadPattern),
        Unit::Char('\\') => (unit, after) = first_unit(after).ok_or(BadPattern)?,
        _ => {}
    }
    match unit {
        Unit::Char(c) if !after.is_empty() => Ok((c, after)),
        _ => Err(BadPattern),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(u8),
    AnyChar,
    Star,
    Class(Class),
}

fn tokens(pattern: &[u8]) -> Result<Vec<Token>, BadPattern> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match *first {
            b'*' if tokens.last() == Some(&Token::Star) => {}
            b'*' => tokens.push(Token::Star),
            b'?' => tokens.push(Token::AnyChar),
            b'[' => {
                let (class, after) = Class::parse(rest)?;
                tokens.push(Token::Class(class));
                rest = after;
            }
            b'\\' => {
                let (escaped, after) = rest.split_first().ok_or(BadPattern)?;
                tokens.push(Token::Literal(*escaped));
                rest = after;
            }
            byte => tokens.push(Token::Literal(byte)),
        }
    }
    Ok(tokens)
}

/// Whether `name` as a whole matches `pattern`.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    let tokens = tokens(pattern)?;
    let mut token = 0;
    let mut rest = name;
    // Where to go on when what follows the last star fails: the star takes one more character. Earlier
    // stars need no second chance, as in Go.
    let mut retry: Option<(usize, &[u8])> = None;
    loop {
        let step = match tokens.get(token) {
            Some(Token::Star) => {
                retry = Some((token + 1, rest));
                token += 1;
                continue;
            }
            Some(token) => one(token, rest),
            None if rest.is_empty() => return Ok(true),
            None => None,
        };
        if let Some(after) = step {
            rest = after;
            token += 1;
            continue;
        }
        let Some((resume, from)) = retry else { return Ok(false) };
        match from.split_first() {
            Some((byte, after)) if *byte != b'/' => {
                retry = Some((resume, after));
                token = resume;
                rest = after;
            }
            _ => return Ok(false),
        }
    }
}

fn one<'n>(token: &Token, rest: &'n [u8]) -> Option<&'n [u8]> {
    match token {
        Token::Literal(byte) => rest.strip_prefix(std::slice::from_ref(byte)),
        Token::AnyChar => {
            first_unit(rest).filter(|(unit, _)| *unit != Unit::Char('/')).map(|(_, after)| after)
        }
        Token::Class(class) => {
            first_unit(rest).filter(|(unit, _)| class.contains(*unit)).map(|(_, after)| after)
        }
        Token::Star => None,
    }
}

/// Whether `pattern` holds anything that is not taken literally.
pub fn has_wildcards(pattern: &[u8]) -> bool {
    let mut escaped = false;
    for byte in pattern {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// `pattern` without its escapes: the literal name it stands for when [`has_wildcards`] says no.
pub fn unescape(pattern: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(pattern.len());
    let mut escaped = false;
    for byte in pattern {
        if *byte == b'\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        name.push(*byte);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pattern, name, result; `None` is a bad pattern. Rows follow the documented behaviour of `filepath.Match`.
    const TABLE: &[(&str, &str, Option<bool>)] = &[
        ("abc", "abc", Some(true)),
        ("*", "abc", Some(true)),
        ("*c", "abc", Some(true)),
        ("a*", "ab/c", Some(false)),
        ("a*/b", "abc/b", Some(true)),
        ("a*/b", "a/c/b", Some(false)),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
        ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
        ("ab[c]", "abc", Some(true)),
        ("ab[b-d]", "abc", Some(true)),
        ("ab[e-g]", "abc", Some(false)),
        ("ab[^c]", "abc", Some(false)),
        ("ab[^e-g]", "abc", Some(true)),
        ("a\\*b", "a*b", Some(true)),
        ("a\\*b", "ab", Some(false)),
        ("a?b", "a\u{263a}b", Some(true)),
        ("a[^a]b", "a\u{263a}b", Some(true)),
        ("a???b", "a\u{263a}b", Some(false)),
        ("[a-\u{3b6}]*", "\u{3b1}", Some(true)),
        ("*[a-\u{3b6}]", "A", Some(false)),
        ("a?b", "a/b", Some(false)),
        ("a*b", "a/b", Some(false)),
        ("[\\]a]", "]", Some(true)),
        ("[\\-]", "-", Some(true)),
        ("[x\\-]", "z", Some(false)),
        ("[]a]", "]", None),
        ("[-]", "-", None),
        ("[x-]", "x", None),
        ("[a-b-c]", "a", None),
        ("[", "a", None),
        ("[^", "a", None),
        ("[^bc", "a", None),
        ("a[", "a", None),
        ("a[", "ab", None),
        ("a[", "x", None),
        ("a/b[", "x", None),
        ("a\\", "a", None),
        ("*x", "xxx", Some(true)),
        ("", "", Some(true)),
        ("", "a", Some(false)),
        ("**", "ab", Some(true)),
    ];

    #[test]
    fn matches_as_go_does() {
        for (pattern, name, expected) in TABLE {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()).ok(), *expected, "{pattern} {name}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_single_characters() {
        assert_eq!(matches(b"a?c", b"a\xffc"), Ok(true));
        assert_eq!(matches(b"a?c", b"a\xff\xfec"), Ok(false));
        assert_eq!(matches(b"*\xff", b"x\xff"), Ok(true));
    }

    #[test]
    fn tells_literals_from_patterns() {
        assert!(has_wildcards(b"a*"));
        assert!(has_wildcards(b"[ab]"));
        assert!(!has_wildcards(b"a\\*"));
        assert_eq!(unescape(b"a\\*\\\\b"), b"a*\\b");
    }
}
