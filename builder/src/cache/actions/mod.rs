//! A cache in the service that GitHub Actions has for its jobs (`type=gha`).
//!
//! | entry | key | content |
//! | --- | --- | --- |
//! | blob | `kiln-blob-1-HEX#N` | the blob; the highest number counts |
//! | index | `kiln-index-1-SCOPE-REF#N` | manifests by tag ([`index`]), for one git reference |
//!
//! An entry can be written once and belongs to the git reference of the job that wrote it; a job reads those of its own
//! reference and of those that it comes from. A key that was taken and never finished (a job that was killed) stays taken,
//! so that blobs have numbers too.
//!
//! Invariants:
//! - the index is written last ([`Cache::flush`]): whoever finds a step in it finds its blobs;
//! - an index that others have written meanwhile is added to, not replaced;
//! - a step counts as there only when its blobs can be read: the service drops what nobody reads, each entry by itself.

mod error;
mod index;
mod options;
mod service;
#[cfg(test)]
pub(in crate::cache) mod tests;
mod transfer;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use error::ActionsError;
use index::{Entries, Entry};
use options::Claims;
pub use options::{ActionsOptions, Protocol, Rest, Token};
use service::{Found, Service};
use transfer::{Content, Sent};

use super::artifact::Parts;
use super::download::Size;
use super::{Cache, CacheError, Tag};
use crate::base::cancel::CancelToken;
use crate::base::digest::{Digest, HashingWriter};
use crate::base::limits::MAX_METADATA_BYTES;
use crate::base::sink::BlobSink;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::net::Net;
use crate::registry::{BlobSource, Client};

/// How many keys of a blob are tried: those of jobs that were killed stay taken.
const BLOB_KEYS: u64 = 5;
/// How long a job waits for another one that has taken the next index: so often, and so long each time.
const PATIENCE: (u32, Duration) = (15, Duration::from_secs(1));
/// Longest time for listing what is there.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// How many indexes that were taken and never finished are passed over.
const PASSED_OVER: u64 = 3;

/// Artifacts in the cache service.
#[derive(Debug)]
pub struct ActionsCache {
    service: Service,
    cancel: CancelToken,
    claims: Claims,
    /// The indexes of all references of the token, its own first; held while they are read.
    indexes: Mutex<Option<Vec<Entries>>>,
    /// Blobs that are known to be there.
    blobs: Mutex<BTreeSet<Digest>>,
    /// Keys of blobs, when they could be listed.
    listed: OnceLock<Option<BTreeSet<String>>>,
    /// What will be in the next index.
    added: Mutex<Entries>,
    /// Tags that were found there.
    seen: Mutex<BTreeSet<Tag>>,
    /// [`PATIENCE`].
    patience: (u32, Duration),
    /// When writing has to be over; set by the first call that is about writing.
    writing_until: OnceLock<Instant>,
}

impl ActionsCache {
    /// The cache that `options` name. Nothing is contacted yet.
    pub fn new(client: &Client, options: &ActionsOptions) -> Self {
        let (net, cancel) = client.network();
        Self::with(net.clone(), cancel.clone(), options.clone())
    }

    fn with(net: Net, cancel: CancelToken, options: ActionsOptions) -> Self {
        Self {
            claims: Claims::of(&options),
            service: Service { net, options },
            cancel,
            indexes: Mutex::default(),
            blobs: Mutex::default(),
            listed: OnceLock::new(),
            added: Mutex::default(),
            seen: Mutex::default(),
            patience: PATIENCE,
            writing_until: OnceLock::new(),
        }
    }

    /// Runs calls of the service, for as long as `timeout` allows.
    fn run<T>(
        &self,
        action: &'static str,
        left: Duration,
        work: impl Future<Output = Result<T, ActionsError>>,
    ) -> Result<T, CacheError> {
        let timeout = self.service.options.timeout;
        let work = async {
            self.claims.check()?;
            let late = |_| ActionsError::Timeout { action, timeout };
            tokio::time::timeout(left, work).await.map_err(late)?
        };
        Ok(self.service.net.run(&self.cancel, work)?)
    }

    fn reading<T>(
        &self,
        action: &'static str,
        work: impl Future<Output = Result<T, ActionsError>>,
    ) -> Result<T, CacheError> {
        self.run(action, self.service.options.timeout, work)
    }

    fn writing<T>(
        &self,
        action: &'static str,
        work: impl Future<Output = Result<T, ActionsError>>,
    ) -> Result<T, CacheError> {
        let until = self.writing_until.get_or_init(|| Instant::now() + self.service.options.timeout);
        self.run(action, until.saturating_duration_since(Instant::now()), work)
    }

