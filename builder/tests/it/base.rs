//! The base image of the tests: this machine's static busybox as an OCI layout directory.
//!
//! Invariants: the same busybox gives the same bytes, so that tests can compare digests.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The architecture in the words of image configs.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image as blobs and the digest of its manifest.
pub struct Blobs {
    pub manifest: String,
    pub media_type: &'static str,
    pub blobs: BTreeMap<String, Vec<u8>>,
}

impl Blobs {
    fn put(&mut self, bytes: Vec<u8>) -> (String, usize) {
        let (name, size) = (digest(&bytes), bytes.len());
        self.blobs.insert(name.clone(), bytes);
        (name, size)
    }
}

/// What goes into an image's one layer: path, mode, content or `-> target`.
#[derive(Clone, Copy)]
pub enum Member<'a> {
    File(&'a str, u32, &'a [u8]),
    Directory(&'a str, u32),
    Symlink(&'a str, &'a str),
    /// A character device that everybody may use: major and minor.
    Device(&'a str, u32, u32),
}

impl<'a> Member<'a> {
    fn path(&self) -> &'a str {
        match self {
            Self::File(path, ..)
            | Self::Directory(path, _)
            | Self::Symlink(path, _)
            | Self::Device(path, ..) => path,
        }
    }
}

/// The tar of some members, owned by root, all of one time.
pub fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match member {
            Member::File(path, mode, content) => {
                header.set_mode(*mode);
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, *content).expect("tar file");
            }
            Member::Directory(path, mode) => {
                header.set_mode(*mode);
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, path, std::io::empty()).expect("tar directory");
            }
            Member::Symlink(path, target) => {
                header.set_mode(0o777);
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target).expect("tar symlink");
            }
            Member::Device(path, major, minor) => {
                header.set_mode(0o666);
                header.set_entry_type(tar::EntryType::Char);
                header.set_device_major(*major).expect("major");
                header.set_device_minor(*minor).expect("minor");
                builder.append_data(&mut header, path, std::io::empty()).expect("tar device");
            }
        }
    }
    builder.into_inner().expect("tar end")
}

/// Gzip of some bytes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip end")
}

/// An image of one gzip layer with a config of the caller's.
pub fn image(layer: &[u8], config: Value) -> Blobs {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let mut image = Blobs { manifest: String::new(), media_type, blobs: BTreeMap::new() };
    let diff_id = digest(layer);
    let (layer_digest, layer_size) = image.put(gzip(layer));
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": "base" }],
    });
    let (config_digest, config_size) = image.put(config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer_digest,
            "size": layer_size,
        }],
    });
    image.manifest = image.put(manifest.to_string().into_bytes()).0;
    image
}

/// Writes an image as a layout directory.
pub fn write_image(image: &Blobs, directory: &Path) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("layout directory");
    for (name, bytes) in &image.blobs {
        fs::write(blobs.join(name.trim_start_matches("sha256:")), bytes).expect("blob");
    }
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": image.media_type,
            "digest": image.manifest,
            "size": image.blobs[&image.manifest].len(),
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }],
    });
    fs::write(directory.join("index.json"), index.to_string()).expect("index");
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
}

/// The image with a shell, or why there is none.
pub fn busybox() -> Result<Blobs, String> {
    busybox_with(&[])
}

/// [`busybox`] with further members, which win over the usual ones.
pub fn busybox_with<'a>(more: &[Member<'a>]) -> Result<Blobs, String> {
    let path = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"]
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .ok_or("there is no busybox; install busybox-static")?;
    let program = fs::read(path).map_err(|e| format!("cannot read {path}: {e}"))?;
    if interpreter(&program).is_some() {
        return Err(format!("{path} is not static; install busybox-static"));
    }
    let list = Command::new(path).arg("--list").output().map_err(|e| format!("cannot run {path}: {e}"))?;
    let applets = String::from_utf8_lossy(&list.stdout).into_owned();
    let links: Vec<String> =
        applets.lines().filter(|name| *name != "busybox").map(|name| format!("bin/{name}")).collect();
    let mut members = vec![
        Member::Directory("bin", 0o755),
        Member::File("bin/busybox", 0o755, &program),
        Member::Directory("etc", 0o755),
        Member::File(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n",
        ),
        Member::File("etc/group", 0o644, b"root:x:0:\nappgroup:x:1001:\nextra:x:1002:app\n"),
        Member::Directory("root", 0o700),
        Member::Directory("home", 0o755),
        Member::Directory("tmp", 0o1777),
    ];
    members.extend(links.iter().map(|link| Member::Symlink(link, "busybox")));
    // A directory does not become a link, so what is below a replaced one goes as well.
    let is_replaced = |path: &str| more.iter().any(|member| Path::new(path).starts_with(member.path()));
    members.retain(|member| !is_replaced(member.path()));
    members.extend_from_slice(more);
    Ok(image(
        &tar(&members),
        json!({ "Env": ["PATH=/bin", "FROM_BASE=yes"], "Cmd": ["sh"], "Labels": { "base": "busybox" } }),
    ))
}

/// Writes the image with a shell as a layout directory.
pub fn write_layout(directory: &Path) -> Result<(), String> {
    write_image(&busybox()?, directory);
    Ok(())
}

/// The interpreter that a 64-bit ELF program names.
pub fn interpreter(program: &[u8]) -> Option<String> {
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = program.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize);
    (0..count).map(|index| table + index * size).find_map(|at| {
        const PT_INTERP: u64 = 3;
        if number(at, 4)? != PT_INTERP {
            return None;
        }
        let (offset, length) = (number(at + 8, 8)? as usize, number(at + 32, 8)? as usize);
        let text = program.get(offset..offset + length)?;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    })
}
