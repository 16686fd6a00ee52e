//! Which files of a tree a source of COPY or ADD means, and under which names.
//!
//! Invariants:
//! - the result is in a fixed order: matches and names sorted by bytes, directories before what is in them;
//! - no symlink below a named source is followed (semantics fact 12);
//! - a directory that only leads to selected files is marked as `implied`.

use std::os::fd::{AsFd, BorrowedFd};

use kiln_grammar::glob;
use kiln_grammar::ignore::Matcher;
use rustix::fs::{FileType, OFlags, Stat};

use super::error::CopyError;
use super::tree::{Found, SourceTree, base_name, clean, join};
use super::walk::{LONGEST_PATH_BYTES, Walk, beginning, entry_in, open_below, stat_in};
use crate::context::fingerprint::{Attributes, attributes};
use crate::sys::error::FsError;
use crate::sys::rootdir::{Last, sorted_names};

/// How a source is selected.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelectOptions<'a> {
    /// `--parents`.
    pub parents: bool,
    /// `--exclude=`.
    pub exclude: &'a [String],
}

/// What one source means.
#[derive(Debug, Default)]
pub struct Selection {
    /// One for each match; more or fewer than one only for wildcards.
    pub items: Vec<Item>,
}

/// One file, or the content of one directory.
#[derive(Debug)]
pub struct Item {
    /// The name that a file gets in a directory: the last component as written, not as resolved.
    pub name: Vec<u8>,
    /// Resolved path in the tree.
    pub path: Vec<u8>,
    /// Metadata. Never of a symlink.
    pub stat: Stat,
    /// For a directory what is selected below it.
    pub entries: Vec<SelectedEntry>,
}

/// Something below a selected directory.
#[derive(Debug)]
pub struct SelectedEntry {
    /// Path below the item's directory; also its place below the destination.
    pub path: Vec<u8>,
    /// Path in the tree.
    pub source: Vec<u8>,
    /// Metadata of the entry itself.
    pub stat: Stat,
    /// Where a symlink leads.
    pub target: Vec<u8>,
    /// Extended attributes of a directory.
    pub attributes: Attributes,
    /// A directory that is there for the sake of something in it.
    pub implied: bool,
}

impl Item {
    /// Whether the item is a directory, whose content is copied.
    pub fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode).is_dir()
    }
}

/// Finds what `path` means in `tree` (semantics facts 12-16, 32; language.md 1.8).
pub fn select(tree: &SourceTree<'_>, path: &str, options: SelectOptions<'_>) -> Result<Selection, CopyError> {
    let exclude = matcher(options.exclude)?;
    let walk = Walk { tree, exclude: exclude.as_ref(), include: None };
    let items = if options.parents {
        select_parents(walk, path)?
    } else {
        let wanted = clean(path.as_bytes());
        if glob::has_wildcards(&wanted) {
            select_wildcard(walk, &wanted)?
        } else {
            let (found, wanted) = find_literal(tree, &wanted)?;
            vec![walk.item(base_name(&wanted), found)?.ok_or_else(|| tree.not_found(&wanted))?]
        }
    };
    Ok(Selection { items })
}

/// What `path` means when it is no pattern.
pub fn select_literal(
    tree: &SourceTree<'_>,
    path: &str,
    options: SelectOptions<'_>,
) -> Result<Selection, CopyError> {
    let exclude = matcher(options.exclude)?;
    let walk = Walk { tree, exclude: exclude.as_ref(), include: None };
    let wanted = clean(path.as_bytes());
    let found = tree.find(&wanted)?.ok_or_else(|| tree.not_found(&wanted))?;
    Ok(Selection { items: walk.item(base_name(&wanted), found)?.into_iter().collect() })
}

/// A literal source; backslashes may be escapes (semantics fact 16) or part of the name.
fn find_literal(tree: &SourceTree<'_>, wanted: &[u8]) -> Result<(Found, Vec<u8>), CopyError> {
    if let Some(found) = tree.find(wanted)? {
        return Ok((found, wanted.to_vec()));
    }
    if wanted.contains(&b'\\') {
        let plain = glob::unescape(wanted);
        if let Some(found) = tree.find(&plain)? {
            return Ok((found, plain));
        }
    }
    Err(tree.not_found(wanted))
}

fn select_wildcard(walk: Walk<'_>, wanted: &[u8]) -> Result<Vec<Item>, CopyError> {
    let mut items = Vec::new();
    for (path, found) in matches_of(walk.tree, wanted)? {
        let name = base_name(&path);
        // What the wildcard names is subject to --exclude by its own name.
        if walk.excludes(name) {
            continue;
        }
        let found = found.ok_or_else(|| walk.tree.not_found(&path))?;
        items.extend(walk.item(name, found)?);
    }
    Ok(items)
}

