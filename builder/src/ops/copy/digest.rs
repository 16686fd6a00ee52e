//! The content digest of a selection: what a COPY step's cache key says of its sources.
//!
//! | in the digest | why |
//! |---|---|
//! | names below the item; the name of a file | they become names in the destination |
//! | type, link target, device numbers | they are copied |
//! | permissions; of local files without group and other write bits | the umask of a checkout must not matter |
//! | owner and group; 0 for local files | semantics fact 21 |
//! | size, bytes, `security.capability` and `user.*` attributes | they are copied |
//!
//! Not in it: times, inode numbers, hard links among files, host paths, hidden and excluded files, and the
//! metadata of a copied directory itself, which its destination does not take over (semantics facts 1, 100-102).
//!
//! Invariants:
//! - equal selections have equal digests on every machine, however many threads hash;
//! - a file's bytes are read only when the given [`FileDigests`] asks for them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, Stat, major, minor};

use super::error::CopyError;
use super::select::{SelectedEntry, Selection};
use super::tree::SourceTree;
use crate::base::digest::{ContentDigest, Digest, KeyHasher};
use crate::context::fingerprint::{Attributes, FileDigests, fingerprint};
use crate::record::listing::{self, ListedFile, Listing};
use crate::sys::error::FsError;
use crate::sys::rootdir::Last;

/// Domain of the digest; changes with its meaning.
const TAG: &str = "copy-selection/v1";
/// Write permission of group and others.
const FOREIGN_WRITE: u32 = 0o022;
/// Files hashed at once.
const THREADS: usize = 2;
/// With fewer files than this a second thread is not worth starting.
const PARALLEL_FROM_FILES: usize = 16;

/// Digests exactly the files of a selection.
pub fn digest_selection(
    tree: &SourceTree<'_>,
    selection: &Selection,
    files: &dyn FileDigests,
) -> Result<ContentDigest, CopyError> {
    digest_files(tree, selection, files).map(|(digest, _)| digest)
}

/// [`digest_selection`], with the fingerprints of the regular files in their order.
pub fn digest_files(
    tree: &SourceTree<'_>,
    selection: &Selection,
    files: &dyn FileDigests,
) -> Result<(ContentDigest, Vec<Digest>), CopyError> {
    let mut regular = Vec::new();
    for item in &selection.items {
        if item.is_directory() {
            let below = item.entries.iter().filter(|entry| is_regular(&entry.stat));
            regular.extend(below.map(|entry| (entry.source.as_slice(), &entry.stat)));
        } else if is_regular(&item.stat) {
            regular.push((item.path.as_slice(), &item.stat));
        }
    }
    let all = hash_all(tree, &regular, files)?;
    let mut contents = all.iter().copied();

    let mut hasher = KeyHasher::new(TAG);
    hasher.number(selection.items.len() as u64);
    for item in &selection.items {
        if item.is_directory() {
            hasher.field(b"directory").number(item.entries.len() as u64);
            for entry in &item.entries {
                hasher.field(&entry.path);
                add_entry(&mut hasher, tree, entry, &mut contents);
            }
        } else {
            hasher.field(b"file").field(&item.name);
            add_metadata(&mut hasher, tree, &item.stat);
            add_content(&mut hasher, &item.stat, &mut contents);
        }
    }
    Ok((ContentDigest(hasher.finish()), all))
}

/// Adds a selection to a listing. `contents` are its fingerprints from [`digest_files`].
pub fn list(tree: &SourceTree<'_>, selection: &Selection, contents: &[Digest], listing: &mut Listing) {
    let mut contents = contents.iter();
    let mut add = |path: &[u8], stat: &Stat, other: Option<Digest>| {
        let content = if is_regular(stat) { contents.next().copied() } else { other };
        let (letter, mode) = kind_and_mode(tree, stat);
        let file = ListedFile {
            kind: char::from(letter),
            mode,
            owner: tree.owner(stat),
            content: content.map_or_else(|| "-".to_owned(), |digest| listing::short(&digest)),
        };
        listing.insert(path.to_vec(), file);
    };
    for item in &selection.items {
        if !item.is_directory() {
            add(&item.path, &item.stat, None);
            continue;
        }
        for entry in &item.entries {
            let other = match FileType::from_raw_mode(entry.stat.st_mode) {
                FileType::Symlink => Some(Digest::of(&entry.target)),
                FileType::Directory if !entry.attributes.is_empty() => {
                    let mut hasher = KeyHasher::new("listed-attributes/v1");
                    add_attributes(&mut hasher, &entry.attributes);
                    Some(hasher.finish())
                }
                _ => None,
            };
            add(&entry.source, &entry.stat, other);
        }
    }
}

