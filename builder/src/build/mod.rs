//! One build from end to end: parse, plan, solve, export. The entry point for programs that use kiln as a library;
//! the command line is one of them.

pub mod compare;
pub mod contents;
pub mod debug;
pub mod edit;
mod heal;
pub mod layers;
mod lint;
mod output;
mod resolve;
mod run;
pub mod until;
mod upload;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::span::Span;

use crate::base::cancel::CancelToken;
use crate::base::digest::Digest;
use crate::base::events::{Event, EventSink, Outcome};
use crate::cache::CacheError;
use crate::context::git::GitEnvironment;
use crate::context::local::LocalContext;
use crate::export::archive::OutputFailure;
use crate::export::assemble::BuiltIndex;
use crate::export::layers::LayerError;
use crate::export::merge::MergePolicy;
use crate::export::spec::OutputSpec;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::net::Net;
use crate::ops::{Fetched, ImportSetup, Imports, LocalExecutor, OpError, RunDefaults, Wrecks};
use crate::plan::graph::{
    BlobLocation, Graph, Op, Plan, PlanOptions, ResolveError, ResolvedImage, RunSpec, VertexId,
};
use crate::plan::{self, PlanError};
use crate::record::recorder::{Ending, Noted};
use crate::record::{BuildResult, Recorder, Refused, Shelf};
use crate::registry::{Client, RegistryError};
use crate::sandbox::net::resolv::HostDns;
use crate::sandbox::runner::Sandboxes;
use crate::snapshot::apply::Ownership;
use crate::snapshot::mounts::MountError;
use crate::snapshot::overlay::{SnapshotError, Snapshots};
use crate::snapshot::pending::Pending;
use crate::solve::{self, Account, Ledger, Look, Options, Solved};
use crate::store::{Store, StoreError};
use crate::transfer::TransferError;

use debug::{Arrival, ShellRequest, Wreck};
use until::{Until, UntilError};
use upload::Upload;

pub use resolve::{PullPolicy, Resolver};
pub use run::{RunRequest, run};
pub use upload::{CacheMode, CacheSource, CacheTarget};

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Where everything is kept.
    pub store: &'a Store,
    /// Starts commands.
    pub sandboxes: &'a Sandboxes,
    /// Downloads.
    pub net: &'a Net,
    /// Registries.
    pub registry: &'a Client,
    /// For git.
    pub git: &'a GitEnvironment,
}

/// What is to be built.
pub struct Request {
    /// Name of the Buildfile for messages.
    pub file_name: String,
    /// Its text.
    pub text: String,
    /// What planning needs.
    pub plan: PlanOptions,
    /// Directories of the client by context name; the main one's is empty.
    pub contexts: BTreeMap<String, LocalContext>,
    /// What RUN gets.
    pub defaults: RunDefaults,
    /// When registries are asked.
    pub pull: PullPolicy,
    /// Names of the image.
    pub names: Vec<Reference>,
    /// Where it goes; with none it stays in the store.
    pub outputs: Vec<OutputSpec>,
    /// Clamp file times in new layers to the epoch, when there is one.
    pub rewrite_timestamps: bool,
    /// What docker and podman get besides kiln's own environment (`--load`).
    pub engine_variables: Vec<(String, String)>,
    /// Which layers become one.
    pub merge: MergePolicy,
    /// Remote caches to take results from, in this order.
    pub cache_from: Vec<CacheSource>,
    /// Remote caches to write results to.
    pub cache_to: Vec<CacheTarget>,
    /// Most steps at a time.
    pub jobs: usize,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Ends after this step, without outputs.
    pub until: Option<Until>,
    /// After a failure, enters the step that failed.
    pub on_failure: Option<OnFailure>,
    /// Steps that ran before this time, in seconds since 1970, run again.
    pub oldest: Option<i64>,
    /// Makes the record of the build; it has to hear `events` too, see [`Recorder::listen`].
    pub recorder: Option<Recorder>,
    /// Progress.
    pub events: EventSink,
    /// Stops the build.
    pub cancel: CancelToken,
}

