//! Archives of `docker save` before version 25 and of `podman save`: `manifest.json`, a config, and a tar for each layer,
//! but no OCI layout (docker's image specification v1.2, "Combined Image JSON + Filesystem Changeset Format").
//!
//! Invariants: the manifest that such an archive lacks is made here, of OCI's media types, and is the same for the same
//! archive; every member is hashed once when the archive is opened and verified whenever it is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Content, TransferError};
use crate::base::digest::{Digest, HashingWriter};
use crate::base::limits::MAX_METADATA_BYTES;
use crate::image::manifest::{Descriptor, Manifest, media_type, to_bytes};
use crate::image::reference::Reference;
use crate::layer::blob::VerifiedReader;

/// Symlinks from a layer to another one with the same content, one after the other.
const MAX_LINKS: usize = 8;

/// An opened archive.
pub(super) struct DockerArchive {
    path: PathBuf,
    file: File,
    manifest: Vec<u8>,
    /// Where blobs are: offset and size.
    blobs: BTreeMap<Digest, (u64, u64)>,
}

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What a member is.
enum Member {
    File(u64, u64),
    Link(String),
}

impl DockerArchive {
    /// Opens an archive; `None` when it has no `manifest.json`. `name` chooses among several images.
    pub(super) fn open(path: &Path, name: Option<&Reference>) -> Result<Option<Self>, TransferError> {
        let fail = |source| TransferError::Archive { path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let members = members(&file).map_err(fail)?;
        let find = |name: &str| resolve(&members, name).ok_or_else(|| fail(missing(name)));
        if resolve(&members, "manifest.json").is_none() {
            return Ok(None);
        }
        let small = |name: &str| -> Result<Vec<u8>, TransferError> {
            let (offset, size) = find(name)?;
            if size > MAX_METADATA_BYTES {
                return Err(fail(io::Error::other(format!(
                    "`{name}` is larger than {MAX_METADATA_BYTES} bytes"
                ))));
            }
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, offset).map_err(fail)?;
            Ok(bytes)
        };
        let entries: Vec<Entry> = serde_json::from_slice(&small("manifest.json")?)
            .map_err(|error| fail(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        let entry = choose(&entries, name).ok_or_else(|| {
            let names = entries.iter().flat_map(|entry| entry.repo_tags.iter().flatten().cloned());
            TransferError::NotInArchive { path: path.to_owned(), have: names.collect::<Vec<_>>().join(", ") }
        })?;
        let mut blobs = BTreeMap::new();
        let config = small(&entry.config)?;
        let digest = Digest::of(&config);
        blobs.insert(digest, find(&entry.config)?);
        let config = Descriptor::new(media_type::OCI_CONFIG, digest, config.len() as u64);
        let mut layers = Vec::new();
        for layer in &entry.layers {
            let (offset, size) = find(layer)?;
            let mut hashed = HashingWriter::new(io::sink());
            let part = Part { file: &file, offset, left: size };
            io::copy(&mut io::BufReader::with_capacity(1 << 20, part), &mut hashed).map_err(fail)?;
            let (_, digest, read) = hashed.finish();
            if read != size {
                return Err(fail(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut magic = [0; 2];
            let is_gzip =
                file.read_at(&mut magic, offset).map_err(fail)? == 2 && magic == [0x1f, 0x8b] && size > 2;
            let kind = if is_gzip { media_type::OCI_LAYER_GZIP } else { media_type::OCI_LAYER };
            blobs.insert(digest, (offset, size));
            layers.push(Descriptor::new(kind, digest, size));
        }
        let manifest = to_bytes(&Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            config,
            layers,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        });
        Ok(Some(Self { path: path.to_owned(), file, manifest, blobs }))
    }

    /// The manifest that was made.
    pub(super) fn root(&self) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&self.manifest), self.manifest.len() as u64)
    }
}

impl Content for DockerArchive {
    fn document(&self, _: &Descriptor) -> Result<Vec<u8>, TransferError> {
        // There is no other one.
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, TransferError> {
        let (offset, size) =
            self.blobs.get(&descriptor.digest).copied().ok_or_else(|| TransferError::Archive {
                path: self.path.clone(),
                source: missing(&descriptor.digest.to_string()),
            })?;
        let part = io::BufReader::with_capacity(128 * 1024, Part { file: &self.file, offset, left: size });
        Ok(Box::new(VerifiedReader::new(part, descriptor.digest, Some(descriptor.size))))
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("it has no `{name}`"))
}

/// The image of that name, or the only one.
fn choose<'a>(entries: &'a [Entry], name: Option<&Reference>) -> Option<&'a Entry> {
    let Some(name) = name else {
        return match entries {
            [only] => Some(only),
            _ => None,
        };
    };
    let is_named = |entry: &&Entry| {
        let names = entry.repo_tags.iter().flatten();
        names.filter_map(|text| text.parse::<Reference>().ok()).any(|known| known == *name)
    };
    entries.iter().find(is_named)
}

