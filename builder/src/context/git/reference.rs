//! Git references as `ADD` and contexts write them (language.md 1.8, 1.12).
//!
//! Invariants: parsing touches nothing outside the text; whatever is passed on to `git` cannot be taken for an
//! option, a refspec or a pattern.

use std::borrow::Cow;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::super::http::percent_decode;
use crate::net::redacted;

/// Shortest and longest abbreviation of a commit.
const CHECKSUM_DIGITS: std::ops::RangeInclusive<usize> = 4..=64;

/// A repository, and what of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GitRef {
    /// What `git` is given: a URL without query and fragment, or `user@host:path`.
    pub remote: String,
    /// The last component of the remote without `.git`.
    pub short_name: String,
    /// Branch, tag, full ref name or commit; `None` is the remote's HEAD.
    pub reference: Option<String>,
    /// Commit (or its beginning) that the reference must turn out to be.
    pub checksum: Option<String>,
    /// Folder whose content is wanted.
    pub subdir: Option<String>,
    /// Whether `.git` is kept; `None` leaves it to the flag.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched; `None` means yes.
    pub submodules: Option<bool>,
    /// What file times are.
    pub mtime: Option<Mtime>,
    /// Fetch `checksum`, a full commit, without asking what `reference` is.
    pub fetch_by_commit: Option<bool>,
}

/// File times of a checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mtime {
    /// When it was checked out.
    Checkout,
    /// When the commit was made.
    Commit,
}

/// What is wrong with a git reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum GitRefError {
    #[error("git reference has `{key}=` without a value")]
    NoValue { key: String },
    #[error("git reference has `{key}=` more than once")]
    Repeated { key: String },
    #[error(
        "git reference has the unknown option `{key}`; known are ref, tag, branch, commit, checksum, subdir, \
         keep-git-dir, submodules, mtime and fetch-by-commit"
    )]
    UnknownKey { key: String },
    #[error("`{value}` is not a value of `{key}`, which takes {expected}")]
    BadValue { key: String, value: String, expected: &'static str },
    #[error("git reference names two refs: `{first}` and `{second}`")]
    RefConflict { first: String, second: String },
    #[error("git reference names two folders: `{first}` and `{second}`")]
    SubdirConflict { first: String, second: String },
    #[error("git reference names both a branch and a tag")]
    BranchAndTag,
    #[error("two different checksums: `{first}` and `{second}`")]
    ChecksumConflict { first: String, second: String },
    #[error("`{0}` is not a commit: 4 to 64 hexadecimal digits are")]
    Checksum(String),
    #[error("`{0}` cannot be the name of a git ref")]
    BadRef(String),
    #[error("`{0}` is not a git repository that can be contacted")]
    Remote(String),
    #[error("`--keep-git-dir={flag}` contradicts `keep-git-dir={query}` of the git reference")]
    KeepGitDir { flag: bool, query: bool },
}

impl GitRef {
    /// Reads a source of `ADD`; `None` when it is no git reference (semantics fact 30: a name without a scheme is a
    /// path).
    pub fn parse_for_add(text: &str) -> Option<Result<Self, GitRefError>> {
        parse(text)
    }

    /// Reads a build context: as for `ADD`, and `github.com/…` may stand without a scheme.
    pub fn parse_for_context(text: &str) -> Option<Result<Self, GitRefError>> {
        if text.starts_with("github.com/") {
            let (remote, query, fragment) = split(text);
            let remote = format!("https://{remote}");
            Url::parse(&remote).ok()?;
            return Some(build(remote, query, Cow::Owned(decoded(fragment))));
        }
        parse(text)
    }

    /// The remote as messages may show it.
    pub fn shown(&self) -> String {
        Url::parse(&self.remote).map_or_else(|_| self.remote.clone(), |url| redacted(&url))
    }

    /// Joins the flag `--keep-git-dir` with the reference's own wish.
    pub fn keep_git_dir_with(&self, flag: Option<bool>) -> Result<bool, GitRefError> {
        match (flag, self.keep_git_dir) {
            (Some(flag), Some(query)) if flag != query => Err(GitRefError::KeepGitDir { flag, query }),
            (flag, query) => Ok(flag.or(query).unwrap_or(false)),
        }
    }