    /// The newest index of a reference and its number, 0 when there is none.
    async fn newest(&self, reference: &str) -> Result<(Entries, u64), ActionsError> {
        let prefix = index::prefix(&self.service.options.scope, reference);
        let Some(found) = self.service.look(&prefix).await? else { return Ok((Entries::new(), 0)) };
        let damaged = |reason| ActionsError::Index { key: error::tidy(&found.key), reason };
        let number = index::number(&prefix, &found.key).ok_or_else(|| damaged("it has no number"))?;
        let mut packed = Vec::new();
        let fetched =
            self.service.fetch(&found, Size::AtMost(index::MAX_PACKED_BYTES), &mut packed, &|_| ()).await;
        fetched.map_err(|error| match error {
            ActionsError::TooLong { .. } => damaged("it is too large"),
            error => error,
        })?;
        Ok((index::unpack(&packed).map_err(damaged)?, number))
    }

    /// What the indexes say of a tag, and whether it is in the own one.
    fn entry(&self, tag: &Tag) -> Result<Option<(Entry, bool)>, CacheError> {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let indexes = match &*indexes {
            Some(indexes) => indexes,
            None => {
                let read = async {
                    let mut all = Vec::new();
                    for reference in &self.claims.refs {
                        all.push(self.newest(reference).await?.0);
                    }
                    Ok(all)
                };
                indexes.insert(self.reading("read the index", read)?)
            }
        };
        let name = tag.to_string();
        let found =
            indexes.iter().enumerate().find_map(|(number, entries)| Some((number, entries.get(&name)?)));
        Ok(found.map(|(number, entry)| (entry.clone(), number == 0)))
    }

    async fn find_blob(&self, digest: &Digest) -> Result<Option<Found>, ActionsError> {
        self.service.look(&blob_prefix(digest)).await
    }

    /// Keys of all blobs, asked for once; `None` when each has to be asked for by itself.
    fn listed(&self) -> Result<Option<&BTreeSet<String>>, CacheError> {
        if self.listed.get().is_none() {
            let list = async {
                // Another service than the cache's, which is not waited for: it only saves questions.
                let list = self.service.list(BLOB_PREFIX, &self.claims.refs);
                Ok(tokio::time::timeout(LIST_TIMEOUT, list).await.ok().flatten())
            };
            let keys = self.writing("list the blobs", list)?;
            let _ = self.listed.set(keys.map(|keys| keys.into_iter().collect()));
        }
        Ok(self.listed.get().and_then(Option::as_ref))
    }

    fn is_there(&self, digest: &Digest) -> Result<bool, CacheError> {
        if self.blobs.lock().unwrap_or_else(PoisonError::into_inner).contains(digest) {
            return Ok(true);
        }
        let there = match self.listed()? {
            Some(keys) => {
                let prefix = blob_prefix(digest);
                keys.range(prefix.clone()..).next().is_some_and(|key| key.starts_with(&prefix))
            }
            None => self.writing("look for a blob", self.find_blob(digest))?.is_some(),
        };
        if there {
            self.blobs.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
        }
        Ok(there)
    }

    /// Adds to the newest index. Another job that is about to write one is waited for.
    async fn write_index(&self, added: &Entries, seen: &[Tag]) -> Result<(), ActionsError> {
        let own = self.claims.refs.first().map(String::as_str).unwrap_or_default();
        let prefix = index::prefix(&self.service.options.scope, own);
        let (most_waits, pause) = self.patience;
        let mut waits = 0;
        loop {
            let (there, newest) = match self.newest(own).await {
                // A damaged one is not added to, but its number is taken.
                Err(ActionsError::Index { key, .. }) => {
                    (Entries::new(), index::number(&prefix, &key).unwrap_or(0))
                }
                other => other?,
            };
            let Some(merged) = index::merge(&there, added, seen, now()) else { return Ok(()) };
            let packed = index::pack(merged);
            let digest = Digest::of(&packed);
            let passed_over = if waits < most_waits { 0 } else { PASSED_OVER };
            for number in newest + 1..=newest + 1 + passed_over {
                let reader = Box::new(packed.as_slice());
                let content = Content { reader, digest, size: packed.len() as u64 };
                match self.service.write(&format!("{prefix}{number}"), content).await? {
                    Sent::Whole => return Ok(()),
                    Sent::Taken | Sent::Wrong(_) => {}
                }
            }
            if waits >= most_waits {
                return Err(ActionsError::Busy);
            }
            waits += 1;
            tokio::time::sleep(pause).await;
        }
    }
}

const BLOB_PREFIX: &str = "kiln-blob-1-";

