//! Owners, modes, times, links and special files: semantics facts 18-26, 29 and 31.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;

use super::*;

#[test]
fn fact_18_chmod_reaches_files_and_directories_but_no_links() {
    if !root() {
        return;
    }
    let place = Place::new();
    place
        .file("context/d/f", "f")
        .dir("context/d/s", 0o755)
        .file("context/d/x", "x")
        .mode("context/d/x", 0o700);
    place.link("context/d/l", "/etc/passwd").file("image/etc/passwd", "p");
    place.copy("--chmod=700 d /w").unwrap();
    assert_eq!(place.shown("w").0, 0o700);
    for path in ["w/f", "w/s", "w/x"] {
        assert_eq!(place.shown(path).0, 0o700, "{path}");
    }
    assert!(place.stat("w/l").is_symlink());
    assert_eq!(place.shown("etc/passwd").0, 0o644);
    place.copy("--chmod=u=rwX,go=rX d /v").unwrap();
    let modes: Vec<u32> = ["v/f", "v/s", "v/x"].iter().map(|path| place.shown(path).0).collect();
    assert_eq!(modes, [0o644, 0o755, 0o755]);
    place.copy("--chmod=4755 d/f /suid").unwrap();
    place.copy("--chmod=2750 d/f /sgid").unwrap();
    assert_eq!((place.shown("suid").0, place.shown("sgid").0), (0o4755, 0o2750));
    assert!(matches!(place.copy("--chmod=888 d/f /bad"), Err(CopyError::Mode(_))));
}

#[test]
fn facts_19_and_20_attributes_survive_chown() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/f", "f").mode("context/f", 0o4755);
    let file = File::open(place.at("context/f")).unwrap();
    // cap_net_raw+ep, version 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    for (name, value) in [("security.capability", &capability[..]), ("user.colour", b"red")] {
        if let Err(e) = rustix::fs::fsetxattr(&file, name, value, flags) {
            eprintln!("SKIPPED: {name} cannot be set here: {e}");
            return;
        }
    }
    let _ = rustix::fs::fsetxattr(&file, "trusted.host", b"no", flags);
    place.copy("--chown=7:8 f /f").unwrap();
    assert_eq!(place.shown("f"), (0o4755, 7, 8));
    let copy = File::open(place.at("image/f")).unwrap();
    let mut value = [0; 64];
    let length = rustix::fs::fgetxattr(&copy, "security.capability", &mut value).unwrap();
    assert_eq!(value[..length], capability);
    let length = rustix::fs::fgetxattr(&copy, "user.colour", &mut value).unwrap();
    assert_eq!(&value[..length], b"red");
    assert!(rustix::fs::fgetxattr(&copy, "trusted.host", &mut value).is_err());
}

#[test]
fn fact_21_local_files_belong_to_root_and_others_keep_theirs() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/d/f", "f").owner("context/d/f", 1234, 5678).mode("context/d/f", 0o664);
    place.link("context/d/l", "f").owner("context/d/l", 1, 2).dir("context/d/s", 0o775).owner(
        "context/d/s",
        3,
        4,
    );
    place.copy("d /w").unwrap();
    assert_eq!(place.shown("w/f"), (0o664, 0, 0));
    assert_eq!(place.shown("w/s"), (0o775, 0, 0));
    assert_eq!((place.stat("w/l").uid(), place.stat("w/l").gid()), (0, 0));
    place.copy_from("d /v").unwrap();
    assert_eq!(place.shown("v/f"), (0o664, 1234, 5678));
    assert_eq!((place.stat("v/l").uid(), place.stat("v/l").gid()), (1, 2));
    place.copy_from("d/f /one").unwrap();
    assert_eq!(place.shown("one"), (0o664, 1234, 5678));
}

#[test]
fn facts_22_and_23_chown_by_name_and_number() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("image/etc/passwd", "app:x:1001:1002::/:/bin/sh\n").file("image/etc/group", "extra:x:2001:\n");
    place.file("context/f", "f").file("context/etc/passwd", "ghost:x:9:9::/:/bin/sh\n");
    for (chown, path, uid, gid) in [
        ("app:extra", "a", 1001, 2001),
        ("app", "b", 1001, 1002),
        ("4321", "c", 4321, 4321),
        ("88:extra", "d", 88, 2001),
    ] {
        place.copy(&format!("--chown={chown} f /{path}")).unwrap();
        assert_eq!(place.shown(path), (0o644, uid, gid), "{chown}");
    }
    // Names are those of the state before the copy: what the copy itself brings does not count.
    let error = place.copy("--chown=ghost etc /etc").unwrap_err().to_string();
    assert!(error.contains("`ghost`"), "{error}");
    assert!(place.text("etc/passwd").starts_with("app"));
}

#[test]
fn fact_24_hard_links_stay_within_one_source() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/d/a", "x").dir("context/d/s", 0o755);
    std::fs::hard_link(place.at("context/d/a"), place.at("context/d/b")).unwrap();
    std::fs::hard_link(place.at("context/d/a"), place.at("context/d/s/c")).unwrap();
    place.copy("--chown=5:6 d /w").unwrap();
    let inode = |path: &str| place.stat(path).ino();
    assert_eq!((inode("w/a"), place.stat("w/a").nlink()), (inode("w/s/c"), 3));
    assert_eq!(place.shown("w/b"), (0o644, 5, 6));
    place.copy("d/a d/b /v/").unwrap();
    assert_ne!(inode("v/a"), inode("v/b"));
    // Copying again over the result makes new files, linked as before.
    place.copy("d /w").unwrap();
    assert_eq!((inode("w/a"), place.stat("w/a").nlink()), (inode("w/b"), 3));
}