    /// Joins the flag `--checksum` with the reference's own.
    pub fn checksum_with(&self, flag: Option<&str>) -> Result<Option<String>, GitRefError> {
        match (flag.map(checked_checksum).transpose()?, &self.checksum) {
            (Some(first), Some(second)) if first != *second => {
                Err(GitRefError::ChecksumConflict { first, second: second.clone() })
            }
            (first, second) => Ok(first.or_else(|| second.clone())),
        }
    }
}

/// True for a commit in full (SHA-1 or SHA-256).
pub(super) fn is_full_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn parse(text: &str) -> Option<Result<GitRef, GitRefError>> {
    if let Some((scheme, rest)) = text.split_once("://") {
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "ssh" | "git") {
            return None;
        }
        let (rest, query, fragment) = split(rest);
        let remote = format!("{scheme}://{rest}");
        let url = Url::parse(&remote).ok()?;
        let host = url.host_str().filter(|host| !host.is_empty())?;
        // An http URL is a repository only when it says so; anything else behind http is a file.
        if scheme.starts_with("http") && !percent_decode(url.path()).ends_with(b".git") {
            return None;
        }
        if host.starts_with('-') || url.username().starts_with('-') {
            return Some(Err(GitRefError::Remote(rest.to_owned())));
        }
        return Some(build(remote, query, Cow::Owned(decoded(fragment))));
    }
    let (remote, query, fragment) = split(text);
    let (user, rest) = remote.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let word = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    if !word(user, b"-_") || !word(host, b"-.") || path.is_empty() {
        return None;
    }
    if user.starts_with('-') || host.starts_with('-') || path.starts_with('-') {
        return Some(Err(GitRefError::Remote(remote.to_owned())));
    }
    Some(build(remote.to_owned(), query, Cow::Borrowed(fragment)))
}

/// Remote, query and fragment; the last two empty when there are none.
fn split(text: &str) -> (&str, &str, &str) {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
    (remote, query, fragment)
}

fn decoded(fragment: &str) -> String {
    String::from_utf8(percent_decode(fragment)).unwrap_or_else(|_| fragment.to_owned())
}

fn build(remote: String, query: &str, fragment: Cow<'_, str>) -> Result<GitRef, GitRefError> {
    if remote.chars().any(|c| c.is_control() || c == ' ') {
        return Err(GitRefError::Remote(remote.escape_debug().to_string()));
    }
    let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
    let last = remote.rsplit(['/', ':']).next().unwrap_or_default();
    let mut git = GitRef {
        short_name: last.strip_suffix(".git").unwrap_or(last).to_owned(),
        reference: some(reference),
        subdir: some(subdir),
        remote,
        ..GitRef::default()
    };
    git.add_query(query)?;
    if let Some(reference) = &git.reference {
        check_ref(reference)?;
    }
    Ok(git)
}

fn some(text: &str) -> Option<String> {
    if text.is_empty() { None } else { Some(text.to_owned()) }
}

