//! Which sources of ADD and COPY are URLs and which are git repositories (language.md 1.8).
//!
//! Invariants: only the text is looked at. A name without scheme, such as `github.com/x/y.git`, is a path.

use super::graph::{GitSpec, HttpSpec, Op};

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// A path or wildcard pattern.
    Path,
    /// A file behind a URL.
    Http,
    /// A git repository.
    Git,
}

/// An address as names of steps show it: names are displayed and recorded, so user and password of a URL stay out.
pub fn without_credentials(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // A password may hold an `@`, a host may not.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// A spec as it may be kept and shown: without credentials of URLs.
pub fn public_spec(op: &Op) -> Op {
    match op {
        Op::Http(spec) => Op::Http(HttpSpec { url: without_credentials(&spec.url), ..spec.clone() }),
        Op::Git(spec) => Op::Git(GitSpec { reference: without_credentials(&spec.reference), ..spec.clone() }),
        other => other.clone(),
    }
}

/// Classifies a source after expansion.
pub(super) fn classify(source: &str) -> SourceKind {
    if source.starts_with("./") || source.starts_with("../") || source.starts_with("github.com/") {
        return SourceKind::Path;
    }
    match scheme(source) {
        Some(scheme) if scheme == "ssh" || scheme == "git" => SourceKind::Git,
        Some(scheme) if scheme == "http" || scheme == "https" => {
            let end = source.find(['#', '?']).unwrap_or(source.len());
            if source.get(..end).is_some_and(|path| path.ends_with(".git")) {
                SourceKind::Git
            } else if source.starts_with("http://") || source.starts_with("https://") {
                SourceKind::Http
            } else {
                SourceKind::Path
            }
        }
        Some(_) => SourceKind::Path,
        None if is_scp_style(source) => SourceKind::Git,
        None => SourceKind::Path,
    }
}

/// The scheme of a URL in lower case.
fn scheme(source: &str) -> Option<String> {
    let (scheme, _) = source.split_once("://")?;
    let ok = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
    ok.then(|| scheme.to_ascii_lowercase())
}

/// `user@host:path`.
fn is_scp_style(source: &str) -> bool {
    let Some((user, rest)) = source.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !user.is_empty()
        && user.bytes().all(|b| word(b) || b == b'_')
        && !host.is_empty()
        && host.bytes().all(|b| word(b) || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        for (address, shown) in [
            ("https://user:p@ss@h:1/x@y?q#z", "https://h:1/x@y?q#z"),
            ("https://token@h", "https://h"),
            ("https://h/a@b", "https://h/a@b"),
            ("git@h:a/b", "git@h:a/b"),
        ] {
            assert_eq!(without_credentials(address), shown);
        }
    }

    #[test]
    fn sources_are_told_apart() {
        for (source, expected) in [
            ("a/b.git", SourceKind::Path),
            ("./git@host:x", SourceKind::Path),
            ("github.com/x/y.git", SourceKind::Path),
            ("https://h/x.tar.gz", SourceKind::Http),
            ("http://h/x.git/info", SourceKind::Http),
            ("https://h/x.git", SourceKind::Git),
            ("http://h/x.git#v1:sub", SourceKind::Git),
            ("https://h/x.git?ref=v1", SourceKind::Git),
            ("https://h/x?y=z.git", SourceKind::Http),
            ("git@h.example:me/x", SourceKind::Git),
            ("deploy_1@h:x.git#main", SourceKind::Git),
            ("ssh://git@h/x", SourceKind::Git),
            ("git://h/x", SourceKind::Git),
            ("ftp://h/x", SourceKind::Path),
            ("a@b/c:d", SourceKind::Path),
            ("", SourceKind::Path),
        ] {
            assert_eq!(classify(source), expected, "{source}");
        }
    }
}
