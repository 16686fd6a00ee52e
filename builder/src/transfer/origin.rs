//! Where images come from.

use std::collections::BTreeSet;
use std::io::{self, Read};

use super::docker_archive::DockerArchive;
use super::stream::RemoteBlob;
use super::{Place, TransferError, find_in_store};
use crate::base::digest::Digest;
use crate::base::limits::MAX_METADATA_BYTES;
use crate::base::sink::BlobSink;
use crate::context::layout::{Layout, LayoutError, LayoutRef};
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::layer::blob::VerifiedReader;
use crate::registry::Client;
use crate::store::Store;

/// Documents and blobs of an image, wherever they are.
pub trait Content: Sync {
    /// A manifest or an index, verified. A size of 0 in the descriptor stands for an unknown one.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransferError>;

    /// A reader of a blob; it reports an error at its end when the blob is not what its descriptor says.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransferError>;

    /// Writes a verified blob into `sink`, whose content counts only when this returns `Ok`. `progress` hears the number
    /// of bytes so far.
    fn fetch(
        &self,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), TransferError> {
        let fail = |source| TransferError::Read { digest: descriptor.digest, source };
        let mut reader = self.blob(descriptor)?;
        let mut buffer = vec![0; 128 * 1024];
        let mut done = 0;
        loop {
            let count = reader.read(&mut buffer).map_err(fail)?;
            if count == 0 {
                return Ok(());
            }
            sink.write_all(&buffer[..count]).map_err(fail)?;
            done += count as u64;
            progress(done);
        }
    }

    /// Repositories of a registry that are known to have a blob.
    fn repositories(&self, registry: &str, blob: &Digest) -> Vec<String> {
        let _ = (registry, blob);
        Vec::new()
    }
}

/// An opened source.
pub struct Origin<'a> {
    /// Manifest or index; without size where that is not known.
    pub root: Descriptor,
    /// What it is read from.
    pub content: Box<dyn Content + 'a>,
    /// The name under which it was found in the store.
    pub stored_as: Option<String>,
    /// The name that was asked for, where it is one.
    pub name: Option<Reference>,
}

impl<'a> Origin<'a> {
    /// Opens a place. Names without a prefix are those of the store, if it has them; `store` is none where there is no
    /// store.
    pub fn open(place: &Place, store: Option<&'a Store>, client: &Client) -> Result<Self, TransferError> {
        match place {
            Place::Named(reference, text) => {
                if let Some(store) = store
                    && let Some(found) = find_in_store(store, text)?
                {
                    let root = Descriptor::new(&found.media_type, found.digest, 0);
                    let content = Box::new(StoreContent::new(store)?);
                    let name = found.name.parse().ok();
                    return Ok(Self { root, content, stored_as: Some(found.name), name });
                }
                Self::in_registry(reference, client)
            }
            Place::Registry(reference) => Self::in_registry(reference, client),
            Place::Layout(layout) | Place::OciArchive(layout) => Self::in_layout(layout, None),
            Place::DockerArchive(path, name) => {
                let tag = name.as_ref().and_then(|name| name.tag.clone());
                Self::in_layout(&LayoutRef { path: path.clone(), tag, digest: None }, name.as_ref())
            }
        }
    }

    /// Opens an image of the store.
    pub fn in_store(store: &'a Store, text: &str) -> Result<Self, TransferError> {
        let found = find_in_store(store, text)?.ok_or_else(|| TransferError::NotInStore(text.to_owned()))?;
        let root = Descriptor::new(&found.media_type, found.digest, 0);
        let name = found.name.parse().ok();
        Ok(Self { root, content: Box::new(StoreContent::new(store)?), stored_as: Some(found.name), name })
    }