/// Told of a failure, and of the step that is entered or why it cannot be.
pub type OnArrival = dyn Fn(&BuildError, Result<&Arrival, &BuildError>) + Send + Sync;

/// A shell in the place of the step that fails.
pub struct OnFailure {
    /// What runs there.
    pub shell: ShellRequest,
    /// Called before the shell begins.
    pub arrive: Box<OnArrival>,
}

/// What a build gave.
#[derive(Debug)]
pub struct Report {
    /// The image, unless every output was of files.
    pub image: Option<BuiltIndex>,
    /// Findings about the Buildfile that did not stop the build.
    pub warnings: Vec<Diagnostic>,
    /// `--build-arg` that nothing consumed.
    pub unused_build_args: Vec<String>,
    /// The step that it ended after, with `--until`: its number and name.
    pub stopped: Option<(u32, String)>,
    /// Steps that ran.
    pub executed: usize,
    /// Steps taken from the store.
    pub cached: usize,
    /// Wall time.
    pub took: Duration,
}

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

/// Builds.
///
/// # Errors
/// See [`BuildError`]; whatever happens, nothing of a step keeps running and the store stays usable.
pub fn build(environment: Environment<'_>, request: &Request) -> Result<Report, BuildError> {
    let mut course = Course::default();
    let result = heal::healing(environment.store, (&request.events, &request.cancel), || {
        course = Course::default();
        run_course(environment, request, &mut course)
    });
    if let Some(recorder) = &request.recorder {
        recorder.end(&course.ending(&result, request));
    }
    if let (Some(on_failure), Some(wreck), Err(error)) = (&request.on_failure, course.wreck.take(), &result)
        && !request.cancel.is_cancelled()
    {
        let plumbing = (&request.events, &request.cancel);
        let entered =
            wreck.enter(environment, &request.defaults, &on_failure.shell, plumbing, &mut |arrival| {
                (on_failure.arrive)(error, Ok(arrival));
            });
        // How the shell ended says nothing about the build.
        if let Err(reason) = &entered {
            (on_failure.arrive)(error, Err(reason));
        }
    }
    result
}

/// What is known of a build however it ends.
#[derive(Default)]
struct Course {
    graph: Option<Graph>,
    ledger: Ledger,
    /// Names of build arguments that the file declares.
    arguments: BTreeSet<String>,
    /// The first step that failed, when it is to be entered.
    wreck: RefCell<Option<Wreck>>,
    /// Bytes that steps added.
    written: RefCell<BTreeMap<VertexId, u64>>,
}

fn run_course(
    environment: Environment<'_>,
    request: &Request,
    course: &mut Course,
) -> Result<Report, BuildError> {
    let started = Instant::now();
    let parsed = kiln_grammar::parse(&request.text);
    if parsed.has_errors() {
        return Err(BuildError::Parse(parsed.diagnostics));
    }
    course.arguments = plan::arguments(&parsed.buildfile);
    let config = lint::configuration(&parsed.buildfile, request)?;
    let resolver = Resolver::new(environment, request.pull, request.cancel.clone());
    // What fails because the build was stopped (a request that was broken off, a layer half written) is no failure.
    let unless_stopped = |error| if request.cancel.is_cancelled() { BuildError::Cancelled } else { error };
    let plan =
        plan::plan(&parsed.buildfile, &request.plan, &resolver).map_err(|e| unless_stopped(e.into()))?;
    let warnings = lint::findings(&parsed.buildfile, parsed.diagnostics, &plan, request, &config)?;
    let until =
        request.until.as_ref().map(|until| until::find(until, &parsed.buildfile, &plan)).transpose()?;
    course.graph = Some(plan.graph.clone());
    let imports = imports(environment, request, &plan, &resolver)?;
    let builder = Builder {
        environment,
        request,
        plan: &plan,
        resolver: &resolver,
        imports: imports.as_ref(),
        until: until.as_deref(),
        ledger: &course.ledger,
        wreck: &course.wreck,
        written: &course.written,
    };
    let mut made = builder.work();
    // A layer that a cache had promised cannot be had: its step is no longer taken for cached, and runs.
    while let (Some(imports), Err(error)) = (&imports, &made)
        && !request.cancel.is_cancelled()
        && discredit(imports, error)?
    {
        made = builder.work();
    }
    if let Some(imports) = &imports {
        imports.finish();
    }
    let (solved, image) = made?;
    settle(environment.store, &solved, request);
    let last = until.and_then(|steps| steps.into_iter().next_back());
    let stopped = last.map(|id| (solve::step_number(id), plan.graph.vertex(id).name.clone()));
    Ok(Report { stopped, ..report(warnings, plan, image, (solved.executed, solved.cached), started) })
}