fn blob_prefix(digest: &Digest) -> String {
    format!("{BLOB_PREFIX}{}#", digest.hex())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Cache for ActionsCache {
    fn name(&self) -> String {
        format!("GitHub Actions ({})", self.service.options.scope)
    }

    fn repository(&self) -> Option<&Reference> {
        None
    }

    fn carries_configs(&self) -> bool {
        true
    }

    fn manifest(&self, tag: &Tag) -> Result<Option<Vec<u8>>, CacheError> {
        let Some((entry, _)) = self.entry(tag)? else { return Ok(None) };
        if entry.manifest.len() as u64 > MAX_METADATA_BYTES {
            let place = format!("{}:{tag}", self.name());
            return Err(CacheError::Artifact { place, reason: "its manifest is too large" });
        }
        Ok(Some(entry.manifest.into_bytes()))
    }

    fn has_manifest(&self, tag: &Tag) -> Result<bool, CacheError> {
        let found = match self.entry(tag) {
            // It is written anew.
            Err(CacheError::Actions(ActionsError::Index { .. })) => None,
            found => found?,
        };
        let Some((entry, own)) = found else { return Ok(false) };
        let Ok(parts) = Parts::of(entry.manifest.as_bytes()) else { return Ok(false) };
        // A config that is inside needs no blob.
        for blob in parts.blobs().into_iter().filter(|blob| !blob.extra.contains_key("data")) {
            if !self.is_there(&blob.digest)? {
                return Ok(false);
            }
        }
        if own {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(tag.clone());
        }
        Ok(true)
    }

    fn blob(
        &self,
        blob: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), CacheError> {
        let missing = || ActionsError::NoBlob(blob.digest);
        let mut hashed = HashingWriter::new(sink);
        let found = self.reading("read a blob", async {
            let found = self.find_blob(&blob.digest).await?.ok_or_else(missing)?;
            let fetched = self.service.fetch(&found, Size::Exactly(blob.size), &mut hashed, progress).await;
            match fetched {
                Ok(()) => Ok(found),
                Err(ActionsError::Status { status: 404 | 416, .. }) => Err(missing()),
                Err(error) => Err(error),
            }
        })?;
        let actual = hashed.digest();
        if actual == blob.digest {
            return Ok(());
        }
        let place = format!("{}:{}", self.name(), error::tidy(&found.key));
        Err(CacheError::WrongDigest { place, expected: blob.digest, actual })
    }

    fn has_blob(&self, blob: &Descriptor, _beside: &[Reference]) -> Result<bool, CacheError> {
        self.is_there(&blob.digest)
    }

    fn put_blob(&self, blob: &Descriptor, source: &dyn BlobSource) -> Result<(), CacheError> {
        let prefix = blob_prefix(&blob.digest);
        let sent = self.writing("write a blob", async {
            if !self.claims.writes {
                return Err(ActionsError::ReadOnly);
            }
            let mut first = 1;
            // One that is there is not what is wanted, or this would not have been called.
            if let Some(found) = self.find_blob(&blob.digest).await? {
                first = index::number(&prefix, &found.key).unwrap_or(0) + 1;
            }
            for number in first..first + BLOB_KEYS {
                let reader = source.open(0).map_err(ActionsError::Source)?;
                let content = Content { reader, digest: blob.digest, size: blob.size };
                match self.service.write(&format!("{prefix}{number}"), content).await? {
                    // Another job is sending the same, or was stopped while it did. Who reads takes either.
                    Sent::Taken => {}
                    sent => return Ok(sent),
                }
            }
            Err(ActionsError::Busy)
        })?;
        if let Sent::Wrong(actual) = sent {
            let place = "the blob to be written".to_owned();
            return Err(CacheError::WrongDigest { place, expected: blob.digest, actual });
        }
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).insert(blob.digest);
        Ok(())
    }

    fn put_manifest(&self, tag: &Tag, _kind: &str, bytes: &[u8]) -> Result<(), CacheError> {
        let manifest = String::from_utf8(bytes.to_vec()).map_err(|_| CacheError::Artifact {
            place: format!("{}:{tag}", self.name()),
            reason: "its manifest is not text",
        })?;
        let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        added.insert(tag.to_string(), Entry { used: now(), manifest });
        Ok(())
    }

    fn flush(&self) -> Result<(), CacheError> {
        let added = std::mem::take(&mut *self.added.lock().unwrap_or_else(PoisonError::into_inner));
        if added.is_empty() {
            return Ok(());
        }
        let seen: Vec<Tag> =
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        self.writing("write the index", async {
            match self.claims.writes {
                true => self.write_index(&added, &seen).await,
                false => Err(ActionsError::ReadOnly),
            }
        })?;
        // What is in it is read again.
        *self.indexes.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}
