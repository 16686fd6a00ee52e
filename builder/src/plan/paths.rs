//! Paths inside an image as text: cleaning and joining as BuildKit does it for WORKDIR, destinations and mounts.
//!
//! Invariants:
//! - purely lexical: symlinks are the executor's business;
//! - [`clean`] never ends in a slash except for `/` itself; [`destination`] keeps the slash that means a directory
//!   (semantics facts 5 and 36).

/// Shortest equivalent path: no `.`, no `//`, `..` resolved where it can be, `.` for nothing.
pub(super) use kiln_grammar::ignore::clean;

/// `path` below `parent`, cleaned; an absolute `path` is still put below `parent`.
pub(super) fn join(parent: &str, path: &str) -> String {
    clean(&format!("{parent}/{path}"))
}

/// An absolute, clean form of `path` seen from the working directory `parent`.
pub(super) fn absolute(parent: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { join(&join("/", parent), path) }
}

/// What WORKDIR stores: an absolute path stays as it is written, final slash included; a relative one is joined to
/// `current` and cleaned; an empty one changes nothing (semantics fact 36, as BuildKit's output shows it).
pub(super) fn workdir(current: &str, path: &str) -> String {
    let parent = if current.starts_with('/') { current.to_owned() } else { join("/", current) };
    match path {
        "" => parent,
        path if path.starts_with('/') => path.to_owned(),
        path => join(&parent, path),
    }
}

/// Destination of COPY and ADD: absolute and clean, with the `/` or `/.` at the end that was written.
pub(super) fn destination(working_dir: &str, path: &str) -> String {
    let written = if path.is_empty() || path == "." { "./" } else { path };
    let mut result = absolute(working_dir, written);
    let root = result == "/";
    if written.ends_with('/') && !root {
        result.push('/');
    } else if written.ends_with("/.") {
        result.push_str(if root { "." } else { "/." });
    }
    result
}

/// The last component, as `basename` gives it.
pub(super) fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        Some("") | None => "/",
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cleaning_is_gos() {
        for (path, expected) in [
            ("", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("/a/../../b", "/b"),
            ("a/../../b", "../b"),
            ("./a/.", "a"),
            ("..", ".."),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn workdir_joins_and_keeps() {
        assert_eq!(workdir("", "x"), "/x");
        assert_eq!(workdir("/a", "../c/./d"), "/c/d");
        assert_eq!(workdir("/a", ""), "/a");
        assert_eq!(workdir("", ""), "/");
        assert_eq!(workdir("/a", "/b/"), "/b/");
    }

    #[test]
    fn destinations_keep_their_slash() {
        for (path, expected) in [
            ("x", "/w/x"),
            ("x/", "/w/x/"),
            (".", "/w/"),
            ("", "/w/"),
            ("./", "/w/"),
            ("/", "/"),
            ("/.", "/."),
            ("/d/.", "/d/."),
            ("..", "/"),
            ("/a/../b/", "/b/"),
        ] {
            assert_eq!(destination("/w", path), expected, "{path}");
        }
    }

    #[test]
    fn base_names() {
        assert_eq!(base_name("/a/b"), "b");
        assert_eq!(base_name("b"), "b");
        assert_eq!(base_name("/"), "/");
    }

    proptest! {
        #[test]
        fn cleaning_twice_changes_nothing(path in "[./a-c]{0,12}") {
            let once = clean(&path);
            prop_assert_eq!(clean(&once), once.clone());
            prop_assert!(!absolute("/w", &path).contains("/../"));
        }
    }
}