fn import_failed(error: OpError) -> BuildError {
    match error {
        OpError::Cancelled => BuildError::Cancelled,
        error => BuildError::CacheImport(Box::new(error)),
    }
}

/// The remote caches of `--cache-from`.
fn imports<'a>(
    environment: Environment<'a>,
    request: &Request,
    plan: &Plan,
    resolver: &'a Resolver<'a>,
) -> Result<Option<Imports<'a>>, BuildError> {
    if request.cache_from.is_empty() {
        return Ok(None);
    }
    let setup = ImportSetup {
        store: environment.store,
        caches: request.cache_from.iter().map(|source| source.location.open(environment.registry)).collect(),
        mounts: request.cache_from.iter().map(|source| source.mounts.clone()).collect(),
        fetcher: resolver,
        images: base_images(plan).cloned().collect(),
        epoch: output::cache_epoch(request, plan),
        ownership: match environment.sandboxes.has_all_ids() {
            true => Ownership::Required,
            false => Ownership::BestEffort,
        },
        events: request.events.clone(),
        cancel: request.cancel.clone(),
        step: cache_step(plan),
    };
    Imports::new(setup).map(Some).map_err(import_failed)
}

fn base_images(plan: &Plan) -> impl Iterator<Item = &Arc<ResolvedImage>> {
    plan.graph.vertices.iter().filter_map(|vertex| match &vertex.op {
        Op::Image(spec) => spec.image.as_ref(),
        _ => None,
    })
}

/// Repositories that may have blobs of this build: those of the caches and of the base images.
fn beside(plan: &Plan, imports: Option<&Imports<'_>>) -> Vec<Reference> {
    let bases = base_images(plan).filter_map(|image| match &image.location {
        BlobLocation::Registry(reference) => Some(reference.clone()),
        BlobLocation::Layout(_) | BlobLocation::Store => None,
    });
    let mut all: Vec<Reference> =
        imports.map(Imports::repositories).into_iter().flatten().chain(bases).collect();
    all.sort();
    all.dedup();
    all
}

/// Has every record forgotten that promised what cannot be had.
fn discredit(imports: &Imports<'_>, error: &BuildError) -> Result<bool, BuildError> {
    let errors = match error {
        BuildError::Several(errors) => &errors[..],
        one => std::slice::from_ref(one),
    };
    let mut any = false;
    for error in errors {
        any |= imports.discredit(error).map_err(import_failed)?;
    }
    Ok(any)
}

/// A build that was planned.
struct Builder<'a> {
    environment: Environment<'a>,
    request: &'a Request,
    plan: &'a Plan,
    resolver: &'a Resolver<'a>,
    imports: Option<&'a Imports<'a>>,
    /// What to end with in place of the plan's images.
    until: Option<&'a [VertexId]>,
    ledger: &'a Ledger,
    wreck: &'a RefCell<Option<Wreck>>,
    written: &'a RefCell<BTreeMap<VertexId, u64>>,
}

