//! `kiln run`: a command in a throwaway container of an image. And an image's files without a command.

use std::sync::Arc;

use super::{BuildError, Environment, FailedStep, PullPolicy, Resolver, debug, heal};
use crate::base::cancel::CancelToken;
use crate::base::events::EventSink;
use crate::image::platform::Platform;
use crate::ops::executor::VertexResult;
use crate::ops::{LocalExecutor, OpError, RunDefaults, interactive};
use crate::plan::graph::{
    Graph, Guards, ImageRequest, ImageResolver as _, ImageSpec, NetworkMode, Op, Privileges, ResolvedImage,
    RunSpec, SecurityMode, Vertex, VertexId,
};
use crate::sandbox::runner::Ended;
use crate::solve::{self, Options};
use crate::store::records::FsState;

/// What is to be run.
#[derive(Debug)]
pub struct RunRequest {
    /// Reference or `oci-layout://PATH`.
    pub image: String,
    /// Platform to choose.
    pub platform: Platform,
    /// When registries are asked.
    pub pull: PullPolicy,
    /// In place of the image's entrypoint.
    pub entrypoint: Option<String>,
    /// In place of the image's command.
    pub command: Vec<String>,
    /// Added to the image's.
    pub env: Vec<(String, String)>,
    /// In place of the image's.
    pub workdir: Option<String>,
    /// In place of the image's.
    pub user: Option<String>,
    /// Network.
    pub network: NetworkMode,
    /// `name=soft:hard`.
    pub ulimits: Vec<String>,
    /// Of /dev/shm.
    pub shm_size_bytes: Option<u64>,
    /// Capabilities, devices and so on.
    pub privileges: Privileges,
    /// Hosts and DNS.
    pub defaults: RunDefaults,
    /// Progress of pulling.
    pub events: EventSink,
    /// Stops it.
    pub cancel: CancelToken,
}

/// Runs the image's command with kiln's own standard streams. Gives the exit code, 128 + N for signal N.
///
/// # Errors
/// When the image is not found or the command cannot be started.
pub fn run(environment: Environment<'_>, request: &RunRequest) -> Result<u8, BuildError> {
    // The command runs once: what is healed is found before it begins.
    heal::healing(environment.store, (&request.events, &request.cancel), || attempt(environment, request))
}

fn attempt(environment: Environment<'_>, request: &RunRequest) -> Result<u8, BuildError> {
    let resolver =
        Resolver::new(environment, request.pull, request.cancel.clone()).reporting(&request.events);
    let wanted = ImageRequest { name: request.image.clone(), platform: request.platform.clone() };
    let image = resolver.resolve(&wanted)?;
    let config = &image.config.config;
    let mut args: Vec<String> = match &request.entrypoint {
        Some(entrypoint) => vec![entrypoint.clone()],
        None => config.entrypoint.clone().unwrap_or_default(),
    };
    if request.command.is_empty() && request.entrypoint.is_none() {
        args.extend(config.cmd.clone().unwrap_or_default());
    } else {
        args.extend(request.command.iter().cloned());
    }
    if args.is_empty() {
        return Err(BuildError::NoCommand(request.image.clone()));
    }
    let mut env = config.env.clone();
    if !env.iter().any(|pair| pair.starts_with("PATH=")) {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    for (name, value) in &request.env {
        env.retain(|pair| pair.split('=').next() != Some(name));
        env.push(format!("{name}={value}"));
    }
    let workdir = request.workdir.clone().unwrap_or_else(|| config.working_dir.clone());
    let spec = RunSpec {
        args,
        env,
        cwd: if workdir.starts_with('/') { workdir } else { format!("/{workdir}") },
        user: request.user.clone().unwrap_or_else(|| config.user.clone()),
        mounts: Vec::new(),
        network: request.network,
        security: SecurityMode::Sandbox,
        privileges: request.privileges.clone(),
        hostname: "kiln".to_owned(),
        extra_host_names: Vec::new(),
        ulimits: request.ulimits.clone(),
        shm_size_bytes: request.shm_size_bytes,
        scripts: Vec::new(),
    };
    let contexts = std::collections::BTreeMap::new();
    // The scheduler cancels at a failure, which may be healed.
    let cancel = request.cancel.child();
    let executor =
        debug::executor(environment, &resolver, &contexts, &request.defaults, &request.events, &cancel)?;
    let graph = from(&image, &wanted);
    let state = files(&graph, &executor, Options::new(1, request.events.clone(), cancel.clone()))?;
    let ended = interactive(&executor, &state, &request.platform, &spec).map_err(|error| match error {
        crate::ops::OpError::Cancelled => BuildError::Cancelled,
        other => failed(&graph, other),
    })?;
    Ok(exit_code(&ended))
}

/// Unpacks an image here. Gives its file system.
///
/// # Errors
/// When the image is not found, or a layer of it cannot be had.
pub fn unpack(
    environment: Environment<'_>,
    image: &str,
    pull: PullPolicy,
    events: &EventSink,
    cancel: &CancelToken,
) -> Result<FsState, BuildError> {
    heal::healing(environment.store, (events, cancel), || {
        let resolver = Resolver::new(environment, pull, cancel.clone());
        let wanted = ImageRequest { name: image.to_owned(), platform: Platform::host() };
        let resolved = resolver.resolve(&wanted)?;
        let (contexts, defaults) = (std::collections::BTreeMap::new(), RunDefaults::default());
        let cancel = cancel.child();
        let executor = debug::executor(environment, &resolver, &contexts, &defaults, events, &cancel)?;
        files(&from(&resolved, &wanted), &executor, Options::new(1, events.clone(), cancel.clone()))
    })
}

/// A graph of nothing but an image.
fn from(image: &Arc<ResolvedImage>, request: &ImageRequest) -> Graph {
    let diff_ids = image.layers.iter().map(|layer| layer.diff_id).collect();
    let vertex = Vertex {
        op: Op::Image(ImageSpec { diff_ids, image: Some(image.clone()) }),
        inputs: Vec::new(),
        name: format!("FROM {}", request.name),
        stage: String::new(),
        ignore_cache: false,
        origin: None,
        platform: request.platform.clone(),
        guards: Guards::default(),
    };
    Graph { vertices: vec![vertex] }
}

fn failed(graph: &Graph, source: OpError) -> BuildError {
    let name = graph.vertices.first().map(|vertex| vertex.name.clone()).unwrap_or_default();
    BuildError::Step { step: FailedStep { number: 1, name, span: None, run: None }, source: Box::new(source) }
}

/// The files of a graph of one vertex.
fn files(graph: &Graph, executor: &LocalExecutor<'_>, options: Options) -> Result<FsState, BuildError> {
    let solved = solve::solve(graph, &[VertexId(0)], executor, &options).map_err(|failure| {
        if failure.interrupted { BuildError::Cancelled } else { failed(graph, failure.error) }
    })?;
    match solved.results.get(&VertexId(0)) {
        Some(VertexResult::Fs(result)) => Ok(result.state.clone()),
        _ => Err(BuildError::Cancelled),
    }
}

/// How a command ended, as a shell tells it: 128 + N for signal N.
pub(super) fn exit_code(ended: &Ended) -> u8 {
    match (ended.code, ended.signal) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, signal) => 128u8.saturating_add(u8::try_from(signal.unwrap_or(0)).unwrap_or(0)),
    }
}
