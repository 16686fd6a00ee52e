//! Two images side by side: what differs between their manifests, configs, layers and files.
//!
//! | part | compared by |
//! |---|---|
//! | manifest | media type, annotations (of the manifest and of each layer) |
//! | config | every value, named by its path (`config.Env[2]`); `rootfs` is told under layers |
//! | layers | diff_id; the place of the first differing byte and the entry that it is in; else the blob's digest |
//! | files | the trees that the layers amount to: kind, mode, owner, size, time, attributes, target, bytes |
//!
//! Invariants:
//! - blobs are verified while they are read;
//! - layers that both have at the bottom are read once;
//! - memory holds names and metadata, never the bytes of files.

mod bytes;
mod open;

use serde::Serialize;
use serde_json::Value;

use crate::image::manifest::Manifest;
use crate::layer::tree::{self, Node, Tree, TreeError};
use crate::store::StoreError;

pub(in crate::build) use bytes::visit;
pub use open::{Image, OpenError};

/// Why two images cannot be compared.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CompareError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot read layer {number} of `{image}`")]
    Layer {
        image: String,
        number: usize,
        #[source]
        source: TreeError,
    },
    #[error("cannot read layer {number} of `{image}`")]
    Read {
        image: String,
        number: usize,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot use temporary space for the comparison")]
    Spool(#[source] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct CompareOptions {
    /// Times of files, of the image and of its history.
    pub ignore_times: bool,
}

/// A value that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueChange {
    /// Where, e.g. `config.Env[2]`.
    pub path: String,
    /// What the first image has.
    pub a: Option<Value>,
    /// What the second one has.
    pub b: Option<Value>,
}

/// A place in a layer's archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerPlace {
    /// Offset of the first byte that differs, in the uncompressed archive.
    pub offset: u64,
    /// The entry of the first image's archive that the byte is in; none at its end.
    pub entry: Option<String>,
    /// Offset in the entry's data; none in its header.
    pub data_offset: Option<u64>,
}

/// A layer that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerChange {
    /// From 0, the lowest.
    pub number: usize,
    /// diff_id in the first image.
    pub a: Option<String>,
    /// diff_id in the second one.
    pub b: Option<String>,
    /// The history entry of the layer.
    pub created_by: Option<String>,
    /// True when the archives are equal and only their compression differs.
    pub compression_only: bool,
    /// The first difference.
    pub place: Option<LayerPlace>,
}

/// One thing about a file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aspect {
    /// `mode`, `owner`, `content`...
    pub what: String,
    /// In the first image.
    pub a: String,
    /// In the second one.
    pub b: String,
}

/// How a file differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileVerdict {
    /// Only the second image has it.
    Added,
    /// Only the first image has it.
    Removed,
    /// Both have it.
    Changed,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Without leading slash. What is not UTF-8 is replaced.
    pub path: String,
    /// How.
    pub verdict: FileVerdict,
    /// `file`, `directory`...
    pub kind: &'static str,
    /// What, when both have it.
    pub changes: Vec<Aspect>,
    /// Offset of the first byte that differs, when the content does.
    pub first_difference: Option<u64>,
}

/// What differs between two images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// True when nothing that was compared differs.
    pub equal: bool,
    /// True when both are the same bytes, down to the manifest.
    pub identical: bool,
    /// True when both have the same config, which names every layer's content.
    pub same_id: bool,
    /// Digests of the manifests.
    pub digests: [String; 2],
    /// Of the manifest.
    pub manifest: Vec<ValueChange>,
    /// Of the config.
    pub config: Vec<ValueChange>,
    /// Of layers, the lowest first.
    pub layers: Vec<LayerChange>,
    /// Of files, by path.
    pub files: Vec<FileChange>,
}

