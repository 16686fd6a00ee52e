//! What the documents for users say is so: their commands run and print what is shown, options that they name exist.
//!
//! `UPDATE=1` writes what was printed into the documents. Marks in the documents: see `docs/document.rs`.

mod compare;
mod document;
pub mod session;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use compare::Compare;
use document::{Command, Part};
use session::{Ran, Session};

/// Documents that are run here, each by the test of its name.
macro_rules! documents {
    ($($test:ident $path:literal $skipped:literal;)*) => {
        const RUN: &[&str] = &[$($path),*];
        $(#[test] fn $test() { run($path, $skipped); })*
    };
}

// The number is that of blocks that cannot be run in a test, each with its reason in the document.
documents! {
    readme "README.md" 2;
    tutorial "docs/tutorial.md" 0;
    attestations "docs/attestations.md" 0;
    caching_remote "docs/caching-remote.md" 0;
    caching "docs/caching.md" 0;
    ci "docs/ci.md" 0;
    contributing "docs/contributing.md" 1;
    checks "docs/checks.md" 0;
    debugging "docs/debugging.md" 0;
    network "docs/network.md" 1;
    outputs "docs/outputs.md" 0;
    registry "docs/registry.md" 0;
    rootless "docs/rootless.md" 0;
    running "docs/running.md" 0;
    store "docs/store.md" 0;
}

/// Documents without commands to run.
const TEXT_ONLY: [&str; 12] = [
    "SECURITY.md",
    "docs/README.md",
    "docs/architecture.md",
    "docs/benchmarks.md",
    "docs/cli.md",
    "docs/compatibility.md",
    "docs/dependencies.md",
    "docs/language.md",
    "docs/progress-json.md",
    "docs/reliability.md",
    "docs/security.md",
    "examples/ci/README.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn parse(path: &str) -> Vec<Part> {
    document::parse(&read(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

#[track_caller]
fn run(path: &str, skipped: usize) {
    let parts = parse(path);
    let reasons: Vec<&String> = parts
        .iter()
        .filter_map(|part| if let Part::Skipped(why) = part { Some(why) } else { None })
        .collect();
    assert_eq!(reasons.len(), skipped, "{path}: blocks that are not run: {reasons:#?}");
    let Some(session) = Session::new() else { return };
    let ran = session.run(&parts);
    let compare = Compare::new();
    let (mut wrong, mut changes) = (String::new(), Vec::new());
    for (number, (part, ran)) in parts.iter().zip(&ran).enumerate() {
        let (line, text) = match part {
            Part::Skipped(_) => continue,
            Part::File { name, .. } => (0, name),
            Part::Word { command, .. } => (0, command),
            Part::Hidden(command) | Part::Command(command) => (command.line, &command.text),
        };
        let next = parts.get(number + 1);
        let why = match part {
            Part::Command(command) => is_wrong(command, next, ran, &compare),
            _ if ran.code != Some(0) => Some(format!("it ended with {:?}", ran.code)),
            _ => None,
        };
        let Some(why) = why else { continue };
        let _ = writeln!(wrong, "{path}:{line}: {text}\n{why}; it printed:\n{}\n", ran.lines.join("\n"));
        if let Part::Command(command) = part
            && !command.shown.is_empty()
            && command.typed.is_empty()
        {
            changes.push((command.place.clone(), ran.lines.clone()));
        }
    }
    if std::env::var_os("UPDATE").is_some() && !changes.is_empty() {
        fs::write(root().join(path), document::rewrite(&read(path), changes)).expect("document");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Why what a command did is not what its document says. A command fails when an error is shown, or `$?` is asked for
/// next; else it succeeds.
fn is_wrong(command: &Command, next: Option<&Part>, ran: &Ran, compare: &Compare) -> Option<String> {
    let Some(code) = ran.code else { return Some("the shell did not come to its end".to_owned()) };
    let shows_error = command.shown.iter().any(|line| line.starts_with("error: "));
    let is_asked = matches!(next, Some(Part::Command(next)) if next.text.starts_with("echo $?"));
    if code != 0 && !shows_error && !is_asked {
        return Some(format!("it ended with {code}"));
    }
    if code == 0 && shows_error {
        return Some("it did not fail".to_owned());
    }
    let shown = session::without_typed(&command.shown);
    let is_same = command.shown.is_empty() || compare.is_same(&shown, &ran.lines);
    (!is_same).then(|| "its output is shown otherwise".to_owned())
}

#[test]
fn every_document_is_run_or_has_nothing_to_run() {
    let mut found: Vec<String> = walkdir::WalkDir::new(root())
        .into_iter()
        .filter_entry(|entry| {
            !matches!(entry.file_name().to_str(), Some("target" | ".git" | ".ci" | "testdata"))
        })
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "md"))
        .map(|entry| entry.path().strip_prefix(root()).expect("below").display().to_string())
        .collect();
    found.sort();
    for path in RUN.iter().chain(&TEXT_ONLY) {
        assert!(found.iter().any(|found| found == path), "{path} is gone");
    }
    // A page that has no test of its own yet.
    for path in
        found.iter().filter(|path| !RUN.contains(&path.as_str()) && !TEXT_ONLY.contains(&path.as_str()))
    {
        let skipped = parse(path).iter().filter(|part| matches!(part, Part::Skipped(_))).count();
        run(path, skipped);
    }
    // Another test compares docs/cli.md with the command line: its lines are not commands, but how these are made.
    for path in TEXT_ONLY.iter().filter(|path| **path != "docs/cli.md") {
        let parts = parse(path);
        let commands = parts.iter().filter(|part| matches!(part, Part::Command(_))).count();
        assert_eq!(commands, 0, "{path} has commands, but is not run");
    }
}

/// Text in backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_walks_lead_through_code_that_is_there() {
    let text = read("docs/contributing.md");
    let mut rows = 0;
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [path, names, _] = cells[..] else { continue };
        let path = spans(path).next().unwrap_or_default();
        if !path.contains('/') {
            continue;
        }
        rows += 1;
        let content = read(path);
        for name in spans(names) {
            assert!(content.contains(name), "docs/contributing.md: {path} has no `{name}`");
        }
    }
    assert!(rows > 25, "{rows} rows");
}

#[test]
fn what_documents_name_is_there() {
    let reference = read("docs/cli.md");
    for path in RUN.iter().chain(&TEXT_ONLY) {
        let text = read(path);
        let below = Path::new(path).parent().expect("a directory");
        // Links to files.
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.contains(' ') {
                assert!(root().join(below).join(target).exists(), "{path}: the link {link} leads nowhere");
            }
        }
        if *path == "docs/cli.md" {
            continue;
        }
        // Verbs and long options of kiln.
        for command in spans(&text).filter_map(|span| span.strip_prefix("kiln ")) {
            let mut words = command.split_whitespace();
            let Some(verb) = words.next().filter(|verb| {
                verb.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !verb.starts_with('-')
            }) else {
                continue;
            };
            let Some(section) = reference.split(&format!("\n## kiln {verb}\n")).nth(1) else {
                panic!("{path}: there is no `kiln {verb}`");
            };
            let section = section.split("\n## ").next().unwrap_or_default();
            for option in words.take_while(|word| *word != "--").filter(|word| word.starts_with("--")) {
                let option = option.split(['=', '[', '|']).next().unwrap_or_default();
                let is_known =
                    section.contains(&format!("`{option}")) || section.contains(&format!(", `{option}"));
                // `verify` takes those of `build`.
                assert!(
                    is_known || verb == "verify" || option == "--help",
                    "{path}: `kiln {verb}` has no {option}"
                );
            }
        }
    }
}
