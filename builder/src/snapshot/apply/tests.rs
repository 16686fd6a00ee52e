//! Tests of applying layers and archives: overlayfs' own view as the judge where it can be mounted, and hostile
//! input.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::snapshot::testing::*;
use crate::snapshot::warning::Warning;

struct Layers {
    temp: tempfile::TempDir,
    /// Lowest first.
    paths: Vec<PathBuf>,
}

impl Layers {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap(), paths: Vec::new() }
    }

    fn apply(&mut self, bytes: &[u8]) -> Result<Applied, ApplyError> {
        let path = self.temp.path().join(format!("layer{}", self.paths.len()));
        std::fs::create_dir(&path).unwrap();
        let parents: Vec<_> = self.paths.iter().rev().map(|p| RootDir::open(p).unwrap()).collect();
        let applied = apply_layer(bytes, &RootDir::open(&path).unwrap(), &parents);
        self.paths.push(path);
        applied
    }

    fn add(&mut self, entries: &[(Entry, Vec<u8>)]) -> Applied {
        self.apply(&tar(entries)).unwrap()
    }

    fn top(&self) -> &Path {
        self.paths.last().unwrap()
    }

    /// What overlayfs shows.
    fn merged(&self) -> Option<Vec<String>> {
        let layers: Vec<_> = self.paths.iter().rev().map(PathBuf::as_path).collect();
        let merged = Merged::mount(&self.temp.path().join("merged"), &layers)?;
        Some(listing(&merged.path))
    }

    /// Names only.
    fn names(&self) -> Option<Vec<String>> {
        let lines = self.merged()?;
        Some(lines.iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect())
    }
}

