//! Taking names of images away.
//!
//! Invariants: data that another image needs, that a cached step stands on, or that a running process uses stays.

use std::collections::BTreeSet;

use super::collect::Collected;
use super::mounts::InUse;
use super::usage::Kind;
use super::{Store, StoreError, Thing};
use crate::base::digest::Digest;
use crate::sys::range_lock::Locks;

/// What became of an image's name.
#[derive(Debug)]
pub enum ImageRemoval {
    /// It is gone, with the documents that nothing else needs.
    Removed(Collected),
    /// Running processes use the image; their ids, as far as they are known.
    InUse(Vec<u32>),
    /// These images have it among their platforms.
    PartOf(Vec<String>),
    /// There was none.
    Missing,
}

impl Store {
    /// Which blobs each image has that this store knows by name: its own and base images.
    pub fn holders(&self) -> Result<Vec<(String, BTreeSet<Digest>)>, StoreError> {
        let own = self.database.images()?.into_iter().map(|image| (image.name, image.digest));
        let mut roots: Vec<(String, Digest)> = own.chain(self.database.all_resolved()?).collect();
        roots.sort();
        roots.dedup();
        Ok(roots.into_iter().map(|(name, digest)| (name, self.parts(&digest).blobs)).collect())
    }

    /// Takes a name away and removes what only that image needed. Layers stay as cache. `seen` is what was to be seen of
    /// other processes before this one entered its user namespace.
    pub fn remove_image(&self, name: &str, in_use: InUse, seen: &Locks) -> Result<ImageRemoval, StoreError> {
        let images = self.database.images()?;
        let Some(image) = images.iter().find(|image| image.name == name) else {
            return Ok(ImageRemoval::Missing);
        };
        // Under another name too, nothing is lost with this one.
        let is_last = images.iter().filter(|other| other.digest == image.digest).count() == 1;
        if in_use == InUse::Keep && is_last {
            let (lessees, manifest) = (self.lessees()?, Thing::Blob(&image.digest));
            if lessees.has(manifest)? {
                return Ok(ImageRemoval::InUse(lessees.users(manifest, seen)));
            }
            let others = images.iter().filter(|other| other.digest != image.digest);
            let holders: Vec<String> = others
                .filter(|other| self.parts(&other.digest).blobs.contains(&image.digest))
                .map(|other| other.name.clone())
                .collect();
            if !holders.is_empty() {
                return Ok(ImageRemoval::PartOf(holders));
            }
        }
        let own: BTreeSet<String> = self.parts(&image.digest).blobs.iter().map(ToString::to_string).collect();
        self.writing()?;
        self.database.unname_image(name)?;
        self.write_index()?;
        let usage = self.usage()?;
        let rows = &usage.rows;
        let cached: BTreeSet<String> = rows
            .blobs
            .iter()
            .map(|(_, _, digest, _)| digest)
            .chain(&rows.downloads)
            .chain(&rows.resolved)
            .map(ToString::to_string)
            .collect();
        let useless = usage.items.iter().enumerate().filter(|(_, item)| {
            item.kind == Kind::Blob
                && item.images.is_empty()
                && own.contains(&item.id)
                && !cached.contains(&item.id)
        });
        let chosen = useless.map(|(index, _)| index).collect();
        Ok(ImageRemoval::Removed(self.remove_chosen(&usage, chosen, None)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::DiffId;
    use crate::store::records::{BlobRecord, ImageRecord};

    fn name(store: &Store, name: &str, digest: Digest) {
        let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
        let record = ImageRecord { name: name.to_owned(), media_type, digest, size_bytes: 0, created: 0 };
        store.database().name_image(&record).unwrap();
    }

    /// A store with the image `a`, the index `all` of it, and another process that has it open.
    fn store(dir: &tempfile::TempDir) -> (Store, Digest, Digest, Digest) {
        let store = Store::open(&dir.path().join("s")).unwrap();
        let layer = store.put_blob(b"layer").unwrap();
        let manifest =
            store.put_blob(format!(r#"{{"layers":[{{"digest":"{layer}"}}]}}"#).as_bytes()).unwrap();
        let index = format!(r#"{{"manifests":[{{"digest":"{manifest}"}}]}}"#);
        let index = store.put_blob(index.as_bytes()).unwrap();
        let record = BlobRecord { media_type: String::new(), digest: layer, size_bytes: 5 };
        store.database().add_blob(&DiffId(layer), "gzip", &record).unwrap();
        name(&store, "a", manifest);
        name(&store, "all", index);
        drop(store);
        (Store::open(&dir.path().join("s")).unwrap(), layer, manifest, index)
    }

    #[test]
    fn an_image_that_an_index_holds_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (store, layer, manifest, index) = store(&dir);
        let removal = store.remove_image("a", InUse::Keep, &Locks::default()).unwrap();
        assert!(matches!(removal, ImageRemoval::PartOf(holders) if holders == ["all"]));
        let ImageRemoval::Removed(removed) =
            store.remove_image("a", InUse::Force, &Locks::default()).unwrap()
        else {
            panic!()
        };
        assert!(removed.items.is_empty() && store.stat_blob(&manifest).is_some());
        let ImageRemoval::Removed(removed) =
            store.remove_image("all", InUse::Keep, &Locks::default()).unwrap()
        else {
            panic!()
        };
        assert_eq!(removed.items.len(), 2);
        assert!(store.stat_blob(&manifest).is_none() && store.stat_blob(&index).is_none());
        assert!(store.stat_blob(&layer).is_some(), "layers stay as cache");
        assert!(matches!(
            store.remove_image("a", InUse::Force, &Locks::default()).unwrap(),
            ImageRemoval::Missing
        ));
    }

    #[test]
    fn an_image_that_a_process_uses_keeps_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, manifest, _) = store(&dir);
        store.remove_image("all", InUse::Force, &Locks::default()).unwrap();
        name(&store, "b", manifest);
        let user = Store::open(store.root()).unwrap();
        assert!(user.blob_size(&manifest).is_some());
        assert!(matches!(
            store.remove_image("b", InUse::Keep, &Locks::default()).unwrap(),
            ImageRemoval::Removed(_)
        ));
        assert!(matches!(
            store.remove_image("a", InUse::Keep, &Locks::default()).unwrap(),
            ImageRemoval::InUse(_)
        ));
        store.remove_image("a", InUse::Force, &Locks::default()).unwrap();
        assert!(store.stat_blob(&manifest).is_some(), "its data stays until nobody uses it");
    }
}
