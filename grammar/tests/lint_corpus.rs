//! Checks a corpus of real Dockerfiles and compares with the findings of BuildKit.
//!
//! Invariants: runs only when `KILN_CORPUS` names a directory with `reference.jsonl` and `files/`; says so when it does
//! not. The reference is BuildKit's check of all stages for linux/amd64, without build arguments or ignore file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_grammar::lint::{self, Facts, LintConfig, Origin};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    file: String,
    #[serde(default)]
    lint: Option<Vec<Finding>>,
    #[serde(default)]
    lint_err: Option<String>,
    /// False when BuildKit refuses the file itself.
    inst_ok: bool,
}

#[derive(Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    rule: String,
    msg: String,
    line: usize,
}

impl Finding {
    fn agrees_with(&self, wanted: &Finding) -> bool {
        self.rule == wanted.rule
            && self.msg == wanted.msg
            && (self.line == wanted.line || self.rule == ELSEWHERE)
    }
}

/// Known only to planning, which has the image: compared there.
const OF_PLANNING: &str = "InvalidBaseImagePlatform";

/// kiln points at the empty line, BuildKit at the last line of the instruction.
const ELSEWHERE: &str = "NoEmptyContinuation";

fn ours(text: &str) -> Option<Vec<Finding>> {
    let parsed = kiln_grammar::parse(text);
    if parsed.has_errors() {
        return None;
    }
    let directive = parsed.buildfile.directives.check.as_ref().map_or("", |check| check.value.as_str());
    let config = LintConfig::from_directive(directive).ok()?;
    let facts = Facts { all_stages: true, only: Some(Origin::BuildKit), ..Facts::default() };
    let mut found = parsed.diagnostics;
    lint::keep(&mut found, &config);
    found.extend(lint::check(&parsed.buildfile, &facts, &config));
    let finding = |found: kiln_grammar::diagnostic::Diagnostic| Finding {
        rule: found.rule.unwrap_or("").to_owned(),
        line: parsed.buildfile.lines.line(found.span.start),
        msg: found.message,
    };
    Some(found.into_iter().map(finding).collect())
}

#[test]
fn real_files_get_the_findings_of_buildkit() {
    let Some(corpus) = std::env::var_os("KILN_CORPUS").map(PathBuf::from) else {
        eprintln!("SKIPPED: KILN_CORPUS does not name a corpus");
        return;
    };
    let reference =
        std::fs::read_to_string(corpus.join("reference.jsonl")).expect("the corpus has a reference");
    // By rule: found by both, missing, too many.
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let (mut files, mut same) = (0, 0);
    for line in reference.lines() {
        let row: Row = serde_json::from_str(line).expect("a row of the reference");
        let bytes = std::fs::read(corpus.join("files").join(&row.file)).expect("a file of the corpus");
        let Some(mut found) = ours(&String::from_utf8_lossy(&bytes)) else {
            assert!(!row.inst_ok || row.lint_err.is_some(), "{}: refused, but BuildKit takes it", row.file);
            continue;
        };
        files += 1;
        let mut differences = Vec::new();
        let expected = row.lint.unwrap_or_default();
        for wanted in expected.into_iter().filter(|finding| finding.rule != OF_PLANNING) {
            let count = counts.entry(wanted.rule.clone()).or_default();
            match found.iter().position(|finding| finding.agrees_with(&wanted)) {
                Some(at) => {
                    found.remove(at);
                    count[0] += 1;
                }
                None => {
                    count[1] += 1;
                    differences.push(format!("missing {wanted:?}"));
                }
            }
        }
        // BuildKit stops at an error of the conversion, kiln goes on and finds more.
        if row.lint_err.is_none() {
            for extra in found {
                counts.entry(extra.rule.clone()).or_default()[2] += 1;
                differences.push(format!("too many {extra:?}"));
            }
        }
        if differences.is_empty() {
            same += 1;
        } else {
            eprintln!("{}\n  {}", row.file, differences.join("\n  "));
        }
    }
    for (rule, [both, missing, extra]) in &counts {
        eprintln!("{rule:36} {both:5} same {missing:3} missing {extra:3} too many");
    }
    eprintln!("{same} of {files} files agree");
    assert!(files > 0 && same * 1000 >= files * 995, "fewer than 99.5 % of the files agree");
    for (rule, [both, missing, extra]) in counts {
        assert!((missing + extra) * 100 <= both.max(1), "{rule}: fewer than 99 % of the findings agree");
    }
}
