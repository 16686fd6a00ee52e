//! Which files are copied: semantics facts 12, 14-16, 32; --parents, --exclude, ignore files.

use super::*;

#[test]
fn fact_12_named_links_are_followed_and_others_are_kept() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/real.txt", "real").file("context/dir/inner", "inner");
    place.link("context/to-file", "real.txt").link("context/to-dir", "dir").link("context/chain", "to-file");
    place.link("context/abs", "/real.txt").link("context/up", "../../dir").link("context/dir/rel", "inner");
    place.link("context/dir/abs", "/etc/passwd").link("context/dir/dangling", "../../../outside");
    place.copy("to-file /a").unwrap();
    place.copy("chain abs /files/").unwrap();
    place.copy("to-dir /b").unwrap();
    place.copy("up/inner to-dir/inner /c/").unwrap();
    assert_eq!((place.text("a"), place.text("c/inner")), ("real".to_owned(), "inner".to_owned()));
    assert_eq!(place.names("files"), ["abs", "chain"]);
    assert!(place.stat("files/chain").is_file());
    for (name, target) in [("rel", "inner"), ("abs", "/etc/passwd"), ("dangling", "../../../outside")] {
        assert_eq!(std::fs::read_link(place.at("image/b").join(name)).unwrap(), Path::new(target));
    }
    place.link("context/broken", "none");
    assert_eq!(place.copy("broken /x").unwrap_err().to_string(), "\"/broken\": not found");
    assert_eq!(place.copy("bro* /x").unwrap_err().to_string(), "\"/broken\": not found");
}

#[test]
fn source_paths_stop_at_the_root() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/f", "inside").file("f", "outside");
    place.copy("../f /a").unwrap();
    place.copy("sub/../../../f /b").unwrap();
    assert_eq!((place.text("a"), place.text("b")), ("inside".to_owned(), "inside".to_owned()));
}

#[test]
fn fact_14_missing_sources() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/foo", "f").file("context/d/a", "a");
    place.copy("foo nomatch* none/*.txt /").unwrap();
    assert_eq!(place.names(""), ["foo"]);
    for (source, shown) in [
        ("not-in-context.txt", "/not-in-context.txt"),
        ("d/deep/none", "/d/deep/none"),
        ("./d/../x", "/x"),
        ("foo/below", "/foo/below"),
    ] {
        let error = place.copy(&format!("{source} /")).unwrap_err();
        assert_eq!(error.to_string(), format!("\"{shown}\": not found"));
        assert_eq!(error.hint(), None);
    }
    place.file("context/package.json", "{}").file("context/d/hidden.txt", "");
    for (source, near) in [("pakage.json", "package.json"), ("d/hiden.txt", "d/hidden.txt"), ("Foo", "foo")] {
        let hint = place.copy(&format!("{source} /")).unwrap_err().hint().unwrap();
        assert_eq!(hint, format!("did you mean `{near}`?"));
    }
    place.file("context/.dockerignore", "package.json\n");
    assert_eq!(place.copy("pakage.json /").unwrap_err().hint(), None);
    assert!(matches!(place.copy("[ /"), Err(CopyError::Pattern { .. })));
    assert!(matches!(place.copy("--exclude=[ foo /"), Err(CopyError::PathPattern { .. })));
}

