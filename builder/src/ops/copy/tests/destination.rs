//! Destination rules: semantics facts 1-11, 13, 17, and WORKDIR (34, 36).

use super::*;
use crate::plan::graph::MkdirSpec;

#[test]
fn fact_1_new_directory_is_plain_and_nested_ones_keep_theirs() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.dir("context/dir", 0o711).dir("context/dir/sub", 0o1770).file("context/dir/sub/f", "f");
    place.owner("context/dir", 100, 200).owner("context/dir/sub", 5, 6);
    place.copy_from("/dir /new").unwrap();
    assert_eq!(place.shown("new"), (0o755, 0, 0));
    assert_eq!(place.shown("new/sub"), (0o1770, 5, 6));
    place.copy_from("--chown=7:8 /dir /owned").unwrap();
    assert_eq!(place.shown("owned"), (0o755, 7, 8));
    assert_eq!(place.shown("owned/sub"), (0o1770, 7, 8));
}

#[test]
fn fact_2_existing_directory_keeps_all_but_its_times() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.dir("context/dir", 0o711).file("context/dir/f", "f").time(
        "context/dir",
        1_000_000_000,
        123_456_789,
    );
    place.dir("image/there", 0o700).owner("image/there", 3, 4);
    place.copy("--chown=7:8 --chmod=0640 dir /there").unwrap();
    assert_eq!(place.shown("there"), (0o700, 3, 4));
    assert_eq!((place.stat("there").mtime(), place.stat("there").mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!(place.shown("there/f"), (0o640, 7, 8));
    place.copy("dir /fresh").unwrap();
    assert_eq!(place.stat("fresh").mtime(), 1_000_000_000);
}

#[test]
fn fact_3_nested_directories_take_over_everything() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.dir("context/dir/sub", 0o710).file("context/dir/sub/new", "n").owner("context/dir/sub", 5, 6);
    place.time("context/dir/sub", 1_111_111_111, 5);
    place.dir("image/dst/sub", 0o777).file("image/dst/sub/old", "o").owner("image/dst/sub", 9, 9);
    place.copy_from("dir /dst").unwrap();
    assert_eq!(place.shown("dst/sub"), (0o710, 5, 6));
    assert_eq!((place.stat("dst/sub").mtime(), place.stat("dst/sub").mtime_nsec()), (1_111_111_111, 5));
    assert_eq!(place.names("dst/sub"), ["new", "old"]);
    place.copy_from("--chown=1:2 --chmod=u+w,g+w dir /dst").unwrap();
    assert_eq!(place.shown("dst/sub"), (0o730, 1, 2));
}

#[test]
fn fact_4_directories_are_copied_by_content() {
    if !root() {
        return;
    }
    for source in ["dir", "dir/", "dir/.", "./dir", "/dir"] {
        let place = Place::new();
        place.file("context/dir/f", "f").file("context/dir/.hidden", "h");
        place.copy(&format!("{source} /new/")).unwrap();
        assert_eq!(place.names("new"), [".hidden", "f"], "{source}");
    }
}

#[test]
fn facts_5_and_6_file_names_at_the_destination() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/src.txt", "data").dir("image/there", 0o755);
    place.copy("src.txt /new/").unwrap();
    place.copy("src.txt /dot/.").unwrap();
    place.copy("src.txt /a/b/name.txt").unwrap();
    place.copy("src.txt /there").unwrap();
    place.copy("src.txt /").unwrap();
    place.copy("src.txt /there/../up").unwrap();
    for path in ["new/src.txt", "dot/src.txt", "a/b/name.txt", "there/src.txt", "src.txt", "up"] {
        assert_eq!(place.text(path), "data", "{path}");
    }
}

#[test]
fn fact_7_files_and_directories_do_not_replace_each_other() {
    let place = Place::new();
    place.file("context/d/x", "file").dir("context/e/y", 0o755).file("context/f", "f");
    place.dir("image/w/x", 0o755).file("image/w/y", "y");
    let text = |words: &str| place.copy(words).unwrap_err().to_string();
    assert_eq!(text("d /w"), "cannot replace to directory /w/x with file");
    assert_eq!(text("e /w"), "cannot copy to non-directory: /w/y");
    assert_eq!(text("d /w/y"), "cannot copy to non-directory: /w/y");
    assert_eq!(text("d/x /w/"), "cannot replace to directory /w/x with file");
    assert_eq!(text("f /w/y/z"), "cannot make directory `/w/y`: `/w/y` is not a directory");
    assert!(place.copy("d /w").unwrap_err().hint().is_some());
    assert_eq!(place.text("w/y"), "y");
}

