//! Pictures of graphs of steps: a layered layout of our own as SVG, and the languages of Graphviz and Mermaid.
//!
//! [`Picture`] is what is shown, [`layout`] says where, [`svg`] and [`text`] write it. Whoever has a graph of steps, of
//! a plan or of a finished build, makes a `Picture` of it.
//!
//! Invariants:
//! - pure: the same picture gives the same bytes;
//! - nothing of a name gets into markup without being escaped, and nothing is loaded from elsewhere.

pub mod layout;
pub mod svg;
pub mod text;

use std::collections::BTreeMap;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An image, or nothing at all (scratch).
    Image,
    /// A directory, a download or a repository.
    Context,
    /// A command.
    Run,
    /// Files that are put in.
    Copy,
    /// A directory or a merge of layers.
    Other,
    /// What the build gives.
    Result,
}

impl Kind {
    /// As it is called in classes and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Context => "context",
            Self::Run => "run",
            Self::Copy => "copy",
            Self::Other => "other",
            Self::Result => "result",
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// What it says, as long as it likes to be.
    pub label: String,
    /// A word or two in its corner, e.g. how long it took.
    pub note: Option<String>,
    /// Its stage; sources and results have none.
    pub group: Option<String>,
}

/// What a step takes from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The file system that it goes on with.
    Base,
    /// Files.
    Files,
}

/// One step's need of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// What is needed.
    pub from: usize,
    /// What needs it.
    pub to: usize,
    /// How.
    pub what: Use,
}

/// A graph to be shown. Edges lead from smaller to larger numbers of nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Each behind what it needs.
    pub nodes: Vec<Node>,
    /// Between them.
    pub edges: Vec<Edge>,
}

impl Picture {
    /// The same with every source standing once above each stage that uses it, so that what many stages read does not
    /// fill the picture with lines. Nodes that are left keep their order.
    pub fn with_sources_at_hand(&self) -> Self {
        let is_source = |node: &Node| node.group.is_none() && node.kind != Kind::Result;
        let mut picture = Self::default();
        let mut places = vec![None; self.nodes.len()];
        let mut copies: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let inputs = self.edges.iter().filter(|edge| edge.to == index);
            let mut edges = Vec::new();
            for edge in inputs {
                let Some(source) = self.nodes.get(edge.from) else { continue };
                let from = match &node.group {
                    Some(group) if is_source(source) => {
                        *copies.entry((edge.from, group.as_str())).or_insert_with(|| {
                            picture.nodes.push(source.clone());
                            picture.nodes.len() - 1
                        })
                    }
                    _ => match places.get(edge.from).copied().flatten() {
                        Some(from) => from,
                        None => {
                            picture.nodes.push(source.clone());
                            picture.nodes.len() - 1
                        }
                    },
                };
                edges.push((from, edge.what));
            }
            if !is_source(node) {
                let to = picture.nodes.len();
                places[index] = Some(to);
                picture.nodes.push(node.clone());
                picture.edges.extend(edges.into_iter().map(|(from, what)| Edge { from, to, what }));
            }
        }
        picture
    }
}

#[cfg(test)]
mod tests;
