//! Builds trees and archives for tests of this room.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layer::tar::{Entry, Kind, Writer};
use crate::sys::xattr;

/// True for root; says so when not, because the test is skipped then.
pub(super) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root for owners and devices");
    }
    root
}

/// True for root that may give files to every user; says so when not.
pub(super) fn is_root_of_all_ids() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !all {
        eprintln!("SKIPPED: needs a user namespace with every id");
    }
    is_root() && all
}

pub(super) fn entry(path: &str, kind: Kind) -> (Entry, Vec<u8>) {
    (Entry::new(path, kind), Vec::new())
}

pub(super) fn file(path: &str, data: &str) -> (Entry, Vec<u8>) {
    let entry = Entry { size: data.len() as u64, mtime_seconds: 1_000, ..Entry::new(path, Kind::File) };
    (entry, data.as_bytes().to_vec())
}

pub(super) fn dir(path: &str) -> (Entry, Vec<u8>) {
    (Entry { mtime_seconds: 2_000, ..Entry::new(path, Kind::Directory) }, Vec::new())
}

pub(super) fn link(path: &str, target: &str, kind: Kind) -> (Entry, Vec<u8>) {
    (Entry { link: target.as_bytes().to_vec(), ..Entry::new(path, kind) }, Vec::new())
}

pub(super) fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.append(entry, &data[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// A tree as text, one line per node: path, type, mode, owner, time, content or target, attributes. Hard links
/// share a number.
pub(super) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inodes = BTreeMap::new();
    walk(root, &PathBuf::new(), &mut lines, &mut inodes);
    lines
}

fn walk(root: &Path, path: &Path, lines: &mut Vec<String>, inodes: &mut BTreeMap<u64, usize>) {
    let full = root.join(path);
    let mut names: Vec<_> = std::fs::read_dir(&full).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = path.join(&name);
        let full = root.join(&path);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let mut what = if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(&full).unwrap().display())
        } else if kind.is_file() {
            format!("{:?}", String::from_utf8_lossy(&std::fs::read(&full).unwrap()))
        } else if kind.is_char_device() {
            format!("char {}", meta.rdev())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            "other".to_owned()
        };
        if meta.nlink() > 1 && !kind.is_dir() {
            let next = inodes.len();
            what += &format!(" inode {}", inodes.entry(meta.ino()).or_insert(next));
        }
        let fd = rustix::fs::open(
            &full,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        for name in xattr::list(fd.as_fd()).unwrap() {
            if !name.starts_with(b"user.") && name != b"security.capability" {
                continue;
            }
            let value = xattr::get(fd.as_fd(), &name).unwrap().unwrap();
            what += &format!(" {}={value:02x?}", String::from_utf8_lossy(&name));
        }
        lines.push(format!(
            "{} {:o} {}:{} @{} {what}",
            path.display(),
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.mtime()
        ));
        if kind.is_dir() {
            walk(root, &path, lines, inodes);
        }
    }
}

/// Layers' directories mounted read-only as a merged tree, unmounted at the end.
pub(super) struct Merged {
    pub(super) path: PathBuf,
}

impl Merged {
    /// Uppermost first; two or more. `None`, said aloud, where overlays cannot be mounted.
    pub(super) fn mount(at: &Path, layers: &[&Path]) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let layers: Vec<_> = layers.iter().map(|p| p.display().to_string()).collect();
        let options = format!("lowerdir={},userxattr,metacopy=off", layers.join(":"));
        let output =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Some(Self { path: at.to_owned() }),
            other => {
                eprintln!("SKIPPED: cannot mount an overlay here: {other:?}");
                None
            }
        }
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