#[test]
fn fact_15_wildcards() {
    let place = Place::new();
    for path in
        ["a.txt", "b.txt", ".c.txt", "d.md", "sub/e.txt", "m1/conf/x.cfg", "m2/conf/y.cfg", "m2/other/z.cfg"]
    {
        place.file(&format!("context/{path}"), path);
    }
    for name in ["f1", "f2", "fx"] {
        place.file(&format!("context/{name}"), "");
    }
    let names = |pattern: &str| {
        let context = place.context();
        let tree = SourceTree::local(&context).unwrap();
        let selection = select(&tree, pattern, SelectOptions::default()).unwrap();
        let shown = |item: &super::super::select::Item| String::from_utf8(item.path.clone()).unwrap();
        selection.items.iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(names("*.txt"), [".c.txt", "a.txt", "b.txt"]);
    assert_eq!(names("f[1-2]"), ["f1", "f2"]);
    assert_eq!(names("f[^0-9]"), ["fx"]);
    assert_eq!(names("/m*/conf/*.cfg"), ["m1/conf/x.cfg", "m2/conf/y.cfg"]);
    assert_eq!(names("m?"), ["m1", "m2"]);
    assert_eq!(names("m2/*/?.cfg"), ["m2/conf/y.cfg", "m2/other/z.cfg"]);
    // A star is one component, and a matched directory is not searched.
    assert_eq!(names("*"), [".c.txt", "a.txt", "b.txt", "d.md", "f1", "f2", "fx", "m1", "m2", "sub"]);
    if root() {
        place.copy("m*/conf/*.cfg /w/").unwrap();
        assert_eq!(place.names("w"), ["x.cfg", "y.cfg"]);
        place.copy("m* /merged/").unwrap();
        assert_eq!(place.tree("merged"), ["conf", "conf/x.cfg", "conf/y.cfg", "other", "other/z.cfg"]);
    }
}

#[test]
fn fact_16_escapes() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.file("context/arr[0].txt", "x").file("context/a*b", "star").file("context/back\\slash", "back");
    place.file("context/axb", "no");
    place.copy("arr[[]0].txt /a").unwrap();
    place.copy("arr\\[0\\].txt /b").unwrap();
    place.copy("a\\*b /c").unwrap();
    place.copy("back\\slash /d").unwrap();
    assert_eq!((place.text("a"), place.text("b"), place.text("c")), ("x".into(), "x".into(), "star".into()));
    assert_eq!(place.text("d"), "back");
}

#[test]
fn exclude_patterns() {
    if !root() {
        return;
    }
    let place = Place::new();
    for path in [
        "d/a.go",
        "d/a_test.go",
        "d/sub/b.go",
        "d/sub/b_test.go",
        "d/vendor/x.go",
        "dir1/a.png",
        "dir1/a.txt",
        "dir2/b.png",
        "home.txt",
        "home.md",
        "homer.md",
    ] {
        place.file(&format!("context/{path}"), "");
    }
    place.copy("--exclude=**/*_test.go --exclude=vendor d /1/").unwrap();
    assert_eq!(place.tree("1"), ["a.go", "sub", "sub/b.go"]);
    place.copy("--exclude=*.png dir* /2/").unwrap();
    assert_eq!(place.tree("2"), ["a.txt"]);
    place.copy("--exclude=*.txt hom* /3/").unwrap();
    assert_eq!(place.tree("3"), ["home.md", "homer.md"]);
    // A file that is named in full is meant.
    place.copy("--exclude=*.txt home.txt /4/").unwrap();
    assert_eq!(place.tree("4"), ["home.txt"]);
    place.copy("--exclude=sub --exclude=!sub/b.go --exclude=a* d /5/").unwrap();
    assert_eq!(place.tree("5"), ["sub", "sub/b.go", "vendor", "vendor/x.go"]);
    place.copy("--exclude=* d /6/").unwrap();
    assert!(place.tree("6").is_empty());
}

