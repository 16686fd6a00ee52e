//! The rooms of the builder import downwards only (docs/architecture.md).
//!
//! Invariants: the table says which rooms a room may name; an edge that is not in it fails the build, and so does an
//! entry of the table that no code uses any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Room and what it may name in its ordinary code. Levels, high to low: cli, ui | build | transfer | export, solve | ops |
/// cache | plan, context, sandbox, registry | net, image, snapshot, store | layer | base, sys.
const ALLOWED: &[(&str, &[&str])] = &[
    // The command line makes typed requests out of words, so it knows whatever has a type for a flag.
    (
        "cli",
        &[
            "base", "build", "cache", "context", "export", "image", "layer", "net", "ops", "plan", "record",
            "registry", "sandbox", "snapshot", "store", "sys", "transfer", "ui",
        ],
    ),
    // Events and diagnostics come from below as plain data.
    ("ui", &["base"]),
    (
        "build",
        &[
            "base", "cache", "context", "export", "image", "layer", "net", "ops", "plan", "record",
            "registry", "sandbox", "snapshot", "solve", "store", "transfer",
        ],
    ),
    // Images are moved as they are: a build pushes through it, and exporters write its layouts and archives.
    ("transfer", &["base", "context", "export", "image", "layer", "registry", "store"]),
    // An exporter turns stored snapshots into blobs (snapshot, store, layer) with the planned config (plan::graph);
    // sys for reading files of a tree.
    ("export", &["base", "image", "layer", "plan", "snapshot", "store", "sys"]),
    // The scheduler knows ops as a trait and the graph as data; neither sandbox nor registry.
    ("solve", &["base", "ops", "plan", "store"]),
    // An executor reads its step from plan::graph and does it with everything below.
    (
        "ops",
        &[
            "base", "cache", "context", "image", "layer", "net", "plan", "record", "registry", "sandbox",
            "snapshot", "store", "sys",
        ],
    ),
    // A remote cache keeps artifacts in a registry, a directory or a service; it knows keys and layers by digest only.
    ("cache", &["base", "image", "net", "registry", "sys"]),
    // Specs of steps are compared with those of earlier builds. Executors say which files they read.
    ("record", &["base", "plan"]),
    // Pure: text and configs in, a graph out.
    ("plan", &["base", "image"]),
    ("context", &["base", "image", "net", "sys"]),
    // snapshot::accounts finds users in a root file system.
    ("sandbox", &["base", "snapshot", "sys"]),
    ("registry", &["base", "image", "net"]),
    ("net", &["base"]),
    ("image", &["base"]),
    // One level, one direction: a snapshot is kept in the store, which does not know what it holds.
    ("snapshot", &["base", "layer", "store", "sys"]),
    // image: store::Store::write_index writes an OCI index, and what an image is made of is read from its manifest;
    // sys: locks of leases.
    ("store", &["base", "image", "sys"]),
    ("layer", &["base"]),
    ("base", &[]),
    // Nothing but limits and plain types.
    ("sys", &["base"]),
];

/// Modules of `base` that `sys` may name.
const BASE_FOR_SYS: [&str; 2] = ["limits", "mode"];
/// Modules of `base` that `ui` may name.
const BASE_FOR_UI: [&str; 1] = ["events"];
/// The call site of `sys::process::clone_into_namespaces`, which only its caller can promise to be single-threaded.
const UNSAFE_OUTSIDE_SYS: [&str; 1] = ["sandbox/zygote.rs"];
/// Rooms that may know the command line, the terminal and the environment.
const OUTER: [&str; 2] = ["cli", "ui"];

struct Source {
    room: String,
    path: String,
    /// Code without comments and without modules of tests.
    lines: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    visit(&root, &mut |path| {
        let below = path.strip_prefix(&root).expect("below src").display().to_string();
        let Some((room, _)) = below.split_once('/') else { return };
        if is_test_file(&below) {
            return;
        }
        let text = fs::read_to_string(path).expect("source");
        sources.push(Source { room: room.to_owned(), lines: code(&text), path: below });
    });
    assert!(sources.len() > 100, "only {} files were found", sources.len());
    sources
}

fn visit(directory: &Path, each: &mut dyn FnMut(&PathBuf)) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).expect("directory").flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path);
        }
    }
}

/// Tests may build their world with whatever they need.
fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "testing.rs" | "fake_server.rs"))
}

