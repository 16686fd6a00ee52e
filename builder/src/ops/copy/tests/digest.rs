//! The digest for cache keys: semantics facts 100-102, language.md 1.13.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::base::digest::{ContentDigest, Digest};
use crate::context::fingerprint::{FileDigests, ReadAlways};

fn digest_with(tree: &SourceTree<'_>, words: &str, files: &dyn FileDigests) -> ContentDigest {
    let spec = spec(&format!("{words} /"));
    let options = SelectOptions { parents: spec.parents, exclude: &spec.exclude };
    let [CopySource::Path { path, .. }] = spec.sources.as_slice() else { panic!("one source") };
    digest_selection(tree, &select(tree, path, options).unwrap(), files).unwrap()
}

impl Place {
    fn digest(&self, words: &str) -> ContentDigest {
        digest_with(&SourceTree::local(&self.context()).unwrap(), words, &ReadAlways)
    }

    fn digest_from(&self, words: &str) -> ContentDigest {
        let tree = SourceTree::of(RootDir::open(&self.at("context")).unwrap());
        digest_with(&tree, words, &ReadAlways)
    }
}

fn small() -> Place {
    let place = Place::new();
    place
        .file("context/d/f", "f")
        .file("context/d/s/g", "g")
        .link("context/d/l", "f")
        .file("context/other", "o");
    place.mode("context/d", 0o755).mode("context/d/s", 0o755);
    place
}

/// The digest is in cache keys on disk: when this changes, so must the tag in `digest.rs`.
#[test]
fn the_digest_is_pinned() {
    assert_eq!(
        small().digest("d").to_string(),
        "sha256:16cc4286cfd26599aac2f61c06431b7a2df122486cd9d0a7fd368d9546d1fbb8"
    );
    assert_eq!(
        small().digest("d/f").to_string(),
        "sha256:48bbff5455df882943eb71aedadb6bb4a1ac28d14030b3ca241fe93d0dc6197c"
    );
}

#[test]
fn fact_100_what_matters() {
    let original = small().digest("d");
    assert_eq!(small().digest("d"), original);
    let changed = |change: &dyn Fn(&Place)| {
        let place = small();
        change(&place);
        place.digest("d")
    };
    let rename = |place: &Place| std::fs::rename(place.at("context/d/f"), place.at("context/d/h")).unwrap();
    let relink = |place: &Place| {
        std::fs::remove_file(place.at("context/d/l")).unwrap();
        place.link("context/d/l", "g");
    };
    let empty = |place: &Place| {
        place.dir("context/d/new", 0o755);
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&Place));
    let changes: [Change<'_>; 7] = [
        ("bytes", &|place| {
            place.file("context/d/f", "F");
        }),
        ("size", &|place| {
            place.file("context/d/f", "ff");
        }),
        ("mode", &|place| {
            place.mode("context/d/f", 0o755);
        }),
        ("directory mode", &|place| {
            place.mode("context/d/s", 0o700);
        }),
        ("name", &rename),
        ("link target", &relink),
        ("a new directory", &empty),
    ];
    for (what, change) in changes {
        assert_ne!(changed(change), original, "{what}");
    }
}

#[test]
fn language_1_13_what_does_not_matter() {
    let original = small().digest("d");
    let place = small();
    place.time("context/d/f", 5, 6).time("context/d/s", 7, 8).file("context/other", "changed");
    // The copied directory itself: its mode does not reach the image.
    place.mode("context/d", 0o711);
    assert_eq!(place.digest("d"), original, "times, unselected files, the top directory");
    place.file("context/d/f.log", "l").file("context/.dockerignore", "d/*.log\n");
    assert_eq!(place.digest("d"), original, "ignored files");
    assert_eq!(place.digest("--exclude=nothing d"), original, "patterns are in the spec");
    // Moving the tree (fact 101).
    std::fs::rename(place.at("context/d"), place.at("context/moved")).unwrap();
    place.file("context/.dockerignore", "moved/*.log\n");
    assert_eq!(place.digest("moved"), original, "the place");
    // Hard links.
    let place = small();
    std::fs::remove_file(place.at("context/d/s/g")).unwrap();
    place.file("context/elsewhere", "g");
    std::fs::hard_link(place.at("context/elsewhere"), place.at("context/d/s/g")).unwrap();
    assert_eq!(place.digest("d"), original, "hard links");
}