#[test]
fn metadata_arrives_whole() {
    if !is_root_of_all_ids() {
        return;
    }
    let mut layers = Layers::new();
    let cap = vec![1, 0, 0, 2, 0x0a, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattrs = BTreeMap::from([
        (b"security.capability".to_vec(), cap),
        (b"user.note".to_vec(), b"x\ny".to_vec()),
        (b"user.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"security.selinux".to_vec(), b"label".to_vec()),
        (b"system.posix_acl_access".to_vec(), vec![2, 0, 0, 0]),
    ]);
    let (mut suid, data) = file("d/suid", "s");
    (suid.mode, suid.uid, suid.gid, suid.mtime_seconds) = (0o6755, 1001, 3_000_000_000, -77);
    suid.xattrs = xattrs.clone();
    let (mut d, _) = dir("d");
    (d.mode, d.uid, d.xattrs) = (0o1777, 5, xattrs);
    d.xattrs.remove(&b"security.capability"[..]);
    let (mut device, _) = entry("null", Kind::CharDevice);
    device.device = crate::layer::tar::Device { major: 1, minor: 3 };
    let applied = layers.add(&[
        (d, vec![]),
        (suid, data),
        link("l", "d/suid", Kind::Symlink),
        link("hard", "d/suid", Kind::HardLink),
        (device, vec![]),
        entry("fifo", Kind::Fifo),
        entry("zero", Kind::CharDevice),
    ]);
    assert_eq!(
        listing(layers.top()),
        [
            "d 1777 5:0 @2000 dir user.note=[78, 0a, 79]",
            "d/suid 6755 1001:3000000000 @-77 \"s\" inode 0 security.capability=[01, 00, 00, 02, 0a, 04, 00, 00, \
             00, 00, 00, 00, 00, 00, 00, 00, 00, 00, 00, 00] user.note=[78, 0a, 79]",
            "fifo 644 0:0 @0 fifo",
            "hard 6755 1001:3000000000 @-77 \"s\" inode 0 security.capability=[01, 00, 00, 02, 0a, 04, 00, 00, \
             00, 00, 00, 00, 00, 00, 00, 00, 00, 00, 00, 00] user.note=[78, 0a, 79]",
            "l 777 0:0 @0 -> d/suid",
            "null 644 0:0 @0 char 259",
        ]
    );
    assert_eq!(applied.warnings.kept.len(), 1, "{:?}", applied.warnings);
    assert_eq!((applied.entries, applied.file_bytes), (7, 1));
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    if !is_root() {
        return;
    }
    let mut layers = Layers::new();
    layers.add(&[
        dir("a"),
        file("a/one", "1"),
        file("a/two", "2"),
        dir("b"),
        file("b/old", "old"),
        dir("c"),
        dir("c/sub"),
        file("c/sub/old", "old"),
        dir("e"),
        file("e/old", "old"),
        file("f", "f"),
    ]);
    let applied = layers.add(&[
        // Before and after the entry of the same layer.
        file("a/one", "new"),
        file("a/.wh.one", ""),
        file("a/.wh.two", ""),
        file("a/.wh.never", ""),
        file("nowhere/.wh.x", ""),
        // A directory that is deleted and made anew, in both orders.
        file(".wh.b", ""),
        dir("b"),
        file("b/new", "new"),
        dir("e"),
        file("e/new", "new"),
        file(".wh.e", ""),
        // An opaque one, with a whiteout that becomes needless and an entry in front of the mark.
        file("c/sub/.wh.old", ""),
        file("c/first", "1"),
        file("c/.wh..wh..opq", ""),
        file("c/last", "2"),
        file(".wh.f", ""),
        file(".wh..wh.plnk/1", "aufs"),
        file(".wh..wh.aufs", "aufs"),
    ]);
    let shown = listing(layers.top());
    assert!(
        !shown.iter().any(|l| l.contains("nowhere") || l.contains("never") || l.contains("aufs")),
        "{shown:#?}"
    );
    // The needless whiteout went when `c` became opaque.
    assert!(!shown.iter().any(|l| l.starts_with("c/sub/old")), "{shown:#?}");
    assert_eq!(applied.implied, [b"a".to_vec(), b"c".to_vec(), b"c/sub".to_vec()]);
    let Some(names) = layers.names() else { return };
    assert_eq!(names, ["a", "a/one", "b", "b/new", "c", "c/first", "c/last", "c/sub", "e", "e/new"]);
}

#[test]
fn files_and_directories_replace_each_other() {
    if !is_root() {
        return;
    }
    let mut layers = Layers::new();
    layers.add(&[
        dir("d"),
        file("d/old", "o"),
        file("f", "f"),
        dir("x"),
        file("x/old", "o"),
        dir("g"),
        file("g/o", ""),
    ]);
    layers.add(&[
        file("d", "now a file"),
        dir("f"),
        file("f/inside", "i"),
        // A file that took the directory's place and went again: nothing of the directory comes back.
        file("x", "file"),
        dir("x"),
        // A directory with content that a file replaces in the same layer.
        dir("g"),
        dir("g/sub"),
        file("g/sub/deep", "d"),
        file("g", "file"),
        file("twice", "first"),
        file("twice", "second"),
    ]);
    layers.add(&[dir("d"), file("d/new", "n")]);
    let Some(names) = layers.names() else { return };
    assert_eq!(names, ["d", "d/new", "f", "f/inside", "g", "twice", "x"]);
    assert!(layers.merged().unwrap().iter().any(|l| l.ends_with("\"second\"")));
}

#[test]
fn implied_directories_look_like_the_lower_ones() {
    if !is_root_of_all_ids() {
        return;
    }
    let mut layers = Layers::new();
    let (mut d, _) = dir("srv");
    (d.mode, d.uid, d.mtime_seconds) = (0o750, 1001, 123);
    d.xattrs.insert(b"user.k".to_vec(), b"v".to_vec());
    let (mut root, _) = dir("./");
    root.mode = 0o711;
    layers.add(&[(root, vec![]), (d, vec![]), file("srv/a", "a")]);
    let applied = layers.add(&[file("srv/b", "b"), file("new/deep/f", "f")]);
    assert_eq!(applied.implied, [b"new".to_vec(), b"new/deep".to_vec(), b"srv".to_vec()]);
    let shown = listing(layers.top());
    assert_eq!(shown[0], "new 755 0:0 @0 dir");
    assert_eq!(shown[3], "srv 750 1001:0 @123 dir user.k=[76]");
    // The root of the uppermost layer is the one that is seen.
    assert_eq!(std::fs::metadata(layers.top()).unwrap().mode() & 0o7777, 0o711);
    // Listed later after all: the layer's own word counts.
    let applied = layers.add(&[file("srv/c", "c"), dir("srv")]);
    assert!(applied.implied.is_empty());
    assert_eq!(listing(layers.top())[0], "srv 755 0:0 @2000 dir");
}

#[test]
fn middle_layers_hide_what_is_below_them() {
    if !is_root() {
        return;
    }
    let mut layers = Layers::new();
    let private = |path: &str| (Entry { mode: 0o700, ..dir(path).0 }, vec![]);
    layers.add(&[
        private("d"),
        private("o"),
        private("o/sub"),
        private("f"),
        private("g"),
        file("g/old", ""),
    ]);
    layers.add(&[
        file(".wh.d", ""),
        dir("o"),
        file("o/.wh..wh..opq", ""),
        file("f", "file"),
        file(".wh.g", ""),
    ]);
    let applied = layers.add(&[
        file("d/x", ""),
        file("o/sub/x", ""),
        file("g/.wh.old", ""),
        file("o/.wh.sub2", ""),
        link("h", "f", Kind::HardLink),
    ]);
    // Nothing of the lowest layer's modes comes through.
    let shown = listing(layers.top());
    assert_eq!(
        shown.iter().map(|l| l.rsplit_once(" 0:0").unwrap().0).collect::<Vec<_>>(),
        ["d 755", "d/x 644", "f 644", "h 644", "o 755", "o/sub 755", "o/sub/x 644"]
    );
    assert_eq!(applied.whiteouts, 0);
    assert!(layers.apply(&tar(&[link("x", "g/old", Kind::HardLink)])).is_err());
}

#[test]
fn an_opaque_root_hides_every_name() {
    if !is_root() {
        return;
    }
    let mut layers = Layers::new();
    layers.add(&[dir("d"), file("d/old", ""), file("f", ""), file("kept", "")]);
    layers.add(&[file(".wh.f", ""), dir("e"), file("e/old", "")]);
    layers.add(&[dir("d"), file("d/new", ""), file(".wh..wh..opq", ""), dir("e"), file("kept", "new")]);
    let Some(names) = layers.names() else { return };
    assert_eq!(names, ["d", "d/new", "e", "kept"]);
}

#[test]
fn a_whole_tree_gives_way_to_a_file() {
    let mut layers = Layers::new();
    let mut entries = vec![dir("d")];
    for n in 0..30 {
        entries.extend([dir(&format!("d/{n}")), dir(&format!("d/{n}/s")), file(&format!("d/{n}/s/f"), "x")]);
    }
    entries.push(file("d", "file"));
    if !is_root() {
        return;
    }
    layers.add(&entries);
    assert_eq!(listing(layers.top()), ["d 644 0:0 @1000 \"file\""]);
}

#[test]
fn symlinks_on_the_way_are_followed_inside() {
    let mut layers = Layers::new();
    if !is_root() {
        return;
    }
    layers.add(&[
        dir("usr"),
        dir("usr/lib"),
        link("lib", "usr/lib", Kind::Symlink),
        link("abs", "/usr/lib/../lib", Kind::Symlink),
        link("gone", "not/yet", Kind::Symlink),
        link("out", "../../../../../../../../tmp", Kind::Symlink),
        link("loop", "loop", Kind::Symlink),
    ]);
    layers.add(&[
        file("lib/one", "1"),
        file("abs/two", "2"),
        file("gone/three", "3"),
        file("out/four", "4"),
        link("own", "/usr", Kind::Symlink),
        file("own/lib/five", "5"),
        // From here on `lib` is a directory of this layer.
        dir("lib"),
        file("lib/six", "6"),
    ]);
    assert!(matches!(layers.apply(&tar(&[file("loop/x", "")])), Err(ApplyError::Fs(_))));
    layers.paths.pop();
    assert!(!Path::new("/tmp/four").exists());
    let Some(names) = layers.names() else { return };
    let expected = [
        "abs",
        "gone",
        "lib",
        "lib/six",
        "loop",
        "not",
        "not/yet",
        "not/yet/three",
        "out",
        "own",
        "tmp",
        "tmp/four",
        "usr",
        "usr/lib",
        "usr/lib/five",
        "usr/lib/one",
        "usr/lib/two",
    ];
    assert_eq!(names, expected);
}

#[test]
fn hard_links_reach_lower_layers_by_copying() {
    if !is_root_of_all_ids() {
        return;
    }
    let mut layers = Layers::new();
    let (mut f, data) = file("d/f", "content");
    (f.mode, f.uid) = (0o4711, 7);
    f.xattrs.insert(b"user.k".to_vec(), b"v".to_vec());
    let (mut d, _) = dir("d");
    d.mode = 0o700;
    layers.add(&[(d, vec![]), (f, data), link("d/l", "f", Kind::Symlink), dir("gone"), file("gone/f", "")]);
    layers.add(&[
        link("hard", "d/f", Kind::HardLink),
        link("again", "/hard", Kind::HardLink),
        link("linked", "./d/l", Kind::HardLink),
        link("hard", "hard", Kind::HardLink),
    ]);
    assert_eq!(
        listing(layers.top()),
        [
            "again 4711 7:0 @1000 \"content\" inode 0 user.k=[76]",
            "d 700 0:0 @2000 dir",
            "d/f 4711 7:0 @1000 \"content\" inode 0 user.k=[76]",
            "d/l 777 0:0 @0 -> f inode 1",
            "hard 4711 7:0 @1000 \"content\" inode 0 user.k=[76]",
            "linked 777 0:0 @0 -> f inode 1",
        ]
    );
    for bad in [
        vec![link("x", "nothing", Kind::HardLink)],
        vec![link("x", "d", Kind::HardLink)],
        vec![link("x", "", Kind::HardLink)],
        vec![link("x", "../../etc/passwd", Kind::HardLink)],
        vec![link("x", "/etc/passwd", Kind::HardLink)],
        vec![file("gone/.wh.f", ""), link("x", "gone/f", Kind::HardLink)],
        vec![file(".wh.gone", ""), link("x", "gone/f", Kind::HardLink)],
        vec![file("gone/.wh..wh..opq", ""), link("x", "gone/f", Kind::HardLink)],
    ] {
        let error = layers.apply(&tar(&bad)).unwrap_err();
        layers.paths.pop();
        std::fs::remove_dir_all(layers.temp.path().join("layer2")).unwrap();
        assert!(
            matches!(
                error,
                ApplyError::LinkTarget { .. }
                    | ApplyError::LinkToDirectory { .. }
                    | ApplyError::Outside { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn hostile_layers_stay_inside() {
    let refused = |entries: &[(Entry, Vec<u8>)]| {
        let mut layers = Layers::new();
        let outside = layers.temp.path().join("outside");
        std::fs::write(&outside, "safe").unwrap();
        let error = layers.apply(&tar(entries)).unwrap_err();
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "safe");
        assert_eq!(std::fs::read_dir(layers.temp.path()).unwrap().count(), 2);
        error
    };
    if !is_root() {
        return;
    }
    assert!(matches!(refused(&[file("../outside", "evil")]), ApplyError::Outside { .. }));
    assert!(matches!(refused(&[file("a/../../outside", "evil")]), ApplyError::Outside { .. }));
    assert!(matches!(
        refused(&[file(&format!("{}f", "a/".repeat(3000)), "evil")]),
        ApplyError::Outside { .. }
    ));
    assert!(matches!(refused(&[file(".", "evil")]), ApplyError::Root { .. }));
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.../x", ".wh.x/y"] {
        assert!(matches!(refused(&[dir("a"), file(name, "")]), ApplyError::Whiteout { .. }), "{name}");
    }
    assert!(matches!(refused(&[file("f", ""), file("f/x", "")]), ApplyError::NotADirectory { .. }));
    assert!(matches!(refused(&[file("f", ""), file("f/.wh.x", "")]), ApplyError::NotADirectory { .. }));
    let mut short = tar(&[file("f", &"x".repeat(2000))]);
    short.truncate(1000);
    let mut layers = Layers::new();
    assert!(matches!(layers.apply(&short), Err(ApplyError::Tar(TarError::Truncated { .. }))));

    let mut layers = Layers::new();
    layers.add(&[
        file("/abs", "a"),
        file("./x/../y", "y"),
        link("up", "..", Kind::Symlink),
        file("up/z", "z"),
    ]);
    let names: Vec<_> =
        listing(layers.top()).iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["abs", "up", "y", "z"]);
}

/// Run the tests once more under `unshare --user --map-root-user --mount` for this one.
#[test]
fn what_a_small_user_namespace_cannot_do_is_recorded() {
    if !is_root() || is_root_of_all_ids() {
        eprintln!("SKIPPED: needs a user namespace with a single id");
        return;
    }
    let (mut f, data) = file("f", "f");
    f.uid = 1001;
    let (mut device, _) = entry("null", Kind::CharDevice);
    device.device = crate::layer::tar::Device { major: 1, minor: 3 };
    let link = link("null2", "null", Kind::HardLink);
    let bytes = tar(&[(f, data), (device, vec![]), link]);
    let temp = tempfile::tempdir().unwrap();
    let root = RootDir::open(temp.path()).unwrap();
    let applied = apply_layer(&bytes[..], &root, &[]).unwrap();
    assert_eq!(applied.warnings, Warnings::default());
    let mut again = Vec::new();
    let options = crate::snapshot::diff::LayerOptions::default();
    crate::snapshot::diff::write_layer(&root, None, options, &mut again).unwrap();
    let mut reader = crate::layer::tar::Reader::new(&again[..]);
    let mut read = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        read.push((entry.path, entry.kind, entry.uid, entry.device.minor));
    }
    let expected = [
        (b"f".to_vec(), Kind::File, 1001, 0),
        (b"null".to_vec(), Kind::CharDevice, 0, 3),
        (b"null2".to_vec(), Kind::HardLink, 0, 0),
    ];
    assert_eq!(read, expected);
    // On the host nothing is recorded.
    let temp = tempfile::tempdir().unwrap();
    let root = RootDir::open(temp.path()).unwrap();
    let options = UnpackOptions { ownership: Ownership::BestEffort, ..UnpackOptions::default() };
    let warnings = unpack_archive(&bytes[..], &root, b"", &options).unwrap().warnings.kept;
    assert_eq!(listing(temp.path()), ["f 644 0:0 @1000 \"f\""]);
    assert!(
        matches!(&warnings[..], [Warning::Owner { uid: 1001, .. }, Warning::DeviceNotPermitted { .. }]),
        "{warnings:?}"
    );
}

#[test]
fn sparse_files_keep_their_holes() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("t")).unwrap();
    let source = std::fs::File::create(temp.path().join("t/s")).unwrap();
    source.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&source, b"data", 512 << 20).unwrap();
    let output = std::process::Command::new("tar")
        .args(["-S", "--format=pax", "-cf", "-", "t"])
        .current_dir(temp.path())
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: GNU tar is not installed");
        return;
    };
    let mut layers = Layers::new();
    layers.apply(&output.stdout).unwrap();
    let meta = std::fs::metadata(layers.top().join("t/s")).unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() < 1000, "{} blocks", meta.blocks());
}