fn code(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut all = text.lines().enumerate().peekable();
    while let Some((index, line)) = all.next() {
        let trimmed = line.trim_start();
        if trimmed == "#[cfg(test)]"
            && all.peek().is_some_and(|(_, next)| next.starts_with("mod ") && next.ends_with('{'))
        {
            break;
        }
        if !trimmed.starts_with("//") {
            let end = line.find(" // ").unwrap_or(line.len());
            lines.push((index + 1, line[..end].to_owned()));
        }
    }
    lines
}

/// The modules named after `crate::` in a line, as paths of at most two parts.
fn named(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let list = list.split('}').next().unwrap_or(list);
            found.extend(list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
        } else {
            let end =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            let group = rest[end..].strip_prefix('{').map(|list| list.split('}').next().unwrap_or(list));
            match group {
                Some(list) if rest[..end].ends_with("::") => {
                    found.extend(list.split(',').map(|name| format!("{}{}", &rest[..end], name.trim())));
                }
                _ => found.push(rest[..end].trim_end_matches(':').to_owned()),
            }
        }
    }
    found
}

#[test]
fn rooms_import_downwards_only() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(room, below)| (*room, below.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources() {
        let Some(below) = allowed.get(source.room.as_str()) else {
            wrong.push(format!("{}: the room is not in the table", source.path));
            continue;
        };
        for (number, line) in &source.lines {
            for name in named(line) {
                let mut parts = name.split("::");
                let room = parts.next().unwrap_or_default();
                let module = parts.next().unwrap_or_default();
                if room == source.room || !allowed.contains_key(room) {
                    continue;
                }
                used.insert((source.room.clone(), room.to_owned()));
                let narrow = match (source.room.as_str(), room) {
                    ("sys", "base") => BASE_FOR_SYS.contains(&module),
                    ("ui", "base") => BASE_FOR_UI.contains(&module),
                    _ => true,
                };
                if !below.contains(room) || !narrow {
                    wrong.push(format!("{}:{number}: {} names {name}", source.path, source.room));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that do not point down:\n{}", wrong.join("\n"));
    let unused: Vec<String> = ALLOWED
        .iter()
        .flat_map(|(room, below)| below.iter().map(move |to| (*room, *to)))
        .filter(|(room, to)| !used.contains(&((*room).to_owned(), (*to).to_owned())))
        .map(|(room, to)| format!("{room} -> {to}"))
        .collect();
    assert!(unused.is_empty(), "take these out of the table: {unused:?}");
}

#[test]
fn the_table_has_no_cycle() {
    let mut rest: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(room, below)| (*room, below.iter().copied().collect())).collect();
    while !rest.is_empty() {
        let bottom: Vec<&str> =
            rest.iter().filter(|(_, below)| below.is_empty()).map(|(room, _)| *room).collect();
        assert!(!bottom.is_empty(), "these rooms need each other: {:?}", rest.keys());
        for room in bottom {
            rest.remove(room);
            rest.values_mut().for_each(|below| {
                below.remove(room);
            });
        }
    }
}

#[test]
fn the_command_line_the_terminal_and_the_environment_stay_outside() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !OUTER.contains(&source.room.as_str())) {
        for (number, line) in &source.lines {
            let environment = ["env::var", "env::vars", "env::args", "env::set_var", "env::current_dir"];
            let named = ["clap::", "indicatif::", "annotate_snippets::"];
            if environment.iter().chain(&named).any(|word| line.contains(word)) {
                wrong.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "below `build` nothing reads these:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_sys() {
    let mut wrong = Vec::new();
    let mut sites = BTreeMap::new();
    for source in sources().iter().filter(|source| source.room != "sys") {
        for (number, line) in &source.lines {
            let words: Vec<&str> = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
            if words.contains(&"unsafe") {
                if UNSAFE_OUTSIDE_SYS.contains(&source.path.as_str()) {
                    *sites.entry(source.path.clone()).or_insert(0) += 1;
                } else {
                    wrong.push(format!("{}:{number}: {}", source.path, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe code outside of sys:\n{}", wrong.join("\n"));
    assert!(sites.values().all(|count| *count == 1), "one call only: {sites:?}");
}

#[test]
fn reading_names_works() {
    assert_eq!(named("use crate::base::digest::Digest;"), ["base::digest::Digest"]);
    assert_eq!(named("use crate::{base, sys};"), ["base", "sys"]);
    assert_eq!(named("use crate::sys::{mount, process};"), ["sys::mount", "sys::process"]);
    assert_eq!(named("    let x = crate::store::records::now();"), ["store::records::now"]);
    assert_eq!(named("use mycrate::base;"), Vec::<String>::new());
}