/// Compares two images.
pub fn compare(a: &Image<'_>, b: &Image<'_>, options: CompareOptions) -> Result<Comparison, CompareError> {
    let identical = a.digest == b.digest;
    let mut comparison = Comparison {
        equal: identical,
        identical,
        same_id: a.manifest.config.digest == b.manifest.config.digest,
        digests: [a.digest.to_string(), b.digest.to_string()],
        manifest: Vec::new(),
        config: Vec::new(),
        layers: Vec::new(),
        files: Vec::new(),
    };
    if identical {
        return Ok(comparison);
    }
    values("", &about(&a.manifest), &about(&b.manifest), &mut comparison.manifest);
    values("", &a.config, &b.config, &mut comparison.config);
    comparison.config.retain(|change| {
        let of_time = change.path == "created"
            || change.path.starts_with("history[") && change.path.ends_with("].created");
        !(change.path.starts_with("rootfs.diff_ids") || options.ignore_times && of_time)
    });
    comparison.layers = layers(a, b)?;
    if a.diff_ids != b.diff_ids {
        comparison.files = files(a, b, options)?;
    }
    if options.ignore_times {
        // Archives with other times are other archives.
        comparison.layers.retain(|layer| layer.a.is_none() || layer.b.is_none() || layer.compression_only);
    }
    comparison.equal = comparison.manifest.is_empty()
        && comparison.config.is_empty()
        && comparison.layers.is_empty()
        && comparison.files.is_empty();
    Ok(comparison)
}

/// What a manifest says besides digests and sizes.
fn about(manifest: &Manifest) -> Value {
    let layers: Vec<Value> = manifest
        .layers
        .iter()
        .map(|layer| {
            // A table of contents has a digest of its own, which is told by the layer's.
            let kept =
                layer.annotations.iter().filter(|(key, _)| *key != crate::layer::estargz::TOC_ANNOTATION);
            serde_json::json!({
                "mediaType": layer.media_type,
                "annotations": kept.collect::<std::collections::BTreeMap<_, _>>(),
            })
        })
        .collect();
    serde_json::json!({
        "mediaType": manifest.media_type,
        "config": { "mediaType": manifest.config.media_type },
        "annotations": manifest.annotations,
        "layers": layers,
    })
}

/// Notes every value that differs.
fn values(path: &str, a: &Value, b: &Value, found: &mut Vec<ValueChange>) {
    match (a, b) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                optional(&path, one.get(key), other.get(key), found);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for index in 0..one.len().max(other.len()) {
                optional(&format!("{path}[{index}]"), one.get(index), other.get(index), found);
            }
        }
        _ if a != b => {
            found.push(ValueChange { path: path.to_owned(), a: Some(a.clone()), b: Some(b.clone()) });
        }
        _ => {}
    }
}

fn optional(path: &str, a: Option<&Value>, b: Option<&Value>, found: &mut Vec<ValueChange>) {
    match (a, b) {
        (Some(a), Some(b)) => values(path, a, b, found),
        (a, b) => found.push(ValueChange { path: path.to_owned(), a: a.cloned(), b: b.cloned() }),
    }
}

fn layers(a: &Image<'_>, b: &Image<'_>) -> Result<Vec<LayerChange>, CompareError> {
    let mut found = Vec::new();
    for number in 0..a.diff_ids.len().max(b.diff_ids.len()) {
        let (one, other) = (a.diff_ids.get(number), b.diff_ids.get(number));
        let blob = |image: &Image<'_>| image.manifest.layers.get(number).map(|layer| layer.digest);
        if one == other && blob(a) == blob(b) {
            continue;
        }
        let place = match (one, other) {
            (Some(one), Some(other)) if one != other => bytes::first_in_layer(a, b, number)?,
            _ => None,
        };
        found.push(LayerChange {
            number,
            a: one.map(ToString::to_string),
            b: other.map(ToString::to_string),
            created_by: a.created_by(number).or_else(|| b.created_by(number)),
            compression_only: one == other,
            place,
        });
    }
    Ok(found)
}