#[test]
fn fact_102_owner_and_umask_of_local_files_do_not_matter() {
    let place = small();
    let original = place.digest("d");
    place.mode("context/d/f", 0o664).mode("context/d/s", 0o777);
    assert_eq!(place.digest("d"), original);
    let from = place.digest_from("d");
    place.mode("context/d/f", 0o644);
    assert_ne!(place.digest_from("d"), from, "in a stage every bit counts");
    if root() {
        let from = place.digest_from("d");
        place.owner("context/d/f", 5, 6);
        assert_eq!(place.digest("d"), original);
        assert_ne!(place.digest_from("d"), from, "in a stage owners count");
    }
}

#[test]
fn names_of_files_matter_for_wildcards() {
    let place = Place::new();
    place.file("context/a.txt", "x");
    let original = place.digest("*.txt");
    std::fs::rename(place.at("context/a.txt"), place.at("context/b.txt")).unwrap();
    assert_ne!(place.digest("*.txt"), original);
    assert_ne!(place.digest("none*"), original);
}

#[test]
fn remembered_files_are_not_read() {
    struct Memory {
        asked: AtomicUsize,
        read: AtomicUsize,
    }
    impl FileDigests for Memory {
        fn known(&self, _: &[u8], _: &rustix::fs::Stat) -> Option<Digest> {
            None
        }

        fn digest(
            &self,
            path: &[u8],
            stat: &rustix::fs::Stat,
            read: &mut dyn FnMut() -> io::Result<Digest>,
        ) -> io::Result<Digest> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if path == b"d/s/g" {
                assert_eq!(stat.st_size, 1);
                return Ok(Digest::of(b"g"));
            }
            self.read.fetch_add(1, Ordering::SeqCst);
            read()
        }
    }
    let place = small();
    let memory = Memory { asked: AtomicUsize::new(0), read: AtomicUsize::new(0) };
    let context = place.context();
    let remembered = digest_with(&SourceTree::local(&context).unwrap(), "d", &memory);
    assert_eq!(remembered, place.digest("d"));
    assert_eq!((memory.asked.into_inner(), memory.read.into_inner()), (2, 1));
}

#[test]
fn many_files_are_hashed_in_order_and_errors_are_reported() {
    struct Failing;
    impl FileDigests for Failing {
        fn known(&self, _: &[u8], _: &rustix::fs::Stat) -> Option<Digest> {
            None
        }

        fn digest(
            &self,
            path: &[u8],
            _: &rustix::fs::Stat,
            read: &mut dyn FnMut() -> io::Result<Digest>,
        ) -> io::Result<Digest> {
            if path.ends_with(b"57") { Err(io::Error::other("broken")) } else { read() }
        }
    }
    let place = Place::new();
    for number in 0..200 {
        place.file(&format!("context/d/{number:03}"), &format!("{number}"));
    }
    let original = place.digest("d");
    for _ in 0..5 {
        assert_eq!(place.digest("d"), original);
    }
    std::fs::rename(place.at("context/d/010"), place.at("swap")).unwrap();
    std::fs::rename(place.at("context/d/011"), place.at("context/d/010")).unwrap();
    std::fs::rename(place.at("swap"), place.at("context/d/011")).unwrap();
    assert_ne!(place.digest("d"), original);
    let context = place.context();
    let tree = SourceTree::local(&context).unwrap();
    let selection = select(&tree, "d", SelectOptions::default()).unwrap();
    let error = digest_selection(&tree, &selection, &Failing).unwrap_err().to_string();
    assert!(error.contains("57") && error.contains("broken"), "{error}");
}