fn add_entry(
    hasher: &mut KeyHasher,
    tree: &SourceTree<'_>,
    entry: &SelectedEntry,
    contents: &mut impl Iterator<Item = Digest>,
) {
    add_metadata(hasher, tree, &entry.stat);
    match FileType::from_raw_mode(entry.stat.st_mode) {
        FileType::Symlink => {
            hasher.field(&entry.target);
        }
        FileType::Directory => add_attributes(hasher, &entry.attributes),
        _ => add_content(hasher, &entry.stat, contents),
    }
}

fn add_metadata(hasher: &mut KeyHasher, tree: &SourceTree<'_>, stat: &Stat) {
    let (kind, mode) = kind_and_mode(tree, stat);
    let (uid, gid) = tree.owner(stat);
    hasher.field(&[kind]).number(u64::from(mode)).number(u64::from(uid)).number(u64::from(gid));
}

/// The type of a file as a letter, and its permissions as they count.
fn kind_and_mode(tree: &SourceTree<'_>, stat: &Stat) -> (u8, u32) {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => b'd',
        FileType::Symlink => b'l',
        FileType::CharacterDevice => b'c',
        FileType::BlockDevice => b'b',
        FileType::Fifo => b'p',
        // A socket becomes an empty file (semantics fact 25).
        _ => b'f',
    };
    let mode = match kind {
        // The mode of a link means nothing.
        b'l' => 0o777,
        _ if tree.local => stat.st_mode & 0o7777 & !FOREIGN_WRITE,
        _ => stat.st_mode & 0o7777,
    };
    (kind, mode)
}

fn add_content(hasher: &mut KeyHasher, stat: &Stat, contents: &mut impl Iterator<Item = Digest>) {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let content = contents.next().unwrap_or_else(|| Digest::of(b""));
            hasher.number(u64::try_from(stat.st_size).unwrap_or(0)).digest(&content);
        }
        FileType::CharacterDevice | FileType::BlockDevice => {
            hasher.number(u64::from(major(stat.st_rdev))).number(u64::from(minor(stat.st_rdev)));
        }
        FileType::Fifo => {}
        _ => {
            hasher.number(0).digest(&Digest::of(b""));
        }
    }
}

fn add_attributes(hasher: &mut KeyHasher, attributes: &Attributes) {
    hasher.number(attributes.len() as u64);
    for (name, value) in attributes {
        hasher.field(name).field(value);
    }
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file()
}

/// Fingerprints of all files, in their order.
fn hash_all(
    tree: &SourceTree<'_>,
    regular: &[(&[u8], &Stat)],
    files: &dyn FileDigests,
) -> Result<Vec<Digest>, CopyError> {
    // Looking up is so quick that threads would only wait for one another.
    let mut digests: Vec<Option<Digest>> =
        regular.iter().map(|(path, stat)| files.known(path, stat)).collect();
    let missing: Vec<usize> =
        digests.iter().enumerate().filter(|(_, known)| known.is_none()).map(|(at, _)| at).collect();
    let read = |at: usize| regular.get(at).map(|(path, stat)| hash_one(tree, path, stat, files));
    if missing.len() < PARALLEL_FROM_FILES {
        for at in missing {
            if let (Some(place), Some(read)) = (digests.get_mut(at), read(at)) {
                *place = Some(read?);
            }
        }
        return Ok(digests.into_iter().flatten().collect());
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Guards the results only; held for one push.
    let results: Mutex<Vec<(usize, Result<Digest, CopyError>)>> =
        Mutex::new(Vec::with_capacity(missing.len()));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(at) = missing.get(next.fetch_add(1, Ordering::Relaxed)).copied() else { break };
            let Some(result) = read(at) else { break };
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(work);
        }
        work();
    });
    // After a failure some files were not reached; the error is somewhere among the rest.
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(at, _)| *at);
    for (at, result) in results {
        if let Some(place) = digests.get_mut(at) {
            *place = Some(result?);
        }
    }
    Ok(digests.into_iter().flatten().collect())
}

fn hash_one(
    tree: &SourceTree<'_>,
    path: &[u8],
    stat: &Stat,
    files: &dyn FileDigests,
) -> Result<Digest, CopyError> {
    let mut read = || {
        let entry = tree.root.entry(path, Last::Keep, None).map_err(std::io::Error::other)?;
        fingerprint(&entry.open_regular()?)
    };
    Ok(files.digest(path, stat, &mut read).map_err(|e| FsError::image("read", path, e))?)
}