/// A path as a wildcard matches it, and what it leads to (`None`: a dangling symlink).
type Match = (Vec<u8>, Option<Found>);

/// What a wildcard matches.
fn matches_of(tree: &SourceTree<'_>, wanted: &[u8]) -> Result<Vec<Match>, CopyError> {
    let parts: Vec<&[u8]> = wanted.split(|b| *b == b'/').collect();
    let plain = parts.iter().take_while(|part| !glob::has_wildcards(part)).count();
    let (base, pattern) = parts.split_at(plain);
    let base = base.join(&b'/');
    let pattern = pattern.join(&b'/');
    // A malformed pattern matches nothing in Go's walk; here it is a mistake worth naming.
    glob::matches(&pattern, b"").map_err(|_| CopyError::Pattern { pattern: lossy(wanted) })?;
    let base = match tree.find(&base)? {
        Some(found) if is_directory(&found.stat) => found,
        _ => match tree.find(&glob::unescape(&base))? {
            Some(found) if is_directory(&found.stat) => found,
            _ => return Ok(Vec::new()),
        },
    };
    let mut paths = Vec::new();
    let directory = open_directory(&base)?;
    find_matches(tree, directory.as_fd(), &base.entry.real, b"", &pattern, &mut paths)?;
    let follow = |path: Vec<u8>| Ok((path.clone(), tree.find(&path)?));
    paths.into_iter().map(follow).collect()
}

/// Collects paths below `base/below` that match; a matched directory is not searched (semantics fact 15).
fn find_matches(
    tree: &SourceTree<'_>,
    directory: BorrowedFd<'_>,
    base: &[u8],
    below: &[u8],
    pattern: &[u8],
    paths: &mut Vec<Vec<u8>>,
) -> Result<(), CopyError> {
    let here = join(base, below);
    // Also bounds the depth of this function.
    if here.len() > LONGEST_PATH_BYTES {
        return Err(CopyError::Deep { path: beginning(&here) });
    }
    for name in names_in(directory, &here)? {
        let relative = join(below, &name);
        let full = join(base, &relative);
        let Some(stat) = stat_in(tree, directory, &name, &full)? else { continue };
        let hidden = tree.hides(&full);
        if hidden && !(is_directory(&stat) && tree.may_show_below(&full)) {
            continue;
        }
        if glob::matches(pattern, &relative).unwrap_or(false) {
            paths.push(full);
        } else if is_directory(&stat) && may_lead_to(pattern, &relative, true) {
            let inner = open_below(directory, &name, &full)?;
            find_matches(tree, inner.as_fd(), base, &relative, pattern, paths)?;
        }
    }
    Ok(())
}

/// `--parents`: the path below the pivot is kept; everything up to `/./` is where it starts (language.md 1.8).
fn select_parents(walk: Walk<'_>, path: &str) -> Result<Vec<Item>, CopyError> {
    let (pivot, wanted) = path.split_once("/./").unwrap_or(("", path));
    let (pivot, wanted) = (clean(pivot.as_bytes()), clean(wanted.as_bytes()));
    let literal = !glob::has_wildcards(&pivot) && !glob::has_wildcards(&wanted);
    let pivots: Vec<Found> = if glob::has_wildcards(&pivot) {
        matches_of(walk.tree, &pivot)?.into_iter().filter_map(|(_, found)| found).collect()
    } else {
        let found = find_literal(walk.tree, &pivot).map_err(|e| match e {
            CopyError::NotFound { .. } => walk.tree.not_found(&join(&pivot, &wanted)),
            e => e,
        });
        vec![found?.0]
    };
    let include = if wanted.is_empty() || literal {
        None
    } else {
        // A leading `!` is part of a name here.
        let text = lossy(&wanted);
        let text = if text.starts_with('!') { format!("\\{text}") } else { text };
        matcher(&[text])?
    };
    let mut items = Vec::new();
    for found in pivots.into_iter().filter(|found| is_directory(&found.stat)) {
        let entries = if literal {
            walk.literal_with_parents(&found, &wanted)?
        } else {
            let include = include.as_ref().map(|matcher| (matcher, wanted.as_slice()));
            Walk { include, ..walk }.below(&found)?.0
        };
        items.push(Item { name: Vec::new(), path: found.entry.real, stat: found.stat, entries });
    }
    Ok(items)
}

