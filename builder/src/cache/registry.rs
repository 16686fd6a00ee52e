//! A cache in a repository of a registry.
//!
//! Invariants: a repository that does not exist yet is an empty cache.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::{Cache, CacheError, Tag};
use crate::base::digest::Digest;
use crate::base::sink::BlobSink;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::registry::{BlobSource, Client, PushOptions, RegistryError};

/// Artifacts in a repository.
#[derive(Debug)]
pub struct RegistryCache {
    client: Client,
    reference: Reference,
    /// Held while a blob is sent: registries mix up uploads of the same blob that arrive at a time.
    sending: Mutex<BTreeMap<Digest, Arc<Mutex<()>>>>,
}

impl RegistryCache {
    /// The cache in the repository of `reference`.
    pub fn new(client: Client, reference: &Reference) -> Self {
        Self { client, reference: reference.clone(), sending: Mutex::default() }
    }

    fn at(&self, tag: &Tag) -> Reference {
        Reference { tag: Some(tag.to_string()), digest: None, ..self.reference.clone() }
    }
}

impl Cache for RegistryCache {
    fn name(&self) -> String {
        self.reference.name()
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.reference)
    }

    fn manifest(&self, tag: &Tag) -> Result<Option<Vec<u8>>, CacheError> {
        match self.client.manifest_raw(&self.at(tag)) {
            Ok(raw) => Ok(Some(raw.bytes)),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn has_manifest(&self, tag: &Tag) -> Result<bool, CacheError> {
        Ok(self.client.head_manifest(&self.at(tag))?.is_some())
    }

    fn blob(
        &self,
        blob: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), CacheError> {
        Ok(self.client.blob(&self.reference, blob, sink, progress)?)
    }

    fn has_blob(&self, blob: &Descriptor, beside: &[Reference]) -> Result<bool, CacheError> {
        let from = repositories(&self.reference, beside);
        Ok(self.client.take_blob(&self.reference, &blob.digest, &from)?)
    }

    fn put_blob(&self, blob: &Descriptor, source: &dyn BlobSource) -> Result<(), CacheError> {
        let lock = {
            let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            sending.entry(blob.digest).or_default().clone()
        };
        let (_sending, resend) = match lock.try_lock() {
            // Whoever wants it written has looked already.
            Ok(guard) => (guard, true),
            Err(TryLockError::Poisoned(guard)) => (guard.into_inner(), true),
            // Another thread has just sent it.
            Err(TryLockError::WouldBlock) => (lock.lock().unwrap_or_else(PoisonError::into_inner), false),
        };
        let options = PushOptions { resend, ..PushOptions::default() };
        self.client.push_blob(&self.reference, blob, source, &options)?;
        Ok(())
    }

    fn put_manifest(&self, tag: &Tag, kind: &str, bytes: &[u8]) -> Result<(), CacheError> {
        self.client.put_manifest(&self.at(tag), kind, bytes)?;
        Ok(())
    }
}

/// Repositories of the same registry as `reference`.
fn repositories(reference: &Reference, beside: &[Reference]) -> Vec<String> {
    let same = beside.iter().filter(|other| other.registry == reference.registry);
    same.map(|other| other.repository.clone()).collect()
}
