//! Image indexes (manifest lists) made of images: what `kiln manifest` does.
//!
//! Invariants: whatever an index names is in the store before the index has its name; an index has one image for each
//! platform, since readers take the first that fits.

use std::collections::BTreeMap;

use super::{Content, Inventory, Origin, StoreContent, TransferError, Watcher, keep, name_in_store};
use crate::base::digest::Digest;
use crate::base::limits::MAX_METADATA_BYTES;
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Index, Manifest, media_type, to_bytes};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::store::Store;
use crate::store::records::{ImageRecord, now};

/// An index that is being made or changed.
pub struct ImageList<'a> {
    store: &'a Store,
    name: Reference,
    index: Index,
}

/// Changes of an entry, or of the index itself.
#[derive(Debug, Clone, Default)]
pub struct ListChange {
    /// What the image is for.
    pub platform: Option<Platform>,
    /// Added, or in place of what was there; an empty value takes the annotation away.
    pub annotations: Vec<(String, String)>,
}

impl<'a> ImageList<'a> {
    /// A list without images.
    pub fn new(store: &'a Store, name: &Reference) -> Self {
        Self { store, name: name.clone(), index: Index::new(Vec::new()) }
    }

    /// The list of that name; `None` when there is none.
    pub fn open(store: &'a Store, name: &Reference) -> Result<Option<Self>, TransferError> {
        let full = name.to_string();
        let Some(image) = store.database().images()?.into_iter().find(|image| image.name == full) else {
            return Ok(None);
        };
        let bytes = store.read_blob(&image.digest, MAX_METADATA_BYTES)?;
        let is_list = matches!(image.media_type.as_str(), media_type::OCI_INDEX | media_type::DOCKER_INDEX);
        if !is_list {
            return Err(TransferError::NotAList(name.familiar()));
        }
        let index = serde_json::from_slice(&bytes).map_err(|source| TransferError::Malformed {
            what: "index",
            digest: image.digest,
            source,
        })?;
        Ok(Some(Self { store, name: name.clone(), index }))
    }

    /// Reads what an image is made of, as it would be added. Of an index everything is added.
    pub fn inventory(&self, origin: &Origin<'_>) -> Result<Inventory, TransferError> {
        Inventory::read(&*origin.content, &origin.root, None)
    }

    /// Brings an image into the store and adds its manifests. One that is for the same platform as an entry takes its
    /// place where `replace` says so, and is refused otherwise.
    pub fn add(
        &mut self,
        origin: &Origin<'_>,
        inventory: &Inventory,
        replace: bool,
        watcher: Watcher<'_>,
    ) -> Result<(), TransferError> {
        keep(&*origin.content, inventory, self.store, &[], watcher)?;
        for document in inventory.documents() {
            let Some(manifest) = &document.manifest else { continue };
            let mut entry = document.descriptor.clone();
            // The name that a layout has for it is not this index' business.
            entry.annotations.remove("org.opencontainers.image.ref.name");
            entry.annotations.remove("io.containerd.image.name");
            if entry.platform.is_none() {
                entry.platform = platform_of(&*origin.content, manifest)?;
            }
            self.insert(entry, replace)?;
        }
        Ok(())
    }

    fn insert(&mut self, entry: Descriptor, replace: bool) -> Result<(), TransferError> {
        if let Some(same) = self.index.manifests.iter_mut().find(|known| known.digest == entry.digest) {
            *same = entry;
            return Ok(());
        }
        // Attestations are all for `unknown/unknown`.
        let platform = entry.platform.as_ref().filter(|platform| platform.os != "unknown");
        let rival = self
            .index
            .manifests
            .iter_mut()
            .find(|known| platform.is_some() && known.platform.as_ref() == platform);
        match (rival, platform) {
            (Some(rival), _) if replace => *rival = entry,
            (Some(rival), Some(platform)) => {
                return Err(TransferError::SamePlatform {
                    platform: platform.to_string(),
                    digest: rival.digest,
                });
            }
            _ => self.index.manifests.push(entry),
        }
        Ok(())
    }

