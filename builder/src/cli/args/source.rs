//! Where a Buildfile and contexts come from: `-f`, `CONTEXT` and `--build-context name=value` (language.md 1.12).
//!
//! Invariants: nothing is opened here; a text is a path when it is nothing else.

use std::path::PathBuf;

use crate::base::digest::{Digest, DigestError};
use crate::image::reference::{Reference, ReferenceError};

/// Where the Buildfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSource {
    /// `-`.
    Stdin,
    /// A file.
    Path(PathBuf),
    /// A file at an http(s) address.
    Url(String),
}

/// Where a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// `-`: an archive on standard input, or a Buildfile without a context.
    Stdin,
    /// A directory.
    Path(PathBuf),
    /// A git repository, the text as given (with its fragment).
    Git(String),
    /// An archive at an http(s) address.
    Http(String),
    /// `docker-image://REFERENCE`; for named contexts.
    Image(Reference),
    /// `docker-image://scratch`: an empty context; for named contexts.
    Scratch,
    /// `oci-layout://PATH[:TAG][@DIGEST]`; for named contexts.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// Which image of several.
        tag: Option<String>,
        /// Which manifest; decides when both are given.
        digest: Option<Digest>,
    },
}

/// `--build-context name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedContext {
    /// The name that FROM, COPY --from and mounts use; image names are normalised by whoever looks it up.
    pub name: String,
    /// Where it is.
    pub source: ContextSource,
}

/// Why a text is not a source.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// An empty text.
    #[error("the value is empty; write a path, or `-` for standard input")]
    Empty,
    /// Not `name=value`.
    #[error("`{0}` is not of the form name=value, e.g. base=docker-image://debian:12 or src=../src")]
    Form(String),
    /// A bad name.
    #[error("`{0}` is not a name for a context: use lower-case letters, digits and `.`, `_`, `-`, `/`, `:`")]
    Name(String),
    /// A name that always means something else (semantics.md 110).
    #[error("a context cannot be called `{0}`, that name has a meaning of its own")]
    Reserved(String),
    /// A URL for a Buildfile that is not built.
    #[error("`{0}`: only `kiln build` takes a Buildfile from an address; download it")]
    FileUrl(String),
    /// A repository in place of a Buildfile.
    #[error("`{0}` is a repository, not a file; write it as the context: kiln build {0}")]
    FileRepository(String),
    /// Standard input as a named context.
    #[error("only the main context can be standard input")]
    NamedStdin,
    /// An image as the main context.
    #[error("`{0}` can only be a named context; write --build-context NAME={0}")]
    OnlyNamed(String),
    /// A bad image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A bad digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// An unknown scheme.
    #[error(
        "`{0}`: unknown kind of source; use a path, http(s)://, a git address, docker-image:// or oci-layout://"
    )]
    Scheme(String),
}

/// Parses the value of `-f`.
pub fn parse_file(text: &str) -> Result<FileSource, SourceError> {
    match text {
        "" => Err(SourceError::Empty),
        "-" => Ok(FileSource::Stdin),
        url if ["http://", "https://"].iter().any(|scheme| has_prefix(url, scheme)) => {
            Err(SourceError::FileUrl(url.to_owned()))
        }
        path => Ok(FileSource::Path(path.into())),
    }
}

/// Parses the value of `-f` of a build, which may be an address.
pub fn parse_build_file(text: &str) -> Result<FileSource, SourceError> {
    match parse_file(text) {
        Err(SourceError::FileUrl(url)) if is_git(&url) => Err(SourceError::FileRepository(url)),
        Err(SourceError::FileUrl(url)) => Ok(FileSource::Url(url)),
        other => other,
    }
}

/// Parses the main context.
pub fn parse_context(text: &str) -> Result<ContextSource, SourceError> {
    match text {
        "" => Err(SourceError::Empty),
        "-" => Ok(ContextSource::Stdin),
        text => match parse_source(text)? {
            ContextSource::Image(_) | ContextSource::Scratch | ContextSource::OciLayout { .. } => {
                Err(SourceError::OnlyNamed(text.to_owned()))
            }
            source => Ok(source),
        },
    }
}

/// Parses the value of `--build-context`.
pub fn parse_named(text: &str) -> Result<NamedContext, SourceError> {
    let (name, value) = text.split_once('=').ok_or_else(|| SourceError::Form(text.to_owned()))?;
    if name.is_empty() || value.is_empty() {
        return Err(SourceError::Form(text.to_owned()));
    }
    // Names are looked up in any case, as names of stages are.
    let name = name.to_lowercase();
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@');
    if !name.bytes().all(ok) {
        return Err(SourceError::Name(name));
    }
    if matches!(name.as_str(), "scratch" | "context") {
        return Err(SourceError::Reserved(name));
    }
    let source = match value {
        "-" => return Err(SourceError::NamedStdin),
        value => parse_source(value)?,
    };
    Ok(NamedContext { name, source })
}

