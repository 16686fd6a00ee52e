//! Listings: which files a step read, so that a later build can name the one that changed.
//!
//! A listing has the digest of the selection as its name, so an unchanged context writes nothing. Its text is one
//! record for each file, ended by NUL: kind, mode in octal, owner, parts of the content's digest, a tab, the path. The file is that text, compressed with zstd.
//!
//! Invariants:
//! - a listing is a help for people: when it is missing or damaged, the reason is told without the file's name;
//! - all listings together are bounded by [`MAX_POOL_BYTES`]; those unused for longest go first.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::base::digest::Digest;

/// Bytes of all listings together.
const MAX_POOL_BYTES: u64 = 64 << 20;
/// Largest listing that is read, uncompressed.
const MAX_TEXT_BYTES: u64 = 1 << 30;
/// Hexadecimal digits of a file's digest that are kept: of the half that depends on its bytes alone, and of the other.
const CONTENT_DIGITS: usize = 24;
const OTHER_DIGITS: usize = 8;
/// A listing that was used since then needs no new time.
const TOUCH_AFTER: Duration = Duration::from_secs(3600);

/// What is remembered of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// `f`, `d`, `l`, or another letter as in `ls -l`.
    pub kind: char,
    /// Permissions as they count.
    pub mode: u32,
    /// Owner and group as they count.
    pub owner: (u32, u32),
    /// Parts of the digest of content and attributes, of a link's target, or of a directory's attributes.
    pub content: String,
}

impl ListedFile {
    /// Whether files whose `content` differs differ in their extended attributes alone.
    pub fn has_bytes_of(&self, other: &Self) -> bool {
        let bytes = |file: &Self| file.content.get(..CONTENT_DIGITS).map(str::to_owned);
        match self.kind {
            'd' => true,
            'f' => {
                bytes(self).is_some()
                    && bytes(self) == bytes(other)
                    && self.content.len() == other.content.len()
            }
            _ => false,
        }
    }
}

/// Files by path.
pub type Listing = BTreeMap<Vec<u8>, ListedFile>;

/// Where listings come from.
pub trait ReadListings {
    /// The listing of a selection, when it is there and whole.
    fn read(&self, digest: &Digest) -> Option<Listing>;
}

/// The listings of a store.
#[derive(Debug, Clone)]
pub struct Listings {
    directory: PathBuf,
}

impl Listings {
    /// Those in `directory`, which need not be there.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Keeps the listing of a selection unless it is there. `make` gives the files and is asked only then.
    pub fn keep(&self, digest: &Digest, make: impl FnOnce() -> Listing) {
        let path = self.path(digest);
        let now = SystemTime::now();
        match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(used) => {
                // Failing to refresh or to write one costs a detail of an explanation at most.
                if now.duration_since(used).is_ok_and(|age| age > TOUCH_AFTER)
                    && let Ok(file) = File::options().write(true).open(&path)
                {
                    let _ = file.set_times(FileTimes::new().set_modified(now));
                }
            }
            Err(_) => {
                let _ = self.write(&path, &make());
            }
        }
    }

    fn write(&self, path: &Path, listing: &Listing) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut file = tempfile::Builder::new().prefix("new-").tempfile_in(&self.directory)?;
        let mut encoder = zstd::Encoder::new(&mut file, 1)?;
        encoder.write_all(&encode(listing))?;
        encoder.finish()?;
        file.persist(path)?;
        self.prune(MAX_POOL_BYTES)
    }

    fn prune(&self, max_bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // Gone meanwhile: another process prunes too.
            let Ok(metadata) = entry.metadata() else { continue };
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        files.sort();
        for (_, bytes, path) in files {
            if total <= max_bytes {
                break;
            }
            let _ = fs::remove_file(path);
            total -= bytes;
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }
}