/// One thing of a random tree.
#[derive(Debug, Clone)]
enum Thing {
    File { content: Vec<u8>, mode: u32 },
    Directory { mode: u32 },
    Link(String),
    Fifo,
    HardLink,
}

fn thing() -> impl Strategy<Value = Thing> {
    let mode =
        prop_oneof![Just(0o644), Just(0o755), Just(0o600), Just(0o4711), Just(0o2770), Just(0o777), Just(0)];
    prop_oneof![
        4 => (proptest::collection::vec(any::<u8>(), 0..300), mode.clone())
            .prop_map(|(content, mode)| Thing::File { content, mode }),
        3 => mode.prop_map(|mode| Thing::Directory { mode }),
        2 => "[a-c/.]{1,8}".prop_map(Thing::Link),
        1 => Just(Thing::Fifo),
        2 => Just(Thing::HardLink),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A copy of a tree has the same digest as the tree, and copying it again changes nothing.
    #[test]
    fn copies_have_the_digest_of_their_source(
        things in proptest::collection::vec(("[a-d]{1,2}(/[a-d]){0,3}", thing(), 0_u32..3, 0_i64..2_000_000_000), 0..24)
    ) {
        if !root() {
            return Ok(());
        }
        let place = Place::new();
        place.dir("context/t", 0o755);
        let mut files: Vec<PathBuf> = Vec::new();
        for (path, thing, owner, seconds) in &things {
            let at = format!("context/t/{path}");
            let full = place.at(&at);
            // Paths that collide with what is there already are left out; nothing is made through a link, which
            // may lead anywhere.
            let above = full.ancestors().skip(1).take(path.matches('/').count());
            let through_link = above.into_iter().any(|path| path.is_symlink());
            if through_link
                || full.symlink_metadata().is_ok()
                || std::fs::create_dir_all(full.parent().unwrap()).is_err()
            {
                continue;
            }
            match thing {
                Thing::File { content, mode } => {
                    std::fs::write(&full, content).unwrap();
                    files.push(full.clone());
                    place.owner(&at, *owner, owner + 1).mode(&at, *mode);
                }
                Thing::Directory { mode } => {
                    place.dir(&at, *mode).owner(&at, owner + 1, *owner);
                }
                Thing::Link(target) => {
                    symlink(target, &full).unwrap();
                    place.owner(&at, *owner, *owner);
                }
                Thing::Fifo => {
                    let mode = rustix::fs::Mode::from_raw_mode(0o640);
                    rustix::fs::mknodat(rustix::fs::CWD, &full, rustix::fs::FileType::Fifo, mode, 0).unwrap();
                }
                Thing::HardLink => match files.last() {
                    Some(file) => std::fs::hard_link(file, &full).unwrap(),
                    None => continue,
                },
            }
            place.time(&at, *seconds, 7);
        }
        let copy = |context: &str| {
            let tree = SourceTree::of(RootDir::open(&place.at(context)).unwrap());
            digest_with(&tree, "t", &ReadAlways)
        };
        let source = copy("context");
        for _ in 0..2 {
            place.copy_from("t /t").unwrap();
            prop_assert_eq!(copy("image"), source);
        }
        // Names and times too, which the digest does not see.
        let listing = |root: &str| -> Vec<_> {
            let base = place.at(root);
            walkdir::WalkDir::new(base.join("t")).sort_by_file_name().into_iter().map(|entry| {
                let entry = entry.unwrap();
                let stat = std::fs::symlink_metadata(entry.path()).unwrap();
                let path = entry.path().strip_prefix(&base).unwrap().to_owned();
                (path, stat.mtime(), stat.mtime_nsec(), stat.nlink())
            }).collect()
        };
        prop_assert_eq!(listing("image"), listing("context"));
    }
}
