//! Tests of the difference: hand-made upper directories, overlayfs' own ones, and the round trip through a layer.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};

use super::*;
use crate::layer::tar::{Kind, Reader};
use crate::snapshot::apply::apply_layer;
use crate::snapshot::testing::*;
use crate::snapshot::warning::Warning;

/// A lower and an upper directory.
struct Pair {
    temp: tempfile::TempDir,
    lower: PathBuf,
    upper: PathBuf,
}

impl Pair {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (lower, upper) = (temp.path().join("lower"), temp.path().join("upper"));
        std::fs::create_dir(&lower).unwrap();
        std::fs::create_dir(&upper).unwrap();
        Self { temp, lower, upper }
    }

    fn write(&self, options: LayerOptions<'_>) -> Result<(LayerStats, Vec<u8>), DiffError> {
        let (upper, lower) = (RootDir::open(&self.upper).unwrap(), RootDir::open(&self.lower).unwrap());
        let mut bytes = Vec::new();
        let stats = write_layer(&upper, Some(&lower), options, &mut bytes)?;
        assert_eq!(stats.bytes, bytes.len() as u64);
        assert_eq!(summarise(&upper, Some(&lower), &Written::default()).unwrap().content, stats.content);
        Ok((stats, bytes))
    }

    fn layer(&self) -> Vec<(Entry, Vec<u8>)> {
        entries(&self.write(LayerOptions::default()).unwrap().1)
    }

    fn names(&self) -> Vec<String> {
        self.layer().iter().map(|(e, _)| String::from_utf8_lossy(&e.path).into_owned()).collect()
    }

    fn both(&self, make: impl Fn(&Path)) {
        make(&self.lower);
        make(&self.upper);
    }
}

fn entries(bytes: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        entries.push((entry, data));
    }
    entries
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn whiteout(path: &Path) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::CharacterDevice,
        Mode::empty(),
        rustix::fs::makedev(0, 0),
    )
    .unwrap();
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

