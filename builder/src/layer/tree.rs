//! The files that layers amount to, in memory: what two images are compared by.
//!
//! Invariants:
//! - nothing is unpacked: a node is what its entry says, with the digest of its bytes;
//! - a whiteout takes away what lower layers have, never what its own layer has (OCI image spec `layer.md`);
//! - an entry below a symlink goes where the symlink leads, as it does when a layer is unpacked.

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::tar::{Device, Entry, Kind, Reader, TarError};
use super::whiteout::{Meaning, meaning};
use crate::base::digest::Digest;
use crate::base::limits::MAX_SYMLINKS;

mod look;

pub use look::{LookError, clean};

/// Where an entry is: number of the layer and of the entry in it.
pub type Place = (usize, usize);

/// One file, directory or anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What its entry says; that of its first name for a hard link.
    pub entry: Entry,
    /// Of the bytes of a regular file.
    pub digest: Option<Digest>,
    /// Where its bytes are. Hard links share it.
    pub place: Place,
    /// The layer that spoke of it last.
    layer: usize,
}

/// A root file system by path, without leading slashes.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<Vec<u8>, Node>,
}

/// What a layer took away from the layers below it, or from itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The name that is gone.
    pub path: Vec<u8>,
    /// What it was.
    pub node: Node,
}

/// Why a layer cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TreeError {
    #[error("`{path}` is below too many symlinks")]
    Symlinks { path: String },
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("`{path}` leads out of the image")]
    Outside { path: String },
    #[error("cannot read the data of `{path}`")]
    Data {
        path: String,
        #[source]
        source: io::Error,
    },
}

impl Tree {
    /// All files, sorted by path.
    pub fn nodes(&self) -> &BTreeMap<Vec<u8>, Node> {
        &self.nodes
    }

    /// For every name of a file with several: the first of its names.
    pub fn links(&self) -> BTreeMap<&[u8], &[u8]> {
        let mut names: BTreeMap<Place, Vec<&[u8]>> = BTreeMap::new();
        for (path, node) in self.nodes.iter().filter(|(_, node)| node.entry.kind != Kind::Directory) {
            names.entry(node.place).or_default().push(path);
        }
        let several = names.values().filter(|names| names.len() > 1);
        several.flat_map(|names| names.iter().map(|name| (*name, names[0]))).collect()
    }