    /// Takes an entry out: a digest or its beginning, a platform, or the name of an image of the store.
    pub fn remove(&mut self, which: &str) -> Result<(), TransferError> {
        let position = self.position(which)?;
        self.index.manifests.remove(position);
        Ok(())
    }

    /// Changes an entry, named as for [`ImageList::remove`], or the index itself.
    pub fn change(&mut self, which: Option<&str>, change: &ListChange) -> Result<(), TransferError> {
        let annotations = match which {
            None => &mut self.index.annotations,
            Some(which) => {
                let position = self.position(which)?;
                let entry = &mut self.index.manifests[position];
                if change.platform.is_some() {
                    entry.platform.clone_from(&change.platform);
                }
                &mut entry.annotations
            }
        };
        for (key, value) in &change.annotations {
            match value.is_empty() {
                true => annotations.remove(key),
                false => annotations.insert(key.clone(), value.clone()),
            };
        }
        Ok(())
    }

    fn position(&self, which: &str) -> Result<usize, TransferError> {
        let missing = || TransferError::NoEntry { list: self.name.familiar(), which: which.to_owned() };
        let of_image = super::find_in_store(self.store, which)?.map(|image| image.digest);
        let hex = which.strip_prefix("sha256:").unwrap_or(which).to_ascii_lowercase();
        let is_hex = hex.len() >= super::keep::MIN_ID_DIGITS && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let platform = which.contains('/').then(|| which.parse::<Platform>().ok()).flatten();
        let fits = |entry: &Descriptor| {
            of_image == Some(entry.digest)
                || is_hex && entry.digest.hex().starts_with(&hex)
                || platform.is_some() && entry.platform == platform
        };
        self.index.manifests.iter().position(fits).ok_or_else(missing)
    }

    /// Stores the index under its name, and gives its digest.
    pub fn save(mut self) -> Result<Digest, TransferError> {
        let docker = |entry: &Descriptor| entry.media_type == media_type::DOCKER_MANIFEST;
        let all_docker = !self.index.manifests.is_empty() && self.index.manifests.iter().all(docker);
        // Engines that know docker's types only know them all or none.
        let kind = if all_docker { media_type::DOCKER_INDEX } else { media_type::OCI_INDEX };
        kind.clone_into(&mut self.index.media_type);
        let bytes = to_bytes(&self.index);
        let digest = self.store.put_blob(&bytes)?;
        let content = StoreContent::new(self.store)?;
        let root = Descriptor::new(kind, digest, bytes.len() as u64);
        let size_bytes = Inventory::read(&content, &root, None)?.size_bytes();
        let record = ImageRecord {
            name: self.name.to_string(),
            media_type: kind.to_owned(),
            digest,
            size_bytes,
            created: now(),
        };
        name_in_store(self.store, std::iter::once(record))?;
        Ok(digest)
    }

    /// The entries, for people: platform and digest.
    pub fn entries(&self) -> BTreeMap<String, Digest> {
        let shown = |entry: &Descriptor| {
            entry.platform.as_ref().map_or_else(|| "no platform".to_owned(), ToString::to_string)
        };
        self.index.manifests.iter().map(|entry| (shown(entry), entry.digest)).collect()
    }
}

/// What the config says; nothing for what is no image.
fn platform_of(content: &dyn Content, manifest: &Manifest) -> Result<Option<Platform>, TransferError> {
    if !matches!(manifest.config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
        return Ok(None);
    }
    let digest = manifest.config.digest;
    let mut bytes = Vec::new();
    content.fetch(&manifest.config, &mut bytes, &|_| ())?;
    let config = ImageConfig::from_bytes(&bytes).map_err(|source| TransferError::Malformed {
        what: "config",
        digest,
        source,
    })?;
    if config.architecture.is_empty() {
        return Ok(None);
    }
    let platform = Platform::new(&config.os, &config.architecture, &config.variant);
    Ok(Some(Platform { os_version: config.os_version, ..platform }))
}
