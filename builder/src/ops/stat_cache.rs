//! Fingerprints of a context's files, remembered between builds: a file is read again only when its stamp changed.
//!
//! | in the stamp | why |
//! |---|---|
//! | inode, size | another file in its place |
//! | mtime, ctime | bytes, attributes or mode changed; nobody can set the ctime |
//! | mode | belongs to what is fingerprinted elsewhere, costs nothing |
//!
//! Invariants:
//! - a file that changed within the last [`RACY_SECONDS`] is not remembered: it may change again within the clock's
//!   resolution without its stamp showing it;
//! - losing what is remembered costs time and never a right answer.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::fs::Stat;

use crate::base::digest::Digest;
use crate::context::fingerprint::FileDigests;
use crate::context::local::LocalContext;
use crate::store::Store;
use crate::store::records::{FileRecord, now};

/// See the invariants.
const RACY_SECONDS: i64 = 2;

/// What is remembered of one context.
#[derive(Debug)]
pub(super) struct StatCache {
    root: String,
    known: HashMap<Vec<u8>, (Stamp, Digest)>,
    /// Guards what was found out in this build.
    fresh: Mutex<Fresh>,
}

#[derive(Debug, Default)]
struct Fresh {
    known: HashMap<Vec<u8>, (Stamp, Digest)>,
    unsaved: Vec<FileRecord>,
}

/// Inode, size, mtime, its nanoseconds, ctime, its nanoseconds, mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    fn of(stat: &Stat) -> Self {
        // Bits are what is compared, so a wrap is no loss; some fields are unsigned on some machines.
        #[allow(clippy::cast_possible_wrap, clippy::unnecessary_cast)]
        Self([
            stat.st_ino as i64,
            stat.st_size as i64,
            stat.st_mtime as i64,
            stat.st_mtime_nsec as i64,
            stat.st_ctime as i64,
            stat.st_ctime_nsec as i64,
            i64::from(stat.st_mode),
        ])
    }

    fn parse(text: &str) -> Option<Self> {
        let mut stamp = [0; 7];
        let mut numbers = text.split([':', '.']);
        for number in &mut stamp {
            *number = numbers.next()?.parse().ok()?;
        }
        numbers.next().is_none().then_some(Self(stamp))
    }

    /// Whether it may change again unseen.
    fn is_racy(&self, now: i64) -> bool {
        let [_, _, mtime, _, ctime, _, _] = self.0;
        mtime.saturating_add(RACY_SECONDS) >= now || ctime.saturating_add(RACY_SECONDS) >= now
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [inode, size, mtime, mtime_ns, ctime, ctime_ns, mode] = self.0;
        write!(f, "{inode}:{size}:{mtime}.{mtime_ns}:{ctime}.{ctime_ns}:{mode}")
    }
}

impl StatCache {
    /// What the store remembers of a context.
    pub(super) fn open(store: &Store, name: &str, context: &LocalContext) -> Self {
        // A context is known by its directory's device and inode, so that two projects never share entries.
        let root = match rustix::fs::fstat(context.root.as_fd()) {
            Ok(stat) => format!("{name}:{}:{}", stat.st_dev, stat.st_ino),
            Err(_) => format!("{name}:"),
        };
        let mut known = HashMap::new();
        let read = store.database().each_file(&root, |path, stamp, digest| {
            if let (Some(stamp), Ok(digest)) = (Stamp::parse(stamp), digest.try_into()) {
                known.insert(path.to_vec(), (stamp, Digest::from_bytes(digest)));
            }
        });
        if read.is_err() {
            known.clear();
        }
        Self { root, known, fresh: Mutex::default() }
    }

    /// Remembers what was found out.
    pub(super) fn save(&self, store: &Store) {
        let unsaved = std::mem::take(&mut self.fresh.lock().unwrap_or_else(PoisonError::into_inner).unsaved);
        if !unsaved.is_empty() {
            let _ = store.database().set_files(&self.root, &unsaved);
        }
    }
}

impl FileDigests for StatCache {
    fn known(&self, path: &[u8], stat: &Stat) -> Option<Digest> {
        let (known, digest) = self.known.get(path)?;
        (*known == Stamp::of(stat)).then_some(*digest)
    }

    fn digest(
        &self,
        path: &[u8],
        stat: &Stat,
        read: &mut dyn FnMut() -> io::Result<Digest>,
    ) -> io::Result<Digest> {
        if let Some(digest) = self.known(path, stat) {
            return Ok(digest);
        }
        let stamp = Stamp::of(stat);
        if let Some((known, digest)) =
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).known.get(path)
            && *known == stamp
        {
            return Ok(*digest);
        }
        let digest = read()?;
        if !stamp.is_racy(now()) {
            let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
            fresh.known.insert(path.to_vec(), (stamp, digest));
            fresh.unsaved.push((path.to_vec(), stamp.to_string(), *digest.as_bytes()));
        }
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn young_files_are_racy() {
        let stamp = |mtime, ctime| Stamp([1, 2, mtime, 0, ctime, 0, 0o100_644]);
        assert!(!stamp(90, 90).is_racy(100));
        assert!(stamp(99, 90).is_racy(100) && stamp(90, 98).is_racy(100) && stamp(200, 90).is_racy(100));
        assert!(stamp(i64::MAX, 0).is_racy(100));
    }

    #[test]
    fn a_file_is_read_when_its_stamp_changed_and_once_in_a_build() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        std::fs::write(dir.path().join("context/f"), "x").unwrap();
        let context = LocalContext::open(&dir.path().join("context"), None).unwrap();
        let mut stat = rustix::fs::stat(dir.path().join("context/f")).unwrap();
        (stat.st_mtime, stat.st_ctime) = (1000, 1000);
        let reads = std::cell::Cell::new(0);
        let ask = |cache: &StatCache, stat: &Stat| {
            let mut read = || {
                reads.set(reads.get() + 1);
                Ok(Digest::of(b"x"))
            };
            assert_eq!(cache.digest(b"f", stat, &mut read).unwrap(), Digest::of(b"x"));
            reads.get()
        };
        let cache = StatCache::open(&store, "", &context);
        assert_eq!((ask(&cache, &stat), ask(&cache, &stat)), (1, 1));
        cache.save(&store);
        let cache = StatCache::open(&store, "", &context);
        assert_eq!(ask(&cache, &stat), 1, "the next build remembers");
        stat.st_ctime_nsec += 1;
        assert_eq!(ask(&cache, &stat), 2);
        assert_eq!(
            ask(&StatCache::open(&store, "other", &context), &stat),
            3,
            "another context knows nothing"
        );
    }

    proptest! {
        #[test]
        fn stamps_round_trip(numbers in any::<[i64; 7]>(), text in ".*") {
            let stamp = Stamp(numbers);
            prop_assert_eq!(Stamp::parse(&stamp.to_string()), Some(stamp));
            let _ = Stamp::parse(&text);
        }
    }
}
