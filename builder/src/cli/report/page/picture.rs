//! The graph of a build that has ended, as [`Picture`].

use std::collections::{BTreeMap, BTreeSet};

use super::{outcome, seconds};
use crate::record::{BuildRecord, StepOutcome, StepRecord};
use crate::ui::graph::{Edge, Kind, Node, Picture, Use};

/// What a step is. What is no vertex (the export) counts as other work.
pub(super) fn kind(step: &StepRecord) -> Kind {
    match spec_kind(step) {
        "image" | "scratch" => Kind::Image,
        "local" | "http" | "git" => Kind::Context,
        "run" => Kind::Run,
        "copy" => Kind::Copy,
        _ => Kind::Other,
    }
}

fn spec_kind(step: &StepRecord) -> &str {
    step.spec.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default()
}

/// Every vertex of the build but empty file systems, and its image.
pub(super) fn picture(record: &BuildRecord) -> Picture {
    let shown = |step: &&StepRecord| step.spec.is_object() && spec_kind(step) != "scratch";
    let platforms: BTreeSet<&str> =
        record.steps.iter().filter(shown).map(|step| step.platform.as_str()).collect();
    let mut picture = Picture::default();
    let mut places = BTreeMap::new();
    let mut read = BTreeSet::new();
    for step in record.steps.iter().filter(shown) {
        let to = picture.nodes.len();
        let kind = kind(step);
        let group = match platforms.len() {
            _ if step.stage.is_empty() => None,
            0 | 1 => Some(step.stage.clone()),
            _ => Some(format!("{} {}", step.stage, step.platform)),
        };
        picture.nodes.push(Node { kind, label: label(step), note: Some(told(step)), group });
        let mut inputs: BTreeMap<usize, Use> = BTreeMap::new();
        for (place, input) in step.inputs.iter().enumerate() {
            let Some(from) = places.get(input).copied() else { continue };
            read.insert(from);
            let what = if place == 0 { Use::Base } else { Use::Files };
            let known = inputs.entry(from).or_insert(what);
            *known = (*known).min(what);
        }
        picture.edges.extend(inputs.into_iter().map(|(from, what)| Edge { from, to, what }));
        places.insert(step.number, to);
    }
    if record.head.image.is_some() {
        let to = picture.nodes.len();
        let label = "image".to_owned();
        picture.nodes.push(Node { kind: Kind::Result, label, note: None, group: None });
        let results = (0..to).filter(|node| !read.contains(node));
        picture.edges.extend(results.map(|from| Edge { from, to, what: Use::Base }));
    }
    picture.with_sources_at_hand()
}

fn label(step: &StepRecord) -> String {
    if let Some((name, _)) = &step.image {
        return name.strip_prefix("docker.io/library/").unwrap_or(name).to_owned();
    }
    match step.name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, label)) => label.to_owned(),
        None => step.name.clone(),
    }
}

fn told(step: &StepRecord) -> String {
    match step.outcome {
        // It has no result of its own: steps that copy from it read it.
        StepOutcome::Covered if kind(step) == Kind::Context => "read".to_owned(),
        StepOutcome::Ran => seconds(step.took_ms),
        StepOutcome::Failed => format!("failed, {}", seconds(step.took_ms)),
        other => outcome(other).1.to_owned(),
    }
}
