//! Images and file systems as files: OCI layout (tar or directory), docker archive, root file system.
//!
//! Invariants:
//! - a destination file appears whole or not at all (written beside it, then renamed);
//! - archives hold nothing of this machine: entries sorted by name, numeric owner 0, time 0 (semantics fact 95).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::assemble::BuiltIndex;
use super::spec::Destination;
use crate::image::manifest::{Descriptor, Index, to_bytes};
use crate::image::reference::Reference;
use crate::layer::blob::{BlobError, VerifiedReader};
use crate::snapshot::diff::{DiffError, LayerOptions};
use crate::snapshot::tree;
use crate::store::{Store, StoreError};
use crate::sys::rootdir::RootDir;

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OutputFailure {
    #[error("cannot write the output `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is not an OCI layout and is not empty, so nothing was written there", path.display())]
    NotALayout { path: PathBuf },
    #[error("cannot write the output `{}`", path.display())]
    Tree {
        path: PathBuf,
        #[source]
        source: DiffError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "a docker archive holds one platform, but {count} were built: choose one with --platform, or use type=oci"
    )]
    SeveralPlatforms { count: usize },
}

impl OutputFailure {
    fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

/// A file that takes its name when it is complete, something else that is written as it is (a pipe, a device), or
/// standard output.
enum Target {
    File { temporary: tempfile::NamedTempFile, path: PathBuf },
    Special { path: PathBuf },
    Stdout,
}

impl Target {
    fn open(destination: &Destination) -> Result<(Self, Box<dyn Write>), OutputFailure> {
        match destination {
            Destination::Stdout => {
                Ok((Self::Stdout, Box::new(BufWriter::with_capacity(256 * 1024, io::stdout()))))
            }
            Destination::Path(path) => {
                // A new file renamed over `/dev/null` or a fifo would take its place; one renamed over a symlink
                // would not be where the link leads.
                let path = &match fs::metadata(path) {
                    Ok(metadata) if metadata.is_file() => {
                        fs::canonicalize(path).map_err(OutputFailure::write(path))?
                    }
                    Ok(_) => {
                        let file = fs::OpenOptions::new()
                            .write(true)
                            .open(path)
                            .map_err(OutputFailure::write(path))?;
                        let writer = Box::new(BufWriter::with_capacity(256 * 1024, file));
                        return Ok((Self::Special { path: path.clone() }, writer));
                    }
                    Err(_) => path.clone(),
                };
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                fs::create_dir_all(parent).map_err(OutputFailure::write(parent))?;
                let temporary = tempfile::Builder::new()
                    .prefix(".kiln-")
                    .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                    .tempfile_in(parent)
                    .map_err(OutputFailure::write(path))?;
                let writer = temporary.reopen().map_err(OutputFailure::write(path))?;
                let writer = Box::new(BufWriter::with_capacity(256 * 1024, writer));
                Ok((Self::File { temporary, path: path.clone() }, writer))
            }
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::File { path, .. } | Self::Special { path } => path.clone(),
            Self::Stdout => PathBuf::from("-"),
        }
    }

    fn finish(self, mut writer: Box<dyn Write>) -> Result<(), OutputFailure> {
        let path = self.path();
        writer.flush().map_err(OutputFailure::write(&path))?;
        drop(writer);
        if let Self::File { temporary, path } = self {
            temporary.persist(&path).map_err(|e| OutputFailure::write(&path)(e.error))?;
        }
        Ok(())
    }
}

/// One descriptor for each name in `index.json`, or one without a name.
fn root_descriptors(image: &BuiltIndex, names: &[Reference]) -> Vec<Descriptor> {
    let mut root = image.descriptor.clone();
    if image.images.len() > 1 {
        root.platform = None;
    }
    if names.is_empty() {
        return vec![root];
    }
    names
        .iter()
        .map(|name| {
            let mut named = root.clone();
            named.annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
            if let Some(tag) = &name.tag {
                named.annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.clone());
            }
            named
        })
        .collect()
}

const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes a tar of an OCI layout; with `docker` also the `manifest.json` that `docker load` reads (fact 96).
pub fn write_archive(
    store: &Store,
    image: &BuiltIndex,
    names: &[Reference],
    destination: &Destination,
    docker: bool,
) -> Result<(), OutputFailure> {
    if docker && image.images.len() > 1 {
        return Err(OutputFailure::SeveralPlatforms { count: image.images.len() });
    }
    let mut documents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    documents.insert("oci-layout".to_owned(), OCI_LAYOUT.to_vec());
    documents.insert("index.json".to_owned(), to_bytes(&Index::new(root_descriptors(image, names))));
    if docker {
        documents.insert("manifest.json".to_owned(), docker_manifest(image, names));
    }
    let mut blobs: BTreeMap<String, Descriptor> = BTreeMap::new();
    for blob in image.blobs() {
        blobs.insert(format!("blobs/sha256/{}", blob.digest.hex()), blob);
    }
    let (target, writer) = Target::open(destination)?;
    let path = target.path();
    let fail = OutputFailure::write;
    let mut archive = tar::Builder::new(writer);
    for directory in ["blobs/", "blobs/sha256/"] {
        let header = header(0, 0o755, tar::EntryType::Directory);
        append(&mut archive, header, directory, io::empty()).map_err(fail(&path))?;
    }
    for (name, blob) in &blobs {
        let file = verified(store, blob)?;
        append(&mut archive, header(blob.size, 0o444, tar::EntryType::Regular), name, file)
            .map_err(of_blob(blob, &path))?;
    }
    for (name, bytes) in &documents {
        let header = header(bytes.len() as u64, 0o444, tar::EntryType::Regular);
        append(&mut archive, header, name, bytes.as_slice()).map_err(fail(&path))?;
    }
    let writer = archive.into_inner().map_err(fail(&path))?;
    target.finish(writer)
}