impl GitRef {
    fn add_query(&mut self, query: &str) -> Result<(), GitRefError> {
        let pairs = query_pairs(query);
        let mut seen = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for (key, value) in pairs {
            if seen.contains(&key) {
                return Err(GitRefError::Repeated { key });
            }
            seen.push(key.clone());
            let optional = matches!(key.as_str(), "keep-git-dir" | "submodules" | "fetch-by-commit");
            if value.is_empty() && !optional {
                return Err(GitRefError::NoValue { key });
            }
            match key.as_str() {
                "ref" => self.set_ref(value)?,
                "tag" => tag = Some(prefixed("refs/tags/", value)),
                "branch" => branch = Some(prefixed("refs/heads/", value)),
                "subdir" => match &self.subdir {
                    Some(first) if *first != value => {
                        return Err(GitRefError::SubdirConflict { first: first.clone(), second: value });
                    }
                    _ => self.subdir = Some(value),
                },
                "checksum" | "commit" => self.checksum = self.checksum_with(Some(&value))?,
                "keep-git-dir" => self.keep_git_dir = Some(boolean(&key, &value)?),
                "submodules" => self.submodules = Some(boolean(&key, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = Some(boolean(&key, &value)?),
                "mtime" => {
                    self.mtime = Some(match value.as_str() {
                        "checkout" => Mtime::Checkout,
                        "commit" => Mtime::Commit,
                        _ => {
                            return Err(GitRefError::BadValue { key, value, expected: "checkout or commit" });
                        }
                    });
                }
                _ => return Err(GitRefError::UnknownKey { key }),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err(GitRefError::BranchAndTag);
        }
        if let Some(reference) = tag.or(branch) {
            self.set_ref(reference)?;
        }
        if self.reference.is_none() {
            self.reference.clone_from(&self.checksum);
        }
        Ok(())
    }

    fn set_ref(&mut self, value: String) -> Result<(), GitRefError> {
        match &self.reference {
            Some(first) if *first != value => {
                Err(GitRefError::RefConflict { first: first.clone(), second: value })
            }
            _ => {
                self.reference = Some(value);
                Ok(())
            }
        }
    }
}

fn query_pairs(query: &str) -> Vec<(String, String)> {
    let Ok(mut carrier) = Url::parse("git://query/") else { return Vec::new() };
    carrier.set_query(some(query).as_deref());
    let pairs = carrier.query_pairs();
    pairs
        .filter(|(key, value)| !key.is_empty() || !value.is_empty())
        .map(|(k, v)| (k.into(), v.into()))
        .collect()
}

fn prefixed(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

/// The words of Go's `strconv.ParseBool`; nothing means true.
fn boolean(key: &str, value: &str) -> Result<bool, GitRefError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitRefError::BadValue {
            key: key.to_owned(),
            value: value.to_owned(),
            expected: "true or false",
        }),
    }
}

fn checked_checksum(text: &str) -> Result<String, GitRefError> {
    if CHECKSUM_DIGITS.contains(&text.len()) && is_hex(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(GitRefError::Checksum(text.to_owned()))
}

/// What `git check-ref-format` refuses, and what would be an option.
fn check_ref(name: &str) -> Result<(), GitRefError> {
    let bad_character = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let bad = name.starts_with(['-', '/', '.', '+'])
        || name.ends_with(['/', '.'])
        || name.contains("..")
        || name.contains("//")
        || name.contains("@{")
        || name == "@"
        || name.len() > 1024
        || name.contains(bad_character);
    if bad { Err(GitRefError::BadRef(name.escape_debug().to_string())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(text: &str) -> GitRef {
        GitRef::parse_for_add(text).unwrap_or_else(|| panic!("{text}: no git reference")).unwrap()
    }

    #[test]
    fn what_is_a_reference() {
        for text in [
            "https://example.com/",
            "https://example.com/foo",
            "https://example.com/foo.git/",
            "https://example.com/foo.git.bar",
            "http://github.com/docker/docker.git:#branch",
            "github.com/moby/buildkit",
            "custom.xyz/moby/buildkit.git",
            "./.git",
            "../x.git",
            ".git",
            "https:///x.git",
            "git+ssh://h/x",
            "a@b",
            "dir/a@b:c",
            "file:///tmp/x.git",
        ] {
            assert_eq!(GitRef::parse_for_add(text), None, "{text}");
        }
        for (text, remote, short) in [
            ("https://example.com/foo.git", "https://example.com/foo.git", "foo"),
            ("HTTPS://example.com/foo.git", "https://example.com/foo.git", "foo"),
            ("git://example.com/foo", "git://example.com/foo", "foo"),
            ("ssh://git@h:22/a/b.git#x", "ssh://git@h:22/a/b.git", "b"),
            ("git@github.com:moby/buildkit.git#v1", "git@github.com:moby/buildkit.git", "buildkit"),
            ("git@h:x", "git@h:x", "x"),
        ] {
            let found = add(text);
            assert_eq!((found.remote.as_str(), found.short_name.as_str()), (remote, short), "{text}");
        }
        let context = GitRef::parse_for_context("github.com/moby/buildkit#v1:sub").unwrap().unwrap();
        assert_eq!(context.remote, "https://github.com/moby/buildkit");
        assert_eq!((context.reference.as_deref(), context.subdir.as_deref()), (Some("v1"), Some("sub")));
    }

    #[test]
    fn fragments_and_queries() {
        for (text, reference, subdir) in [
            ("https://h/r.git#release/1.2", Some("release/1.2"), None),
            ("https://h/r.git#a/b:c/d", Some("a/b"), Some("c/d")),
            ("https://h/r.git#:c", None, Some("c")),
            ("https://h/r.git#", None, None),
            ("https://h/r.git#a%20:b%23", None, None),
            ("https://h/r.git?ref=v1.0.0&subdir=/subdir", Some("v1.0.0"), Some("/subdir")),
            ("https://h/r.git?tag=v1#refs/tags/v1", Some("refs/tags/v1"), None),
            ("https://h/r.git?branch=b", Some("refs/heads/b"), None),
            ("git@h:r?ref=v1", Some("v1"), None),
            ("https://h/r.git?commit=ABCDEF1", Some("abcdef1"), None),
        ] {
            if text.contains("%20") {
                assert!(matches!(GitRef::parse_for_add(text), Some(Err(GitRefError::BadRef(_)))));
                continue;
            }
            let found = add(text);
            assert_eq!((found.reference.as_deref(), found.subdir.as_deref()), (reference, subdir), "{text}");
        }
        let all = add(
            "https://h/r.git?ref=v1&checksum=abcd&keep-git-dir&submodules=0&mtime=commit&fetch-by-commit=1",
        );
        assert_eq!(all.checksum.as_deref(), Some("abcd"));
        assert_eq!(
            (all.keep_git_dir, all.submodules, all.fetch_by_commit),
            (Some(true), Some(false), Some(true))
        );
        assert_eq!(all.mtime, Some(Mtime::Commit));
    }

    #[test]
    fn conflicts_and_nonsense() {
        for (text, part) in [
            ("https://h/r.git?ref=a#b", "two refs"),
            ("https://h/r.git?tag=a&branch=b", "both a branch and a tag"),
            ("https://h/r.git?tag=a&ref=a", "two refs"),
            ("https://h/r.git?subdir=a#:b", "two folders"),
            ("https://h/r.git?commit=abcd&checksum=abce", "two different checksums"),
            ("https://h/r.git?commit=xyz", "not a commit"),
            ("https://h/r.git?ref=a&ref=a", "more than once"),
            ("https://h/r.git?ref=", "without a value"),
            ("https://h/r.git?colour=red", "colour"),
            ("https://h/r.git?submodules=perhaps", "perhaps"),
            ("https://h/r.git?mtime=now", "checkout or commit"),
            ("https://h/r.git#--upload-pack=x", "cannot be the name"),
            ("https://h/r.git#a..b", "cannot be the name"),
            ("https://h/r.git#+a", "cannot be the name"),
            ("ssh://-oProxyCommand=x/r", "cannot be contacted"),
            ("git@-oProxyCommand:r", "cannot be contacted"),
            ("git@h:-x", "cannot be contacted"),
        ] {
            match GitRef::parse_for_add(text) {
                Some(Err(error)) => {
                    let found = error.to_string();
                    assert!(found.contains(part) || part == "cannot be contacted", "{text}: {found}");
                }
                other => assert!(part == "cannot be contacted" && other.is_none(), "{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn flags_have_to_agree() {
        let plain = add("https://h/r.git");
        assert_eq!(plain.keep_git_dir_with(None), Ok(false));
        assert_eq!(plain.keep_git_dir_with(Some(true)), Ok(true));
        let kept = add("https://h/r.git?keep-git-dir=true&checksum=abcd");
        assert_eq!(kept.keep_git_dir_with(None), Ok(true));
        assert!(kept.keep_git_dir_with(Some(false)).is_err());
        assert_eq!(kept.checksum_with(Some("ABCD")), Ok(Some("abcd".to_owned())));
        assert!(kept.checksum_with(Some("abce")).is_err());
        assert!(plain.checksum_with(Some("sha256:00")).is_err());
    }

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(add("https://me:pw@h/r.git").shown(), "https://h/r.git");
    }

    proptest::proptest! {
        #[test]
        fn anything_is_survived(text in "(https://h/r.git|git@h:r|ssh://h/)[ -~]{0,40}") {
            if let Some(Ok(found)) = GitRef::parse_for_add(&text) {
                proptest::prop_assert!(!found.remote.starts_with('-'));
                proptest::prop_assert!(found.reference.is_none_or(|name| !name.starts_with('-')));
            }
        }
    }
}
