//! A shell in the place of a step: of one that is on record, or of one that has failed right now.
//!
//! Invariants:
//! - a step is entered with what its record says it saw; what records do not hold (secrets, agents, addresses, devices)
//!   comes from the request, and what is missing is told before the shell begins;
//! - nothing runs to get there: inputs are taken from the store, or it is said how to get them back.

use std::collections::BTreeMap;

use super::run::exit_code;
use super::{BuildError, Environment, PullPolicy, Resolver};
use crate::base::cancel::CancelToken;
use crate::base::events::EventSink;
use crate::context::local::LocalContext;
use crate::image::platform::Platform;
use crate::ops::executor::VertexResult;
use crate::ops::{Fetched, LocalExecutor, OpError, RunDefaults, Shell, Visit, Wrecks, missing, visit};
use crate::plan::graph::{Graph, Guards, Op, RunSpec};
use crate::record::{BuildRecord, StepOutcome, StepRecord};
use crate::sandbox::net::resolv::HostDns;
use crate::snapshot::overlay::{Begun, Snapshots};
use crate::solve;
use crate::store::Store;
use crate::store::records::StepResult;

/// PATH of steps that are no RUN.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a step cannot be entered.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DebugError {
    #[error("build {build} has no step {step}")]
    NoStep { build: String, step: u32 },
    #[error("no step of build {build} failed")]
    NothingFailed { build: String },
    #[error("step {step} of build {build} cannot be entered: {reason}")]
    Unenterable { build: String, step: u32, reason: String },
    #[error(
        "the result of step {input}, `{name}`, which step {step} stands on, is not in the store any more"
    )]
    Gone { step: u32, input: u32, name: String },
    #[error("step {step}, `{name}`, has no result to enter: it did not succeed")]
    NoResult { step: u32, name: String },
    #[error("the image of this step has no shell")]
    NoShell,
}

/// What runs in a step's place.
#[derive(Debug, Clone, Default)]
pub struct ShellRequest {
    /// The command; the image's shell when empty.
    pub command: Vec<String>,
    /// `TERM` of the user's terminal.
    pub term: Option<String>,
}

/// A recorded step to enter.
pub struct DebugRequest<'a> {
    /// The build.
    pub record: &'a BuildRecord,
    /// The step; the first that failed when `None`.
    pub step: Option<u32>,
    /// As it was after the step, not before.
    pub after: bool,
    /// What runs there.
    pub shell: ShellRequest,
    /// What records do not hold.
    pub defaults: &'a RunDefaults,
    /// Warnings.
    pub events: EventSink,
    /// Stops it.
    pub cancel: CancelToken,
}

/// A step about to be entered, for people.
#[derive(Debug)]
pub struct Arrival {
    /// Number in progress output.
    pub number: u32,
    /// Name of the step.
    pub name: String,
    /// What it runs, as whom and where.
    pub spec: RunSpec,
    /// Its platform.
    pub platform: Platform,
    /// What runs in its place.
    pub shell: Shell,
    /// The file system holds what the step itself has written.
    pub after: bool,
    /// What is not as it was, one line each.
    pub notices: Vec<String>,
}

