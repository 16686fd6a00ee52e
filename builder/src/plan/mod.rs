//! From a syntax tree and options to a graph of vertices. Pure: no files, no network; images are resolved
//! through [`graph::ImageResolver`].

pub mod graph;