fn parse_source(text: &str) -> Result<ContextSource, SourceError> {
    if let Some(image) = text.strip_prefix("docker-image://") {
        return match image {
            "scratch" => Ok(ContextSource::Scratch),
            image => Ok(ContextSource::Image(image.parse()?)),
        };
    }
    if let Some(layout) = text.strip_prefix("oci-layout://") {
        return oci_layout(layout);
    }
    if is_git(text) {
        return Ok(ContextSource::Git(text.to_owned()));
    }
    if has_prefix(text, "http://") || has_prefix(text, "https://") {
        return Ok(ContextSource::Http(text.to_owned()));
    }
    if let Some((scheme, _)) = text.split_once("://")
        && !scheme.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    {
        return Err(SourceError::Scheme(text.to_owned()));
    }
    Ok(ContextSource::Path(text.into()))
}

fn oci_layout(text: &str) -> Result<ContextSource, SourceError> {
    let (rest, digest) = match text.rsplit_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse()?)),
        None => (text, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    if path.is_empty() {
        return Err(SourceError::Empty);
    }
    Ok(ContextSource::OciLayout { path: path.into(), tag, digest })
}

/// True for what BuildKit takes as a git repository (language.md 1.8, `dfgitutil`): git and ssh addresses, the
/// `user@host:path` form, and http(s) addresses whose path ends with `.git`.
fn is_git(text: &str) -> bool {
    if has_prefix(text, "git://") || has_prefix(text, "ssh://") || text.starts_with("github.com/") {
        return true;
    }
    if has_prefix(text, "http://") || has_prefix(text, "https://") {
        let path = text.split(['?', '#']).next().unwrap_or(text);
        return path.ends_with(".git");
    }
    let Some((user, rest)) = text.split_once('@') else { return false };
    let name = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    name(user) && rest.split_once(':').is_some_and(|(host, path)| name(host) && !path.is_empty())
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn contexts() {
        let git = |text: &str| ContextSource::Git(text.to_owned());
        let path = |text: &str| ContextSource::Path(text.into());
        for (text, expected) in [
            ("-", ContextSource::Stdin),
            (".", path(".")),
            ("a:b/c@d", path("a:b/c@d")),
            ("https://h/r.git#main:sub", git("https://h/r.git#main:sub")),
            ("https://h/r.git?ref=v1", git("https://h/r.git?ref=v1")),
            ("git@h:me/r.git", git("git@h:me/r.git")),
            ("ssh://git@h/r", git("ssh://git@h/r")),
            ("HTTPS://h/x.tar.gz", ContextSource::Http("HTTPS://h/x.tar.gz".to_owned())),
        ] {
            assert_eq!(parse_context(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_context(""), Err(SourceError::Empty));
        assert!(matches!(parse_context("docker-image://x"), Err(SourceError::OnlyNamed(_))));
        assert!(matches!(parse_context("ftp://h/x"), Err(SourceError::Scheme(_))));
    }

    #[test]
    fn named_contexts() {
        let named = |text: &str| parse_named(text).map(|named| (named.name, named.source));
        let digest = Digest::of(b"x");
        assert_eq!(named("Other=extra"), Ok(("other".to_owned(), ContextSource::Path("extra".into()))));
        assert_eq!(
            named("example.invalid/some/image:1=docker-image://127.0.0.1:5000/x:1"),
            Ok((
                "example.invalid/some/image:1".to_owned(),
                ContextSource::Image("127.0.0.1:5000/x:1".parse().unwrap())
            ))
        );
        assert_eq!(named("e=docker-image://scratch"), Ok(("e".to_owned(), ContextSource::Scratch)));
        assert_eq!(
            named(&format!("l=oci-layout:///a/b:v1@{digest}")),
            Ok((
                "l".to_owned(),
                ContextSource::OciLayout {
                    path: "/a/b".into(),
                    tag: Some("v1".to_owned()),
                    digest: Some(digest)
                }
            ))
        );
        for bad in ["x", "=y", "x=", ""] {
            assert!(matches!(parse_named(bad), Err(SourceError::Form(_))), "{bad}");
        }
        assert!(matches!(parse_named("a b=."), Err(SourceError::Name(_))));
        assert!(matches!(parse_named("scratch=."), Err(SourceError::Reserved(_))));
        assert!(matches!(parse_named("x=-"), Err(SourceError::NamedStdin)));
        assert!(matches!(parse_named("x=docker-image://UP PER"), Err(SourceError::Reference(_))));
        assert!(matches!(parse_named("x=oci-layout://a@sha256:1"), Err(SourceError::Digest(_))));
        assert!(matches!(parse_named("x=oci-layout://"), Err(SourceError::Empty)));
    }

    #[test]
    fn files() {
        assert_eq!(parse_file("-"), Ok(FileSource::Stdin));
        assert_eq!(parse_file("a/B"), Ok(FileSource::Path("a/B".into())));
        assert!(matches!(parse_file("https://x/Dockerfile"), Err(SourceError::FileUrl(_))));
        let url = "https://x/Dockerfile";
        assert_eq!(parse_build_file(url), Ok(FileSource::Url(url.to_owned())));
        assert!(matches!(parse_build_file("https://x/y.git#main"), Err(SourceError::FileRepository(_))));
    }

    proptest! {
        #[test]
        fn anything_is_answered(text in any::<String>()) {
            let _ = (parse_context(&text), parse_named(&text), parse_named(&format!("x={text}")), parse_file(&text));
        }
    }
}
