//! Where content comes from: the build context, git repositories, URLs.

pub mod fingerprint;
pub mod git;
pub mod http;
pub mod layout;
pub mod local;

/// What a source of `ADD` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A path in the build context.
    Path,
    /// A file to download.
    HttpUrl,
    /// A git repository.
    Git,
}

/// Classifies a source of `ADD` as BuildKit does: git references first (an http URL is one when its path ends in
/// `.git`), then http and https URLs; all else is a path. A git reference with errors is still [`SourceKind::Git`].
pub fn source_kind(text: &str) -> SourceKind {
    if git::GitRef::parse_for_add(text).is_some() {
        SourceKind::Git
    } else if text.starts_with("http://") || text.starts_with("https://") {
        SourceKind::HttpUrl
    } else {
        SourceKind::Path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for (text, kind) in [
            ("src/main.rs", SourceKind::Path),
            ("repo.git", SourceKind::Path),
            ("./https://x", SourceKind::Path),
            ("github.com/a/b", SourceKind::Path),
            ("github.com/a/b.git", SourceKind::Path),
            ("ftp://h/x", SourceKind::Path),
            ("https://h/a.tar.gz", SourceKind::HttpUrl),
            ("http://h/a.git.tar", SourceKind::HttpUrl),
            ("https://h/a.git", SourceKind::Git),
            ("https://h/a.git#v1:sub", SourceKind::Git),
            ("https://h/a.git?ref=v1&bad=1", SourceKind::Git),
            ("git@h:a", SourceKind::Git),
            ("ssh://git@h/a", SourceKind::Git),
            ("git://h/a", SourceKind::Git),
        ] {
            assert_eq!(source_kind(text), kind, "{text}");
        }
    }
}