fn files(a: &Image<'_>, b: &Image<'_>, options: CompareOptions) -> Result<Vec<FileChange>, CompareError> {
    let shared = a.diff_ids.iter().zip(&b.diff_ids).take_while(|(one, other)| one == other).count();
    let mut common = Tree::default();
    for number in 0..shared {
        apply(a, number, &mut common)?;
    }
    let (mut one, mut other) = (common.clone(), common);
    for number in shared..a.diff_ids.len() {
        apply(a, number, &mut one)?;
    }
    for number in shared..b.diff_ids.len() {
        apply(b, number, &mut other)?;
    }
    let (links_a, links_b) = (one.links(), other.links());
    let mut found: Vec<(FileChange, Option<bytes::Pair>)> = Vec::new();
    let paths: std::collections::BTreeSet<&Vec<u8>> =
        one.nodes().keys().chain(other.nodes().keys()).collect();
    for path in paths {
        let name = String::from_utf8_lossy(path).into_owned();
        let alone = |verdict, node: &Node| FileChange {
            path: name.clone(),
            verdict,
            kind: tree::kind(node.entry.kind),
            changes: Vec::new(),
            first_difference: None,
        };
        match (one.nodes().get(path), other.nodes().get(path)) {
            (Some(node), None) => found.push((alone(FileVerdict::Removed, node), None)),
            (None, Some(node)) => found.push((alone(FileVerdict::Added, node), None)),
            (Some(node), Some(changed)) => {
                let links = (links_a.get(&path[..]).copied(), links_b.get(&path[..]).copied());
                let change = both(name.clone(), node, changed, links, options);
                found.extend(change);
            }
            (None, None) => {}
        }
    }
    let pairs: Vec<bytes::Pair> = found.iter().filter_map(|(_, pair)| *pair).collect();
    let mut offsets = bytes::first_in_files(a, b, &pairs)?.into_iter();
    Ok(found
        .into_iter()
        .map(|(mut change, pair)| {
            if pair.is_some() {
                change.first_difference = offsets.next().flatten();
            }
            change
        })
        .collect())
}

/// A file that both have, when it differs; with the places of its bytes, when they do.
fn both(
    path: String,
    a: &Node,
    b: &Node,
    links: (Option<&[u8]>, Option<&[u8]>),
    options: CompareOptions,
) -> Option<(FileChange, Option<bytes::Pair>)> {
    let mut changes: Vec<Aspect> = a
        .differences(b, !options.ignore_times)
        .into_iter()
        .map(|(what, a, b)| Aspect { what, a, b })
        .collect();
    let mut pair = None;
    if let (Some(one), Some(other)) = (a.digest, b.digest)
        && one != other
    {
        changes.push(Aspect { what: "content".to_owned(), a: one.to_string(), b: other.to_string() });
        pair = Some((a.place, b.place));
    }
    if links.0 != links.1 {
        let name = |link: Option<&[u8]>| {
            link.map_or_else(|| "none".to_owned(), |link| String::from_utf8_lossy(link).into_owned())
        };
        changes.push(Aspect { what: "hard link".to_owned(), a: name(links.0), b: name(links.1) });
    }
    let kind = tree::kind(b.entry.kind);
    let verdict = FileVerdict::Changed;
    (!changes.is_empty())
        .then_some((FileChange { path, verdict, kind, changes, first_difference: None }, pair))
}

fn apply(image: &Image<'_>, number: usize, tree: &mut Tree) -> Result<(), CompareError> {
    let layer = image.layer(number)?;
    let applied = tree.apply(number, layer);
    applied.map(drop).map_err(|source| CompareError::Layer { image: image.name.clone(), number, source })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_named_by_their_paths() {
        let a = json!({ "config": { "Env": ["A=1", "B=2"], "User": "x" }, "os": "linux" });
        let b = json!({ "config": { "Env": ["A=1", "B=3", "C"], "Cmd": [] }, "os": "linux" });
        let mut found = Vec::new();
        values("", &a, &b, &mut found);
        let paths: Vec<&str> = found.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["config.Cmd", "config.Env[1]", "config.Env[2]", "config.User"]);
        assert_eq!((&found[3].a, &found[3].b), (&Some(json!("x")), &None));
    }
}
