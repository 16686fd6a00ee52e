//! `--secret id=x[,src=FILE|env=NAME][,type=file|env]` (cli.md 2.1).
//!
//! Invariants: nothing is read here, so no value of a secret can get into a message.

use std::path::PathBuf;

use crate::export::spec::attributes::{self, AttributeError};

/// One secret that steps may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSpec {
    /// What `RUN --mount=type=secret,id=` calls it.
    pub id: String,
    /// Where its value is.
    pub source: SecretSource,
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
    /// In the environment variable of its id when that is set, else in the file of that name (buildx).
    Detect,
}

/// Why a text is not a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Bad attributes.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// No id.
    #[error("`{0}` has no id; write id=NAME,src=FILE or id=NAME,env=VARIABLE")]
    NoId(String),
    /// An id that would be a path.
    #[error("secret id `{0}` may hold letters, digits, `.`, `_`, `-`, `:` and, between them, `/` only")]
    Id(String),
    /// An unknown type.
    #[error("unknown secret type `{0}`; use type=file or type=env")]
    Type(String),
    /// Two sources.
    #[error("secret `{0}` has both src and env; give one of them")]
    TwoSources(String),
    /// A source that contradicts the type.
    #[error("secret `{0}` has type=file and env; write src=FILE, or type=env")]
    Contradiction(String),
}

const KEYS: [&str; 5] = ["id", "src", "source", "env", "type"];

/// Parses the value of `--secret`.
pub fn parse(text: &str) -> Result<SecretSpec, SecretError> {
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in attributes::pairs(text)? {
        let slot = match key.as_str() {
            "id" => &mut id,
            "src" | "source" => &mut file,
            "env" => &mut variable,
            "type" => &mut kind,
            other => return Err(attributes::unknown(other, &KEYS).into()),
        };
        if slot.replace(value).is_some() {
            return Err(AttributeError::Twice(key).into());
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| SecretError::NoId(text.to_owned()))?;
    if !id_ok(&id) {
        return Err(SecretError::Id(id));
    }
    let source = match (kind.as_deref(), file, variable) {
        (_, Some(_), Some(_)) => return Err(SecretError::TwoSources(id)),
        (Some("file"), None, Some(_)) => return Err(SecretError::Contradiction(id)),
        (None | Some("file"), Some(file), None) => SecretSource::File(file.into()),
        (None | Some("env"), None, Some(variable)) => SecretSource::Env(variable),
        // With type=env, buildx takes src as the name of the variable.
        (Some("env"), Some(variable), None) => SecretSource::Env(variable),
        (Some("env"), None, None) => SecretSource::Env(id.clone()),
        (Some("file"), None, None) => SecretSource::File(id.clone().into()),
        (None, None, None) => SecretSource::Detect,
        (Some(other), _, _) => return Err(SecretError::Type(other.to_owned())),
    };
    Ok(SecretSpec { id, source })
}

fn id_ok(id: &str) -> bool {
    id.len() <= 255
        && id.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets() {
        let file = |path: &str| SecretSource::File(path.into());
        let env = |name: &str| SecretSource::Env(name.to_owned());
        for (text, id, source) in [
            ("id=tok,src=t", "tok", file("t")),
            ("id=tok,source=a/b", "tok", file("a/b")),
            ("\"id=tok\",\"src=a,b\"", "tok", file("a,b")),
            ("id=tok,env=TOKEN", "tok", env("TOKEN")),
            ("type=env,id=tok", "tok", env("tok")),
            ("type=env,id=tok,src=TOKEN", "tok", env("TOKEN")),
            ("type=file,id=tok", "tok", file("tok")),
            ("id=a/b.c", "a/b.c", SecretSource::Detect),
        ] {
            assert_eq!(parse(text), Ok(SecretSpec { id: id.to_owned(), source }), "{text}");
        }
    }

    #[test]
    fn messages_show_the_way() {
        let mut messages = String::new();
        for bad in [
            "tok",
            "src=t",
            "id=,src=t",
            "id=../x,src=t",
            "id=/abs",
            "id=a b",
            "id=t,sorce=x",
            "id=t,src=a,env=B",
            "id=t,type=file,env=B",
            "id=t,type=vault",
            "id=t,id=u",
        ] {
            messages.push_str(&format!("{bad}\n    {}\n", parse(bad).unwrap_err()));
        }
        insta::assert_snapshot!(messages, @r"
        tok
            `tok` is not of the form key=value
        src=t
            `src=t` has no id; write id=NAME,src=FILE or id=NAME,env=VARIABLE
        id=,src=t
            `id=,src=t` has no id; write id=NAME,src=FILE or id=NAME,env=VARIABLE
        id=../x,src=t
            secret id `../x` may hold letters, digits, `.`, `_`, `-`, `:` and, between them, `/` only
        id=/abs
            secret id `/abs` may hold letters, digits, `.`, `_`, `-`, `:` and, between them, `/` only
        id=a b
            secret id `a b` may hold letters, digits, `.`, `_`, `-`, `:` and, between them, `/` only
        id=t,sorce=x
            unknown key `sorce` (did you mean `source`?); known are id, src, source, env, type
        id=t,src=a,env=B
            secret `t` has both src and env; give one of them
        id=t,type=file,env=B
            secret `t` has type=file and env; write src=FILE, or type=env
        id=t,type=vault
            unknown secret type `vault`; use type=file or type=env
        id=t,id=u
            `id` is given more than once
        ");
    }
}
