//! OCI image layouts as sources: a directory, or a tar of one (also `docker save` of recent versions, which is one).
//!
//! Invariants: every blob is verified against its digest before it is used; blob names are made from parsed digests,
//! so a layout cannot name a file outside itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use oci_spec::image::OciLayout;

use crate::base::digest::Digest;
use crate::base::limits::MAX_METADATA_BYTES;
use crate::image::manifest::{Descriptor, Index, Manifest, media_type};
use crate::image::platform::Platform;
use crate::sys::error::FsError;
use crate::sys::rootdir::RootDir;

/// Prefix of a layout in `--build-context` and `kiln run`.
pub const PREFIX: &str = "oci-layout://";

/// Why a layout cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LayoutError {
    #[error("cannot open the OCI layout `{}`", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is not an OCI layout: it has no `{missing}`", path.display())]
    NotALayout { path: PathBuf, missing: &'static str },
    #[error("the OCI layout `{}` has version `{version}`; kiln reads versions 1.x", path.display())]
    Version { path: PathBuf, version: String },
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("cannot read `{name}` of the OCI layout `{}`", path.display())]
    Read {
        path: PathBuf,
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("`{name}` of the OCI layout `{}` is malformed", path.display())]
    Malformed {
        path: PathBuf,
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("blob {expected} of the OCI layout `{}` has digest {actual}", path.display())]
    WrongDigest { path: PathBuf, expected: Digest, actual: Digest },
    #[error("the OCI layout `{}` has no image `{wanted}`; it has {have}", path.display())]
    NoImage { path: PathBuf, wanted: String, have: String },
    #[error("the OCI layout `{}` has no image for {platform}; it has {have}", path.display())]
    NoPlatform { path: PathBuf, platform: Platform, have: String },
}

/// An open layout.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Directory(RootDir),
    /// Offsets and sizes of the members of an uncompressed tar.
    Tar {
        file: File,
        members: BTreeMap<Vec<u8>, (u64, u64)>,
    },
}

/// A layout and what is wanted of it: `DIR[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutRef {
    /// Directory or tar.
    pub path: PathBuf,
    /// Tag (`org.opencontainers.image.ref.name`).
    pub tag: Option<String>,
    /// Digest of the manifest or index.
    pub digest: Option<Digest>,
}

impl LayoutRef {
    /// Reads what follows `oci-layout://`, relative to the current directory.
    pub fn parse(text: &str) -> Self {
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) => match digest.parse() {
                Ok(digest) => (rest, Some(digest)),
                Err(_) => (text, None),
            },
            None => (text, None),
        };
        if !Path::new(rest).exists()
            && let Some((path, tag)) = rest.rsplit_once(':')
            && !tag.contains('/')
        {
            return Self { path: path.into(), tag: Some(tag.to_owned()), digest };
        }
        Self { path: rest.into(), tag: None, digest }
    }
}

/// An image found in a layout.
#[derive(Debug, Clone)]
pub struct Found {
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// The parsed manifest.
    pub manifest: Manifest,
}