/// A blob on its way out: what the disk made of it since it was stored must not get into an image.
fn verified(store: &Store, blob: &Descriptor) -> Result<VerifiedReader<fs::File>, StoreError> {
    Ok(VerifiedReader::new(store.open_blob(&blob.digest)?, blob.digest, Some(blob.size)))
}

/// Tells a damaged blob from an output that cannot be written.
fn of_blob(blob: &Descriptor, path: &Path) -> impl FnOnce(io::Error) -> OutputFailure {
    let (digest, path) = (blob.digest, path.to_owned());
    move |error| {
        if error.get_ref().is_some_and(|cause| cause.is::<BlobError>()) {
            return StoreError::DamagedBlob { digest }.into();
        }
        OutputFailure::Write { path, source: error }
    }
}

fn header(size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append(
    archive: &mut tar::Builder<Box<dyn Write>>,
    mut header: tar::Header,
    name: &str,
    data: impl io::Read,
) -> io::Result<()> {
    header.set_path(name)?;
    header.set_cksum();
    archive.append(&header, data)
}

fn docker_manifest(image: &BuiltIndex, names: &[Reference]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        repo_tags: Vec<String>,
        layers: Vec<String>,
    }
    let blob = |digest: &crate::base::digest::Digest| format!("blobs/sha256/{}", digest.hex());
    let entries: Vec<Entry> = image
        .images
        .iter()
        .map(|one| Entry {
            config: blob(&one.config_digest),
            repo_tags: names.iter().filter(|name| name.tag.is_some()).map(Reference::familiar).collect(),
            layers: one.manifest.layers.iter().map(|layer| blob(&layer.digest)).collect(),
        })
        .collect();
    serde_json::to_vec(&entries).expect("invariant: plain structs always serialise")
}

/// Writes an OCI layout directory, or adds the image to one that is there.
pub fn write_directory(
    store: &Store,
    image: &BuiltIndex,
    names: &[Reference],
    path: &Path,
) -> Result<(), OutputFailure> {
    let fail = || OutputFailure::write(path);
    let blobs = path.join("blobs/sha256");
    let marker = path.join("oci-layout");
    let has_other_files = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if !marker.exists() && has_other_files() {
        return Err(OutputFailure::NotALayout { path: path.to_owned() });
    }
    fs::create_dir_all(&blobs).map_err(fail())?;
    let index_path = path.join("index.json");
    let mut index = match fs::read(&index_path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| fail()(e.into()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Index::new(Vec::new()),
        Err(error) => return Err(fail()(error)),
    };
    for blob in image.blobs() {
        let target = blobs.join(blob.digest.hex());
        if fs::metadata(&target).is_ok_and(|m| m.len() == blob.size) {
            continue;
        }
        let mut source = verified(store, &blob)?;
        let mut copy = tempfile::Builder::new()
            .prefix(".kiln-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(&blobs)
            .map_err(fail())?;
        io::copy(&mut source, copy.as_file_mut()).map_err(of_blob(&blob, path))?;
        copy.persist(&target).map_err(|e| fail()(e.error))?;
    }
    for added in root_descriptors(image, names) {
        let name = added.annotations.get("org.opencontainers.image.ref.name").cloned();
        // A name belongs to one image; an image without a name is listed once.
        index.manifests.retain(|m| match &name {
            Some(name) => m.annotations.get("org.opencontainers.image.ref.name") != Some(name),
            None => m.annotations.contains_key("org.opencontainers.image.ref.name"),
        });
        index.manifests.push(added);
    }
    put(&marker, OCI_LAYOUT).map_err(fail())?;
    put(&index_path, &to_bytes(&index)).map_err(fail())
}

/// Replaces a small file at once.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".kiln-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// Writes a root file system into a directory (`type=local`). Several platforms get a directory each.
pub fn write_tree(roots: &[(String, RootDir)], path: &Path, split: bool) -> Result<(), OutputFailure> {
    for (platform, root) in roots {
        let target = if split { path.join(platform) } else { path.to_owned() };
        fs::create_dir_all(&target).map_err(OutputFailure::write(&target))?;
        tree::copy_tree(root, &target, &tree::CopyOptions::default())
            .map_err(|source| OutputFailure::Tree { path: target, source })?;
    }
    Ok(())
}

/// Writes a root file system as a tar (`type=tar`).
pub fn write_tree_tar(
    root: &RootDir,
    epoch: Option<i64>,
    destination: &Destination,
) -> Result<(), OutputFailure> {
    let (target, mut writer) = Target::open(destination)?;
    let path = target.path();
    let options = LayerOptions { epoch, observer: None };
    tree::write_tree_tar(root, options, &mut writer)
        .map_err(|source| OutputFailure::Tree { path, source })?;
    target.finish(writer)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::FileTypeExt as _;

    use super::*;

    fn write(path: &Path) {
        let (target, mut writer) = Target::open(&Destination::Path(path.to_owned())).unwrap();
        writer.write_all(b"data").unwrap();
        target.finish(writer).unwrap();
    }

    #[test]
    fn a_fifo_is_written_to_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let reader = {
            let fifo = fifo.clone();
            std::thread::spawn(move || {
                let mut text = String::new();
                fs::File::open(fifo).unwrap().read_to_string(&mut text).unwrap();
                text
            })
        };
        write(&fifo);
        assert_eq!(reader.join().unwrap(), "data");
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_symlink_keeps_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        write(&link);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"data");
    }
}
