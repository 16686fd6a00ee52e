//! Tests of trees as tars and directories.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};

use super::*;
use crate::layer::tar::Reader;
use crate::snapshot::testing::listing;

fn tree() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    std::fs::create_dir_all(root.join("d/sub")).unwrap();
    std::fs::write(root.join("d/f"), "data").unwrap();
    std::fs::set_permissions(root.join("d/f"), PermissionsExt::from_mode(0o4750)).unwrap();
    std::fs::hard_link(root.join("d/f"), root.join("d/sub/hard")).unwrap();
    std::fs::write(root.join(".wh.real"), "an ordinary file").unwrap();
    symlink("/etc/passwd", root.join("abs")).unwrap();
    std::fs::set_permissions(root.join("d/sub"), PermissionsExt::from_mode(0o555)).unwrap();
    temp
}

#[test]
fn a_tar_holds_everything() {
    let temp = tree();
    let mut bytes = Vec::new();
    let (root, said) = (RootDir::open(temp.path()).unwrap(), [("said.json".to_owned(), b"{}".to_vec())]);
    let part = |directory| TarPart { directory, root: &root, beside: &said };
    let entries = write_tree_tar(&[part("")], Some(1_000), &mut bytes).unwrap();
    let mut reader = Reader::new(&bytes[..]);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        assert_eq!(entry.mtime_seconds, 1_000);
        names.push(format!("{} {:?}", String::from_utf8_lossy(&entry.path), entry.kind));
    }
    assert_eq!(
        names,
        [
            ".wh.real File",
            "abs Symlink",
            "d Directory",
            "d/f File",
            "d/sub Directory",
            "d/sub/hard HardLink",
            "said.json File"
        ]
    );
    assert_eq!(entries, 6);
    bytes.clear();
    assert_eq!(write_tree_tar(&[part("a_b"), part("c")], Some(1_000), &mut bytes).unwrap(), 14);
    let mut reader = Reader::new(&bytes[..]);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.push((text(&entry.path), text(&entry.link)));
    }
    let has = |path: &str, link: &str| found.contains(&(path.to_owned(), link.to_owned()));
    assert!(has("a_b", "") && has("a_b/d/sub/hard", "a_b/d/f") && has("c/abs", "/etc/passwd"), "{found:?}");
    assert_eq!((found.len(), found.last().unwrap().0.as_str()), (16, "c/said.json"));
}

#[test]
fn a_copy_is_the_same_tree() {
    let temp = tree();
    let dest = tempfile::tempdir().unwrap();
    let out = dest.path().join("made/out");
    let root = RootDir::open(temp.path()).unwrap();
    let copied = copy_tree(&root, &out, &CopyOptions::default()).unwrap();
    assert_eq!(listing(&out), listing(temp.path()));
    assert_eq!((copied.entries, copied.file_bytes), (6, 20));
    // Once more over the first copy, and with owners.
    let options = CopyOptions { owners: Owners::Keep, epoch: Some(5) };
    copy_tree(&root, &out, &options).unwrap();
    assert_eq!(std::fs::metadata(out.join("d")).unwrap().mtime(), 5);
}

#[test]
fn symlinks_at_the_destination_are_replaced() {
    let temp = tree();
    let dest = tempfile::tempdir().unwrap();
    let (out, outside) = (dest.path().join("out"), dest.path().join("outside"));
    std::fs::create_dir_all(out.join("abs")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(out.join("other"), "stays").unwrap();
    std::fs::write(outside.join("f"), "safe").unwrap();
    symlink(&outside, out.join("d")).unwrap();
    symlink(outside.join("f"), out.join(".wh.real")).unwrap();
    copy_tree(&RootDir::open(temp.path()).unwrap(), &out, &CopyOptions::default()).unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("f")).unwrap(), "safe");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(std::fs::read_to_string(out.join("other")).unwrap(), "stays");
    assert!(std::fs::symlink_metadata(out.join("d")).unwrap().is_dir());
}
