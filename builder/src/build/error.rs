//! Why a build failed.

use std::collections::BTreeMap;

use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::span::Span;

use super::debug;
use super::until::UntilError;
use crate::cache::CacheError;
use crate::export::archive::OutputFailure;
use crate::export::attest::WalkError;
use crate::export::layers::LayerError;
use crate::image::platform::Platform;
use crate::ops::OpError;
use crate::plan::PlanError;
use crate::plan::graph::{Graph, Op, ResolveError, RunSpec, VertexId};
use crate::registry::RegistryError;
use crate::snapshot::mounts::MountError;
use crate::snapshot::overlay::SnapshotError;
use crate::solve;
use crate::store::StoreError;
use crate::transfer::TransferError;

/// Where a failed step stands.
#[derive(Debug, Clone)]
pub struct FailedStep {
    /// What it ran, when it is a RUN, and on which platform.
    pub run: Option<(Box<RunSpec>, Platform)>,
    /// Number in events.
    pub number: u32,
    /// For people.
    pub name: String,
    /// In the Buildfile.
    pub span: Option<Span>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BuildError {
    #[error("the Buildfile has errors")]
    Parse(Vec<Diagnostic>),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("lint violation found for rules: {}", .rules.join(", "))]
    Lint {
        /// Names of the rules, sorted.
        rules: Vec<String>,
        /// The findings, and this error as the last.
        diagnostics: Vec<Diagnostic>,
    },
    #[error("{}", .source)]
    Step {
        step: FailedStep,
        #[source]
        source: Box<OpError>,
    },
    /// Steps that failed independently of each other.
    #[error("{} steps failed", .0.len())]
    Several(Vec<BuildError>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Output(#[from] OutputFailure),
    #[error(transparent)]
    Attest(#[from] WalkError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("cannot read the host's DNS settings")]
    Dns(#[source] crate::sandbox::net::resolv::ResolvError),
    #[error("to push, the image needs a name: -t REGISTRY/NAME:TAG")]
    NoName,
    #[error("{0}")]
    Load(String),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("the image `{0}` has no command to run")]
    NoCommand(String),
    #[error("cannot export the cache to `{cache}`")]
    CacheExport {
        cache: String,
        #[source]
        source: Box<CacheError>,
    },
    #[error(transparent)]
    Until(#[from] UntilError),
    #[error(transparent)]
    Debug(#[from] debug::DebugError),
    /// A shell in the place of a step.
    #[error("{0}")]
    Visit(#[source] Box<OpError>),
    #[error("cannot export a cache mount")]
    Mount(#[source] MountError),
    #[error("remote caches cannot be used")]
    CacheImport(#[source] Box<OpError>),
    #[error("the build was stopped")]
    Cancelled,
}

/// A failure of the scheduler, with where the steps stand.
pub(super) fn failed(graph: &Graph, failure: solve::Failure<OpError>) -> BuildError {
    let solve::Failure { vertex, error, interrupted, inputs: _, others } = failure;
    if matches!(error, OpError::Cancelled) || interrupted {
        return BuildError::Cancelled;
    }
    let of_step = |id: VertexId, error| {
        let vertex = graph.vertex(id);
        let step = FailedStep {
            number: solve::step_number(id),
            name: vertex.name.clone(),
            span: vertex.origin.as_ref().map(|origin| origin.span),
            run: match &vertex.op {
                Op::Run(spec) => Some((Box::new(spec.clone()), vertex.platform.clone())),
                _ => None,
            },
        };
        BuildError::Step { step, source: Box::new(error) }
    };
    let first = of_step(vertex, error);
    if others.is_empty() {
        return first;
    }
    let others = others.into_iter().map(|(id, error)| of_step(id, error));
    BuildError::Several(std::iter::once(first).chain(others).collect())
}

/// Exit status of commands that failed, by number of the step.
pub(super) fn exit_codes(error: &BuildError) -> BTreeMap<u32, i32> {
    let errors = match error {
        BuildError::Several(errors) => &errors[..],
        one => std::slice::from_ref(one),
    };
    let code = |error: &BuildError| match error {
        BuildError::Step { step, source } => match **source {
            OpError::ExitCode { code, .. } => Some((step.number, code)),
            _ => None,
        },
        _ => None,
    };
    errors.iter().filter_map(code).collect()
}