/// Enters a recorded step. `arrive` is told of it before its shell begins. Gives the shell's exit code, 128 + N for
/// signal N.
///
/// # Errors
/// When there is no such step, when what it stands on is gone, or when the shell cannot be started.
pub fn debug(
    environment: Environment<'_>,
    request: &DebugRequest<'_>,
    arrive: &mut dyn FnMut(&Arrival),
) -> Result<u8, BuildError> {
    let (build, steps) = (&request.record.head.id, &request.record.steps);
    let failed = || steps.iter().find(|step| step.outcome == StepOutcome::Failed);
    let step = match request.step {
        Some(number) => request
            .record
            .step(number)
            .ok_or_else(|| DebugError::NoStep { build: build.clone(), step: number })?,
        None => failed().ok_or_else(|| DebugError::NothingFailed { build: build.clone() })?,
    };
    let unenterable =
        |reason: String| DebugError::Unenterable { build: build.clone(), step: step.number, reason };
    // Outputs and caches are steps for progress only, as is what a build had not come to.
    let op: Op = serde_json::from_value(step.spec.clone())
        .map_err(|_| unenterable("it has no file system of its own".to_owned()))?;
    if matches!(op, Op::Local(_) | Op::Http(_)) {
        return Err(unenterable(
            "it brings files for other steps, and has no file system of its own".to_owned(),
        )
        .into());
    }
    let platform: Platform =
        step.platform.parse().map_err(|_| unenterable("its platform is unknown".to_owned()))?;
    let mut notices = Vec::new();
    let after = request.after || step.inputs.is_empty();
    let own = match after {
        true => Some(
            result_of(environment.store, step, &mut notices)?
                .ok_or_else(|| DebugError::NoResult { step: step.number, name: step.name.clone() })?,
        ),
        false => None,
    };
    let mut inputs = Vec::new();
    // Before the step there is its first input; its mounts name the others. What only COPY reads is never entered.
    let needed = match &op {
        Op::Run(_) => step.inputs.len(),
        _ => usize::from(!after),
    };
    for number in step.inputs.iter().take(needed) {
        let input = request.record.step(*number);
        let result = input.map(|input| result_of(environment.store, input, &mut notices)).transpose()?;
        inputs.push(result.flatten().ok_or_else(|| DebugError::Gone {
            step: step.number,
            input: *number,
            name: input.map(|input| input.name.clone()).unwrap_or_default(),
        })?);
    }
    let entry = Entry {
        number: step.number,
        name: &step.name,
        op: &op,
        platform,
        guards: step.guards.clone(),
        inputs: &inputs,
        own,
        upper: None,
        notices,
    };
    enter(environment, entry, request.defaults, &request.shell, &request.events, &request.cancel, arrive)
}

/// The stored result of a recorded step.
fn result_of(
    store: &Store,
    step: &StepRecord,
    notices: &mut Vec<String>,
) -> Result<Option<StepResult>, BuildError> {
    let snapshots = Snapshots::new(store)?;
    let mut other = None;
    for key in [step.content_key, step.key].into_iter().flatten() {
        let Some(result) = store.use_step(&key)? else { continue };
        if !snapshots.is_complete(&result.state) {
            continue;
        }
        if step.result.is_none_or(|identity| identity == result.state.identity) {
            return Ok(Some(result));
        }
        other = Some(result);
    }
    if other.is_some() {
        notices.push(format!(
            "step {}, `{}`, has run again since and gave something else; this is what it gave last",
            step.number, step.name
        ));
    }
    Ok(other)
}

/// What is left of a step that failed in this process.
#[derive(Debug)]
pub(super) struct Wreck {
    /// Number in progress output.
    pub number: u32,
    /// Name of the step.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Its platform.
    pub platform: Platform,
    /// Its limits.
    pub guards: Guards,
    /// Its inputs that are file systems.
    pub inputs: Vec<StepResult>,
    /// What its last attempt wrote.
    pub upper: Option<Begun>,
}

impl Wreck {
    /// What a failure left; `None` when it came before anything was there to enter.
    pub(super) fn of(graph: &Graph, failure: &solve::Failure<OpError>, wrecks: &Wrecks) -> Option<Self> {
        let solve::Failure { vertex: id, inputs, interrupted: false, .. } = failure else { return None };
        let vertex = graph.vertex(*id);
        let number = solve::step_number(*id);
        let inputs: Vec<StepResult> = inputs.iter().filter_map(VertexResult::fs).cloned().collect();
        (!inputs.is_empty()).then(|| Self {
            number,
            name: vertex.name.clone(),
            op: vertex.op.clone(),
            platform: vertex.platform.clone(),
            guards: vertex.guards.clone(),
            inputs,
            upper: wrecks.take(number),
        })
    }