#[test]
fn copy_ups_that_changed_nothing_are_dropped() {
    if !is_root_of_all_ids() {
        return;
    }
    let pair = Pair::new();
    pair.both(|root| {
        std::fs::create_dir(root.join("d")).unwrap();
        for name in ["same", "bytes", "time", "mode", "owner", "xattr", "nanos"] {
            std::fs::write(root.join("d").join(name), "abc").unwrap();
            set_time(&root.join("d").join(name), 1_500_000_000, 0);
        }
        set_time(&root.join("d/nanos"), 1_500_000_000, 5);
        symlink("x", root.join("d/link")).unwrap();
        set_time(&root.join("d/link"), 5, 0);
        symlink("x", root.join("d/relink")).unwrap();
        set_time(&root.join("d/relink"), 5, 0);
        attribute(&root.join("d/same"), "user.overlay.origin", root.as_os_str().as_bytes());
    });
    assert!(pair.names().is_empty());
    assert!(pair.write(LayerOptions::default()).unwrap().0.empty);

    let upper = pair.upper.join("d");
    std::fs::write(upper.join("bytes"), "ABC").unwrap();
    set_time(&upper.join("bytes"), 1_500_000_000, 0);
    // With nanoseconds the time is believed.
    std::fs::write(upper.join("nanos"), "ABC").unwrap();
    set_time(&upper.join("nanos"), 1_500_000_000, 5);
    set_time(&upper.join("time"), 1_234_567_890, 0);
    std::fs::set_permissions(upper.join("mode"), PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(upper.join("owner"), Some(5), None).unwrap();
    attribute(&upper.join("xattr"), "user.k", b"v");
    std::fs::remove_file(upper.join("relink")).unwrap();
    symlink("y", upper.join("relink")).unwrap();
    set_time(&upper.join("relink"), 5, 0);
    assert_eq!(pair.names(), ["d", "d/bytes", "d/mode", "d/owner", "d/relink", "d/time", "d/xattr"]);
}

#[test]
fn directories_come_once_and_only_when_needed() {
    let pair = Pair::new();
    pair.both(|root| {
        for dir in ["a/b/c", "quiet/deep", "times"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
    });
    set_time(&pair.upper.join("times"), 77, 0);
    std::fs::create_dir(pair.upper.join("new")).unwrap();
    set_time(&pair.upper.join("new"), 1_234_567_890, 0);
    std::fs::write(pair.upper.join("a/b/c/f"), "f").unwrap();
    std::fs::write(pair.upper.join("a/z"), "z").unwrap();
    assert_eq!(pair.names(), ["a", "a/b", "a/b/c", "a/b/c/f", "a/z", "new"]);
    assert_eq!(pair.layer()[5].0.mtime_seconds, 1_234_567_890);
    std::fs::set_permissions(pair.upper.join("quiet/deep"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(pair.names(), ["a", "a/b", "a/b/c", "a/b/c/f", "a/z", "new", "quiet", "quiet/deep"]);
}

#[test]
fn whiteouts_and_opaque_directories() {
    if !is_root() {
        return;
    }
    let pair = Pair::new();
    for dir in ["d/keep", "d/sub/x", "gone", "o/both", "o/file"] {
        std::fs::create_dir_all(pair.lower.join(dir)).unwrap();
    }
    for file in ["d/f", "o/a", "o/z", "o/both/old", "o/same", "sock"] {
        std::fs::write(pair.lower.join(file), "x").unwrap();
        set_time(&pair.lower.join(file), 9, 0);
    }
    let upper = &pair.upper;
    for dir in ["d", "o/both", "o/a", "fresh"] {
        std::fs::create_dir_all(upper.join(dir)).unwrap();
    }
    whiteout(&upper.join("d/f"));
    whiteout(&upper.join("d/never"));
    whiteout(&upper.join("gone"));
    whiteout(&upper.join("fresh/stray"));
    attribute(&upper.join("o"), "user.overlay.opaque", b"y");
    std::fs::write(upper.join("o/same"), "x").unwrap();
    set_time(&upper.join("o/same"), 9, 0);
    std::fs::write(upper.join("o/file"), "a directory became a file").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("sock")).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(upper.join("fresh/sock")).unwrap();
    assert_eq!(
        pair.names(),
        [
            "d",
            "d/.wh.f",
            "fresh",
            ".wh.gone",
            "o",
            "o/a",
            "o/both",
            "o/both/.wh.old",
            "o/file",
            "o/.wh.z",
            ".wh.sock",
        ]
    );
    let (stats, bytes) = pair.write(LayerOptions { epoch: Some(5), observer: None }).unwrap();
    assert_eq!(stats.warnings.kept.len(), 2);
    assert!(matches!(&stats.warnings.kept[0], Warning::Socket { path } if path == "fresh/sock"));
    let whiteouts: Vec<_> =
        entries(&bytes).into_iter().filter(|(e, _)| e.path.starts_with(b".wh.")).collect();
    for (entry, _) in whiteouts {
        assert_eq!((entry.kind, entry.mode, entry.mtime_seconds, entry.size), (Kind::File, 0, 0, 0));
    }
    // Without a parent there is nothing to delete.
    let mut out = Vec::new();
    let root = RootDir::open(upper).unwrap();
    write_layer(&root, None, LayerOptions::default(), &mut out).unwrap();
    assert!(!entries(&out).iter().any(|(e, _)| e.path.windows(4).any(|w| w == b".wh.")));
}

#[test]
fn hard_links_are_kept() {
    let pair = Pair::new();
    std::fs::create_dir_all(pair.upper.join("d/e")).unwrap();
    std::fs::write(pair.upper.join("d/e/one"), "x").unwrap();
    for name in ["d/two", "a", "z"] {
        std::fs::hard_link(pair.upper.join("d/e/one"), pair.upper.join(name)).unwrap();
    }
    let links = |entries: &[(Entry, Vec<u8>)]| -> Vec<String> {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        entries
            .iter()
            .map(|(e, d)| format!("{} {:?} {} {}", text(&e.path), e.kind, text(&e.link), d.len()))
            .collect()
    };
    assert_eq!(
        links(&pair.layer()),
        [
            "a File  1",
            "d Directory  0",
            "d/e Directory  0",
            "d/e/one HardLink a 0",
            "d/two HardLink a 0",
            "z HardLink a 0",
        ]
    );
    // `ln d/e/one z`: the old names were copied up without a change; they become links to the new name.
    for name in ["d/e/one", "d/two", "a"] {
        let path = pair.lower.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "x").unwrap();
        let meta = std::fs::metadata(pair.upper.join("a")).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        set_time(&path, meta.mtime(), meta.mtime_nsec());
    }
    std::fs::hard_link(pair.upper.join("a"), pair.upper.join("d/new")).unwrap();
    std::fs::remove_file(pair.upper.join("z")).unwrap();
    std::fs::rename(pair.upper.join("d/two"), pair.upper.join("d/zwei")).unwrap();
    assert_eq!(
        links(&pair.layer()),
        [
            "d Directory  0",
            "d/new File  1",
            "a HardLink d/new 0",
            "d/e Directory  0",
            "d/e/one HardLink d/new 0",
            "d/zwei HardLink d/new 0",
        ]
    );
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    let pair = Pair::new();
    std::fs::create_dir(pair.upper.join("d")).unwrap();
    std::fs::write(pair.upper.join("d/.wh.x"), "").unwrap();
    let error = pair.write(LayerOptions::default()).unwrap_err();
    assert!(matches!(&error, DiffError::ReservedName { path } if path == "d/.wh.x"), "{error}");
    std::fs::remove_file(pair.upper.join("d/.wh.x")).unwrap();
    attribute(&pair.upper.join("d"), "user.overlay.redirect", b"/old");
    assert!(matches!(pair.write(LayerOptions::default()).unwrap_err(), DiffError::Redirected { .. }));
}

#[test]
fn odd_things_survive() {
    if !is_root_of_all_ids() {
        return;
    }
    let pair = Pair::new();
    let upper = &pair.upper;
    let odd = upper.join(OsStr::from_bytes(b"raw-\xff\xfe\n"));
    std::fs::write(&odd, "raw").unwrap();
    let long = "n".repeat(250);
    std::fs::write(upper.join(&long), "long").unwrap();
    std::fs::write(upper.join("secret"), "hidden").unwrap();
    std::fs::set_permissions(upper.join("secret"), PermissionsExt::from_mode(0o0)).unwrap();
    std::os::unix::fs::chown(upper.join("secret"), Some(3_000_000_000), Some(4_294_967_294)).unwrap();
    set_time(&upper.join("secret"), -77, 500_000_000);
    let mut v2 = vec![0u8; 20];
    (v2[3], v2[4], v2[0]) = (2, 0x0a, 1);
    std::fs::write(upper.join("cap"), "c").unwrap();
    attribute(&upper.join("cap"), "security.capability", &v2);
    attribute(&upper.join("cap"), "user.note", b"n");
    attribute(&upper.join("cap"), "trusted.note", b"n");
    let layer = pair.layer();
    let find = |name: &[u8]| &layer.iter().find(|(e, _)| e.path == name).unwrap().0;
    assert_eq!(layer.len(), 4);
    find(b"raw-\xff\xfe\n");
    find(long.as_bytes());
    let secret = find(b"secret");
    assert_eq!((secret.mode, secret.uid, secret.gid), (0, 3_000_000_000, 4_294_967_294));
    assert_eq!((secret.mtime_seconds, secret.mtime_nanoseconds), (-77, 0));
    let expected =
        BTreeMap::from([(b"security.capability".to_vec(), v2), (b"user.note".to_vec(), b"n".to_vec())]);
    assert_eq!(find(b"cap").xattrs, expected);
}

#[test]
fn the_content_digest_does_not_know_times() {
    let pair = Pair::new();
    std::fs::write(pair.upper.join("f"), "x").unwrap();
    set_time(&pair.upper.join("f"), 2_000_000_000, 0);
    let (late, bytes) = pair.write(LayerOptions::default()).unwrap();
    let mut seen = Vec::new();
    let mut observer = |entry: &Entry, digest: Option<Digest>| seen.push((entry.path.clone(), digest));
    let options = LayerOptions { epoch: Some(1_000), observer: Some(&mut observer) };
    let (clamped, clamped_bytes) = pair.write(options).unwrap();
    assert_eq!(seen, [(b"f".to_vec(), Some(Digest::of(b"x")))]);
    assert_eq!(entries(&clamped_bytes)[0].0.mtime_seconds, 1_000);
    assert_ne!(bytes, clamped_bytes);
    assert_eq!(late.content, clamped.content);
    std::fs::write(pair.upper.join("f"), "y").unwrap();
    assert_ne!(pair.write(LayerOptions::default()).unwrap().0.content, late.content);
    // A digest that is stored: changing how it is made means changing its tag.
    assert_eq!(
        ContentHasher::new().finish().to_string(),
        "sha256:6b9c65fae65f1ccc13cb2d8630f4c6ae8bb20930ac21d631c72fc6d820296a30"
    );
}

#[test]
fn a_deep_tree_is_walked() {
    let pair = Pair::new();
    let mut path = pair.upper.clone();
    for _ in 0..200 {
        path.push("d");
    }
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("f"), "bottom").unwrap();
    assert_eq!(pair.layer().len(), 201);
}

/// Applies the layer made of `upper` over `lower` and compares what overlayfs shows of both.
fn assert_round_trip(pair: &Pair) -> bool {
    let (_, bytes) = pair.write(LayerOptions::default()).unwrap();
    let applied = pair.temp.path().join("applied");
    std::fs::create_dir(&applied).unwrap();
    let parents = [RootDir::open(&pair.lower).unwrap()];
    apply_layer(&bytes[..], &RootDir::open(&applied).unwrap(), &parents).unwrap();
    let at = pair.temp.path().join("merged");
    let Some(before) = Merged::mount(&at, &[&pair.upper, &pair.lower]) else { return false };
    let expected = listing(&before.path);
    drop(before);
    let after = Merged::mount(&at, &[&applied, &pair.lower]).unwrap();
    assert_eq!(without_times_of_directories(listing(&after.path)), without_times_of_directories(expected));
    drop(after);
    std::fs::remove_dir_all(&applied).unwrap();
    true
}

/// A directory of which only the time changed is not recorded (semantics fact 81).
fn without_times_of_directories(lines: Vec<String>) -> Vec<String> {
    let strip = |line: String| {
        let at = line.find(" @");
        let end = line.find(" dir");
        match (at, end) {
            (Some(at), Some(end)) if at < end => format!("{}{}", &line[..at], &line[end..]),
            _ => line,
        }
    };
    lines.into_iter().map(strip).collect()
}

#[test]
fn what_overlayfs_does_round_trips() {
    if !is_root_of_all_ids() {
        return;
    }
    let pair = Pair::new();
    let script = "mkdir -p dir/sub plain; echo a >dir/a; echo c >dir/c; ln dir/c dir/hl; echo k >keep; echo u >up; \
        ln -s dir link; touch -d @1500000000 keep dir/a up; echo p >plain/p; mkfifo pipe; echo m >moved; chown 5:6 up";
    run_in(&pair.lower, script);
    let work = pair.temp.path().join("work");
    let at = pair.temp.path().join("rw");
    std::fs::create_dir(&work).unwrap();
    std::fs::create_dir(&at).unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr,metacopy=off,index=off",
        pair.lower.display(),
        pair.upper.display(),
        work.display()
    );
    let mounted = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&at).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: cannot mount an overlay here");
        return;
    }
    run_in(
        &at,
        "mv keep renamed; rm -r dir; mkdir -m 700 dir; echo fresh >dir/fresh; rm plain/p; ln -sfn other link; \
         chmod 4755 up; chmod 644 up; touch -d @1500000000 up; echo q >new; ln new new2; rm pipe; mkdir pipe; \
         echo KEEP >moved; mkdir -p a/b/c; echo x >a/b/c/f; rm -r a/b; mknod null c 1 3",
    );
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
    let names = pair.names();
    let expected = [
        ".wh.keep",
        "a",
        "dir",
        "dir/.wh.a",
        "dir/.wh.c",
        "dir/fresh",
        "dir/.wh.hl",
        "dir/.wh.sub",
        "link",
        "moved",
        "new",
        "new2",
        "null",
        "pipe",
        "plain",
        "plain/.wh.p",
        "renamed",
    ];
    let mut sorted = names.clone();
    sorted.sort();
    let mut expected = expected.map(String::from).to_vec();
    expected.sort();
    assert_eq!(sorted, expected);
    assert_round_trip(&pair);
}

