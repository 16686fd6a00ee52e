//! `key=value` options: build arguments, labels, and files of them.
//!
//! Invariants: messages name keys, never values: build arguments hold passwords more often than they should.

use std::collections::BTreeMap;

/// A build argument of the command line.
#[derive(Clone, PartialEq, Eq)]
pub struct BuildArg {
    /// Its name.
    pub key: String,
    /// Its value; `None` takes the environment's.
    pub value: Option<String>,
}

impl std::fmt::Debug for BuildArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildArg").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why a text is not a pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// No key.
    #[error("the name before `=` is missing; write NAME=VALUE")]
    NoKey,
    /// No value.
    #[error("`{0}` has no value; write {0}=VALUE")]
    NoValue(String),
    /// A value where a name is wanted.
    #[error("only a name is wanted; write {0}")]
    Value(String),
    /// A key with spaces or control characters.
    #[error("the name `{0}` holds a space or a control character; write NAME=VALUE")]
    Key(String),
    /// A value with a NUL.
    #[error("the value of `{0}` holds a NUL byte")]
    Nul(String),
}

/// Parses `--build-arg KEY[=VALUE]`.
pub fn parse_build_arg(text: &str) -> Result<BuildArg, PairError> {
    match text.split_once('=') {
        Some((key, value)) => {
            let (key, value) = checked(key, value)?;
            Ok(BuildArg { key, value: Some(value) })
        }
        None => Ok(BuildArg { key: checked(text, "")?.0, value: None }),
    }
}

/// Parses a name alone.
pub fn parse_name(text: &str) -> Result<String, PairError> {
    match text.split_once('=') {
        Some((name, _)) => Err(PairError::Value(clip(name))),
        None => Ok(checked(text, "")?.0),
    }
}

/// Parses `--label KEY[=VALUE]`; a bare key has an empty value, as in docker.
pub fn parse_label(text: &str) -> Result<(String, String), PairError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    checked(key, value)
}

/// Parses `--env KEY=VALUE`.
pub fn parse_env(text: &str) -> Result<(String, String), PairError> {
    let (key, value) = text.split_once('=').ok_or_else(|| PairError::NoValue(clip(text)))?;
    checked(key, value)
}

/// Parses a file of build arguments: `KEY=VALUE` lines; empty ones and those that start with `#` are skipped. The
/// value is everything behind the first `=`, quotes included. The error carries the line, from 1.
pub fn parse_args_file(text: &str) -> Result<BTreeMap<String, String>, (usize, PairError)> {
    let mut arguments = BTreeMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.trim_end().is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = parse_env(line).map_err(|error| (index + 1, error))?;
        arguments.insert(key, value);
    }
    Ok(arguments)
}

fn checked(key: &str, value: &str) -> Result<(String, String), PairError> {
    if key.is_empty() {
        return Err(PairError::NoKey);
    }
    if key.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(PairError::Key(clip(key)));
    }
    if value.contains('\0') {
        return Err(PairError::Nul(clip(key)));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn clip(text: &str) -> String {
    crate::ui::text::fit(text, 60).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let arg = |key: &str, value: Option<&str>| BuildArg {
            key: key.to_owned(),
            value: value.map(str::to_owned),
        };
        assert_eq!(parse_build_arg("A=b=c"), Ok(arg("A", Some("b=c"))));
        assert_eq!(parse_build_arg("A="), Ok(arg("A", Some(""))));
        assert_eq!(parse_build_arg("A"), Ok(arg("A", None)));
        assert_eq!(parse_label("k"), Ok(("k".to_owned(), String::new())));
        assert_eq!(parse_env("k"), Err(PairError::NoValue("k".to_owned())));
        for bad in ["=x", ""] {
            assert_eq!(parse_build_arg(bad), Err(PairError::NoKey), "{bad}");
            assert_eq!(parse_label(bad), Err(PairError::NoKey), "{bad}");
        }
        assert!(matches!(parse_build_arg("A B=x"), Err(PairError::Key(_))));
        assert!(matches!(parse_label("A\u{1b}=x"), Err(PairError::Key(key)) if !key.contains('\u{1b}')));
        assert!(matches!(parse_env("A=x\0"), Err(PairError::Nul(_))));
    }

    #[test]
    fn values_stay_out_of_debug_output() {
        let arg = parse_build_arg("PASSWORD=hunter2").unwrap();
        assert!(!format!("{arg:?}").contains("hunter2"));
    }

    #[test]
    fn files_of_arguments() {
        let text = "\u{feff}A=1\r\n\n# comment\n  B = 2\n";
        assert_eq!(parse_args_file(text), Err((4, PairError::Key("B ".to_owned()))));
        let text = "A=1\r\n\n  # comment\n B=\"2\" # no comment\nA=3\n";
        let expected = [("A", "3"), ("B", "\"2\" # no comment")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(parse_args_file(text), Ok(BTreeMap::from(expected)));
        assert_eq!(parse_args_file("A=1\nB\n"), Err((2, PairError::NoValue("B".to_owned()))));
    }
}