impl ReadListings for Listings {
    fn read(&self, digest: &Digest) -> Option<Listing> {
        let mut text = Vec::new();
        let decoder = zstd::Decoder::new(File::open(self.path(digest)).ok()?).ok()?;
        decoder.take(MAX_TEXT_BYTES).read_to_end(&mut text).ok()?;
        decode(&text)
    }
}

/// A digest as listings keep it.
pub fn short(digest: &Digest) -> String {
    let hex = digest.hex();
    let (content, other) = hex.split_at(hex.len() / 2);
    content.chars().take(CONTENT_DIGITS).chain(other.chars().take(OTHER_DIGITS)).collect()
}

fn encode(listing: &Listing) -> Vec<u8> {
    let mut text = Vec::with_capacity(listing.len() * 96);
    for (path, file) in listing {
        let ListedFile { kind, mode, owner: (uid, gid), content } = file;
        text.extend_from_slice(format!("{kind} {mode:o} {uid}:{gid} {content}\t").as_bytes());
        text.extend_from_slice(path);
        text.push(0);
    }
    text
}

/// Reads what [`encode`] wrote; `None` when it is damaged.
pub fn decode(text: &[u8]) -> Option<Listing> {
    let mut listing = Listing::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (record, after) = (rest.get(..end)?, rest.get(end + 1..)?);
        let tab = record.iter().position(|byte| *byte == b'\t')?;
        let fields = std::str::from_utf8(record.get(..tab)?).ok()?;
        let mut fields = fields.split(' ');
        let kind = fields.next()?.parse().ok()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
        let (uid, gid) = fields.next()?.split_once(':')?;
        let owner = (uid.parse().ok()?, gid.parse().ok()?);
        let content = fields.next()?.to_owned();
        listing.insert(record.get(tab + 1..)?.to_vec(), ListedFile { kind, mode, owner, content });
        rest = after;
    }
    Some(listing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(content: &str) -> ListedFile {
        ListedFile { kind: 'f', mode: 0o644, owner: (0, 7), content: content.to_owned() }
    }

    #[test]
    fn listings_are_written_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let listings = Listings::new(dir.path().join("listings"));
        let digest = Digest::of(b"selection");
        assert!(listings.read(&digest).is_none());
        let listing = Listing::from([(b"a\tb\nc".to_vec(), file("12")), (b"\xff".to_vec(), file("-"))]);
        listings.keep(&digest, || listing.clone());
        assert_eq!(listings.read(&digest), Some(listing));
        listings.keep(&digest, || unreachable!("it is there"));
        fs::write(listings.path(&digest), "damaged").unwrap();
        assert!(listings.read(&digest).is_none());
    }

    #[test]
    fn the_least_used_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let listings = Listings::new(dir.path().to_owned());
        let digests: Vec<Digest> = (0..3u8).map(|byte| Digest::of(&[byte])).collect();
        for (age, digest) in digests.iter().enumerate() {
            listings.keep(digest, || Listing::from([(b"f".to_vec(), file("0"))]));
            let time = SystemTime::now() - Duration::from_secs(100_000 * (age as u64 + 1));
            let handle = File::options().write(true).open(listings.path(digest)).unwrap();
            handle.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
        // Used again, so it is the youngest now.
        listings.keep(&digests[2], || unreachable!());
        let one = fs::metadata(listings.path(&digests[0])).unwrap().len();
        listings.prune(2 * one).unwrap();
        let left: Vec<bool> = digests.iter().map(|digest| listings.path(digest).exists()).collect();
        assert_eq!(left, [true, false, true]);
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in any::<Vec<u8>>()) {
            let _ = decode(&bytes);
        }

        #[test]
        fn cut_off_listings_are_refused_or_shorter(cut in 0usize..200) {
            let listing: Listing = (0..5u8).map(|n| (vec![b'a' + n], file("0123"))).collect();
            let text = encode(&listing);
            let cut = cut.min(text.len());
            if let Some(read) = decode(&text[..cut]) {
                prop_assert!(read.len() <= listing.len());
            }
        }
    }
}
