//! A reader of images that shares no code with kiln: archives and directories, with all layers applied in memory.
//!
//! Invariants: reading checks every digest and size, every diff_id, and that the history has a line for each layer.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use crate::base::digest;

/// One file of the root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink(String),
    /// Major and minor number.
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Other,
}

/// One layer.
pub struct Layer {
    pub media_type: String,
    pub digest: String,
    /// Names as the tar has them, in its order.
    pub names: Vec<String>,
}

/// An image, read and checked.
pub struct Image {
    /// Digest of what index.json names.
    pub digest: String,
    pub annotations: Value,
    pub config_digest: String,
    pub manifest: Value,
    /// The whole config blob.
    pub config: Value,
    pub layers: Vec<Layer>,
    pub files: BTreeMap<String, Entry>,
}

/// The files of a layout by path.
pub type Layout = BTreeMap<String, Vec<u8>>;

/// Reads a tar of a layout.
pub fn layout_of_archive(path: &Path) -> Layout {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("no archive {}: {e}", path.display()));
    let mut layout = Layout::new();
    for entry in tar::Archive::new(file).entries().expect("tar") {
        let mut entry = entry.expect("tar entry");
        let name = entry.path().expect("name").display().to_string();
        if entry.header().entry_type().is_file() {
            let mut data = Vec::new();
            entry.read_to_end(&mut data).expect("tar data");
            assert!(layout.insert(name.clone(), data).is_none(), "`{name}` is in the archive twice");
        }
    }
    layout
}

/// Reads the files of a directory.
pub fn layout_of_directory(path: &Path) -> Layout {
    let mut layout = Layout::new();
    for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
        let entry = entry.expect("readable layout");
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(path).expect("below").display().to_string();
            layout.insert(name, fs::read(entry.path()).expect("layout file"));
        }
    }
    layout
}

/// A JSON file of a layout.
pub fn json_of(layout: &Layout, name: &str) -> Value {
    let bytes = layout.get(name).unwrap_or_else(|| panic!("the layout lacks `{name}`"));
    serde_json::from_slice(bytes).expect("JSON")
}

fn blob<'a>(layout: &'a Layout, descriptor: &Value) -> &'a [u8] {
    let name = descriptor["digest"].as_str().expect("digest");
    let path = format!("blobs/sha256/{}", name.trim_start_matches("sha256:"));
    let bytes = layout.get(&path).unwrap_or_else(|| panic!("the layout lacks `{path}`"));
    assert_eq!(digest(bytes), name, "content of a blob");
    assert_eq!(Some(bytes.len() as u64), descriptor["size"].as_u64(), "size of {name}");
    bytes
}

impl Image {
    /// Reads the only image of an OCI archive.
    #[track_caller]
    pub fn read_archive(path: &Path) -> Self {
        let layout = layout_of_archive(path);
        let index = json_of(&layout, "index.json");
        let manifests = index["manifests"].as_array().expect("manifests");
        assert_eq!(manifests.len(), 1, "images in the archive: {index}");
        Self::read(&layout, &manifests[0])
    }

    /// Reads the image that a descriptor in a layout names.
    #[track_caller]
    pub fn read(layout: &Layout, descriptor: &Value) -> Self {
        assert_eq!(json_of(layout, "oci-layout")["imageLayoutVersion"], "1.0.0");
        let mut manifest: Value = serde_json::from_slice(blob(layout, descriptor)).expect("manifest");
        if let Some(children) = manifest["manifests"].as_array() {
            assert_eq!(children.len(), 1, "platforms: {manifest}");
            manifest = serde_json::from_slice(blob(layout, &children[0].clone())).expect("manifest");
        }
        let config: Value = serde_json::from_slice(blob(layout, &manifest["config"])).expect("config");
        let descriptors = manifest["layers"].as_array().expect("layers").clone();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("diff_ids");
        assert_eq!(descriptors.len(), diff_ids.len(), "layers and diff_ids");
        let history = config["history"].as_array().expect("history");
        let filled = history.iter().filter(|line| line["empty_layer"] != true).count();
        assert_eq!(filled, descriptors.len(), "history lines with a layer: {history:?}");
        let mut image = Self {
            digest: descriptor["digest"].as_str().expect("digest").to_owned(),
            annotations: descriptor["annotations"].clone(),
            config_digest: manifest["config"]["digest"].as_str().expect("digest").to_owned(),
            layers: Vec::new(),
            files: BTreeMap::new(),
            manifest: manifest.clone(),
            config: config.clone(),
        };
        for (descriptor, diff_id) in descriptors.iter().zip(diff_ids) {
            let media_type = descriptor["mediaType"].as_str().expect("media type").to_owned();
            let tar = decompress(&media_type, blob(layout, descriptor));
            assert_eq!(digest(&tar), diff_id.as_str().expect("diff_id"), "diff_id");
            let names = apply(&mut image.files, &tar);
            let digest = descriptor["digest"].as_str().expect("digest").to_owned();
            image.layers.push(Layer { media_type, digest, names });
        }
        image
    }