impl Builder<'_> {
    /// Runs what has to run, writes outputs and caches.
    fn work(&self) -> Result<(Solved, Option<BuiltIndex>), BuildError> {
        let Self { environment, request, plan, resolver, imports, until, ledger, wreck, written } = *self;
        let unless_stopped =
            |error| if request.cancel.is_cancelled() { BuildError::Cancelled } else { error };
        let pending = imports.map(|imports| imports as &dyn Pending);
        let snapshots = || Ok::<_, SnapshotError>(Snapshots::new(environment.store)?.with_pending(pending));
        // A failure may be followed by another try, or by a shell, so it must not cancel the whole build.
        let cancel = request.cancel.child();
        let executor = LocalExecutor {
            store: environment.store,
            snapshots: snapshots()?,
            sandboxes: environment.sandboxes,
            fetcher: resolver,
            net: environment.net,
            git: environment.git,
            contexts: &request.contexts,
            defaults: &request.defaults,
            dns: HostDns::load().map_err(BuildError::Dns)?,
            events: request.events.clone(),
            cancel: cancel.clone(),
            host: Platform::host(),
            fetched: Fetched::default(),
            imports,
            listings: request.recorder.is_some().then(|| Shelf::new(environment.store.root()).listings()),
            wrecks: request.on_failure.is_some().then(Wrecks::default),
        };
        let options = Options {
            keep_going: request.keep_going,
            oldest: request.oldest,
            ledger: ledger.clone(),
            ..Options::new(request.jobs, request.events.clone(), cancel)
        };
        let results = || plan.images.iter().map(|image| image.result).collect();
        let mut roots: Vec<VertexId> = until.map_or_else(results, <[VertexId]>::to_vec);
        roots.dedup();
        let solved = solve::solve(&plan.graph, &roots, &executor, &options).map_err(|failure| {
            if let Some(wrecks) = &executor.wrecks {
                wreck.replace(Wreck::of(&plan.graph, &failure, wrecks));
            }
            failed(&plan.graph, failure)
        })?;
        written.replace(written_bytes(environment.store, plan, &solved, ledger));
        if request.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        if until.is_some() {
            if let Some(imports) = imports {
                imports.settle().map_err(import_failed)?;
            }
            return Ok((solved, None));
        }
        let (snapshots, beside) = (snapshots()?, beside(plan, imports));
        let image = exporting(request, plan, || {
            output::write_all(environment, request, plan, &solved, &snapshots, &beside)
                .map_err(unless_stopped)
        })?;
        let upload = Upload {
            environment,
            request,
            plan,
            solved: &solved,
            snapshots: &snapshots,
            imports,
            beside: &beside,
        };
        upload.run().map_err(unless_stopped)?;
        if let Some(imports) = imports {
            imports.settle().map_err(import_failed)?;
        }
        Ok((solved, image))
    }
}

/// Bytes of files in what each step has added that ran. For people, so what cannot be found out is left out.
fn written_bytes(store: &Store, plan: &Plan, solved: &Solved, ledger: &Ledger) -> BTreeMap<VertexId, u64> {
    let ran = |look| matches!(look, Look::Missing | Look::Forced | Look::Expired(_));
    let accounts = ledger.accounts();
    let steps = accounts.iter().filter(|(id, account)| {
        ran(account.look) && solve::is_step(plan.graph.vertex(**id)) && account.result.is_some()
    });
    let bytes = |id: &VertexId| {
        let result = solved.results.get(id)?.fs()?;
        let added = result.trail.last().is_some_and(|last| last.added_layer);
        let layer = result.state.layers.last().filter(|_| added)?;
        store.database().snapshot_size(&layer.snapshot).ok().flatten()
    };
    steps.filter_map(|(id, _)| Some((*id, bytes(id)?))).collect()
}

/// Notes what was used, and sees to it that what was made outlives the machine's power. The image is there already, so
/// nothing of this makes a build fail.
fn settle(store: &Store, solved: &solve::Solved, request: &Request) {
    let synced = if solved.executed > 0 { store.sync_if_cheap() } else { Ok(()) };
    if let Err(error) = store.write_uses().and(synced) {
        request.events.warn(error.to_string());
    }
}

