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
use super::mirror;
use super::spec::Destination;
use crate::base::digest::Digest;
use crate::image::manifest::{Descriptor, Index, Manifest, to_bytes};
use crate::image::reference::Reference;
use crate::layer::blob::VerifiedReader;
use crate::snapshot::diff::DiffError;
use crate::snapshot::tree::{self, TarPart};
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
    #[error("cannot read blob {digest} for the output")]
    Blob {
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error(
        "a docker archive holds one platform, but {count} were built: choose one with --platform, or use type=oci"
    )]
    SeveralPlatforms { count: usize },
}

impl OutputFailure {
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
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

/// What an archive or a layout is made of, wherever its blobs are.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// Manifest or index.
    pub root: Descriptor,
    /// Everything, the root included, each once.
    pub blobs: Vec<Descriptor>,
    /// The images' manifests.
    pub images: Vec<Manifest>,
}

impl From<&BuiltIndex> for Parcel {
    fn from(built: &BuiltIndex) -> Self {
        let mut root = built.descriptor.clone();
        if built.is_index() {
            root.platform = None;
        }
        let images = built.images.iter().map(|image| image.manifest.clone()).collect();
        Self { root, blobs: built.blobs(), images }
    }
}

/// A name of an image in a layout or an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// A whole name.
    Image(Reference),
    /// Nothing but a tag.
    Tag(String),
}

impl Label {
    /// Labels of names.
    pub fn of(names: &[Reference]) -> Vec<Self> {
        names.iter().cloned().map(Self::Image).collect()
    }

    fn tag(&self) -> Option<&String> {
        match self {
            Self::Image(name) => name.tag.as_ref(),
            Self::Tag(tag) => Some(tag),
        }
    }
}

/// Where the blobs of a parcel are.
pub trait BlobShelf {
    /// A reader that reports an error at its end when the blob is not what its descriptor says.
    fn open_verified<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn io::Read + 's>, OutputFailure>;
}

impl BlobShelf for Store {
    fn open_verified<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn io::Read + 's>, OutputFailure> {
        let file = self.open_blob(&blob.digest)?;
        Ok(Box::new(VerifiedReader::new(file, blob.digest, Some(blob.size))))
    }
}

/// One descriptor for each name in `index.json`, or one without a name.
fn root_descriptors(parcel: &Parcel, labels: &[Label]) -> Vec<Descriptor> {
    if labels.is_empty() {
        return vec![parcel.root.clone()];
    }
    labels
        .iter()
        .map(|label| {
            let mut named = parcel.root.clone();
            if let Label::Image(name) = label {
                named.annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
            }
            if let Some(tag) = label.tag() {
                named.annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.clone());
            }
            named
        })
        .collect()
}

