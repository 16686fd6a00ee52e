//! Time to parse many files, on one thread: the directory that `KILN_CORPUS` names (see `tests/corpus.rs`), else the
//! examples of this repository, read over and over.
//!
//! Invariants: only parsing is timed; each file is parsed once to warm up and the best of several rounds counts.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

fn main() {
    let corpus = std::env::var_os("KILN_CORPUS").map(PathBuf::from);
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/examples");
    let directory = corpus.as_ref().map_or(examples, |corpus| corpus.join("files"));
    let files = read(&directory);
    let bytes: usize = files.values().map(String::len).sum();
    let mut best: BTreeMap<&str, Duration> = BTreeMap::new();
    for round in 0..=ROUNDS {
        for (name, text) in &files {
            let start = Instant::now();
            let parsed = black_box(kiln_grammar::parse(black_box(text)));
            let took = start.elapsed();
            drop(parsed);
            if round > 0 {
                let least = best.entry(name).or_insert(took);
                *least = took.min(*least);
            }
        }
    }
    let total: Duration = best.values().sum();
    let mut sorted: Vec<Duration> = best.values().copied().collect();
    sorted.sort();
    let quantile = |part: usize| sorted.get(sorted.len() * part / 100).copied().unwrap_or_default();
    println!("files {}", files.len());
    println!("bytes {bytes}");
    println!("total {total:.1?}, median {:.1?}, 99 of 100 below {:.1?}", quantile(50), quantile(99));
    println!("rate  {:.1} MB/s", bytes as f64 / 1e6 / total.as_secs_f64().max(f64::EPSILON));
    let Some(reference) = corpus.and_then(|corpus| fs::read_to_string(corpus.join("reference.jsonl")).ok())
    else {
        return;
    };
    let records = reference.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let theirs_us: u64 = records
        .filter(|record| record["file"].as_str().is_some_and(|name| files.contains_key(name)))
        .filter_map(|record| record["parse_us"].as_u64())
        .sum();
    let theirs = Duration::from_micros(theirs_us);
    println!("reference {theirs:.1?}, {:.1} times as long", theirs.as_secs_f64() / total.as_secs_f64());
}

/// All files of a directory that are text, by name.
fn read(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let text = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Some((name, fs::read_to_string(entry.path()).ok()?))
    };
    entries.flatten().filter_map(text).collect()
}
