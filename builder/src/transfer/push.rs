//! Into a registry.
//!
//! Invariants: blobs are looked for and mounted before they are sent; what a registry said it had and then lacks is sent
//! all the same; the tag is written last.

use std::io::{self, Read};

use super::inventory::is_foreign;
use super::{BLOBS_AT_ONCE, Content, Document, Inventory, Moved, TransferError, Watcher};
use crate::base::digest::Digest;
use crate::base::parallel;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::layer::blob::VerifiedReader;
use crate::registry::{BlobOutcome, BlobSource, Client, PushOptions, RegistryError};
use crate::store::Store;

/// Where to push to.
#[derive(Clone, Copy)]
pub struct PushTarget<'a> {
    /// The client.
    pub client: &'a Client,
    /// Repository, and the tag of the root.
    pub reference: &'a Reference,
    /// Leave the tag out: the root is found by its digest only.
    pub by_digest: bool,
}

/// What a push came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Of the root.
    pub digest: Digest,
    /// Blobs that were sent.
    pub sent: usize,
    /// Blobs that were taken from another repository.
    pub mounted: usize,
    /// Blobs that were there.
    pub existed: usize,
}

/// Pushes an image with everything that it is made of.
pub fn push(
    content: &dyn Content,
    inventory: &Inventory,
    target: PushTarget<'_>,
    watcher: Watcher<'_>,
) -> Result<Pushed, TransferError> {
    let mut blobs = inventory.blobs();
    blobs.retain(|blob| !is_foreign(blob));
    // The largest first: the last one to be sent alone should be a small one.
    blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    let outcomes =
        parallel::try_map(&blobs, BLOBS_AT_ONCE, |blob| send(content, blob, target, false, watcher))?;
    let count = |wanted: BlobOutcome| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let documents = inventory.documents();
    for (number, document) in documents.iter().enumerate() {
        let is_root = number + 1 == documents.len();
        let reference = match is_root && !target.by_digest {
            true => target.reference.clone(),
            false => {
                Reference { tag: None, digest: Some(document.descriptor.digest), ..target.reference.clone() }
            }
        };
        match put(target.client, &reference, document) {
            // What was said to be there may have been collected meanwhile, or never have been readable.
            Err(TransferError::Registry(RegistryError::Incomplete { .. })) => {
                let own: Vec<Descriptor> =
                    document.blobs().filter(|blob| !is_foreign(blob)).cloned().collect();
                parallel::try_map(&own, BLOBS_AT_ONCE, |blob| send(content, blob, target, true, watcher))?;
                put(target.client, &reference, document)?;
            }
            result => result?,
        }
    }
    Ok(Pushed {
        digest: inventory.root().descriptor.digest,
        sent: count(BlobOutcome::Uploaded),
        mounted: count(BlobOutcome::Mounted),
        existed: count(BlobOutcome::Existed),
    })
}

fn put(client: &Client, reference: &Reference, document: &Document) -> Result<(), TransferError> {
    client.put_manifest(reference, &document.descriptor.media_type, &document.bytes)?;
    Ok(())
}

fn send(
    content: &dyn Content,
    blob: &Descriptor,
    target: PushTarget<'_>,
    resend: bool,
    watcher: Watcher<'_>,
) -> Result<BlobOutcome, TransferError> {
    watcher(blob, Moved::Begun);
    let progress = |bytes| watcher(blob, Moved::Bytes(bytes));
    let options = PushOptions {
        mount_from: content.repositories(&target.reference.registry, &blob.digest),
        progress: Some(&progress),
        resend,
        ..PushOptions::default()
    };
    let source = Source { content, blob };
    let result = target.client.push_blob(target.reference, blob, &source, &options);
    watcher(blob, result.as_ref().map_or(Moved::Failed, |outcome| Moved::Done(*outcome)));
    // What the source has to say is what matters; that it was needed for a push is clear.
    result.map_err(|error| match error {
        RegistryError::Source { digest, source } => match source.downcast::<TransferError>() {
            Ok(inner) => inner,
            Err(source) => TransferError::Read { digest, source },
        },
        error => error.into(),
    })
}

/// A blob that can be read again for each attempt.
struct Source<'a> {
    content: &'a dyn Content,
    blob: &'a Descriptor,
}

impl BlobSource for Source<'_> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let reader = self.content.blob(self.blob).map_err(io::Error::other)?;
        let mut reader = ToTheEnd { reader, left: self.blob.size };
        io::copy(&mut (&mut reader).take(offset), &mut io::sink())?;
        Ok(Box::new(reader))
    }
}

/// A blob of the store as the source of an upload: what is damaged does not leave it.
pub struct StoredBlob<'a> {
    /// The store.
    pub store: &'a Store,
    /// The blob.
    pub blob: &'a Descriptor,
}

impl BlobSource for StoredBlob<'_> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let Self { store, blob } = *self;
        let file = store.open_blob(&blob.digest).map_err(io::Error::other)?;
        let reader = Box::new(VerifiedReader::new(file, blob.digest, Some(blob.size)));
        let mut reader = ToTheEnd { reader, left: blob.size };
        io::copy(&mut (&mut reader).take(offset), &mut io::sink())?;
        Ok(Box::new(reader))
    }
}

/// Gives the last bytes of a blob only when its end was seen, which is where a wrong blob is reported: who sends as many
/// bytes as the descriptor states asks for no more.
struct ToTheEnd<'a> {
    reader: Box<dyn Read + Send + 'a>,
    left: u64,
}

impl Read for ToTheEnd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        if count > 0 && self.left == 0 {
            let mut more = [0];
            while self.reader.read(&mut more)? > 0 {}
        }
        Ok(count)
    }
}
