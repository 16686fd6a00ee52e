//! What the fuzz targets do with their bytes, as plain functions: `cargo fuzz` calls them, and so does the
//! ordinary test suite with random input.
//!
//! Invariants:
//! - a function returns for every input; a panic is a finding.

use std::collections::BTreeMap;

/// A file, and the same text as a trigger.
pub fn parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = kiln_grammar::parse(&text);
    assert_eq!(kiln_grammar::format::file(&parsed.buildfile), text);
    for diagnostic in &parsed.diagnostics {
        assert!(text.get(diagnostic.span.start..diagnostic.span.end).is_some());
    }
    kiln_grammar::parse_trigger(&text);
}

/// A word, the value of one variable and the escape character.
pub fn expand(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (value, word) = text.split_once('\0').unwrap_or(("value", &text));
    let env = BTreeMap::from([("v".to_string(), value.to_string())]);
    for escape in ['\\', '`'] {
        let _ = kiln_grammar::expand::word(word, escape, &env);
        let _ = kiln_grammar::expand::words(word, escape, &env);
    }
    let _ = kiln_grammar::expand::heredoc_body(word, &env);
    let _ = kiln_grammar::mount::parse(word);
}

/// Patterns, and after a NUL byte the path that is asked for.
pub fn ignore(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (patterns, path) = data.split_at(cut);
    let path = path.get(1..).unwrap_or_default();
    let Ok(matcher) = kiln_grammar::ignore::Matcher::parse(&String::from_utf8_lossy(patterns)) else {
        return;
    };
    let verdict = matcher.verdict_bytes(path);
    if let Some(end) = path.iter().rposition(|byte| *byte == b'/')
        && !verdict.ignored
        && verdict.pattern.is_some()
        && end > 0
    {
        assert!(matcher.may_match_below_bytes(&path[..end]));
    }
    let _ = kiln_grammar::glob::matches(patterns, path);
}