#[test]
fn fact_25_special_files() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/d/f", "f");
    let make = |name: &str, kind, device| {
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, place.at("context/d").join(name), kind, mode, device)
    };
    make("pipe", rustix::fs::FileType::Fifo, 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    let device = make("null", rustix::fs::FileType::CharacterDevice, null);
    std::os::unix::net::UnixListener::bind(place.at("context/d/socket")).unwrap();
    place.mode("context/d/socket", 0o751).mode("context/d/pipe", 0o604).time("context/d/pipe", 77, 8);
    place.copy("d /w").unwrap();
    assert!(place.stat("w/pipe").file_type().is_fifo());
    assert_eq!(place.shown("w/pipe").0, 0o604);
    assert_eq!((place.stat("w/pipe").mtime(), place.stat("w/pipe").mtime_nsec()), (77, 8));
    assert!(place.stat("w/socket").is_file());
    assert_eq!((place.stat("w/socket").len(), place.shown("w/socket").0), (0, 0o751));
    if let Err(e) = device {
        eprintln!("SKIPPED the device: {e}");
    } else {
        assert!(place.stat("w/null").file_type().is_char_device());
        assert_eq!(place.stat("w/null").rdev(), null);
    }
    place.copy("d/pipe /one").unwrap();
    assert!(place.stat("one").file_type().is_fifo());
    place.copy("d/socket /two").unwrap();
    assert!(place.stat("two").is_file());
}

#[test]
fn fact_26_times_are_kept_to_the_nanosecond() {
    let place = Place::new();
    place.file("context/f", "f").time("context/f", 1_234_567_890, 123_456_789);
    place.file("context/d/g", "g").time("context/d/g", -5, 7).link("context/d/l", "x").time(
        "context/d/l",
        42,
        43,
    );
    if !root() {
        return;
    }
    place.copy("f /f").unwrap();
    place.copy("d /w").unwrap();
    for (path, seconds, nanoseconds) in [("f", 1_234_567_890, 123_456_789), ("w/g", -5, 7), ("w/l", 42, 43)] {
        assert_eq!(
            (place.stat(path).mtime(), place.stat(path).mtime_nsec()),
            (seconds, nanoseconds),
            "{path}"
        );
    }
}

#[test]
fn fact_29_downloads() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/body", "remote").owner("context/body", 9, 9);
    let add = |words: &str, name: &str| {
        let spec = CopySpec { sources: vec![CopySource::Download { input: 1 }], ..spec(words) };
        let file = File::open(place.at("context/body")).unwrap();
        let source = ResolvedSource::Download { file, name: name.to_owned(), mtime_seconds: 1_000 };
        execute(&spec, &[source], &place.image(), &CopyOptions::default()).unwrap();
    };
    add("/w/", "remote.txt");
    assert_eq!(
        (place.text("w/remote.txt"), place.shown("w/remote.txt")),
        ("remote".to_owned(), (0o600, 0, 0))
    );
    assert_eq!(place.stat("w/remote.txt").mtime(), 1_000);
    add("--chmod=755 --chown=1:2 /as", "remote.txt");
    assert_eq!(place.shown("as"), (0o755, 1, 2));
    for (name, path) in [("", "v/__unnamed__"), ("../../x", "v/x"), ("..", "v/__unnamed__")] {
        add("/v/", name);
        assert_eq!(place.text(path), "remote");
    }
}

#[test]
fn fact_31_here_documents() {
    if !root() {
        return;
    }
    let place = Place::new();
    let inline =
        |name: &str, content: &str| CopySource::Inline { name: name.to_owned(), content: content.to_owned() };
    let sources = vec![inline("a", "one\n"), inline("b", "")];
    let both = || [ResolvedSource::Inline, ResolvedSource::Inline];
    let options = CopyOptions::default();
    execute(&CopySpec { sources: sources.clone(), ..spec("/d/") }, &both(), &place.image(), &options)
        .unwrap();
    assert_eq!((place.text("d/a").as_str(), place.text("d/b").as_str()), ("one\n", ""));
    assert_eq!(place.shown("d/a"), (0o644, 0, 0));
    let spec = CopySpec { sources, ..spec("--chmod=+x --chown=3:4 /e/") };
    execute(&spec, &both(), &place.image(), &options).unwrap();
    assert_eq!(place.shown("e/a"), (0o755, 3, 4));
    let error = execute(&spec, &[], &place.image(), &options).unwrap_err();
    assert!(matches!(error, CopyError::Mismatch(1)));
}

#[test]
fn a_cancelled_copy_stops() {
    let place = Place::new();
    place.file("context/d/f", "f");
    let context = place.context();
    let options = CopyOptions::default();
    options.cancel.cancel();
    let sources = [ResolvedSource::Tree(SourceTree::local(&context).unwrap())];
    let result = execute(&spec("d /w"), &sources, &place.image(), &options);
    assert!(matches!(result, Err(CopyError::Cancelled)));
}