#[test]
fn fact_8_files_are_made_anew() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/d/f", "new").link("context/d/l", "nowhere").file("context/d/was-link", "new");
    place.file("image/w/f", "old").file("image/w/l", "file").file("image/target", "target");
    place.link("image/w/was-link", "../target");
    std::fs::hard_link(place.at("image/w/f"), place.at("image/other-name")).unwrap();
    place.copy("d /w").unwrap();
    assert_eq!(place.text("w/f"), "new");
    assert_eq!(place.text("other-name"), "old");
    assert_eq!(std::fs::read_link(place.at("image/w/l")).unwrap(), Path::new("nowhere"));
    assert_eq!(place.text("w/was-link"), "new");
    assert!(place.stat("w/was-link").is_file());
    assert_eq!(place.text("target"), "target");
    // The same for a file that is named: a link of its name in the directory is replaced.
    place.link("image/v/f", "../target").copy("d/f /v/").unwrap();
    assert!(place.stat("v/f").is_file());
    assert_eq!(place.text("target"), "target");
}

#[test]
fn fact_9_links_of_the_destination_are_followed_inside() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/foo", "foo").file("context/d/new", "n");
    place.link("image/symlink", "../tmp/x").copy("foo /symlink/").unwrap();
    assert_eq!(place.text("tmp/x/foo"), "foo");
    place.file("image/target", "old").link("image/link", "/target").copy("foo /link").unwrap();
    assert_eq!(place.text("target"), "foo");
    assert!(place.stat("link").is_symlink());
    place.dir("image/real", 0o755).link("image/dirlink", "real").copy("d /dirlink").unwrap();
    assert_eq!(place.names("real"), ["new"]);
    assert!(place.stat("dirlink").is_symlink());
    place.link("image/dangling", "/no/such/file").copy("foo /dangling").unwrap();
    assert_eq!(place.text("no/such/file"), "foo");
    place.copy("foo /dirlink/deep/er/").unwrap();
    assert_eq!(place.text("real/deep/er/foo"), "foo");
}

#[test]
fn fact_10_link_gives_directories_only() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/f", "f");
    let context = place.context();
    let spec = CopySpec { link: true, ..spec("f /link/f") };
    let sources = [ResolvedSource::Tree(SourceTree::local(&context).unwrap())];
    execute(&spec, &sources, &place.image(), &CopyOptions::default()).unwrap();
    assert_eq!(place.tree(""), ["link", "link/f"]);
}

#[test]
fn fact_11_link_cannot_look_up_names() {
    let place = Place::new();
    let error = place.file("context/f", "f").copy("--chown=app f /f").unwrap_err();
    assert!(error.to_string().contains("app"), "{error}");
    assert!(error.hint().unwrap().contains("--link"));
    assert!(place.tree("").is_empty());
}

#[test]
fn fact_13_later_sources_win() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/one/f", "1").file("context/two/f", "2").copy("one two /w/").unwrap();
    assert_eq!(place.text("w/f"), "2");
}

#[test]
fn fact_17_made_parents() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/f", "f");
    place.copy("f /plain/sub/f").unwrap();
    assert_eq!((place.shown("plain"), place.shown("plain/sub")), ((0o755, 0, 0), (0o755, 0, 0)));
    place.copy("--chown=1:2 f /owned/sub/").unwrap();
    assert_eq!((place.shown("owned"), place.shown("owned/sub")), ((0o755, 1, 2), (0o755, 1, 2)));
    place.copy("--chmod=600 f /octal/b/").unwrap();
    assert_eq!(
        (place.shown("octal").0, place.shown("octal/b").0, place.shown("octal/b/f").0),
        (0o600, 0o600, 0o600)
    );
    place.copy("--chmod=go-r f /symbolic/b/").unwrap();
    assert_eq!((place.shown("symbolic").0, place.shown("symbolic/b/f").0), (0o755, 0o600));
    // A wildcard that matches nothing makes nothing.
    place.copy("none* /absent/").unwrap();
    assert!(!place.at("image/absent").exists());
}

