//! Where a build stops with `--until`.
//!
//! Invariants: a place that the build does not come to is an error, never another place.

use std::fmt;
use std::str::FromStr;

use kiln_grammar::ast::Buildfile;

use crate::plan::graph::{Graph, Plan, Vertex, VertexId};
use crate::solve;

/// A step, by its place in the Buildfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// The instruction on this line, from 1; where it makes no step, the last step before it in its stage.
    Line(usize),
    /// The last step of a stage, by its name or `stage-N`.
    Stage(String),
}

/// Why a text is no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is neither the number of a line, from 1, nor the name of a stage")]
pub struct UntilParseError(String);

impl FromStr for Until {
    type Err = UntilParseError;

    fn from_str(text: &str) -> Result<Self, UntilParseError> {
        let number = text.parse::<usize>().ok();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match number {
            Some(line) if line > 0 => Ok(Self::Line(line)),
            None if !text.is_empty() && text.chars().all(is_name) => Ok(Self::Stage(text.to_lowercase())),
            _ => Err(UntilParseError(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "{line}"),
            Self::Stage(name) => f.write_str(name),
        }
    }
}

/// Why a build does not come to a place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UntilError {
    #[error("--until: no step of this build is on line {line} or above it in its stage")]
    NoLine { line: usize },
    #[error("--until: the Buildfile has {lines} lines")]
    PastTheEnd { lines: usize },
    #[error("--until: no step of this build is in a stage `{name}`")]
    NoStage { name: String, stages: Vec<String> },
}

/// The steps that a build ends with: one for each platform.
pub(super) fn find(until: &Until, buildfile: &Buildfile, plan: &Plan) -> Result<Vec<VertexId>, UntilError> {
    match until {
        Until::Line(line) => at_line(*line, buildfile, &plan.graph),
        Until::Stage(name) => of_stage(name, &plan.graph),
    }
}

/// The last vertex of each platform that is `wanted`. Where one instruction makes several, the last one stands on the
/// others.
fn last_of_each(graph: &Graph, wanted: impl Fn(&Vertex) -> bool) -> Vec<VertexId> {
    let mut found: Vec<(String, VertexId)> = Vec::new();
    for (at, vertex) in graph.vertices.iter().enumerate().filter(|(_, vertex)| wanted(vertex)) {
        let (platform, id) = (vertex.platform.to_string(), VertexId(u32::try_from(at).unwrap_or(u32::MAX)));
        match found.iter_mut().find(|(known, _)| *known == platform) {
            Some((_, last)) => *last = id,
            None => found.push((platform, id)),
        }
    }
    found.into_iter().map(|(_, id)| id).collect()
}

fn at_line(line: usize, buildfile: &Buildfile, graph: &Graph) -> Result<Vec<VertexId>, UntilError> {
    let lines = buildfile.text.lines().count();
    if line > lines {
        return Err(UntilError::PastTheEnd { lines });
    }
    let missing = UntilError::NoLine { line };
    let line_of = |offset: usize| buildfile.lines.line(offset);
    let stage = buildfile.stages.iter().rfind(|stage| line_of(stage.from.span.start) <= line);
    let Some(first) = stage.map(|stage| line_of(stage.from.span.start)) else { return Err(missing) };
    let start = |vertex: &Vertex| Some(line_of(vertex.origin.as_ref()?.span.start));
    // Files of the client have the place of the instruction that reads them, and are no file systems.
    let is_before = |vertex: &Vertex| {
        solve::is_step(vertex) && start(vertex).is_some_and(|at| (first..=line).contains(&at))
    };
    let nearest = graph.vertices.iter().filter(|vertex| is_before(vertex)).filter_map(start).max();
    let nearest = nearest.ok_or(missing)?;
    Ok(last_of_each(graph, |vertex| solve::is_step(vertex) && start(vertex) == Some(nearest)))
}

fn of_stage(name: &str, graph: &Graph) -> Result<Vec<VertexId>, UntilError> {
    let found = last_of_each(graph, |vertex| solve::is_step(vertex) && vertex.stage == name);
    if !found.is_empty() {
        return Ok(found);
    }
    let mut stages: Vec<String> =
        graph.vertices.iter().map(|vertex| vertex.stage.clone()).filter(|stage| !stage.is_empty()).collect();
    stages.sort();
    stages.dedup();
    Err(UntilError::NoStage { name: name.to_owned(), stages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_or_stages() {
        assert_eq!("7".parse(), Ok(Until::Line(7)));
        assert_eq!("Build-1".parse(), Ok(Until::Stage("build-1".to_owned())));
        for bad in ["", "0", "a b", "-1 ", "7:1"] {
            assert!(bad.parse::<Until>().is_err(), "{bad}");
        }
    }
}