    fn in_registry(reference: &Reference, client: &Client) -> Result<Self, TransferError> {
        let raw = client.manifest_raw(reference)?;
        let root = Descriptor::new(&raw.media_type, raw.digest, raw.bytes.len() as u64);
        let content =
            RegistryContent { client: client.clone(), reference: reference.clone(), root: raw.bytes };
        Ok(Self { root, content: Box::new(content), stored_as: None, name: Some(reference.clone()) })
    }

    fn in_layout(wanted: &LayoutRef, name: Option<&Reference>) -> Result<Self, TransferError> {
        let layout = match Layout::open(&wanted.path) {
            Ok(layout) => layout,
            // `docker save` before version 25 and `podman save` write no layout.
            Err(error @ LayoutError::NotALayout { missing: "oci-layout", .. }) => {
                let archive = match wanted.path.is_file() {
                    true => DockerArchive::open(&wanted.path, name)?.ok_or(error)?,
                    false => return Err(error.into()),
                };
                let (root, name) = (archive.root(), name.cloned());
                return Ok(Self { root, content: Box::new(archive), stored_as: None, name });
            }
            Err(error) => return Err(error.into()),
        };
        let root = layout.root(wanted)?;
        Ok(Self { root, content: Box::new(LayoutContent(layout)), stored_as: None, name: name.cloned() })
    }
}

/// Images of kiln's store.
pub struct StoreContent<'a> {
    store: &'a Store,
    /// Names of images with all their blobs: those of the same registry can be asked for blobs.
    holders: Vec<(Reference, BTreeSet<Digest>)>,
}

impl<'a> StoreContent<'a> {
    /// Looks up which images have which blobs.
    pub fn new(store: &'a Store) -> Result<Self, TransferError> {
        let holders = store.holders()?;
        let named = holders.into_iter().filter_map(|(name, blobs)| Some((name.parse().ok()?, blobs)));
        Ok(Self { store, holders: named.collect() })
    }
}

impl Content for StoreContent<'_> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransferError> {
        Ok(self.store.read_blob(&descriptor.digest, MAX_METADATA_BYTES)?)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransferError> {
        // Held until this process ends.
        self.store.blob_size(&descriptor.digest);
        let file = self.store.open_blob(&descriptor.digest)?;
        Ok(Box::new(VerifiedReader::new(file, descriptor.digest, Some(descriptor.size))))
    }

    fn repositories(&self, registry: &str, blob: &Digest) -> Vec<String> {
        let having =
            self.holders.iter().filter(|(name, blobs)| name.registry == registry && blobs.contains(blob));
        let mut repositories: Vec<String> = having.map(|(name, _)| name.repository.clone()).collect();
        repositories.dedup();
        repositories
    }
}

struct RegistryContent {
    client: Client,
    reference: Reference,
    /// Bytes of the root, which have been read already.
    root: Vec<u8>,
}

impl Content for RegistryContent {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransferError> {
        if Digest::of(&self.root) == descriptor.digest {
            return Ok(self.root.clone());
        }
        let child = Reference { tag: None, digest: Some(descriptor.digest), ..self.reference.clone() };
        Ok(self.client.manifest_raw(&child)?.bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransferError> {
        Ok(Box::new(RemoteBlob::open(&self.client, &self.reference, descriptor)))
    }

    fn fetch(
        &self,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), TransferError> {
        Ok(self.client.blob(&self.reference, descriptor, sink, progress)?)
    }

    fn repositories(&self, registry: &str, _: &Digest) -> Vec<String> {
        if registry == self.reference.registry { vec![self.reference.repository.clone()] } else { Vec::new() }
    }
}

struct LayoutContent(Layout);

impl Content for LayoutContent {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransferError> {
        Ok(self.0.blob_bytes(&descriptor.digest)?)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransferError> {
        let blob = self.0.blob(&descriptor.digest)?;
        let buffered = io::BufReader::with_capacity(128 * 1024, blob);
        Ok(Box::new(VerifiedReader::new(buffered, descriptor.digest, Some(descriptor.size))))
    }
}