    /// Puts a layer, an uncompressed archive, on top. Tells which names it took away or gave to something else,
    /// directories apart.
    pub fn apply(&mut self, layer: usize, tar: impl Read) -> Result<Vec<Gone>, TreeError> {
        let mut reader = Reader::new(tar);
        let mut number = 0;
        let mut gone = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            self.entry((layer, number), entry, &mut reader, &mut gone)?;
            number += 1;
        }
        reader.drain()?;
        gone.retain(|gone| gone.node.entry.kind != Kind::Directory);
        Ok(gone)
    }

    fn entry(
        &mut self,
        place: Place,
        entry: Entry,
        data: &mut impl Read,
        gone: &mut Vec<Gone>,
    ) -> Result<(), TreeError> {
        let stated = clean(&entry.path).ok_or_else(|| outside(&entry.path))?;
        let (parent, name) = split(&stated);
        let parent = self.real_directory(parent)?;
        let path = join(&parent, name);
        match meaning(name) {
            Meaning::Removed(name) => {
                let removed = join(&parent, name);
                self.remove_lower(&removed, place.0, gone);
                if self.nodes.get(&removed).is_some_and(|node| node.layer < place.0) {
                    gone.extend(self.nodes.remove(&removed).map(|node| Gone { path: removed, node }));
                }
                return Ok(());
            }
            Meaning::Opaque => {
                self.remove_lower(&parent, place.0, gone);
                return Ok(());
            }
            Meaning::Bookkeeping | Meaning::Invalid => return Ok(()),
            Meaning::Ordinary => {}
        }
        let node = match entry.kind {
            Kind::HardLink => match self.nodes.get(&self.link_target(&entry.link)?) {
                Some(target) => Node { layer: place.0, ..target.clone() },
                None => Node { entry, digest: None, place, layer: place.0 },
            },
            Kind::File => {
                let digest = digest(data).map_err(|source| TreeError::Data {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    source,
                })?;
                Node { entry, digest: Some(digest), place, layer: place.0 }
            }
            _ => Node { entry, digest: None, place, layer: place.0 },
        };
        if node.entry.kind != Kind::Directory {
            self.remove_lower(&path, usize::MAX, gone);
        }
        if let Some(before) = self.nodes.insert(path.clone(), node) {
            gone.push(Gone { path, node: before });
        }
        Ok(())
    }

    /// The directory that entries below `stated`, a clean path, belong to.
    fn real_directory(&self, stated: &[u8]) -> Result<Vec<u8>, TreeError> {
        let is_link = |path: &[u8]| self.nodes.get(path).is_some_and(|node| node.entry.kind == Kind::Symlink);
        let mut ends = stated.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let first_link = ends.find(|end| is_link(&stated[..*end])).is_some() || is_link(stated);
        // Nearly every entry: nothing to follow.
        if !first_link {
            return Ok(stated.to_vec());
        }
        self.follow(stated, true).ok_or_else(|| TreeError::Symlinks { path: text(stated) })
    }

    fn link_target(&self, link: &[u8]) -> Result<Vec<u8>, TreeError> {
        let stated = clean(link).ok_or_else(|| outside(link))?;
        let (parent, name) = split(&stated);
        Ok(join(&self.real_directory(parent)?, name))
    }

    /// Where a path leads: through every symlink on the way, and through the last one with `last`. Names that are not
    /// there stay as they are, and the root is above itself. None after too many symlinks.
    fn follow(&self, path: &[u8], last: bool) -> Option<Vec<u8>> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
            parts.rev().map(<[u8]>::to_vec).collect()
        };
        let mut real: Vec<Vec<u8>> = Vec::new();
        let mut pending = parts(path);
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == b".." {
                real.pop();
                continue;
            }
            real.push(part);
            let node = self.nodes.get(&real.join(&b'/'));
            let Some(link) = node.filter(|node| node.entry.kind == Kind::Symlink) else { continue };
            if pending.is_empty() && !last {
                continue;
            }
            links += 1;
            if links > MAX_SYMLINKS {
                return None;
            }
            if link.entry.link.first() == Some(&b'/') {
                real.clear();
            } else {
                real.pop();
            }
            pending.extend(parts(&link.entry.link));
        }
        Some(real.join(&b'/'))
    }

    /// Removes what is below `path` and is not of `layer` or a later one.
    fn remove_lower(&mut self, path: &[u8], layer: usize, gone: &mut Vec<Gone>) {
        let prefix = if path.is_empty() { Vec::new() } else { join(path, b"") };
        let below: Vec<Vec<u8>> = self
            .nodes
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix))
            .filter(|(_, node)| node.layer < layer)
            .map(|(name, _)| name.clone())
            .collect();
        for path in below {
            gone.extend(self.nodes.remove(&path).map(|node| Gone { path, node }));
        }
    }
}

impl Node {
    /// What differs between two nodes of one path, bytes apart: name, what this one has, what the other has.
    pub fn differences(&self, other: &Self, with_times: bool) -> Vec<(String, String, String)> {
        let (a, b) = (&self.entry, &other.entry);
        let mut found = Vec::new();
        let mut note = |what: &str, a: String, b: String| {
            if a != b {
                found.push((what.to_owned(), a, b));
            }
        };
        note("type", kind(a.kind).to_owned(), kind(b.kind).to_owned());
        note("mode", format!("{:04o}", a.mode), format!("{:04o}", b.mode));
        note("owner", format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid));
        if a.kind == b.kind {
            note("size", a.size.to_string(), b.size.to_string());
            note("target", text(&a.link), text(&b.link));
            note("device", device(a.device), device(b.device));
        }
        if with_times {
            note("mtime", time(a), time(b));
        }
        let names: std::collections::BTreeSet<_> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
        for name in names {
            let value =
                |entry: &Entry| entry.xattrs.get(name).map_or_else(|| "none".to_owned(), |v| escaped(v));
            note(&format!("xattr {}", text(name)), value(a), value(b));
        }
        found
    }
}

