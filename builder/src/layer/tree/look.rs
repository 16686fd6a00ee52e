//! Paths in a tree that somebody asks for.
//!
//! Invariants: a path is looked up as inside the running image: symlinks on the way are followed, absolute ones begin
//! at the image's root, and nothing is above it.

use super::{Kind, Node, Tree, join, text};

/// Why a path does not lead to anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum LookError {
    #[error("the image has no `{path}`")]
    Missing { path: String },
    #[error("the image has no `{path}`: it is a symlink to `{target}`, which is not there")]
    Dangling { path: String, target: String },
    #[error("`{path}` leads through too many symlinks")]
    Symlinks { path: String },
}

/// A path without `.` and empty components, with every `..` taken back. None when it leads above the root.
pub fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

impl Tree {
    /// The real path of what `path` names. The last component is followed with `last`, as it is always when the path
    /// ends in a slash. The root is the empty path.
    pub fn find(&self, path: &[u8], last: bool) -> Result<Vec<u8>, LookError> {
        let shown = || format!("/{}", text(path).trim_start_matches('/'));
        let last = last || path.ends_with(b"/") || path.ends_with(b"/.");
        let real = self.follow(path, last).ok_or_else(|| LookError::Symlinks { path: shown() })?;
        if self.is_there(&real) {
            return Ok(real);
        }
        let link = self.follow(path, false).filter(|link| *link != real && self.nodes.contains_key(link));
        Err(match link {
            Some(_) => LookError::Dangling { path: shown(), target: format!("/{}", text(&real)) },
            None => LookError::Missing { path: shown() },
        })
    }

    /// Whether there is something at a real path. A directory needs no entry of its own when something is in it.
    fn is_there(&self, real: &[u8]) -> bool {
        real.is_empty() || self.nodes.contains_key(real) || self.below(real).next().is_some()
    }

    /// What is at a real path. None for the root and for directories that no layer has an entry of.
    pub fn node(&self, real: &[u8]) -> Option<&Node> {
        self.nodes.get(real)
    }

    /// Whether a real path is a directory.
    pub fn is_directory(&self, real: &[u8]) -> bool {
        match self.nodes.get(real) {
            Some(node) => node.entry.kind == Kind::Directory,
            None => self.is_there(real),
        }
    }

    /// Everything below a real path, sorted.
    pub fn below(&self, real: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Node)> {
        let prefix = if real.is_empty() { Vec::new() } else { join(real, b"") };
        self.nodes
            .range(prefix.clone()..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            // The entry of the root itself, as many archives have it.
            .filter(|(path, _)| !path.is_empty())
    }

    /// Names in a directory, sorted, with what they are; none for directories that no layer has an entry of.
    pub fn children(&self, real: &[u8]) -> Vec<(Vec<u8>, Option<&Node>)> {
        let start = if real.is_empty() { 0 } else { real.len() + 1 };
        let mut names: Vec<(Vec<u8>, Option<&Node>)> = Vec::new();
        for (path, node) in self.below(real) {
            let rest = path.get(start..).unwrap_or_default();
            let end = rest.iter().position(|byte| *byte == b'/');
            let name = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            match names.last_mut() {
                Some((known, _)) if known == name => {}
                _ => names.push((name.to_vec(), end.is_none().then_some(node))),
            }
        }
        // `a.b` sorts before `a/b` but behind `a`.
        names.sort_by(|(a, one), (b, other)| a.cmp(b).then(other.is_some().cmp(&one.is_some())));
        names.dedup_by(|(later, _), (earlier, _)| later == earlier);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::{Entry, Writer};

    fn tree() -> Tree {
        let mut writer = Writer::new(Vec::new());
        let mut add = |path: &str, kind: Kind, link: &str| {
            let mut entry = Entry::new(path, kind);
            entry.link = link.as_bytes().to_vec();
            writer.append_empty(&entry).unwrap();
        };
        add("./", Kind::Directory, "");
        add("a", Kind::Directory, "");
        add("a/x", Kind::File, "");
        add("a.b", Kind::File, "");
        add("implied/deep/f", Kind::File, "");
        add("abs", Kind::Symlink, "/a");
        add("up", Kind::Symlink, "../../../a/x");
        add("gone", Kind::Symlink, "nowhere");
        add("loop", Kind::Symlink, "loop");
        let mut tree = Tree::default();
        tree.apply(0, &writer.finish().unwrap()[..]).unwrap();
        tree
    }

    #[test]
    fn paths_are_looked_up_as_inside() {
        let tree = tree();
        let find = |path: &str| tree.find(path.as_bytes(), true).map(|real| text(&real));
        assert_eq!(find("/abs/x").unwrap(), "a/x");
        assert_eq!(find("abs/../../a/./x").unwrap(), "a/x");
        assert_eq!(find("/up").unwrap(), "a/x");
        assert_eq!(find("/").unwrap(), "");
        assert_eq!(find("/implied/deep/").unwrap(), "implied/deep");
        assert_eq!(tree.find(b"/abs", false).unwrap(), b"abs");
        assert_eq!(tree.find(b"/abs/", false).unwrap(), b"a");
        assert_eq!(find("/no").unwrap_err().to_string(), "the image has no `/no`");
        assert!(matches!(find("/gone"), Err(LookError::Dangling { .. })));
        assert!(matches!(find("/loop"), Err(LookError::Symlinks { .. })));
    }

    #[test]
    fn directories_are_listed() {
        let tree = tree();
        let names =
            |path: &[u8]| -> Vec<String> { tree.children(path).iter().map(|(name, _)| text(name)).collect() };
        assert_eq!(names(b""), ["a", "a.b", "abs", "gone", "implied", "loop", "up"]);
        assert_eq!(names(b"implied"), ["deep"]);
        assert!(tree.is_directory(b"implied/deep") && !tree.is_directory(b"a/x"));
    }
}
