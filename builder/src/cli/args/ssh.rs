//! `--ssh default|id[=socket|key[,key]][,raw=true]` (cli.md 2.1).
//!
//! Invariants: paths are not looked at; whether one is a socket or a key is seen when it is opened.

use std::path::PathBuf;

use crate::export::spec::attributes::{self, AttributeError};

/// One agent that steps may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSpec {
    /// What `RUN --mount=type=ssh,id=` calls it.
    pub id: String,
    /// An agent's socket, or keys; empty is the agent of `SSH_AUTH_SOCK`.
    pub paths: Vec<PathBuf>,
    /// The socket is passed on as it is, whatever it speaks.
    pub raw: bool,
}

/// Why a text is not an agent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshError {
    /// Bad attributes.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// A bad id.
    #[error("`{0}` is not of the form default, or id=SOCKET, or id=KEY,KEY")]
    Form(String),
    /// raw with something else than one socket.
    #[error("`{0}`: raw=true needs exactly one socket, as in id=SOCKET,raw=true")]
    Raw(String),
}

/// Parses the value of `--ssh`.
pub fn parse(text: &str) -> Result<SshSpec, SshError> {
    let form = || SshError::Form(text.to_owned());
    let (id, rest) = match text.split_once('=') {
        Some((id, rest)) => (id, Some(rest)),
        None => (text, None),
    };
    if id.is_empty()
        || !id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':'))
    {
        return Err(form());
    }
    let mut spec = SshSpec { id: id.to_owned(), paths: Vec::new(), raw: false };
    for field in rest.map(attributes::fields).transpose()?.unwrap_or_default() {
        match field.strip_prefix("raw=") {
            Some(value) => spec.raw = attributes::boolean("raw", value)?,
            None if field.is_empty() => return Err(form()),
            None => spec.paths.push(field.into()),
        }
    }
    if spec.raw && spec.paths.len() != 1 {
        return Err(SshError::Raw(text.to_owned()));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents() {
        let spec = |id: &str, paths: &[&str], raw| SshSpec {
            id: id.to_owned(),
            paths: paths.iter().map(PathBuf::from).collect(),
            raw,
        };
        assert_eq!(parse("default"), Ok(spec("default", &[], false)));
        assert_eq!(parse("x=/run/agent"), Ok(spec("x", &["/run/agent"], false)));
        assert_eq!(parse("x=a,b"), Ok(spec("x", &["a", "b"], false)));
        assert_eq!(parse("x=/s,raw=true"), Ok(spec("x", &["/s"], true)));
        for bad in ["", "=x", "a b", "x=a,,b", "de\u{1b}fault", "x,y"] {
            assert!(matches!(parse(bad), Err(SshError::Form(_))), "{bad}");
        }
        assert!(matches!(parse("x="), Err(SshError::Attribute(_))));
        assert!(matches!(parse("x=raw=true"), Err(SshError::Raw(_))));
        assert!(matches!(parse("x=a,b,raw=1"), Err(SshError::Raw(_))));
        assert!(matches!(parse("x=a,raw=yes"), Err(SshError::Attribute(_))));
    }
}