/// The name of a kind, for people.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::HardLink => "hard link",
        Kind::CharDevice => "character device",
        Kind::BlockDevice => "block device",
        Kind::Fifo => "fifo",
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn device(device: Device) -> String {
    format!("{}:{}", device.major, device.minor)
}

fn time(entry: &Entry) -> String {
    let seconds = jiff::Timestamp::new(entry.mtime_seconds, entry.mtime_nanoseconds.try_into().unwrap_or(0));
    seconds.map_or_else(|_| format!("@{}", entry.mtime_seconds), |time| time.to_string())
}

fn digest(data: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match data.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(read) => hasher.update(buffer.get(..read).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn outside(path: &[u8]) -> TreeError {
    TreeError::Outside { path: text(path) }
}

/// A clean path's directory and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::Writer;

    fn layer(entries: &[(&str, Kind, &str)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (path, kind, text) in entries {
            let mut entry = Entry::new(*path, *kind);
            match kind {
                Kind::File => entry.size = text.len() as u64,
                _ => entry.link = text.as_bytes().to_vec(),
            }
            writer.append(&entry, text.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn names(tree: &Tree) -> Vec<&str> {
        tree.nodes().keys().map(|name| std::str::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn layers_are_put_on_one_another() {
        use Kind::{Directory, File, HardLink, Symlink};
        let mut tree = Tree::default();
        let first = layer(&[
            ("d", Directory, ""),
            ("d/a", File, "a"),
            ("d/b", File, "b"),
            ("d0", File, "not below d"),
            ("e", Directory, ""),
            ("e/x", File, "x"),
            ("e/hard", HardLink, "e/x"),
            ("f", Directory, ""),
            ("f/deep", File, ""),
        ]);
        assert!(tree.apply(0, &first[..]).unwrap().is_empty());
        assert_eq!(tree.links()[&b"e/x"[..]], b"e/hard");
        let second = layer(&[
            ("d", Directory, ""),
            ("d/.wh.a", File, ""),
            // What its own layer has stays, whichever comes first.
            ("e", Directory, ""),
            ("e/new", File, "new"),
            ("e/.wh..wh..opq", File, ""),
            ("f", Symlink, "d"),
        ]);
        let gone = tree.apply(1, &second[..]).unwrap();
        assert_eq!(names(&tree), ["d", "d/b", "d0", "e", "e/new", "f"]);
        assert!(tree.links().is_empty());
        let gone: Vec<String> = gone.iter().map(|gone| text(&gone.path)).collect();
        assert_eq!(gone, ["d/a", "e/hard", "e/x", "f/deep"]);
    }

    #[test]
    fn entries_below_symlinks_go_where_these_lead() {
        use Kind::{Directory, File, HardLink, Symlink};
        let mut tree = Tree::default();
        let first = layer(&[
            ("usr/bin", Directory, ""),
            ("bin", Symlink, "usr/bin"),
            ("up", Symlink, "../../../bin/."),
            ("loop", Symlink, "/loop"),
        ]);
        tree.apply(0, &first[..]).unwrap();
        let second = layer(&[("bin/sh", File, "sh"), ("up/ash", HardLink, "bin/sh")]);
        tree.apply(1, &second[..]).unwrap();
        assert_eq!(names(&tree), ["bin", "loop", "up", "usr/bin", "usr/bin/ash", "usr/bin/sh"]);
        assert_eq!(tree.links()[&b"usr/bin/sh"[..]], b"usr/bin/ash");
        let gone = tree.apply(2, &layer(&[("up/.wh.sh", File, "")])[..]).unwrap();
        assert_eq!(gone.len(), 1);
        let endless = layer(&[("loop/x", File, "")]);
        assert!(matches!(tree.apply(3, &endless[..]), Err(TreeError::Symlinks { .. })));
    }

    #[test]
    fn hostile_names_are_refused() {
        let mut tree = Tree::default();
        let bad = layer(&[("a/../../x", Kind::File, "")]);
        assert!(matches!(tree.apply(0, &bad[..]), Err(TreeError::Outside { .. })));
    }
}
