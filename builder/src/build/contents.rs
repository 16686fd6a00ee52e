//! The files of an image, without unpacking it: looked up in memory, read from the layers' blobs.
//!
//! Invariants:
//! - for one question each layer's blob is read once to know its files, and once more only when bytes of it are wanted;
//! - what an archive of a part names is below that part's own name.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::compare::{CompareError, Image, visit};
use crate::layer::tar::{Entry, Kind, TarError, Writer};
use crate::layer::tree::{self, Node, Place, Tree};

/// Why files of an image cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ContentsError {
    #[error(transparent)]
    Image(#[from] CompareError),
    #[error("`/{path}` is a {kind}, not a file")]
    NotAFile { path: String, kind: &'static str },
    #[error("cannot write what was read")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Tar(#[from] TarError),
}

/// In which order an archive has its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Directories first, each before what is in it.
    DirectoriesFirst,
    /// Directories last, the deepest first, so that whoever unpacks can give a directory at once the mode with which
    /// nothing can be put into it any more.
    DirectoriesLast,
}

/// What of a file is taken along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Owner, set-user-id and set-group-id, extended attributes, devices and fifos too.
    Everything,
    /// Content, permissions and times: what is harmless on any machine.
    Harmless,
}

/// How an archive is made.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// What its top is called; nothing for the content of a directory without the directory.
    pub name: Vec<u8>,
    /// In which order.
    pub order: Order,
    /// What is taken along.
    pub keep: Keep,
}

/// What is in an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Archived {
    /// Entries.
    pub entries: u64,
    /// Devices and fifos that were left out.
    pub left_out: u64,
}

/// The files of an image.
#[derive(Debug)]
pub struct Contents<'a> {
    image: &'a Image<'a>,
    tree: Tree,
}

impl<'a> Contents<'a> {
    /// Reads what files an image has.
    pub fn read(image: &'a Image<'a>) -> Result<Self, CompareError> {
        let mut tree = Tree::default();
        for number in 0..image.manifest.layers.len() {
            let applied = tree.apply(number, image.layer(number)?);
            applied.map_err(|source| CompareError::Layer { image: image.name.clone(), number, source })?;
        }
        Ok(Self { image, tree })
    }

    /// The files by path.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Writes the bytes of the regular file at a real path.
    pub fn write_file(&self, real: &[u8], out: &mut dyn Write) -> Result<(), ContentsError> {
        let kind = self.tree.node(real).map_or(Kind::Directory, |node| node.entry.kind);
        let file = self.tree.node(real).filter(|_| kind == Kind::File);
        let Some(node) = file else {
            let path = String::from_utf8_lossy(real).into_owned();
            return Err(ContentsError::NotAFile { path, kind: tree::kind(kind) });
        };
        visit(self.image, [node.place].into_iter(), &mut |place, data| self.copy(place.0, data, out))
    }

    fn copy(&self, layer: usize, data: &mut dyn Read, out: &mut dyn Write) -> Result<(), ContentsError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match data.read(&mut buffer) {
                Ok(0) => return out.flush().map_err(ContentsError::Write),
                Ok(read) => {
                    out.write_all(buffer.get(..read).unwrap_or_default()).map_err(ContentsError::Write)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.image.unreadable(layer, e).into()),
            }
        }
    }

    /// Writes what is at a real path, with everything below it, as an archive.
    pub fn write_archive(
        &self,
        real: &[u8],
        options: &ArchiveOptions,
        out: &mut dyn Write,
    ) -> Result<Archived, ContentsError> {
        let part = Part { contents: self, top: real, options };
        let mut writer = Writer::new(out);
        let mut archived = Archived::default();
        if options.order == Order::DirectoriesFirst {
            part.directories(&mut writer, &mut archived, false)?;
        }
        part.files(&mut writer, &mut archived)?;
        if options.order == Order::DirectoriesLast {
            part.directories(&mut writer, &mut archived, true)?;
        }
        writer.finish()?;
        Ok(archived)
    }
}

/// A path and everything below it.
struct Part<'a> {
    contents: &'a Contents<'a>,
    top: &'a [u8],
    options: &'a ArchiveOptions,
}

impl<'a> Part<'a> {
    fn nodes(&self) -> impl Iterator<Item = (&'a [u8], &'a Node)> {
        let tree = &self.contents.tree;
        let top = tree.node(self.top).map(|node| (self.top, node));
        top.into_iter().chain(tree.below(self.top).map(|(path, node)| (path.as_slice(), node)))
    }

    /// What a real path is called in the archive.
    fn name(&self, real: &[u8]) -> Vec<u8> {
        let rest = real.get(self.top.len()..).unwrap_or_default();
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let name = match (&self.options.name[..], rest) {
            (b"", rest) => rest.to_vec(),
            (name, b"") => name.to_vec(),
            (name, rest) => [name, b"/", rest].concat(),
        };
        if name.is_empty() { b".".to_vec() } else { name }
    }

    fn entry(&self, real: &[u8], node: &Node) -> Entry {
        let mut entry = node.entry.clone();
        entry.path = self.name(real);
        if self.options.keep == Keep::Harmless {
            entry.mode &= 0o1777;
            (entry.uid, entry.gid) = (0, 0);
            entry.xattrs = BTreeMap::new();
        }
        entry
    }

    fn directories(
        &self,
        writer: &mut Writer<&mut dyn Write>,
        archived: &mut Archived,
        deepest_first: bool,
    ) -> Result<(), ContentsError> {
        let mut found: Vec<Entry> = self
            .nodes()
            .filter(|(_, node)| node.entry.kind == Kind::Directory)
            .map(|(path, node)| self.entry(path, node))
            .collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        if deepest_first {
            found.reverse();
        }
        for entry in found {
            writer.append_empty(&entry)?;
            archived.entries += 1;
        }
        Ok(())
    }

    /// Everything but directories, in the order of the layers, so that each is read once.
    fn files(
        &self,
        writer: &mut Writer<&mut dyn Write>,
        archived: &mut Archived,
    ) -> Result<(), ContentsError> {
        let mut files: BTreeMap<Place, Vec<(&[u8], &Node)>> = BTreeMap::new();
        let mut others = Vec::new();
        for (path, node) in self.nodes() {
            match node.entry.kind {
                Kind::Directory => {}
                Kind::File => files.entry(node.place).or_default().push((path, node)),
                Kind::Symlink => others.push(self.entry(path, node)),
                Kind::CharDevice | Kind::BlockDevice | Kind::Fifo
                    if self.options.keep == Keep::Everything =>
                {
                    others.push(self.entry(path, node));
                }
                // A hard link is one only where its target is missing.
                _ => archived.left_out += 1,
            }
        }
        visit(self.contents.image, files.keys().copied(), &mut |place, data| {
            let Some(((path, node), links)) = files.get(&place).and_then(|names| names.split_first()) else {
                return Ok(());
            };
            let first = self.entry(path, node);
            writer.append(&first, data)?;
            archived.entries += 1;
            for (path, node) in links {
                let entry = self.entry(path, node);
                let link = Entry { kind: Kind::HardLink, link: first.path.clone(), size: 0, ..entry };
                writer.append_empty(&link)?;
                archived.entries += 1;
            }
            Ok::<(), ContentsError>(())
        })?;
        for entry in others {
            writer.append_empty(&entry)?;
            archived.entries += 1;
        }
        Ok(())
    }
}
