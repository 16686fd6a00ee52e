//! A cache in a directory: an OCI image layout, which a CI system may carry from one machine to the next.
//!
//! Invariants:
//! - a blob has its name only after it is whole; `index.json` is replaced as a whole, by one writer at a time;
//! - names of files are made from parsed digests, and nothing outside of the directory is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::artifact::Parts;
use super::{Cache, CacheError, Tag};
use crate::base::digest::{Digest, HashingWriter};
use crate::base::limits::MAX_METADATA_BYTES;
use crate::base::sink::BlobSink;
use crate::image::manifest::{Descriptor, Index, to_bytes};
use crate::image::reference::Reference;
use crate::registry::BlobSource;
use crate::sys::rootdir::RootDir;

/// Largest `index.json`: some 200,000 steps.
const MAX_INDEX_BYTES: u64 = 64 * 1024 * 1024;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Held locked while `index.json` is replaced.
const LOCK: &str = "index.json.lock";

/// Artifacts in a directory.
#[derive(Debug)]
pub struct DirectoryCache {
    path: PathBuf,
    /// Manifests by tag as last read or written here; `None` before the first look.
    index: Mutex<Option<BTreeMap<String, Descriptor>>>,
}

impl DirectoryCache {
    /// The cache in `path`, which need not exist before something is written.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), index: Mutex::default() }
    }

    fn io(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
        let path = path.to_owned();
        move |source| CacheError::Io { action, path, source }
    }

    fn root(&self) -> Result<RootDir, CacheError> {
        RootDir::open(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CacheError::NoDirectory { path: self.path.clone() },
            _ => error.into(),
        })
    }

    fn read_index(&self) -> Result<Index, CacheError> {
        let path = self.path.join("index.json");
        let Some(bytes) = self.root()?.read_file(b"index.json", MAX_INDEX_BYTES)? else {
            return Ok(Index::new(Vec::new()));
        };
        serde_json::from_slice(&bytes).map_err(|source| CacheError::Index { path, source })
    }

    /// The descriptor of a tag, from memory once the index was read.
    fn find(&self, tag: &Tag) -> Result<Option<Descriptor>, CacheError> {
        let mut known = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match &*known {
            Some(index) => index,
            None => known.insert(by_tag(&self.read_index()?)),
        };
        Ok(index.get(&tag.to_string()).cloned())
    }

    fn make(&self) -> Result<(), CacheError> {
        let blobs = self.path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(self.io("create", &blobs))?;
        let marker = self.path.join("oci-layout");
        if !marker.exists() {
            self.replace("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(())
    }

    /// Writes a file beside its place and renames it there.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), CacheError> {
        let target = self.path.join(name);
        let write = || {
            let mut file = temporary(&self.path)?;
            file.write_all(bytes)?;
            file.as_file().sync_data()?;
            file.persist(&target).map_err(|e| e.error)
        };
        write().map(drop).map_err(self.io("write", &target))
    }

    /// Replaces `index.json`; threads of this process wait at the first lock, other processes at the second.
    fn change_index(
        &self,
        change: impl FnOnce(&mut Index) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        let mut known = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path.join(LOCK);
        let lock = File::create(&path).map_err(self.io("create", &path))?;
        lock.lock().map_err(self.io("lock", &path))?;
        let mut index = self.read_index()?;
        change(&mut index)?;
        self.replace("index.json", &to_bytes(&index))?;
        *known = Some(by_tag(&index));
        Ok(())
    }

    pub(super) fn blob_name(digest: &Digest) -> String {
        format!("blobs/sha256/{}", digest.hex())
    }
}

fn by_tag(index: &Index) -> BTreeMap<String, Descriptor> {
    let named = index.manifests.iter().filter_map(|entry| Some((entry.annotations.get(REF_NAME)?, entry)));
    named.map(|(name, entry)| (name.clone(), entry.clone())).collect()
}

/// Readable by everybody once renamed, as files of a layout are.
fn temporary(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".kiln-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
}

impl Cache for DirectoryCache {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn repository(&self) -> Option<&Reference> {
        None
    }

    fn manifest(&self, tag: &Tag) -> Result<Option<Vec<u8>>, CacheError> {
        let Some(descriptor) = self.find(tag)? else { return Ok(None) };
        let place = || format!("{}:{tag}", self.name());
        if descriptor.size > MAX_METADATA_BYTES {
            return Err(CacheError::Artifact { place: place(), reason: "its manifest is too large" });
        }
        let mut bytes = Vec::new();
        self.blob(&descriptor, &mut bytes, &|_| ())?;
        Ok(Some(bytes))
    }