fn unpack(
    root: &Path,
    dest: &str,
    entries: &[(Entry, Vec<u8>)],
    options: UnpackOptions,
) -> Result<Unpacked, ApplyError> {
    unpack_archive(&tar(entries)[..], &RootDir::open(root).unwrap(), dest.as_bytes(), &options)
}

#[test]
fn archives_replace_symlinks_and_merge_directories() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    std::fs::create_dir_all(root.join("w/kept")).unwrap();
    std::fs::write(root.join("w/kept/old"), "old").unwrap();
    std::fs::create_dir(root.join("targetdir")).unwrap();
    std::fs::write(root.join("target"), "old").unwrap();
    symlink("/target", root.join("w/f")).unwrap();
    symlink("/targetdir", root.join("w/sub")).unwrap();
    symlink("/targetdir", root.join("w/via")).unwrap();
    symlink("/w", root.join("dest")).unwrap();
    let (mut kept, _) = dir("kept");
    kept.mode = 0o700;
    let entries = [
        dir("./"),
        file("f", "new"),
        dir("sub"),
        file("sub/g", "g"),
        (kept, vec![]),
        file("kept/new", "new"),
        file("via/h", "h"),
        file(".wh.kept", "not a whiteout here"),
        link("hard", "f", Kind::HardLink),
        file("deep/er/f", "f"),
    ];
    unpack(root, "/dest/", &entries, UnpackOptions::default()).unwrap();
    let names: Vec<_> = listing(root).iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(
        names,
        [
            "dest",
            "target",
            "targetdir",
            "targetdir/h",
            "w",
            "w/.wh.kept",
            "w/deep",
            "w/deep/er",
            "w/deep/er/f",
            "w/f",
            "w/hard",
            "w/kept",
            "w/kept/new",
            "w/kept/old",
            "w/sub",
            "w/sub/g",
            "w/via",
        ]
    );
    assert_eq!(std::fs::read_to_string(root.join("target")).unwrap(), "old");
    let meta = std::fs::metadata(root.join("w/kept")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o700, 2000));
}

