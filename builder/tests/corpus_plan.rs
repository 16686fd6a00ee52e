//! Plans a corpus of real Dockerfiles and compares with what BuildKit makes of them.
//!
//! Invariants: runs only when `KILN_CORPUS` names a directory with `reference.jsonl` and `files/`; says so when it does
//! not. The reference was made with one fake base image for every FROM, no build arguments and an empty context.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use kiln::base::digest::{DiffId, Digest};
use kiln::image::config::{ContainerConfig, ImageConfig};
use kiln::image::manifest::Descriptor;
use kiln::image::platform::Platform;
use kiln::image::reference::Reference;
use kiln::plan::graph::{
    BlobLocation, CopySource, ImageLayer, ImageRequest, ImageResolver, Op, Plan, PlanOptions, ResolveError,
    ResolvedImage,
};
use serde_json::Value;

struct FakeBase;

impl ImageResolver for FakeBase {
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        let digest = Digest::of(request.name.as_bytes());
        let config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: ContainerConfig {
                env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
                cmd: Some(vec!["/bin/sh".into()]),
                ..ContainerConfig::default()
            },
            ..ImageConfig::default()
        };
        let descriptor: Descriptor =
            serde_json::from_value(serde_json::json!({ "digest": digest.to_string(), "size": 1 })).unwrap();
        Ok(Arc::new(ResolvedImage {
            name: request.name.clone(),
            digest,
            config,
            layers: vec![ImageLayer { diff_id: DiffId(digest), descriptor }],
            location: BlobLocation::Store,
        }))
    }
}

/// What the result needs: numbers of steps by BuildKit's name for their kind, and images.
fn needs(plan: &Plan) -> (BTreeMap<&'static str, u64>, BTreeSet<String>) {
    let mut counts = BTreeMap::new();
    let mut images = BTreeSet::new();
    let mut open: Vec<_> = plan.images.iter().map(|image| image.result).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let vertex = plan.graph.vertex(id);
        open.extend(&vertex.inputs);
        // BuildKit writes each here-document that is a file in a step of its own.
        let inline = match &vertex.op {
            Op::Copy(spec) => spec.sources.iter().filter(|s| matches!(s, CopySource::Inline { .. })).count(),
            Op::Run(spec) => spec.scripts.len(),
            _ => 0,
        };
        *counts.entry("File").or_default() += inline as u64;
        let kind = match &vertex.op {
            Op::Run(_) => "Exec",
            Op::Merge => "Merge",
            // What is taken from the context for a mount has no stage: BuildKit has no step for it.
            Op::Copy(_) | Op::Mkdir(_) if !vertex.stage.is_empty() => "File",
            Op::Image(spec) => {
                let name =
                    spec.image.as_ref().map(|image| image.name.parse::<Reference>().unwrap().to_string());
                images.extend(name);
                continue;
            }
            _ => continue,
        };
        *counts.entry(kind).or_default() += 1;
    }
    (counts, images)
}

/// Differences between the plan and the reference, one line each.
fn compare(plan: &Plan, expected: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    let image = plan.images.first().expect("one platform gives one image");
    let config = serde_json::to_value(&image.config.config).unwrap();
    if config != expected["config"] {
        differences.push(format!("config\n    ours     {config}\n    expected {}", expected["config"]));
    }
    let number = |key: &str| expected[key].as_u64().unwrap_or(0);
    let history = image.history.len() as u64;
    let empty = image.history.iter().filter(|entry| entry.vertex.is_none()).count() as u64;
    if (history, empty) != (number("history"), number("history_empty")) {
        let (expected, expected_empty) = (number("history"), number("history_empty"));
        differences.push(format!("history {history}/{empty} for {expected}/{expected_empty}"));
    }
    let (ours, images) = needs(plan);
    let listed: BTreeSet<String> = expected["images"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    if images != listed {
        differences.push(format!("images {images:?} for {listed:?}"));
    }
    for kind in ["Exec", "File", "Merge"] {
        let (ours, expected) =
            (ours.get(kind).copied().unwrap_or(0), expected["ops"][kind].as_u64().unwrap_or(0));
        if ours != expected {
            differences.push(format!("{kind} {ours} for {expected}"));
        }
    }
    differences
}

#[test]
fn real_files_are_planned_as_buildkit_plans_them() {
    let Some(corpus) = std::env::var_os("KILN_CORPUS").map(PathBuf::from) else {
        eprintln!("SKIPPED: KILN_CORPUS does not name a corpus");
        return;
    };
    let reference =
        std::fs::read_to_string(corpus.join("reference.jsonl")).expect("the corpus has a reference");
    let options =
        PlanOptions { platforms: vec![Platform::new("linux", "amd64", "")], ..PlanOptions::default() };
    let (mut total, mut same) = (0, 0);
    for line in reference.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let file = row["file"].as_str().unwrap();
        let Some(expected) = row.get("llb").filter(|llb| llb.is_object()) else { continue };
        total += 1;
        let bytes = std::fs::read(corpus.join("files").join(file)).unwrap();
        let parsed = kiln_grammar::parse(&String::from_utf8_lossy(&bytes));
        let planned = if parsed.has_errors() {
            Err(parsed.diagnostics.iter().map(|found| found.message.clone()).collect::<Vec<_>>().join("; "))
        } else {
            kiln::plan::plan(&parsed.buildfile, &options, &FakeBase).map_err(|error| error.to_string())
        };
        let differences = match (planned, expected["ok"].as_bool() == Some(true)) {
            (Ok(plan), true) => compare(&plan, expected),
            (Err(_), false) => Vec::new(),
            (Ok(_), false) => vec![format!("accepted, but expected: {}", expected["err"])],
            (Err(message), true) => vec![format!("refused: {message}")],
        };
        if differences.is_empty() {
            same += 1;
        } else {
            eprintln!("{file}\n  {}", differences.join("\n  "));
        }
    }
    eprintln!("{same} of {total} files agree");
    assert!(same * 1000 >= total * 995, "fewer than 99.5 % agree");
}