#[test]
fn fact_28_archives_go_into_a_directory() {
    if !root() {
        return;
    }
    struct Fake;
    impl Archives for Fake {
        fn is_archive(&self, file: &std::fs::File) -> std::io::Result<bool> {
            let mut text = String::new();
            let mut file = file;
            std::io::Read::read_to_string(&mut file, &mut text)?;
            Ok(text.starts_with("archive"))
        }

        fn unpack(
            &self,
            file: std::fs::File,
            root: &RootDir,
            directory: &[u8],
            owner: Option<(u32, u32)>,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            let text = std::io::read_to_string(file)?;
            if text.contains("broken") {
                return Err("it is broken".into());
            }
            let directory = root.subdir(directory)?;
            let name = format!("{text}-{owner:?}");
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
            rustix::fs::openat(directory.as_fd(), name, flags, mode)?;
            Ok(())
        }
    }
    let place = Place::new();
    place.file("context/a.1", "archive1").file("context/a.2", "archive2").file("context/a.3", "text");
    place.file("context/bad", "archive broken").link("context/l", "a.1").file("context/d/a", "archive3");
    let context = place.context();
    let add = |words: &str, unpack| {
        let spec = CopySpec { unpack, ..spec(words) };
        let sources: Vec<_> =
            spec.sources.iter().map(|_| ResolvedSource::Tree(SourceTree::local(&context).unwrap())).collect();
        let options = CopyOptions { archives: &Fake, ..CopyOptions::default() };
        execute(&spec, &sources, &place.image(), &options)
    };
    add("a.* /w", Unpack::Local).unwrap();
    assert_eq!(place.names("w"), ["a.3", "archive1-None", "archive2-None"]);
    add("--chown=3:4 --chmod=600 l /v", Unpack::Local).unwrap();
    assert_eq!(place.names("v"), ["archive1-Some((3, 4))"]);
    assert_eq!(place.shown("v"), (0o755, 3, 4));
    add("a.1 /never", Unpack::Never).unwrap();
    assert_eq!(place.text("never"), "archive1");
    // Only what is named is unpacked, not what is in a directory.
    add("d /dir", Unpack::Local).unwrap();
    assert_eq!(place.names("dir"), ["a"]);
    let error = add("bad /w/", Unpack::Local).unwrap_err().to_string();
    assert_eq!(error, "cannot unpack `bad`: it is broken");

    let download = |words: &str, unpack| {
        let spec = CopySpec { sources: vec![CopySource::Download { input: 1 }], unpack, ..spec(words) };
        let file = std::fs::File::open(place.at("context/a.1")).unwrap();
        let source = ResolvedSource::Download { file, name: "r.tar".to_owned(), mtime_seconds: 5 };
        let options = CopyOptions { archives: &Fake, ..CopyOptions::default() };
        execute(&spec, &[source], &place.image(), &options).unwrap();
    };
    download("/url/", Unpack::Local);
    assert_eq!(place.names("url"), ["r.tar"]);
    download("/url2/", Unpack::Always);
    assert_eq!(place.names("url2"), ["archive1-None"]);
}

#[test]
fn fact_34_workdir_belongs_to_the_user() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("image/etc/passwd", "app:x:1001:1002::/:/bin/sh\n").dir("image/there", 0o700);
    let workdir = |path: &str, user: &str| {
        mkdir(&MkdirSpec { path: path.to_owned(), user: user.to_owned() }, &place.image())
    };
    workdir("/one/two", "").unwrap();
    assert_eq!((place.shown("one"), place.shown("one/two")), ((0o755, 0, 0), (0o755, 0, 0)));
    workdir("/app/two", "app").unwrap();
    assert_eq!((place.shown("app"), place.shown("app/two")), ((0o755, 1001, 1002), (0o755, 1001, 1002)));
    workdir("/number", "55").unwrap();
    assert_eq!(place.shown("number"), (0o755, 55, 55));
    workdir("/there", "app").unwrap();
    assert_eq!(place.shown("there"), (0o700, 0, 0));
    // Fact 40: an unknown name fails at the first RUN, not here.
    workdir("/ghost", "ghost").unwrap();
    assert_eq!(place.shown("ghost"), (0o755, 0, 0));
    workdir("/", "app").unwrap();
}

#[test]
fn workdir_through_links_and_files() {
    let place = Place::new();
    place.dir("image/real", 0o755).link("image/link", "/real").file("image/f", "f");
    let workdir =
        |path: &str| mkdir(&MkdirSpec { path: path.to_owned(), user: String::new() }, &place.image());
    if root() {
        workdir("/link/sub").unwrap();
        assert_eq!(place.names("real"), ["sub"]);
        place.link("image/dangling", "/made/later");
        workdir("/dangling").unwrap();
        assert!(place.at("image/made/later").is_dir());
    }
    let text = |path: &str| workdir(path).unwrap_err().to_string();
    assert_eq!(text("/f"), "cannot make directory `/f`: `/f` is not a directory");
    assert_eq!(text("/f/deep/er"), "cannot make directory `/f/deep/er`: `/f` is not a directory");
}
