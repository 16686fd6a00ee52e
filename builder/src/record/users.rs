//! Who used what: builds and cache mounts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Head, Shelf, StepOutcome, StepRecord};

/// The last build on record that ran a step with a cache mount, by the mount's id. Records that cannot be read are passed
/// over.
pub fn of_cache_mounts(shelf: &Shelf) -> BTreeMap<String, Head> {
    let mut users = BTreeMap::new();
    for entry in shelf.entries().unwrap_or_default() {
        let Ok(record) = shelf.read(&entry) else { continue };
        for id in record.steps.iter().flat_map(mounted) {
            users.entry(id.to_owned()).or_insert_with(|| record.head.clone());
        }
    }
    users
}

/// Ids of the cache mounts that a step had while it ran.
fn mounted(step: &StepRecord) -> impl Iterator<Item = &str> {
    let ran = matches!(step.outcome, StepOutcome::Ran | StepOutcome::Failed | StepOutcome::Cancelled);
    let mounts = step.spec["mounts"].as_array().filter(|_| ran).into_iter().flatten();
    let sources = mounts.map(|mount: &Value| &mount["source"]).filter(|source| source["type"] == "cache");
    sources.filter_map(|source| source["id"].as_str())
}