fn run_in(dir: &Path, script: &str) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(dir).status().unwrap();
    assert!(status.success());
}

#[derive(Debug, Clone)]
enum Node {
    File(String, u32),
    Link(String),
    Dir(u32, BTreeMap<String, Node>),
}

fn nodes() -> impl Strategy<Value = BTreeMap<String, Node>> {
    let leaf = prop_oneof![
        ("[xy]{0,3}", prop::sample::select(vec![0o644u32, 0o600]))
            .prop_map(|(data, mode)| Node::File(data, mode)),
        "[ab]".prop_map(Node::Link),
    ];
    let mode = prop::sample::select(vec![0o755u32, 0o700]);
    let node = leaf.prop_recursive(3, 20, 4, move |inner| {
        (mode.clone(), prop::collection::btree_map("[abcd]", inner, 0..4))
            .prop_map(|(mode, below)| Node::Dir(mode, below))
    });
    prop::collection::btree_map("[abcd]", node, 0..4)
}

fn make(at: &Path, nodes: &BTreeMap<String, Node>) {
    for (name, node) in nodes {
        let path = at.join(name);
        match node {
            Node::File(data, mode) => {
                std::fs::write(&path, data).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
            }
            Node::Link(target) => symlink(target, &path).unwrap(),
            Node::Dir(mode, below) => {
                std::fs::create_dir(&path).unwrap();
                make(&path, below);
                std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
            }
        }
        set_time(&path, 1_000, 0);
    }
}

/// Turns a tree into an upper directory that shows that tree and nothing of the lower one.
fn hide_lower(upper: &Path, lower: &BTreeMap<String, Node>, tree: &BTreeMap<String, Node>) {
    for name in lower.keys().filter(|name| !tree.contains_key(*name)) {
        whiteout(&upper.join(name));
    }
    for (name, node) in tree {
        if matches!(node, Node::Dir(..)) {
            attribute(&upper.join(name), "user.overlay.opaque", b"y");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_over_any_other_round_trips(lower in nodes(), tree in nodes()) {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let pair = Pair::new();
        make(&pair.lower, &lower);
        make(&pair.upper, &tree);
        hide_lower(&pair.upper, &lower, &tree);
        assert_round_trip(&pair);
    }
}
