//! What each layer of an image costs: its bytes, its largest files, and what of it nobody can see any more.
//!
//! Invariants:
//! - nothing is unpacked; every layer is read once;
//! - a file's bytes are wasted when no name in the finished image leads to them; names of one file count once.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::compare::{CompareError, Image};
use crate::layer::tar::Kind;
use crate::layer::tree::{Gone, Node, Place, Tree};

/// Why bytes are wasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// The file was removed.
    Removed,
    /// The file got other content.
    Overwritten,
    /// The file got the same content again: `chmod`, `chown` or `touch` of a file of a lower layer, or another copy.
    Repeated,
}

/// A file of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileCost {
    /// Without leading slash. What is not UTF-8 is replaced.
    pub path: String,
    /// Bytes in the layer.
    pub size: u64,
}

/// A file of a layer that the finished image does not show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waste {
    /// Without leading slash. What is not UTF-8 is replaced.
    pub path: String,
    /// Bytes in the layer.
    pub size: u64,
    /// What became of the file.
    pub why: Why,
    /// The layer that did it, from 0.
    pub by: usize,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// From 0, the lowest.
    pub number: usize,
    /// The history entry of the layer.
    pub created_by: Option<String>,
    /// Of the blob.
    pub digest: String,
    /// Of the uncompressed archive.
    pub diff_id: String,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of all files in it.
    pub unpacked: u64,
    /// Regular files in it.
    pub files: u64,
    /// Bytes of its files that the finished image does not show.
    pub wasted: u64,
    /// Its files, the largest first.
    pub largest: Vec<FileCost>,
    /// What is wasted, the largest first.
    pub waste: Vec<Waste>,
}

/// All of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// As it was asked for.
    pub image: String,
    /// Of the manifest.
    pub digest: String,
    /// What it is for.
    pub platform: String,
    /// Bytes of the layers' blobs.
    pub size: u64,
    /// Bytes of all files in the layers.
    pub unpacked: u64,
    /// Bytes of files that the finished image does not show.
    pub wasted: u64,
    /// The lowest first.
    pub layers: Vec<LayerCost>,
}

impl Costs {
    /// The wasted part of the unpacked bytes, in percent.
    pub fn wasted_percent(&self) -> f64 {
        if self.unpacked == 0 { 0.0 } else { self.wasted as f64 * 100.0 / self.unpacked as f64 }
    }
}

/// Reads an image's layers. `largest` files are told for each.
pub fn costs(image: &Image<'_>, largest: usize) -> Result<Costs, CompareError> {
    let mut tree = Tree::default();
    let mut layers: Vec<LayerCost> = Vec::new();
    for (number, (blob, diff_id)) in image.manifest.layers.iter().zip(&image.diff_ids).enumerate() {
        let applied = tree.apply(number, image.layer(number)?);
        let gone =
            applied.map_err(|source| CompareError::Layer { image: image.name.clone(), number, source })?;
        let mut layer = LayerCost {
            number,
            created_by: image.created_by(number),
            digest: blob.digest.to_string(),
            diff_id: diff_id.to_string(),
            size: blob.size,
            unpacked: 0,
            files: 0,
            wasted: 0,
            largest: files(&tree, number),
            waste: Vec::new(),
        };
        layer.unpacked = layer.largest.iter().map(|file| file.size).sum();
        layer.files = layer.largest.len() as u64;
        layers.push(layer);
        for (place, waste) in wasted(&tree, gone, number) {
            let Some(layer) = layers.get_mut(place.0) else { continue };
            // What a layer itself replaced was not among its files a moment ago.
            if place.0 == number {
                layer.unpacked += waste.size;
                layer.files += 1;
                layer.largest.push(FileCost { path: waste.path.clone(), size: waste.size });
            }
            layer.wasted += waste.size;
            layer.waste.push(waste);
        }
    }
    for layer in &mut layers {
        layer.largest.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        layer.largest.truncate(largest);
        layer.waste.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
    }
    Ok(Costs {
        image: image.name.clone(),
        digest: image.digest.to_string(),
        platform: image.platform.to_string(),
        size: layers.iter().map(|layer| layer.size).sum(),
        unpacked: layers.iter().map(|layer| layer.unpacked).sum(),
        wasted: layers.iter().map(|layer| layer.wasted).sum(),
        layers,
    })
}

/// The regular files whose bytes a layer brought, each once.
fn files(tree: &Tree, layer: usize) -> Vec<FileCost> {
    let mut seen: BTreeSet<Place> = BTreeSet::new();
    let of_layer = tree
        .nodes()
        .iter()
        .filter(|(_, node)| is_file(node) && node.place.0 == layer && seen.insert(node.place));
    of_layer.map(|(path, node)| FileCost { path: shown(path), size: node.entry.size }).collect()
}

/// Which bytes nothing leads to any more, of those that `gone` names led to before `by`.
fn wasted(tree: &Tree, gone: Vec<Gone>, by: usize) -> BTreeMap<Place, Waste> {
    let mut lost: BTreeMap<Place, Gone> = BTreeMap::new();
    for gone in gone.into_iter().filter(|gone| is_file(&gone.node)) {
        lost.entry(gone.node.place).or_insert(gone);
    }
    if lost.is_empty() {
        return BTreeMap::new();
    }
    for node in tree.nodes().values() {
        lost.remove(&node.place);
    }
    let told = lost.into_iter().map(|(place, gone)| {
        let why = match tree.node(&gone.path) {
            Some(now) if is_file(now) && now.digest == gone.node.digest => Why::Repeated,
            Some(_) => Why::Overwritten,
            None => Why::Removed,
        };
        (place, Waste { path: shown(&gone.path), size: gone.node.entry.size, why, by })
    });
    told.collect()
}

fn is_file(node: &Node) -> bool {
    node.entry.kind == Kind::File
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