fn members(file: &File) -> io::Result<BTreeMap<String, Member>> {
    let mut reader = file;
    reader.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(64 * 1024, reader));
    let mut members = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        // Names of such archives are made by engines: digests and two fixed ones.
        let Ok(name) = String::from_utf8(entry.path_bytes().into_owned()) else { continue };
        let member = match entry.header().entry_type() {
            kind if kind.is_file() => Member::File(entry.raw_file_position(), entry.size()),
            kind if kind.is_symlink() || kind.is_hard_link() => {
                let target = entry.link_name_bytes().map(|bytes| bytes.into_owned()).unwrap_or_default();
                let Ok(target) = String::from_utf8(target) else { continue };
                let base =
                    if kind.is_symlink() { name.rsplit_once('/').map_or("", |(base, _)| base) } else { "" };
                Member::Link(joined(base, &target))
            }
            _ => continue,
        };
        members.insert(joined("", &name), member);
    }
    Ok(members)
}

/// `a/b` and `../c` make `a/c`; what leads out of the archive ends at its root.
fn joined(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let relative = if path.starts_with('/') { "" } else { base };
    for part in relative.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn resolve(members: &BTreeMap<String, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = joined("", name);
    for _ in 0..MAX_LINKS {
        match members.get(&name)? {
            Member::File(offset, size) => return Some((*offset, *size)),
            Member::Link(target) => name.clone_from(target),
        }
    }
    None
}

struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with two images, whose second layers are one, by a link.
    fn archive() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.as_file());
        let mut add = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content).unwrap();
        };
        add("one/layer.tar", b"first");
        add("config.json", br#"{"architecture":"amd64","os":"linux"}"#);
        add(
            "manifest.json",
            br#"[{"Config":"config.json","RepoTags":["a:1"],"Layers":["one/layer.tar","two/layer.tar"]},
                 {"Config":"config.json","RepoTags":null,"Layers":[]}]"#,
        );
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "two/layer.tar", "../one/layer.tar").unwrap();
        builder.finish().unwrap();
        drop(builder);
        file
    }

    #[test]
    fn an_image_is_found_and_its_layers_with_it() {
        let file = archive();
        let name: Reference = "a:1".parse().unwrap();
        let opened = DockerArchive::open(file.path(), Some(&name)).unwrap().unwrap();
        let manifest: Manifest = serde_json::from_slice(&opened.document(&opened.root()).unwrap()).unwrap();
        assert_eq!(manifest.layers.len(), 2);
        assert_eq!(manifest.layers[0], manifest.layers[1]);
        assert_eq!(manifest.layers[0].digest, Digest::of(b"first"));
        let mut text = String::new();
        opened.blob(&manifest.layers[1]).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        for wanted in [None, Some("b".parse().unwrap())] {
            let error = DockerArchive::open(file.path(), wanted.as_ref()).err().unwrap();
            assert!(matches!(error, TransferError::NotInArchive { .. }), "{error:?}");
        }
    }

    #[test]
    fn other_files_are_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 1024]).unwrap();
        assert!(DockerArchive::open(file.path(), None).unwrap().is_none());
        std::fs::write(file.path(), vec![b'x'; 2000]).unwrap();
        assert!(DockerArchive::open(file.path(), None).is_err());
    }

    #[test]
    fn paths_stay_in_the_archive() {
        assert_eq!(joined("a/b", "../c"), "a/c");
        assert_eq!(joined("a", "../../../etc/passwd"), "etc/passwd");
        assert_eq!(joined("a", "/x/./y"), "x/y");
    }
}