    fn has_manifest(&self, tag: &Tag) -> Result<bool, CacheError> {
        match self.find(tag) {
            Err(CacheError::NoDirectory { .. }) => Ok(false),
            found => Ok(found?.is_some()),
        }
    }

    fn blob(
        &self,
        blob: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), CacheError> {
        let path = self.path.join(Self::blob_name(&blob.digest));
        let file = match self.root()?.open_file(Self::blob_name(&blob.digest).as_bytes()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let reason = "a blob that it names is not there";
                return Err(CacheError::Artifact { place: path.display().to_string(), reason });
            }
            Err(error) => return Err(error.into()),
        };
        let mut hashed = HashingWriter::new(sink);
        // One byte more than there should be, so that a longer file shows.
        let mut bounded = io::Read::take(file, blob.size.saturating_add(1));
        io::copy(&mut bounded, &mut hashed).map_err(self.io("read", &path))?;
        let (_, actual, size) = hashed.finish();
        if actual != blob.digest || size != blob.size {
            let place = path.display().to_string();
            return Err(CacheError::WrongDigest { place, expected: blob.digest, actual });
        }
        progress(size);
        Ok(())
    }

    fn has_blob(&self, blob: &Descriptor, _beside: &[Reference]) -> Result<bool, CacheError> {
        let path = self.path.join(Self::blob_name(&blob.digest));
        Ok(fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == blob.size))
    }

    fn put_blob(&self, blob: &Descriptor, source: &dyn BlobSource) -> Result<(), CacheError> {
        self.make()?;
        let target = self.path.join(Self::blob_name(&blob.digest));
        let write = || {
            let mut file = temporary(&self.path.join("blobs/sha256"))?;
            let mut hashed = HashingWriter::new(file.as_file_mut());
            io::copy(&mut source.open(0)?, &mut hashed)?;
            let (_, actual, _) = hashed.finish();
            file.as_file().sync_data()?;
            if actual == blob.digest {
                file.persist(&target).map_err(|e| e.error)?;
            }
            Ok(actual)
        };
        let actual = write().map_err(self.io("write", &target))?;
        if actual != blob.digest {
            let place = "the blob to be written".to_owned();
            return Err(CacheError::WrongDigest { place, expected: blob.digest, actual });
        }
        Ok(())
    }

    fn put_manifest(&self, tag: &Tag, kind: &str, bytes: &[u8]) -> Result<(), CacheError> {
        let mut descriptor = Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64);
        self.put_blob(&descriptor, &bytes.to_vec())?;
        descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_string());
        self.change_index(|index| {
            index.manifests.retain(|entry| entry.annotations.get(REF_NAME) != Some(&tag.to_string()));
            index.manifests.push(descriptor);
            Ok(())
        })
    }

    fn keep_only(&self, tags: &BTreeSet<Tag>) -> Result<usize, CacheError> {
        let tags: BTreeSet<String> = tags.iter().map(Tag::to_string).collect();
        let mut wanted = BTreeSet::new();
        let mut removed = 0;
        self.change_index(|index| {
            let named =
                |entry: &&Descriptor| entry.annotations.get(REF_NAME).is_some_and(|tag| tags.contains(tag));
            // A step has the same manifest under each of its keys, not all of which a build has to know.
            let kept: BTreeSet<Digest> =
                index.manifests.iter().filter(named).map(|entry| entry.digest).collect();
            index.manifests.retain(|entry| kept.contains(&entry.digest));
            for entry in &index.manifests {
                wanted.insert(entry.digest);
                let mut bytes = Vec::new();
                if entry.size <= MAX_METADATA_BYTES
                    && self.blob(entry, &mut bytes, &|_| ()).is_ok()
                    && let Ok(parts) = Parts::of(&bytes)
                {
                    wanted.extend(parts.blobs().into_iter().map(|blob| blob.digest));
                }
            }
            Ok(())
        })?;
        let blobs = self.path.join("blobs/sha256");
        for entry in fs::read_dir(&blobs).map_err(self.io("read", &blobs))? {
            let path = entry.map_err(self.io("read", &blobs))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // Only what is named as a blob: another build may be writing beside it.
            let digest: Option<Digest> = format!("sha256:{name}").parse().ok();
            if digest.is_some_and(|digest| !wanted.contains(&digest)) {
                fs::remove_file(&path).map_err(self.io("remove", &path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}
