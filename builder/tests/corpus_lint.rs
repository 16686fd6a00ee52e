//! Compares the one check that planning makes, InvalidBaseImagePlatform, with BuildKit's on a corpus of real
//! Dockerfiles. The others are compared in the grammar's tests.
//!
//! Invariants: runs only when `KILN_CORPUS` names a directory with `reference.jsonl` and `files/`; says so when it does
//! not. The reference is of all stages and planning looks at those that a target needs, so every stage with a name is
//! planned as a target.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use kiln::base::digest::{DiffId, Digest};
use kiln::image::config::ImageConfig;
use kiln::image::manifest::Descriptor;
use kiln::image::platform::Platform;
use kiln::plan::graph::{
    BlobLocation, ImageLayer, ImageRequest, ImageResolver, PlanOptions, ResolveError, ResolvedImage,
};
use serde_json::Value;

const RULE: &str = "InvalidBaseImagePlatform";

/// Whatever is asked for, the image is for linux/amd64.
struct FakeBase;

impl ImageResolver for FakeBase {
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        let digest = Digest::of(request.name.as_bytes());
        let descriptor: Descriptor =
            serde_json::from_value(serde_json::json!({ "digest": digest.to_string(), "size": 1 })).unwrap();
        Ok(Arc::new(ResolvedImage {
            name: request.name.clone(),
            digest,
            config: ImageConfig {
                architecture: "amd64".into(),
                os: "linux".into(),
                ..ImageConfig::default()
            },
            layers: vec![ImageLayer { diff_id: DiffId(digest), descriptor }],
            location: BlobLocation::Store,
        }))
    }
}

/// Message and line.
type Finding = (String, usize);

fn ours(text: &str) -> BTreeSet<Finding> {
    let parsed = kiln_grammar::parse(text);
    if parsed.has_errors() {
        return BTreeSet::new();
    }
    let file = &parsed.buildfile;
    let names = file.stages.iter().filter_map(|stage| Some(Some(stage.from.name.as_ref()?.value.clone())));
    let mut found = BTreeSet::new();
    for target in names.chain([None]) {
        let options = PlanOptions {
            target,
            platforms: vec![Platform::new("linux", "amd64", "")],
            ..PlanOptions::default()
        };
        let plan = kiln::plan::plan(file, &options, &FakeBase);
        let diagnostics = plan.map_or_else(|error| error.diagnostics, |plan| plan.diagnostics);
        let own = diagnostics.into_iter().filter(|finding| finding.rule == Some(RULE));
        found.extend(own.map(|finding| (finding.message, file.lines.line(finding.span.start))));
    }
    found
}

#[test]
fn base_images_of_another_platform_are_found_where_buildkit_finds_them() {
    let Some(corpus) = std::env::var_os("KILN_CORPUS").map(PathBuf::from) else {
        eprintln!("SKIPPED: KILN_CORPUS does not name a corpus");
        return;
    };
    let reference =
        std::fs::read_to_string(corpus.join("reference.jsonl")).expect("the corpus has a reference");
    let mut expected_in_all = 0;
    for line in reference.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let file = row["file"].as_str().unwrap();
        let text = std::fs::read(corpus.join("files").join(file)).unwrap();
        let text = String::from_utf8_lossy(&text);
        if !text.contains("--platform") || row.get("lint_err").is_some_and(|error| !error.is_null()) {
            continue;
        }
        let expected: BTreeSet<Finding> = row["lint"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|finding| finding["rule"] == RULE)
            .map(|finding| {
                let line = finding["line"].as_u64().unwrap();
                (finding["msg"].as_str().unwrap().to_owned(), usize::try_from(line).unwrap())
            })
            .collect();
        expected_in_all += expected.len();
        assert_eq!(ours(&text), expected, "{file}");
    }
    assert!(expected_in_all > 0, "the corpus has no such finding");
    eprintln!("{expected_in_all} findings agree");
}