    /// A file or directory that must be there.
    #[track_caller]
    pub fn entry(&self, path: &str) -> &Entry {
        self.files.get(path.trim_start_matches('/')).unwrap_or_else(|| {
            let names: Vec<_> = self.files.keys().filter(|name| !name.starts_with("bin/")).collect();
            panic!("the image lacks `{path}`; it has {names:?}")
        })
    }

    pub fn has(&self, path: &str) -> bool {
        self.files.contains_key(path.trim_start_matches('/'))
    }

    /// Content of a file as text.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        let entry = self.entry(path);
        assert_eq!(entry.kind, Kind::File, "`{path}`");
        String::from_utf8(entry.data.clone()).expect("text")
    }

    /// Content of a file as lines.
    #[track_caller]
    pub fn lines(&self, path: &str) -> Vec<String> {
        self.text(path).lines().map(str::to_owned).collect()
    }

    /// The `config` object of the config.
    pub fn settings(&self) -> &Value {
        &self.config["config"]
    }

    /// `created_by` of every line of the history.
    pub fn history(&self) -> Vec<String> {
        let lines = self.config["history"].as_array().expect("history");
        lines.iter().map(|line| line["created_by"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn decompress(media_type: &str, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    if media_type.ends_with("gzip") {
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
    } else if media_type.ends_with("zstd") {
        plain = zstd::decode_all(bytes).expect("zstd");
    } else {
        assert!(media_type.ends_with(".tar"), "media type {media_type}");
        plain = bytes.to_vec();
    }
    plain
}

/// Applies a layer and gives the names of its entries.
pub fn apply(files: &mut BTreeMap<String, Entry>, tar: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in tar::Archive::new(tar).entries().expect("layer tar") {
        let mut entry = entry.expect("layer entry");
        let raw = String::from_utf8(entry.path_bytes().into_owned()).expect("UTF-8 name in these tests");
        assert!(!raw.starts_with('/') && !raw.split('/').any(|part| part == ".."), "name `{raw}`");
        assert!(!names.contains(&raw), "`{raw}` is in a layer twice");
        names.push(raw.clone());
        let path = raw.trim_end_matches('/').to_owned();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let below = |of: &str| if of.is_empty() { String::new() } else { format!("{of}/") };
        if name == ".wh..wh..opq" {
            let prefix = below(parent);
            files.retain(|path, _| !path.starts_with(&prefix));
            continue;
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = format!("{}{gone}", below(parent));
            files.retain(|path, _| *path != gone && !path.starts_with(&below(&gone)));
            continue;
        }
        let header = entry.header().clone();
        let link = entry.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Symlink(link.clone().expect("target")),
            tar::EntryType::Regular => Kind::File,
            tar::EntryType::Link => {
                let target = files[link.as_deref().expect("target")].clone();
                files.insert(path, target);
                continue;
            }
            tar::EntryType::Char | tar::EntryType::Block => {
                let number = |n: std::io::Result<Option<u32>>| n.expect("number").expect("number");
                let (major, minor) = (number(header.device_major()), number(header.device_minor()));
                match header.entry_type() {
                    tar::EntryType::Char => Kind::CharDevice(major, minor),
                    _ => Kind::BlockDevice(major, minor),
                }
            }
            _ => Kind::Other,
        };
        let mut data = Vec::new();
        entry.read_to_end(&mut data).expect("layer data");
        if kind != Kind::Directory {
            files.retain(|other, _| !other.starts_with(&below(&path)));
        }
        let new = Entry {
            kind,
            mode: header.mode().expect("mode") & 0o7777,
            uid: header.uid().expect("uid"),
            gid: header.gid().expect("gid"),
            mtime: header.mtime().expect("mtime"),
            data,
        };
        files.insert(path, new);
    }
    names
}
