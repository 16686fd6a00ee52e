//! Into kiln's store.
//!
//! Invariants: an image gets its name after everything of it is there.

use super::{BLOBS_AT_ONCE, Content, Inventory, Moved, TransferError, Watcher};
use crate::base::digest::Digest;
use crate::base::parallel;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::registry::BlobOutcome;
use crate::store::Store;
use crate::store::records::{ImageRecord, now};

/// Shortest beginning of an id that names an image.
pub(super) const MIN_ID_DIGITS: usize = 6;

/// The image of a name or of the beginning of an id.
pub fn find_in_store(store: &Store, text: &str) -> Result<Option<ImageRecord>, TransferError> {
    let images = store.database().images()?;
    if let Ok(reference) = text.parse::<Reference>() {
        let name = reference.to_string();
        if let Some(image) = images.iter().find(|image| image.name == name) {
            return Ok(Some(image.clone()));
        }
        // `NAME@DIGEST`, or `NAME:TAG@DIGEST`: the digest decides.
        let name = reference.name();
        if let Some(digest) = reference.digest
            && let Some(image) =
                images.iter().find(|image| image.digest == digest && image.name.starts_with(&name))
        {
            return Ok(Some(image.clone()));
        }
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    if hex.len() < MIN_ID_DIGITS || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let fitting: Vec<&ImageRecord> =
        images.iter().filter(|image| image.digest.hex().starts_with(&hex)).collect();
    let mut digests: Vec<&Digest> = fitting.iter().map(|image| &image.digest).collect();
    digests.dedup();
    if digests.len() > 1 {
        let names = fitting.iter().map(|image| image.name.clone()).collect();
        return Err(TransferError::SeveralIds { id: text.to_owned(), names });
    }
    Ok(fitting.first().map(|image| (*image).clone()))
}

/// Brings an image into the store under `names`.
pub fn keep(
    content: &dyn Content,
    inventory: &Inventory,
    store: &Store,
    names: &[Reference],
    watcher: Watcher<'_>,
) -> Result<(), TransferError> {
    let mut blobs = inventory.blobs();
    blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    parallel::try_map(&blobs, BLOBS_AT_ONCE, |blob| {
        watcher(blob, Moved::Begun);
        let result = take(content, blob, store, watcher);
        watcher(blob, result.as_ref().map_or(Moved::Failed, |outcome| Moved::Done(*outcome)));
        result
    })?;
    for document in inventory.documents() {
        store.put_blob(&document.bytes)?;
    }
    let root = &inventory.root().descriptor;
    let record = |name: &Reference| ImageRecord {
        name: name.to_string(),
        media_type: root.media_type.clone(),
        digest: root.digest,
        size_bytes: inventory.size_bytes(),
        created: now(),
    };
    name_in_store(store, names.iter().map(record))
}

/// Gives images of the store names.
pub fn name_in_store(store: &Store, records: impl Iterator<Item = ImageRecord>) -> Result<(), TransferError> {
    // Should the index be left behind, the next process brings it up to date.
    store.writing()?;
    for record in records {
        store.database().name_image(&record)?;
    }
    Ok(store.write_index()?)
}

fn take(
    content: &dyn Content,
    blob: &Descriptor,
    store: &Store,
    watcher: Watcher<'_>,
) -> Result<BlobOutcome, TransferError> {
    if store.blob_size(&blob.digest) == Some(blob.size) {
        return Ok(BlobOutcome::Existed);
    }
    let incoming = store.incoming_blob()?;
    let mut writer = incoming.writer()?;
    content.fetch(blob, &mut writer, &|bytes| watcher(blob, Moved::Bytes(bytes)))?;
    store.commit_blob(incoming, writer, Some(&blob.digest))?;
    Ok(BlobOutcome::Uploaded)
}
