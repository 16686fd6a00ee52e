//! A new image of the same layers with a changed config.
//!
//! Invariants:
//! - layers are neither read nor written; the old image stays as it is unless its name is given to the new one;
//! - of an image of several platforms every chosen one is changed, and the others stay.

use std::collections::BTreeMap;

use crate::base::digest::Digest;
use crate::base::limits::MAX_METADATA_BYTES;
use crate::context::layout::is_index;
use crate::image::config::ImageConfig;
use crate::image::edit::Change;
use crate::image::manifest::{Descriptor, Index, Manifest, to_bytes};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::store::records::{ImageRecord, now};
use crate::store::{Store, StoreError};

/// Why an image cannot be edited.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EditError {
    #[error("there is no image `{0}`")]
    NotFound(String),
    #[error("the image `{name}` is malformed")]
    Malformed {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the image `{name}` has no platform {platform}")]
    NoPlatform { name: String, platform: Platform },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What to change.
#[derive(Debug, Clone, Default)]
pub struct Edit {
    /// Of the config, in this order.
    pub changes: Vec<Change>,
    /// Annotations of the manifest; none takes one away.
    pub annotations: BTreeMap<String, Option<String>>,
    /// Only images of this platform.
    pub platform: Option<Platform>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// Of the new manifest or index.
    pub digest: Digest,
    /// What could not be taken away from any platform's image, because it was not there.
    pub missing: Vec<String>,
    /// Attestations about the old images, which say nothing about the new ones.
    pub dropped_attestations: usize,
}

struct Editor<'a> {
    store: &'a Store,
    name: &'a str,
    edit: &'a Edit,
    /// For each change, whether it took place.
    done: Vec<bool>,
    size_bytes: u64,
}

/// Makes the new image of the one called `name` in the store, and gives it these names.
pub fn edit(store: &Store, name: &str, edit: &Edit, names: &[Reference]) -> Result<Edited, EditError> {
    let images = store.database().images()?;
    let image = images.into_iter().find(|image| image.name == name);
    let image = image.ok_or_else(|| EditError::NotFound(name.to_owned()))?;
    store.writing()?;
    let mut editor = Editor { store, name, edit, done: vec![false; edit.changes.len()], size_bytes: 0 };
    let bytes = store.read_blob(&image.digest, MAX_METADATA_BYTES)?;
    let mut root = Descriptor::new(&image.media_type, image.digest, bytes.len() as u64);
    let mut dropped_attestations = 0;
    if is_index(&root, &bytes) {
        let mut index: Index = serde_json::from_slice(&bytes).map_err(editor.malformed())?;
        dropped_attestations = editor.index(&mut index)?;
        root = editor.put(root, &to_bytes(&index))?;
    } else {
        root = editor.image(root)?;
    }
    for name in names {
        store.database().name_image(&ImageRecord {
            name: name.to_string(),
            media_type: root.media_type.clone(),
            digest: root.digest,
            size_bytes: editor.size_bytes,
            created: now(),
        })?;
    }
    store.write_index()?;
    let missing = edit.changes.iter().zip(&editor.done).filter(|(_, done)| !**done);
    let missing = missing.map(|(change, _)| change.to_string()).collect();
    Ok(Edited { digest: root.digest, missing, dropped_attestations })
}

/// The digest that an attestation of BuildKit is about.
fn subject(entry: &Descriptor) -> Option<&String> {
    entry.annotations.get("vnd.docker.reference.digest")
}

fn is_attestation(entry: &Descriptor) -> bool {
    subject(entry).is_some()
}

impl Editor<'_> {
    fn malformed(&self) -> impl FnOnce(serde_json::Error) -> EditError {
        let name = self.name.to_owned();
        |source| EditError::Malformed { name, source }
    }

    /// A changed document in place of the one that a descriptor points to.
    fn put(&mut self, old: Descriptor, bytes: &[u8]) -> Result<Descriptor, EditError> {
        let digest = self.store.put_blob(bytes)?;
        let size = bytes.len() as u64;
        self.size_bytes += size;
        Ok(Descriptor { digest, size, ..old })
    }

    /// Changes the images of an index. Gives how many attestations were dropped.
    fn index(&mut self, index: &mut Index) -> Result<usize, EditError> {
        let mut replaced = Vec::new();
        for entry in index.manifests.iter_mut().filter(|entry| !is_attestation(entry)) {
            let platform = entry.platform.clone().unwrap_or_else(Platform::host);
            let wanted = self.edit.platform.as_ref();
            if wanted.is_some_and(|wanted| wanted.distance(&platform) != Some(0)) {
                self.size_bytes += entry.size + self.unchanged(entry)?;
                continue;
            }
            replaced.push(entry.digest.to_string());
            *entry = self.image(entry.clone())?;
        }
        if let (Some(platform), true) = (&self.edit.platform, replaced.is_empty()) {
            return Err(EditError::NoPlatform { name: self.name.to_owned(), platform: platform.clone() });
        }
        let before = index.manifests.len();
        index.manifests.retain(|entry| subject(entry).is_none_or(|digest| !replaced.contains(digest)));
        Ok(before - index.manifests.len())
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, EditError> {
        let bytes = self.store.read_blob(&descriptor.digest, MAX_METADATA_BYTES)?;
        serde_json::from_slice(&bytes).map_err(self.malformed())
    }

    /// Bytes of config and layers of an image that stays.
    fn unchanged(&self, descriptor: &Descriptor) -> Result<u64, EditError> {
        let manifest = self.manifest(descriptor)?;
        Ok(manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.size).sum())
    }

    fn image(&mut self, descriptor: Descriptor) -> Result<Descriptor, EditError> {
        let mut manifest = self.manifest(&descriptor)?;
        let bytes = self.store.read_blob(&manifest.config.digest, MAX_METADATA_BYTES)?;
        let mut config = ImageConfig::from_bytes(&bytes).map_err(self.malformed())?;
        for (change, done) in self.edit.changes.iter().zip(&mut self.done) {
            *done |= change.apply(&mut config);
        }
        manifest.config = self.put(manifest.config.clone(), &config.to_bytes())?;
        for (name, value) in &self.edit.annotations {
            match value {
                Some(value) => drop(manifest.annotations.insert(name.clone(), value.clone())),
                None => drop(manifest.annotations.remove(name)),
            }
        }
        self.size_bytes += manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
        self.put(descriptor, &to_bytes(&manifest))
    }
}
