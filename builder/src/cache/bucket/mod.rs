//! A cache in a bucket of S3, or of what speaks like it (`type=s3`).
//!
//! | object | key |
//! | --- | --- |
//! | blob | `PREFIX BLOBS_PREFIX sha256:HEX`, where BuildKit has it too |
//! | manifest of a step | `PREFIX MANIFESTS_PREFIX kiln-NAME/TAG` |
//!
//! Invariants: a manifest is written after the blobs that it names; the secret key is in nothing that is sent.

mod error;
mod objects;
mod sign;
#[cfg(test)]
pub(in crate::cache) mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use error::BucketError;
use objects::Objects;
use reqwest::Url;
pub use sign::Keys;
use tokio::sync::Semaphore;

use super::download::Size;
use super::{Cache, CacheError, Tag};
use crate::base::cancel::CancelToken;
use crate::base::digest::HashingWriter;
use crate::base::limits::MAX_METADATA_BYTES;
use crate::base::sink::BlobSink;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::registry::{BlobSource, Client};

/// Where the bucket is, and what in it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketOptions {
    /// Address of the store, without the bucket.
    pub endpoint: Url,
    /// Name of the bucket.
    pub bucket: String,
    /// The bucket is a part of the path, not of the host name.
    pub path_style: bool,
    /// For signatures.
    pub region: String,
    /// Before every key.
    pub prefix: String,
    /// Before keys of blobs.
    pub blobs_prefix: String,
    /// Before keys of manifests.
    pub manifests_prefix: String,
    /// Names of the cache; written under all, looked for in this order.
    pub names: Vec<String>,
    /// Who asks.
    pub keys: Keys,
    /// Objects that are older are renewed when they are used.
    pub touch_refresh: Duration,
    /// Blobs that are sent at a time.
    pub parallelism: usize,
    /// How often a request is sent; `None` is what holds for all requests.
    pub attempts: Option<u32>,
}

/// Artifacts in a bucket.
#[derive(Debug)]
pub struct BucketCache {
    objects: Objects,
    cancel: CancelToken,
    /// Taken while a blob is sent.
    uploads: Semaphore,
}

impl BucketCache {
    /// The cache that `options` name. Nothing is contacted yet.
    pub fn new(client: &Client, options: &BucketOptions) -> Self {
        let (net, cancel) = client.network();
        Self {
            uploads: Semaphore::new(options.parallelism.max(1)),
            objects: Objects { net: net.clone(), options: options.clone() },
            cancel: cancel.clone(),
        }
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, BucketError>>) -> Result<T, CacheError> {
        Ok(self.objects.net.run(&self.cancel, work)?)
    }

    fn blob_key(&self, blob: &Descriptor) -> String {
        let options = &self.objects.options;
        format!("{}{}{}", options.prefix, options.blobs_prefix, blob.digest)
    }

    fn manifest_keys(&self, tag: &Tag) -> impl Iterator<Item = String> {
        let options = &self.objects.options;
        let before = format!("{}{}", options.prefix, options.manifests_prefix);
        options.names.iter().map(move |name| format!("{before}kiln-{name}/{tag}"))
    }

    /// Whether an object is there, which is renewed when it has become old.
    async fn used(&self, key: &str, size: Option<u64>) -> Result<bool, BucketError> {
        let Some(head) = self.objects.head(key).await? else { return Ok(false) };
        if size.is_some() && head.size.is_some() && size != head.size {
            return Ok(false);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age =
            |modified: i64| now.saturating_sub(Duration::from_secs(u64::try_from(modified).unwrap_or(0)));
        if head.modified.is_some_and(|modified| age(modified) > self.objects.options.touch_refresh) {
            self.objects.touch(key).await?;
        }
        Ok(true)
    }
}

impl Cache for BucketCache {
    fn name(&self) -> String {
        let options = &self.objects.options;
        format!("s3 {} ({})", options.bucket, options.names.join(";"))
    }

    fn repository(&self) -> Option<&Reference> {
        None
    }

    fn carries_configs(&self) -> bool {
        true
    }

    fn manifest(&self, tag: &Tag) -> Result<Option<Vec<u8>>, CacheError> {
        self.run(async {
            for key in self.manifest_keys(tag) {
                let mut bytes = Vec::new();
                let size = Size::AtMost(MAX_METADATA_BYTES);
                if self.objects.read(&key, size, &mut bytes, &|_| ()).await?.is_some() {
                    return Ok(Some(bytes));
                }
            }
            Ok(None)
        })
    }

    fn has_manifest(&self, tag: &Tag) -> Result<bool, CacheError> {
        self.run(async {
            for key in self.manifest_keys(tag) {
                if !self.used(&key, None).await? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn blob(
        &self,
        blob: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), CacheError> {
        let mut hashed = HashingWriter::new(sink);
        let key = self.blob_key(blob);
        self.run(async {
            let read = self.objects.read(&key, Size::Exactly(blob.size), &mut hashed, progress).await?;
            read.ok_or(BucketError::NoBlob(blob.digest))
        })?;
        let actual = hashed.digest();
        if actual == blob.digest {
            return Ok(());
        }
        Err(CacheError::WrongDigest { place: key, expected: blob.digest, actual })
    }

    fn has_blob(&self, blob: &Descriptor, _beside: &[Reference]) -> Result<bool, CacheError> {
        self.run(self.used(&self.blob_key(blob), Some(blob.size)))
    }

    fn put_blob(&self, blob: &Descriptor, source: &dyn BlobSource) -> Result<(), CacheError> {
        let actual = self.run(async {
            let _permit = self.uploads.acquire().await;
            let reader = source.open(0).map_err(BucketError::Source)?;
            self.objects.write(&self.blob_key(blob), reader, &blob.digest).await
        })?;
        if actual == blob.digest {
            return Ok(());
        }
        let place = "the blob to be written".to_owned();
        Err(CacheError::WrongDigest { place, expected: blob.digest, actual })
    }

    fn put_manifest(&self, tag: &Tag, _kind: &str, bytes: &[u8]) -> Result<(), CacheError> {
        self.run(async {
            for key in self.manifest_keys(tag) {
                self.objects.put(&key, bytes.to_vec()).await?;
            }
            Ok(())
        })
    }
}