impl Walk<'_> {
    /// A named source as an item; `None` when it is a hidden directory with nothing to be seen in it.
    fn item(&self, name: &[u8], found: Found) -> Result<Option<Item>, CopyError> {
        let mut entries = Vec::new();
        if is_directory(&found.stat) {
            let seen;
            (entries, seen) = self.below(&found)?;
            if !seen && self.tree.hides(&found.entry.real) {
                return Ok(None);
            }
        }
        Ok(Some(Item { name: name.to_vec(), path: found.entry.real, stat: found.stat, entries }))
    }

    /// Everything selected below a directory, and whether anything at all is visible there.
    fn below(&self, found: &Found) -> Result<(Vec<SelectedEntry>, bool), CopyError> {
        self.collect(open_directory(found)?, &found.entry.real, b"")
    }

    /// `--parents` with a path without wildcards: the directories on the way, then the thing itself with all that
    /// is in it. Symlinks on the way are followed, the last component is not.
    fn literal_with_parents(&self, pivot: &Found, wanted: &[u8]) -> Result<Vec<SelectedEntry>, CopyError> {
        if wanted.is_empty() {
            return Ok(self.below(pivot)?.0);
        }
        let base = &pivot.entry.real;
        let mut wanted = wanted.to_vec();
        if self.tree.find(&join(base, &wanted))?.is_none() && wanted.contains(&b'\\') {
            wanted = glob::unescape(&wanted);
        }
        let missing = || self.tree.not_found(&join(base, &wanted));
        let mut entries = Vec::new();
        let ends = wanted.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends {
            let path = wanted.get(..end).unwrap_or_default();
            if self.excludes(path) && self.exclude.is_none_or(|e| !e.may_match_below_bytes(path)) {
                return Ok(Vec::new());
            }
            let found = self.tree.find(&join(base, path))?.filter(|found| is_directory(&found.stat));
            let found = found.ok_or_else(missing)?;
            let inner = open_directory(&found)?;
            entries.push(SelectedEntry {
                path: path.to_vec(),
                stat: found.stat,
                target: Vec::new(),
                attributes: attributes(&inner)
                    .map_err(|e| FsError::image("read attributes of", &found.entry.real, e))?,
                implied: true,
                source: found.entry.real,
            });
        }
        let last = self.tree.root.entry(&join(base, &wanted), Last::Keep, None).map_err(|_| missing())?;
        let stat = last.stat().map_err(|e| FsError::image("stat", &last.real, e))?.ok_or_else(missing)?;
        let name = if last.name.is_empty() { b"." } else { last.name.as_slice() };
        let stat = self
            .tree
            .counted(last.dir.as_fd(), name, stat)
            .map_err(|e| FsError::image("read attributes of", &last.real, e))?;
        let hidden = self.tree.hides(&last.real);
        let excluded = self.excludes(&wanted);
        if !is_directory(&stat) {
            if hidden {
                return Err(missing());
            }
            if excluded {
                return Ok(Vec::new());
            }
            let (name, source) = (last.name.clone(), last.real.clone());
            entries.push(entry_in(last.dir.as_fd(), &name, wanted.clone(), source, stat)?);
            return Ok(entries);
        }
        let at = entries.len();
        let inner = open_below(last.dir.as_fd(), &last.name, &last.real)?;
        entries.push(SelectedEntry {
            path: wanted.clone(),
            source: last.real.clone(),
            attributes: attributes(&inner)
                .map_err(|e| FsError::image("read attributes of", &last.real, e))?,
            implied: excluded,
            target: Vec::new(),
            stat,
        });
        let (below, seen) = self.collect(inner, &last.real, &wanted)?;
        entries.extend(below);
        if hidden && !seen {
            return Err(missing());
        }
        if excluded && entries.len() == at + 1 {
            return Ok(Vec::new());
        }
        Ok(entries)
    }
}

/// Whether something below the directory `path` can match `pattern`, as far as that is cheap to know. `**` reaches
/// everywhere in patterns of `--parents` (not `plain` ones); a class may match a slash in Go, so it stops the
/// comparison as well.
pub(super) fn may_lead_to(pattern: &[u8], path: &[u8], plain: bool) -> bool {
    let mut parts = pattern.split(|b| *b == b'/');
    for name in path.split(|b| *b == b'/') {
        let Some(part) = parts.next() else { return false };
        if part.contains(&b'[') || !plain && part.windows(2).any(|pair| pair == b"**") {
            return true;
        }
        if !glob::matches(part, name).unwrap_or(true) {
            return false;
        }
    }
    parts.next().is_some()
}

fn matcher(patterns: &[String]) -> Result<Option<Matcher>, CopyError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    Matcher::from_patterns(patterns).map(Some).map_err(|source| CopyError::PathPattern {
        pattern: source.line.checked_sub(1).and_then(|at| patterns.get(at)).cloned().unwrap_or_default(),
        source,
    })
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

fn names_in(directory: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
    Ok(sorted_names(directory).map_err(|e| FsError::image("read directory", path, e))?)
}

fn open_directory(found: &Found) -> Result<std::os::fd::OwnedFd, CopyError> {
    let opened = found.entry.open(OFlags::RDONLY | OFlags::DIRECTORY);
    Ok(opened.map_err(|e| FsError::image("open directory", &found.entry.real, e))?)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
