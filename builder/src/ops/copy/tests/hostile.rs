//! Hostile trees: nothing outside the roots is ever read or written.

use super::*;
use crate::plan::graph::MkdirSpec;

#[test]
fn sources_do_not_lead_out_of_the_context() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("outside.txt", "secret").file("outside-dir/f", "secret");
    place.link("context/rel", "../outside.txt").link("context/abs", place.at("outside.txt"));
    place.link("context/dirlink", "../outside-dir").link("context/absdir", place.host.path());
    place.file("context/ok", "ok");
    for words in [
        "rel /a",
        "abs /a",
        "dirlink /a",
        "dirlink/f /a",
        "absdir/outside.txt /a",
        "../outside.txt /a",
        "ok abs /d/",
        "--parents dirlink/f /a",
        "--parents dirlink/./f /a",
        "rel* /a",
    ] {
        assert!(matches!(place.copy(words), Err(CopyError::NotFound { .. })), "{words}");
    }
    for words in ["dirlink/* /a/", "absdir/*.txt /a/", "../*.txt /a/", "--parents absdir/*.txt /b/"] {
        place.copy(words).unwrap();
    }
    for entry in walkdir::WalkDir::new(place.at("image")) {
        let entry = entry.unwrap();
        assert!(!entry.file_type().is_file() || entry.file_name() == "ok", "{:?}", entry.path());
    }
}

#[test]
fn destinations_do_not_lead_out_of_the_image() {
    if !root() {
        return;
    }
    let place = Place::new();
    place
        .file("victim", "untouched")
        .dir("victims", 0o755)
        .file("context/f", "new")
        .file("context/d/e/g", "g");
    let climb = format!("../../../../../../../../../..{}", place.host.path().display());
    place.link("image/abs", place.at("victim")).link("image/rel", format!("{climb}/victim"));
    place.link("image/dir", place.at("victims")).link("image/reldir", format!("{climb}/victims"));
    place.link("image/d/e", place.at("victims")).link("image/loop", "loop");
    place.copy("f /abs").unwrap();
    place.copy("f /rel").unwrap();
    place.copy("f /dir/made/").unwrap();
    place.copy("d /reldir").unwrap();
    assert!(place.copy("f /loop").is_err());
    assert!(place.copy("f /loop/x/").is_err());
    // A link where a directory is to go is an error, not a way out.
    let error = place.copy("d /d").unwrap_err().to_string();
    assert_eq!(error, "cannot copy to non-directory: /d/e");
    mkdir(&MkdirSpec { path: "/dir/work".to_owned(), user: String::new() }, &place.image()).unwrap();
    assert_eq!(std::fs::read_to_string(place.at("victim")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(place.at("victims")).unwrap().count(), 0);
    // What was written is inside, under the same path.
    let inside = place.at("image").join(place.at("victims").strip_prefix("/").unwrap());
    assert!(inside.join("made/f").is_file() && inside.join("e/g").is_file() && inside.join("work").is_dir());
}

#[test]
fn a_link_made_by_the_same_copy_is_not_followed() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.dir("victims", 0o755).link("context/one/x", place.at("victims")).file("context/two/x/f", "f");
    let error = place.copy("one two /w/").unwrap_err().to_string();
    assert_eq!(error, "cannot copy to non-directory: /w/x");
    assert_eq!(std::fs::read_dir(place.at("victims")).unwrap().count(), 0);
}

#[test]
fn fifos_do_not_block() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/f", "f");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let fifo = place.at("context/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let context = place.context();
    let spec = CopySpec { unpack: Unpack::Local, ..spec("* /w/") };
    let sources = [ResolvedSource::Tree(SourceTree::local(&context).unwrap())];
    execute(&spec, &sources, &place.image(), &CopyOptions::default()).unwrap();
    assert_eq!(place.names("w"), ["f", "pipe"]);
}