const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes a tar of an OCI layout; with `docker` also the `manifest.json` that `docker load` reads (fact 96).
pub fn write_archive(
    shelf: &dyn BlobShelf,
    parcel: &Parcel,
    labels: &[Label],
    destination: &Destination,
    docker: bool,
) -> Result<(), OutputFailure> {
    if docker && parcel.images.len() > 1 {
        return Err(OutputFailure::SeveralPlatforms { count: parcel.images.len() });
    }
    let mut documents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    documents.insert("oci-layout".to_owned(), OCI_LAYOUT.to_vec());
    documents.insert("index.json".to_owned(), to_bytes(&Index::new(root_descriptors(parcel, labels))));
    if docker {
        documents.insert("manifest.json".to_owned(), docker_manifest(parcel, labels));
    }
    let mut blobs: BTreeMap<String, &Descriptor> = BTreeMap::new();
    for blob in &parcel.blobs {
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
        let file = shelf.open_verified(blob)?;
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

/// Tells a blob that is damaged or cannot be read from an output that cannot be written: the errors of readers have
/// an error inside, those of files a number.
fn of_blob(blob: &Descriptor, path: &Path) -> impl FnOnce(io::Error) -> OutputFailure {
    let (digest, path) = (blob.digest, path.to_owned());
    move |source| match source.get_ref() {
        Some(_) => OutputFailure::Blob { digest, source },
        None => OutputFailure::Write { path, source },
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

fn docker_manifest(parcel: &Parcel, labels: &[Label]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        repo_tags: Vec<String>,
        layers: Vec<String>,
    }
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let names = labels.iter().filter_map(|label| match label {
        Label::Image(name) => name.tag.is_some().then(|| name.familiar()),
        Label::Tag(_) => None,
    });
    let repo_tags: Vec<String> = names.collect();
    let entries: Vec<Entry> = parcel
        .images
        .iter()
        .map(|manifest| Entry {
            config: blob(&manifest.config.digest),
            repo_tags: repo_tags.clone(),
            layers: manifest.layers.iter().map(|layer| blob(&layer.digest)).collect(),
        })
        .collect();
    serde_json::to_vec(&entries).expect("invariant: plain structs always serialise")
}

/// Writes an OCI layout directory, or adds the image to one that is there.
pub fn write_directory(
    shelf: &dyn BlobShelf,
    parcel: &Parcel,
    labels: &[Label],
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
    for blob in &parcel.blobs {
        let target = blobs.join(blob.digest.hex());
        if fs::metadata(&target).is_ok_and(|m| m.len() == blob.size) {
            continue;
        }
        let mut source = shelf.open_verified(blob)?;
        let mut copy = tempfile::Builder::new()
            .prefix(".kiln-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(&blobs)
            .map_err(fail())?;
        io::copy(&mut source, copy.as_file_mut()).map_err(of_blob(blob, path))?;
        copy.persist(&target).map_err(|e| fail()(e.error))?;
    }
    for added in root_descriptors(parcel, labels) {
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

/// Writes a root file system into a directory (`type=local`). Several platforms get a directory each. With `delete`,
/// what was there and is not in the result is removed.
pub fn write_tree(trees: &[FileTree], path: &Path, split: bool, delete: bool) -> Result<(), OutputFailure> {
    for FileTree { platform, root, beside } in trees {
        let target = if split { path.join(platform) } else { path.to_owned() };
        fs::create_dir_all(&target).map_err(OutputFailure::write(&target))?;
        if delete {
            mirror::remove_others(root, &target)?;
        }
        tree::copy_tree(root, &target, &tree::CopyOptions::default())
            .map_err(|source| OutputFailure::Tree { path: target.clone(), source })?;
        for (name, bytes) in beside {
            // The tree may have a symlink of this name, so nothing is written through it.
            let file =
                target.join(if split || trees.len() == 1 { name.clone() } else { named(name, platform) });
            put(&file, bytes).map_err(OutputFailure::write(&file))?;
        }
    }
    Ok(())
}

/// The name of a file of one platform among those of others (BuildKit exporter/local/fs.go).
fn named(name: &str, platform: &str) -> String {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => format!("{stem}.{platform}.{extension}"),
        _ => format!("{name}.{platform}"),
    }
}

/// A root file system to be written as files.
pub struct FileTree {
    /// Platform, as directories are called.
    pub platform: String,
    /// The files.
    pub root: RootDir,
    /// What is written beside them, by name.
    pub beside: Vec<(String, Vec<u8>)>,
}

/// Writes root file systems as a tar (`type=tar`), each in the directory of its platform when they are `split`, as they
/// have to be when there are several.
pub fn write_tree_tar(
    trees: &[FileTree],
    split: bool,
    epoch: Option<i64>,
    destination: &Destination,
) -> Result<(), OutputFailure> {
    let (target, mut writer) = Target::open(destination)?;
    let path = target.path();
    let parts: Vec<TarPart<'_>> = trees
        .iter()
        .map(|FileTree { platform, root, beside }| TarPart {
            directory: if split { platform } else { "" },
            root,
            beside,
        })
        .collect();
    tree::write_tree_tar(&parts, epoch, &mut writer)
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