/// The archive changes what a path leads to while it is unpacked.
#[test]
fn archives_may_replace_their_own_directories() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let entries = [
        file("a/x", "1"),
        link("b", "a", Kind::Symlink),
        file("b/y", "2"),
        dir("b"),
        file("b/z", "3"),
        dir("c"),
        link("a", "c", Kind::Symlink),
        file("a/w", "4"),
        file("a/w", "5"),
    ];
    for unpacked in [false, true] {
        let root = temp.path().join(unpacked.to_string());
        std::fs::create_dir(&root).unwrap();
        if unpacked {
            unpack(&root, "/", &entries, UnpackOptions::default()).unwrap();
        } else {
            let dir = RootDir::open(&root).unwrap();
            apply_layer(&tar(&entries)[..], &dir, &[]).unwrap();
        }
        let names: Vec<_> = listing(&root).iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["a", "b", "b/z", "c", "c/w"]);
        assert_eq!(std::fs::read_to_string(root.join("c/w")).unwrap(), "5");
    }
}

#[test]
fn chown_replaces_the_archives_owners() {
    if !is_root_of_all_ids() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (mut f, data) = file("made/f", "f");
    (f.uid, f.gid, f.mode) = (1, 2, 0o4755);
    let options = UnpackOptions { chown: Some((77, 88)), ..UnpackOptions::default() };
    unpack(temp.path(), "w", &[(f, data)], options).unwrap();
    for name in ["w", "w/made", "w/made/f"] {
        let meta = std::fs::metadata(temp.path().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (77, 88), "{name}");
    }
    assert_eq!(std::fs::metadata(temp.path().join("w/made/f")).unwrap().mode() & 0o7777, 0o4755);
}