/// Number of the step that stands for the outputs: the one after the last vertex.
fn export_step(plan: &Plan) -> u32 {
    u32::try_from(plan.graph.vertices.len()).unwrap_or(u32::MAX - 1) + 1
}

/// Number of the step that stands for what comes from remote caches; those after it stand for `--cache-to`.
fn cache_step(plan: &Plan) -> u32 {
    export_step(plan).saturating_add(1)
}

/// Shows the writing of outputs as a step of its own.
fn exporting<T>(
    request: &Request,
    plan: &Plan,
    work: impl FnOnce() -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let step = export_step(plan);
    request.events.send(Event::Planned { step, name: "exporting".to_owned() });
    request.events.send(Event::Started { step });
    let started = Instant::now();
    let result = work();
    let outcome = match &result {
        Ok(_) => Outcome::Done,
        Err(BuildError::Cancelled) => Outcome::Cancelled,
        Err(error) => Outcome::Failed(error.to_string()),
    };
    request.events.send(Event::Finished { step, outcome, took: started.elapsed() });
    result
}

fn report(
    warnings: Vec<Diagnostic>,
    plan: Plan,
    image: Option<BuiltIndex>,
    (executed, cached): (usize, usize),
    started: Instant,
) -> Report {
    Report {
        image,
        warnings,
        unused_build_args: plan.unused_build_args,
        stopped: None,
        executed,
        cached,
        took: started.elapsed(),
    }
}

fn failed(graph: &Graph, failure: solve::Failure<OpError>) -> BuildError {
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

impl Course {
    /// What the record has to know.
    fn ending(&self, result: &Result<Report, BuildError>, request: &Request) -> Ending<'_> {
        let written = self.written.borrow();
        let forced = if request.plan.no_cache { Refused::NoCache } else { Refused::NoCacheFilter };
        let noted = |(id, account)| {
            let written_bytes = written.get(&id).copied().unwrap_or(0);
            (id, Noted { written_bytes, ..noted(account, forced) })
        };
        let noted = self.ledger.accounts().into_iter().map(noted).collect();
        let vertices = self.graph.iter().flat_map(|graph| graph.vertices.iter().enumerate());
        let steps = vertices.filter(|(_, vertex)| solve::is_counted(vertex));
        let (ended, error) = match result {
            Ok(_) => (BuildResult::Succeeded, None),
            Err(BuildError::Cancelled) => (BuildResult::Stopped, None),
            Err(error) => (BuildResult::Failed, Some(error.to_string())),
        };
        let image = result.as_ref().ok().and_then(|report| report.image.as_ref());
        Ending {
            graph: self.graph.as_ref(),
            counted: steps.map(|(at, _)| VertexId(u32::try_from(at).unwrap_or(u32::MAX))).collect(),
            noted,
            result: ended,
            error,
            exit_codes: result.as_ref().err().map(exit_codes).unwrap_or_default(),
            image: image.map(|image| image.descriptor.digest),
            arguments: self.arguments.clone(),
        }
    }
}

fn noted(account: Account, forced: Refused) -> Noted {
    let age = |ran: i64| u64::try_from(crate::store::records::now() - ran).unwrap_or(0);
    Noted {
        key: account.definition,
        outside: account.outside,
        content_key: account.content,
        contents: account.contents,
        result: account.result,
        written_bytes: 0,
        by_content: account.look == Look::Content,
        refused: match account.look {
            Look::Forced => Some(forced),
            Look::Expired(ran) => Some(Refused::Expired(age(ran))),
            _ => None,
        },
    }
}

/// Exit status of commands that failed, by number of the step.
fn exit_codes(error: &BuildError) -> BTreeMap<u32, i32> {
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

impl Report {
    /// The image id: the config's digest of a single image, the index' digest of several (semantics fact 98).
    pub fn image_id(&self) -> Option<Digest> {
        let image = self.image.as_ref()?;
        match &image.images[..] {
            [only] => Some(only.config_digest),
            _ => Some(image.descriptor.digest),
        }
    }
}