#[test]
fn parents_keep_the_path() {
    if !root() {
        return;
    }
    let place = Place::new();
    for path in
        ["src/a.txt", "src/x/b.txt", "src/x/y/c.txt", "src/x/y/d.md", "x/y/a.txt", "x/y/z/b.txt", "x/c.txt"]
    {
        place.file(&format!("context/{path}"), path);
    }
    place.dir("context/outer", 0o711).dir("context/outer/inner", 0o750).file("context/outer/inner/f", "f");
    place.copy("--parents ./src/**/*.txt /1/").unwrap();
    assert_eq!(place.tree("1"), ["src", "src/a.txt", "src/x", "src/x/b.txt", "src/x/y", "src/x/y/c.txt"]);
    place.copy("--parents ./x/./y/*.txt /2/").unwrap();
    assert_eq!(place.tree("2"), ["y", "y/a.txt"]);
    place.copy("--parents x/./y/z/b.txt /3/").unwrap();
    assert_eq!(place.tree("3"), ["y", "y/z", "y/z/b.txt"]);
    place.copy("--parents outer/inner/f /4/").unwrap();
    assert_eq!((place.shown("4/outer").0, place.shown("4/outer/inner").0), (0o711, 0o750));
    place.copy("--parents x/c.txt x/*.none /5/").unwrap();
    assert_eq!(place.tree("5"), ["x", "x/c.txt"]);
    place.copy("--parents src/x /6").unwrap();
    assert_eq!(place.tree("6"), ["src", "src/x", "src/x/b.txt", "src/x/y", "src/x/y/c.txt", "src/x/y/d.md"]);
    place.copy("--parents --exclude=**/y s*/x /7").unwrap();
    assert_eq!(place.tree("7"), ["src", "src/x", "src/x/b.txt"]);
    place.copy("--parents src/* /8").unwrap();
    assert_eq!(place.tree("8").len(), 7);
    place.copy("--parents --exclude=src/x src/x/b.txt /9/").unwrap();
    assert!(place.tree("9").is_empty());
    place.copy("--parents src/./ /10/").unwrap();
    assert_eq!(place.tree("10").len(), 6);
    for missing in ["src/none", "x/./none", "none/./x", "src/a.txt/x"] {
        let error = place.copy(&format!("--parents {missing} /w")).unwrap_err().to_string();
        assert!(error.ends_with("not found") && error.contains('/'), "{error}");
    }
    // A link on the way is followed, one at the end is copied.
    place.link("context/l", "src").link("context/end", "src/a.txt");
    place.copy("--parents l/x/b.txt end /11/").unwrap();
    assert_eq!(place.tree("11"), ["end", "l", "l/x", "l/x/b.txt"]);
    assert!(place.stat("11/l").is_dir() && place.stat("11/end").is_symlink());
}

#[test]
fn parents_change_only_the_mode_of_what_exists() {
    if !root() {
        return;
    }
    let place = Place::new();
    place.dir("context/a", 0o711).file("context/a/f", "f").owner("context/a", 5, 6);
    place.dir("image/w/a", 0o700).owner("image/w/a", 8, 9);
    place.copy_from("--parents a/f /w/").unwrap();
    assert_eq!(place.shown("w/a"), (0o711, 8, 9));
    place.copy_from("--parents a/f /v/").unwrap();
    assert_eq!(place.shown("v/a"), (0o711, 5, 6));
}

fn ignoring(place: &Place, patterns: &str) {
    place.file("context/.dockerignore", patterns);
}

#[test]
fn ignored_files_do_not_exist() {
    if !root() {
        return;
    }
    let place = Place::new();
    for path in
        ["README.md", "NOTES.md", "docs/x", "docs/keep/y", "docs/keep/not", "secret/key", "sub/keep.log"]
    {
        place.file(&format!("context/{path}"), path);
    }
    ignoring(
        &place,
        "# comment\n*.md\n!README.md\ndocs\n!docs/keep\ndocs/keep/not\nsecret\nempty\n!empty/none\n",
    );
    place.dir("context/empty", 0o755).copy(". /w").unwrap();
    assert_eq!(
        place.tree("w"),
        [".dockerignore", "README.md", "docs", "docs/keep", "docs/keep/y", "sub", "sub/keep.log"]
    );
    place.copy("docs /d").unwrap();
    assert_eq!(place.tree("d"), ["keep", "keep/y"]);
    place.copy("* /stars/").unwrap();
    assert_eq!(place.names("stars"), [".dockerignore", "README.md", "keep", "keep.log"]);
    place.copy("s*/* */keep /wild/").unwrap();
    assert_eq!(place.names("wild"), ["keep.log", "y"]);
    for (source, line) in [("NOTES.md", 2), ("secret/key", 7), ("secret", 7), ("docs/x", 4), ("empty", 8)] {
        let error = place.copy(&format!("{source} /x")).unwrap_err();
        assert_eq!(error.to_string(), format!("\"/{source}\": not found"));
        let hint = error.hint().unwrap();
        assert!(hint.contains(&format!("line {line} of `.dockerignore`")), "{hint}");
    }
    // Neither through a link, nor through a hidden link, nor with --parents.
    place
        .link("context/shown", "NOTES.md")
        .link("context/hidden.md", "README.md")
        .link("context/chain", "hidden.md");
    for source in ["shown", "hidden.md", "chain", "--parents secret/key", "--parents NOTES.md"] {
        let error = place.copy(&format!("{source} /x")).unwrap_err();
        assert!(error.hint().unwrap().contains("line "), "{source}");
    }
    place.copy("--parents docs/keep/* secret/* /p/").unwrap();
    assert_eq!(place.tree("p"), ["docs", "docs/keep", "docs/keep/y"]);
}