impl Layout {
    /// Opens a directory or an uncompressed tar.
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let fail = |source| LayoutError::Open { path: path.to_owned(), source };
        let files = if std::fs::metadata(path).map_err(fail)?.is_dir() {
            Files::Directory(RootDir::open(path)?)
        } else {
            let file = File::open(path).map_err(fail)?;
            Files::Tar { members: members(&file).map_err(fail)?, file }
        };
        let layout = Self { path: path.to_owned(), files };
        let needed = |name: &'static str| match layout.small(name) {
            Err(LayoutError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(LayoutError::NotALayout { path: path.to_owned(), missing: name })
            }
            result => result,
        };
        let marker: OciLayout = layout.parse("oci-layout", &needed("oci-layout")?)?;
        if !marker.image_layout_version().starts_with("1.") {
            let version = marker.image_layout_version().clone();
            return Err(LayoutError::Version { path: path.to_owned(), version });
        }
        needed("index.json")?;
        Ok(layout)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str) -> Result<Box<dyn Read + Send + '_>, LayoutError> {
        let fail = |source| LayoutError::Read { path: self.path.clone(), name: name.to_owned(), source };
        match &self.files {
            Files::Directory(root) => match root.open_file(name.as_bytes()) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(fail(error.source)),
            },
            Files::Tar { file, members } => {
                let (offset, size) = members
                    .get(name.as_bytes())
                    .copied()
                    .ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
                Ok(Box::new(Part { file, offset, left: size }))
            }
        }
    }

    fn small(&self, name: &str) -> Result<Vec<u8>, LayoutError> {
        let fail = |source| LayoutError::Read { path: self.path.clone(), name: name.to_owned(), source };
        let mut bytes = Vec::new();
        self.file(name)?.take(MAX_METADATA_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > MAX_METADATA_BYTES {
            return Err(fail(io::Error::other(format!("larger than {MAX_METADATA_BYTES} bytes"))));
        }
        Ok(bytes)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, LayoutError> {
        serde_json::from_slice(bytes).map_err(|source| LayoutError::Malformed {
            path: self.path.clone(),
            name: name.to_owned(),
            source,
        })
    }

    /// A blob as a stream. The reader must be verified by whoever uses it.
    pub fn blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send + '_>, LayoutError> {
        self.file(&blob_name(digest))
    }

    /// A small blob, verified.
    pub fn blob_bytes(&self, digest: &Digest) -> Result<Vec<u8>, LayoutError> {
        let bytes = self.small(&blob_name(digest))?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(LayoutError::WrongDigest { path: self.path.clone(), expected: *digest, actual });
        }
        Ok(bytes)
    }

    /// Finds the manifest of an image for a platform.
    pub fn find(&self, wanted: &LayoutRef, platform: &Platform) -> Result<Found, LayoutError> {
        let index: Index = self.parse("index.json", &self.small("index.json")?)?;
        let mut descriptor = self.choose(&index, wanted, platform)?;
        // An index may name another one; two levels are more than any tool writes.
        for _ in 0..4 {
            let bytes = self.blob_bytes(&descriptor.digest)?;
            if !is_index(&descriptor, &bytes) {
                let manifest = self.parse(&descriptor.digest.to_string(), &bytes)?;
                return Ok(Found { descriptor, manifest });
            }
            let index: Index = self.parse(&descriptor.digest.to_string(), &bytes)?;
            descriptor = index.choose(platform).cloned().ok_or_else(|| LayoutError::NoPlatform {
                path: self.path.clone(),
                platform: platform.clone(),
                have: platforms(&index),
            })?;
        }
        Err(LayoutError::NoImage {
            path: self.path.clone(),
            wanted: "(a manifest)".to_owned(),
            have: "indexes of indexes".to_owned(),
        })
    }

    /// The manifest or index that `wanted` names, all its platforms included.
    pub fn root(&self, wanted: &LayoutRef) -> Result<Descriptor, LayoutError> {
        let index: Index = self.parse("index.json", &self.small("index.json")?)?;
        self.choose(&index, wanted, &Platform::host())
    }

    fn choose(
        &self,
        index: &Index,
        wanted: &LayoutRef,
        platform: &Platform,
    ) -> Result<Descriptor, LayoutError> {
        let fail =
            |wanted: String| LayoutError::NoImage { path: self.path.clone(), wanted, have: names(index) };
        if let Some(digest) = &wanted.digest {
            // A digest may name any manifest in the layout, also one below an index.
            let direct = index.manifests.iter().find(|m| m.digest == *digest).cloned();
            return match direct {
                Some(found) => Ok(found),
                None if self.blob_bytes(digest).is_ok() => {
                    Ok(Descriptor::new("", *digest, self.blob_bytes(digest)?.len() as u64))
                }
                None => Err(fail(digest.to_string())),
            };
        }
        if let Some(tag) = &wanted.tag {
            let suffix = format!(":{tag}");
            let matches = |m: &&Descriptor| {
                m.annotations
                    .get("org.opencontainers.image.ref.name")
                    .is_some_and(|n| n == tag || n.ends_with(&suffix))
                    || m.annotations.get("io.containerd.image.name").is_some_and(|n| n.ends_with(&suffix))
            };
            return index.manifests.iter().rfind(matches).cloned().ok_or_else(|| fail(tag.clone()));
        }
        match &index.manifests[..] {
            [] => Err(fail("(any)".to_owned())),
            [only] => Ok(only.clone()),
            several => {
                let latest = LayoutRef { tag: Some("latest".to_owned()), ..wanted.clone() };
                let tagged =
                    several.iter().any(|m| m.annotations.contains_key("org.opencontainers.image.ref.name"));
                if tagged {
                    self.choose(index, &latest, platform)
                } else {
                    index.choose(platform).cloned().ok_or_else(|| fail(platform.to_string()))
                }
            }
        }
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Whether a document is an index, by its descriptor or, where that is silent, by its own shape.
pub fn is_index(descriptor: &Descriptor, bytes: &[u8]) -> bool {
    match descriptor.media_type.as_str() {
        media_type::OCI_INDEX | media_type::DOCKER_INDEX => true,
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => false,
        _ => serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|v| v.get("manifests").is_some()),
    }
}

