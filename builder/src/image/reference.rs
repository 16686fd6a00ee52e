//! Image references (`[registry/]path[:tag][@digest]`), normalised as docker does.
//!
//! Invariants: a [`Reference`] always has a registry host, a full path and a tag or a digest; with both, the digest
//! decides (language.md 1.4).

use std::fmt;
use std::str::FromStr;

use crate::base::digest::Digest;

/// A normalised image reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and port, e.g. `docker.io` or `127.0.0.1:5000`.
    pub registry: String,
    /// Path below the registry, e.g. `library/debian`.
    pub repository: String,
    /// Tag; `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest.
    pub digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid reference format: `{text}` {reason}")]
pub struct ReferenceError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason: &str| ReferenceError { text: text.to_owned(), reason: reason.to_owned() };
        if text.is_empty() {
            return Err(fail("is empty"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(digest.parse::<Digest>().map_err(|error| fail(&format!("has a bad digest: {error}")))?),
            ),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let other = |b: u8| first(b) || matches!(b, b'.' | b'-');
            if tag.is_empty() || tag.len() > 128 || !first(tag.as_bytes()[0]) || !tag.bytes().all(other) {
                return Err(fail("has a malformed tag"));
            }
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path))
                if host.contains(['.', ':']) || host == "localhost" || host != host.to_lowercase() =>
            {
                (host, path.to_owned())
            }
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let path =
            if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
        let host_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
        let edges_ok = !registry.starts_with(['.', '-', ':']) && !registry.contains("..");
        if registry.is_empty() || !registry.bytes().all(host_ok) || !edges_ok {
            return Err(fail("has a malformed registry host"));
        }
        if path.chars().any(char::is_uppercase) {
            return Err(fail("has upper-case letters: repository names must be lower case"));
        }
        if path.len() > 255 || !path.split('/').all(component_ok) {
            return Err(fail("has a malformed repository name"));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository: path, tag, digest })
    }
}

/// `alnum+ ((. | _ | __ | -+) alnum+)*`
fn component_ok(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alnum = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    bytes.split(|b| alnum(*b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

impl Reference {
    /// What to ask the registry for: the digest when there is one, else the tag.
    pub fn manifest_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The name without tag and digest, e.g. `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The form that people write: no `docker.io/library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised() {
        let zeros = "0".repeat(64);
        for (text, expected) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("me/app", "docker.io/me/app:latest"),
            ("127.0.0.1:5000/conf/busybox:1", "127.0.0.1:5000/conf/busybox:1"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("a.b/c__d/e-f.g:T_1", "a.b/c__d/e-f.g:T_1"),
            (&format!("x@sha256:{zeros}"), &format!("docker.io/library/x@sha256:{zeros}")),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn bad_references_are_refused() {
        for bad in
            ["", "UPPER", "a//b", "a:b:c", "a/-b", "Not_A_Valid", "x:", "x@sha256:1", "-", "../etc", "a b"]
        {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn familiar_names() {
        assert_eq!("debian".parse::<Reference>().unwrap().familiar(), "debian:latest");
        assert_eq!("h:1/x".parse::<Reference>().unwrap().familiar(), "h:1/x:latest");
    }
}
