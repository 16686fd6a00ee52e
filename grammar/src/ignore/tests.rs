//! Verdicts, against tables and against a naive reading of the rules.

use super::*;
use proptest::prelude::*;

fn ignored(patterns: &str, path: &str) -> bool {
    Matcher::parse(patterns).unwrap().verdict(path).ignored
}

#[test]
fn single_patterns() {
    let table: &[(&str, &str, bool)] = &[
        ("**", "file", true),
        ("**", "dir/file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir", false),
        ("dir/**", "dir/dir2/file", true),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/*", "dir/dir2/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir2/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**/file", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/file*.txt*", "dir/dir/file.txt", true),
        ("**/*.txt", "dir/file.txt", true),
        ("**/*.txt2", "dir/file.txt", false),
        ("**/**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[^b-d]e", "aze", true),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("foo**", "foobar/x", true),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/foo/bar", true),
        ("**/foo/bar", "dir/foo", false),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("/x/../y/", "y/z", true),
        ("./a", "a", true),
        ("A", "a", false),
        (".", "x", false),
        ("*", "a/b", true),
        ("a/*/c", "a/b/c/d", true),
        ("docs", "docs2/x", false),
    ];
    for (pattern, path, expected) in table {
        assert_eq!(ignored(pattern, path), *expected, "{pattern} {path}");
    }
}

#[test]
fn the_last_pattern_wins() {
    assert!(!ignored("*\n!docs", "docs/a"));
    assert!(ignored("*\n!docs\ndocs/a", "docs/a"));
    assert!(ignored("!docs\n*", "docs/a"));
    assert!(!ignored("docs\n!docs/*.md", "docs/a.md"));
    assert!(ignored("docs\n!docs/*.md", "docs/a.txt"));
    let matcher = Matcher::parse("# c\n\n*\n!a\n").unwrap();
    assert_eq!(matcher.verdict("a"), Verdict { ignored: false, pattern: Some(1) });
    assert_eq!(matcher.verdict("b"), Verdict { ignored: true, pattern: Some(0) });
    assert_eq!(matcher.patterns()[1].line, 4);
    assert!(matcher.has_negations());
}

#[test]
fn reads_files() {
    let matcher = Matcher::parse("\u{feff}#c\r\n  # not a comment\r\n ! /a \n\n\t\n").unwrap();
    let read: Vec<(&str, bool)> = matcher.patterns().iter().map(|p| (p.text.as_str(), p.negated)).collect();
    assert_eq!(read, [("# not a comment", false), ("a", true)]);
    assert!(Matcher::parse("#\n").unwrap().is_empty());
    assert_eq!(Matcher::parse("a\n!\n").unwrap_err().line, 2);
    assert_eq!(Matcher::parse("a\n!\n").unwrap_err().message, "illegal exclusion pattern: \"!\"");
    for bad in ["[", "a[", "a\\", "[]"] {
        assert!(Matcher::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn names_need_not_be_utf8() {
    let matcher = Matcher::parse("a?\n**/*.x\n").unwrap();
    assert!(matcher.verdict_bytes(b"a\xff").ignored);
    assert!(!matcher.verdict_bytes(b"b\xff").ignored);
    assert!(matcher.verdict_bytes(b"\xff/\xfe.x").ignored);
}

#[test]
fn walks_can_prune() {
    let below = |patterns: &str, dir: &str| Matcher::parse(patterns).unwrap().may_match_below(dir);
    assert!(!below("*", "a"));
    assert!(below("*", "."));
    assert!(!below("*\n!docs", "src"));
    assert!(below("*\n!docs/x/*.md", "docs"));
    assert!(below("*\n!docs/x/*.md", "docs/x"));
    assert!(!below("*\n!docs/x/*.md", "docs/y"));
    assert!(below("*\n!**/*.md", "any/where"));
    assert!(below("*\n!doc*/a", "docs"));
    assert!(!below("!docs/a\n*", "docs"));
}

/// The rules as regular expressions would state them, by plain recursion.
fn naive_match(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*', rest @ ..] => {
            let rest = if let ['/', rest @ ..] = rest { rest } else { rest };
            if rest.is_empty() {
                return true;
            }
            naive_match(rest, path)
                || (0..path.len()).any(|i| path[i] == '/' && naive_match(rest, &path[i + 1..]))
        }
        ['*', rest @ ..] => {
            let run = path.iter().take_while(|c| **c != '/').count();
            (0..=run).any(|i| naive_match(rest, &path[i..]))
        }
        ['?', rest @ ..] => path.first().is_some_and(|c| *c != '/') && naive_match(rest, &path[1..]),
        [c, rest @ ..] => path.first() == Some(c) && naive_match(rest, &path[1..]),
    }
}

fn naive(patterns: &[String], path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let mut ignored = false;
    for pattern in patterns {
        let (negated, text) = match pattern.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, pattern.as_str()),
        };
        let text: Vec<char> = text.chars().collect();
        let applies = (1..=parts.len())
            .any(|n| naive_match(&text, &parts[..n].join("/").chars().collect::<Vec<char>>()));
        if applies {
            ignored = !negated;
        }
    }
    ignored
}

proptest! {
    // Patterns that begin with `**` without a slash, or end so, are moby's special cases: left out here.
    #[test]
    fn agrees_with_the_naive_reading(
        patterns in prop::collection::vec("!?(\\*\\*/)?[ab*?]?[ab](/(\\*\\*/)?[ab*?]?[ab]){0,2}", 0..4),
        path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let clean: Vec<String> = patterns.iter().filter(|p| !p.contains("***")).cloned().collect();
        let matcher = Matcher::from_patterns(&clean).unwrap();
        prop_assert_eq!(matcher.verdict(&path).ignored, naive(&clean, &path), "{:?}", clean);
        // Whatever is not ignored must have been reachable.
        if !matcher.verdict(&path).ignored {
            for (end, _) in path.match_indices('/') {
                prop_assert!(matcher.may_match_below(&path[..end]), "{:?} {}", clean, &path[..end]);
            }
        }
    }

    #[test]
    fn never_panics(text in any::<String>(), path in any::<Vec<u8>>()) {
        if let Ok(matcher) = Matcher::parse(&text) {
            matcher.verdict_bytes(&path);
            matcher.may_match_below_bytes(&path);
        }
    }
}