#[test]
fn fact_32_ignore_files_of_a_stage_mean_nothing() {
    let place = Place::new();
    place.file("context/f", "f");
    ignoring(&place, "*\n");
    assert!(place.copy("f /a").is_err());
    if root() {
        place.copy_from("f /a").unwrap();
        assert_eq!(place.text("a"), "f");
    }
}

#[test]
fn double_stars_in_ignore_files() {
    let place = Place::new();
    for path in ["a.o", "a.c", "x/b.o", "x/y/c.o", "x/y/c.c", "tmp/f", "x/tmp/f"] {
        place.file(&format!("context/{path}"), "");
    }
    ignoring(&place, "**/*.o\n**/tmp\n");
    let context = place.context();
    let tree = SourceTree::local(&context).unwrap();
    let selection = select(&tree, ".", SelectOptions::default()).unwrap();
    let paths: Vec<_> = selection.items[0].entries.iter().map(|e| String::from_utf8_lossy(&e.path)).collect();
    assert_eq!(paths, [".dockerignore", "a.c", "x", "x/y", "x/y/c.c"]);
}

/// Paths below the context as `select` gives them.
fn paths_of(place: &Place, ignored: Option<&str>) -> Vec<String> {
    if let Some(text) = ignored {
        ignoring(place, text);
    }
    let context = place.context();
    let tree = SourceTree::local(&context).unwrap();
    let selection = select(&tree, ".", SelectOptions::default()).unwrap();
    selection.items[0].entries.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect()
}

#[test]
fn a_wide_tree_is_read_by_several_threads_in_the_order_of_names() {
    let place = Place::new();
    let mut expected = Vec::new();
    for wide in 0..40 {
        for inner in 0..3 {
            place
                .file(&format!("context/{wide:02}/in-{inner}/f"), "")
                .file(&format!("context/{wide:02}/g{inner}"), "");
        }
        expected.push(format!("{wide:02}"));
        expected.extend((0..3).map(|inner| format!("{wide:02}/g{inner}")));
        expected.extend(
            (0..3).flat_map(|inner| [format!("{wide:02}/in-{inner}"), format!("{wide:02}/in-{inner}/f")]),
        );
    }
    for _ in 0..20 {
        assert_eq!(paths_of(&place, None), expected);
    }
    // What only leads to something visible stays, what leads to nothing goes.
    let some = paths_of(&place, Some("*\n!*/in-1/f\n!3*/g0\n"));
    assert_eq!(some.len(), 40 * 3 + 10, "{some:?}");
    assert_eq!(some[..4], ["00", "00/in-1", "00/in-1/f", "01"]);
}

#[test]
fn depth_takes_no_stack_and_has_an_end() {
    let place = Place::new();
    let deep = |levels: usize| {
        let mut at = std::fs::File::open(place.at("context")).unwrap();
        for _ in 0..levels {
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
            _ = rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU);
            at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap().into();
        }
    };
    std::fs::create_dir_all(place.at("context")).unwrap();
    deep(2000);
    assert_eq!(paths_of(&place, None).len(), 2000);
    deep(2100);
    let context = place.context();
    let tree = SourceTree::local(&context).unwrap();
    for path in [".", "[d]"] {
        let error = select(&tree, path, SelectOptions::default()).unwrap_err().to_string();
        assert!(error.starts_with("`d/d/d") && error.len() < 160 && error.contains("4095"), "{error}");
    }
    crate::sys::remove::remove_tree(&place.at("context")).unwrap();
}
