//! The graph under construction.
//!
//! Invariants: equal vertices are one vertex (hash-consing). Equal means: same spec, same inputs, and for RUN and
//! images the same platform; names, origins and settings outside the spec do not count. The first one's name stays.

use std::collections::HashMap;

use super::graph::{Graph, Op, Vertex, VertexId};

/// Adds vertices to a graph.
#[derive(Debug, Default)]
pub(super) struct GraphBuilder {
    graph: Graph,
    /// Canonical text of spec, inputs and platform to the vertex that has them. Only looked up, never walked.
    known: HashMap<String, VertexId>,
}

impl GraphBuilder {
    /// Adds a vertex, or finds the equal one that is there.
    pub(super) fn add(&mut self, vertex: Vertex) -> VertexId {
        debug_assert!(vertex.inputs.iter().all(|input| (input.0 as usize) < self.graph.vertices.len()));
        let platform = matches!(vertex.op, Op::Run(_) | Op::Image(_)).then_some(&vertex.platform);
        let identity = serde_json::to_string(&(&vertex.op, &vertex.inputs, platform))
            .expect("invariant: a spec is plain data with text keys and always serialises");
        if let Some(id) = self.known.get(&identity) {
            if let Some(known) = self.graph.vertices.get_mut(id.0 as usize) {
                known.ignore_cache |= vertex.ignore_cache;
            }
            return *id;
        }
        let id = VertexId(u32::try_from(self.graph.vertices.len()).unwrap_or(u32::MAX));
        self.graph.vertices.push(vertex);
        self.known.insert(identity, id);
        id
    }

    /// The vertex with this number.
    pub(super) fn vertex(&self, id: VertexId) -> &Vertex {
        self.graph.vertex(id)
    }

    /// The finished graph.
    pub(super) fn finish(self) -> Graph {
        self.graph
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::{Guards, LocalSpec, MkdirSpec};
    use super::*;
    use crate::image::platform::Platform;

    fn vertex(op: Op, inputs: Vec<VertexId>, architecture: &str) -> Vertex {
        Vertex {
            op,
            inputs,
            name: architecture.to_owned(),
            stage: String::new(),
            ignore_cache: architecture == "arm64",
            origin: None,
            platform: Platform::new("linux", architecture, ""),
            guards: Guards::default(),
        }
    }

    #[test]
    fn equal_vertices_are_one() {
        let mut builder = GraphBuilder::default();
        let mkdir = || Op::Mkdir(MkdirSpec { path: "/w".into(), user: String::new() });
        let scratch = builder.add(vertex(Op::Scratch, vec![], "amd64"));
        assert_eq!(builder.add(vertex(Op::Scratch, vec![], "arm64")), scratch);
        let first = builder.add(vertex(mkdir(), vec![scratch], "amd64"));
        assert_eq!(builder.add(vertex(mkdir(), vec![scratch], "arm64")), first);
        assert_ne!(builder.add(vertex(mkdir(), vec![first], "amd64")), first);
        assert_eq!(builder.vertex(first).name, "amd64");
        assert!(builder.vertex(first).ignore_cache);
        let local = Op::Local(LocalSpec { context: String::new() });
        builder.add(vertex(local, vec![], "amd64"));
        assert_eq!(builder.finish().vertices.len(), 4);
    }
}