    /// Enters it.
    pub(super) fn enter(
        self,
        environment: Environment<'_>,
        defaults: &RunDefaults,
        shell: &ShellRequest,
        (events, cancel): (&EventSink, &CancelToken),
        arrive: &mut dyn FnMut(&Arrival),
    ) -> Result<u8, BuildError> {
        let entry = Entry {
            number: self.number,
            name: &self.name,
            op: &self.op,
            platform: self.platform,
            guards: self.guards,
            inputs: &self.inputs,
            own: None,
            upper: self.upper,
            notices: Vec::new(),
        };
        enter(environment, entry, defaults, shell, events, cancel, arrive)
    }
}

struct Entry<'a> {
    number: u32,
    name: &'a str,
    op: &'a Op,
    platform: Platform,
    guards: Guards,
    inputs: &'a [StepResult],
    /// The step's own result, to enter that in place of its first input.
    own: Option<StepResult>,
    /// What a failed attempt wrote above its first input.
    upper: Option<Begun>,
    notices: Vec<String>,
}

fn enter(
    environment: Environment<'_>,
    entry: Entry<'_>,
    defaults: &RunDefaults,
    request: &ShellRequest,
    events: &EventSink,
    cancel: &CancelToken,
    arrive: &mut dyn FnMut(&Arrival),
) -> Result<u8, BuildError> {
    let Entry { number, name, op, platform, guards, inputs, own, upper, mut notices } = entry;
    let base = own.as_ref().or(inputs.first()).map(|result| &result.state);
    let base = base.ok_or_else(|| DebugError::NoResult { step: number, name: name.to_owned() })?;
    let spec = match op {
        Op::Run(spec) => spec.clone(),
        _ => RunSpec {
            env: vec![PATH.to_owned()],
            cwd: "/".to_owned(),
            hostname: "kiln".to_owned(),
            ..RunSpec::default()
        },
    };
    notices.extend(missing(&spec, defaults));
    let contexts = BTreeMap::new();
    let resolver = Resolver::new(environment, PullPolicy::Never, cancel.clone());
    let executor = executor(environment, &resolver, &contexts, defaults, events, cancel)?;
    let failed = |source| match source {
        OpError::Cancelled => BuildError::Cancelled,
        source => BuildError::Visit(Box::new(source)),
    };
    let shell = match &request.command[..] {
        [] => Shell::find(&executor, base).map_err(failed)?.ok_or(DebugError::NoShell)?,
        command => Shell::Command(command.to_vec()),
    };
    let after = own.is_some() || upper.is_some();
    let arrival = Arrival { number, name: name.to_owned(), spec, platform, shell, after, notices };
    arrive(&arrival);
    let inputs: Vec<&StepResult> = inputs.iter().collect();
    let there = Visit {
        spec: &arrival.spec,
        platform: &arrival.platform,
        guards: &guards,
        base,
        inputs: &inputs,
        upper,
    };
    let ended = visit(&executor, there, &arrival.shell, request.term.as_deref()).map_err(failed)?;
    Ok(exit_code(&ended))
}

/// An executor for one command, without caches, contexts and records.
pub(super) fn executor<'a>(
    environment: Environment<'a>,
    resolver: &'a Resolver<'a>,
    contexts: &'a BTreeMap<String, LocalContext>,
    defaults: &'a RunDefaults,
    events: &EventSink,
    cancel: &CancelToken,
) -> Result<LocalExecutor<'a>, BuildError> {
    Ok(LocalExecutor {
        store: environment.store,
        snapshots: Snapshots::new(environment.store)?,
        sandboxes: environment.sandboxes,
        fetcher: resolver,
        net: environment.net,
        git: environment.git,
        contexts,
        defaults,
        dns: HostDns::load().map_err(BuildError::Dns)?,
        events: events.clone(),
        cancel: cancel.clone(),
        host: Platform::host(),
        fetched: Fetched::default(),
        imports: None,
        listings: None,
        wrecks: None,
    })
}