fn names(index: &Index) -> String {
    let names: Vec<String> = index
        .manifests
        .iter()
        .map(|m| match m.annotations.get("org.opencontainers.image.ref.name") {
            Some(name) => format!("`{name}`"),
            None => m.digest.to_string(),
        })
        .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn platforms(index: &Index) -> String {
    let all: Vec<String> =
        index.manifests.iter().filter_map(|m| m.platform.as_ref()).map(ToString::to_string).collect();
    if all.is_empty() { "none that says its platform".to_owned() } else { all.join(", ") }
}

fn members(file: &File) -> io::Result<BTreeMap<Vec<u8>, (u64, u64)>> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = entry.path_bytes().into_owned();
            let name = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
            members.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(members)
}

struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let count = self.file.read_at(&mut buf[..most], self.offset)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::to_bytes;

    fn layout(dir: &Path) -> Digest {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let put = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
            digest
        };
        let config = Descriptor::new(media_type::OCI_CONFIG, put(b"{}"), 2);
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            config,
            layers: vec![],
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        };
        let bytes = to_bytes(&manifest);
        let digest = put(&bytes);
        let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64);
        descriptor.annotations.insert("org.opencontainers.image.ref.name".into(), "1".into());
        std::fs::write(dir.join("index.json"), to_bytes(&Index::new(vec![descriptor]))).unwrap();
        digest
    }

    #[test]
    fn finds_by_tag_and_digest_in_directory_and_tar() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let digest = layout(&path);
        let tar = dir.path().join("l.tar");
        let mut builder = tar::Builder::new(File::create(&tar).unwrap());
        builder.append_dir_all(".", &path).unwrap();
        builder.finish().unwrap();
        for path in [path, tar] {
            let text = path.display().to_string();
            let open = Layout::open(&path).unwrap();
            for reference in [text.clone(), format!("{text}:1"), format!("{text}@{digest}")] {
                let wanted = LayoutRef::parse(&reference);
                assert_eq!(wanted.path, path);
                assert_eq!(open.find(&wanted, &Platform::host()).unwrap().descriptor.digest, digest);
            }
            let error = open.find(&LayoutRef::parse(&format!("{text}:2")), &Platform::host()).unwrap_err();
            assert!(error.to_string().contains("no image `2`; it has `1`"), "{error}");
        }
    }

    #[test]
    fn a_changed_blob_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let digest = layout(dir.path());
        std::fs::write(dir.path().join(blob_name(&digest)), "{}").unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let wanted = LayoutRef { path: dir.path().into(), tag: None, digest: None };
        assert!(matches!(layout.find(&wanted, &Platform::host()), Err(LayoutError::WrongDigest { .. })));
    }
}
