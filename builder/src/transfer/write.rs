//! Into files: OCI layouts and archives.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use super::{Content, Inventory, Moved, TransferError, Watcher};
use crate::base::digest::Digest;
use crate::export::archive::{self, BlobShelf, Label, OutputFailure, Parcel};
use crate::export::spec::Destination;
use crate::image::manifest::Descriptor;
use crate::registry::BlobOutcome;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A layout directory; an image is added to one that is there.
    Directory,
    /// A tar of a layout.
    OciArchive,
    /// The same with docker's manifest.
    DockerArchive,
}

/// Writes an image.
pub fn write(
    content: &dyn Content,
    inventory: &Inventory,
    form: Form,
    path: &Path,
    labels: &[Label],
    watcher: Watcher<'_>,
) -> Result<(), TransferError> {
    let documents: BTreeMap<Digest, &[u8]> = inventory
        .documents()
        .iter()
        .map(|document| (document.descriptor.digest, document.bytes.as_slice()))
        .collect();
    let images: Vec<_> = inventory.images().map(|(_, manifest)| manifest.clone()).collect();
    if form == Form::DockerArchive && images.len() != 1 {
        return Err(TransferError::SeveralPlatforms(images.len()));
    }
    let described = inventory.documents().iter().map(|document| document.descriptor.clone());
    let blobs = described.chain(inventory.blobs()).collect();
    let mut root = inventory.root().descriptor.clone();
    // An index is for no platform; annotations of an index entry belong to that index.
    if inventory.root().manifest.is_none() {
        root.platform = None;
    }
    root.annotations.clear();
    let parcel = Parcel { root, blobs, images };
    let shelf = Shelf { content, documents, watcher };
    let written = match form {
        Form::Directory => archive::write_directory(&shelf, &parcel, labels, path),
        Form::OciArchive | Form::DockerArchive => {
            let destination = match path == Path::new("-") {
                true => Destination::Stdout,
                false => Destination::Path(path.to_owned()),
            };
            archive::write_archive(&shelf, &parcel, labels, &destination, form == Form::DockerArchive)
        }
    };
    written.map_err(|error| match error {
        OutputFailure::Blob { digest, source } => match source.downcast::<TransferError>() {
            Ok(inner) => inner,
            Err(source) => TransferError::Read { digest, source },
        },
        error => error.into(),
    })
}

struct Shelf<'a> {
    content: &'a dyn Content,
    documents: BTreeMap<Digest, &'a [u8]>,
    watcher: Watcher<'a>,
}

impl BlobShelf for Shelf<'_> {
    fn open_verified<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + 's>, OutputFailure> {
        if let Some(bytes) = self.documents.get(&blob.digest) {
            return Ok(Box::new(*bytes));
        }
        (self.watcher)(blob, Moved::Begun);
        let reader = self.content.blob(blob).map_err(|error| {
            (self.watcher)(blob, Moved::Failed);
            OutputFailure::Blob { digest: blob.digest, source: io::Error::other(error) }
        })?;
        Ok(Box::new(Watched { reader, blob: blob.clone(), done: 0, watcher: self.watcher, ended: false }))
    }
}

struct Watched<'a> {
    reader: Box<dyn Read + Send + 'a>,
    blob: Descriptor,
    done: u64,
    watcher: Watcher<'a>,
    ended: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.reader.read(buffer);
        match &result {
            Ok(0) if !buffer.is_empty() && !self.ended => {
                self.ended = true;
                (self.watcher)(&self.blob, Moved::Done(BlobOutcome::Uploaded));
            }
            Ok(count) => {
                self.done += *count as u64;
                (self.watcher)(&self.blob, Moved::Bytes(self.done));
            }
            Err(_) => (self.watcher)(&self.blob, Moved::Failed),
        }
        result
    }
}