#[test]
fn hostile_archives_stay_inside() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    std::fs::create_dir_all(root.join("w")).unwrap();
    std::fs::write(temp.path().join("hostfile"), "secret").unwrap();
    let host = temp.path().display().to_string();
    symlink(&host, root.join("w/d")).unwrap();
    let go = |entries: &[(Entry, Vec<u8>)]| unpack(&root, "/w/", entries, UnpackOptions::default());
    assert!(matches!(
        go(&[link("stolen", &format!("{host}/hostfile"), Kind::HardLink)]),
        Err(ApplyError::LinkTarget { .. })
    ));
    let up = format!("../../../../../../..{host}/hostfile");
    assert!(matches!(go(&[link("stolen", &up, Kind::HardLink)]), Err(ApplyError::Outside { .. })));
    assert!(matches!(go(&[file("../../escaped", "evil")]), Err(ApplyError::Outside { .. })));
    go(&[
        file("d/through-image-link", "evil"),
        link("esc", &host, Kind::Symlink),
        file("esc/through-link", "evil"),
        link("rel", "../../../../../../../..", Kind::Symlink),
        file(&format!("rel{host}/through-rel"), "evil"),
    ])
    .unwrap();
    let mut left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["hostfile", "root"]);
    // All three went where the links lead inside the root.
    assert_eq!(std::fs::read_dir(root.join(&host[1..])).unwrap().count(), 3);
}
