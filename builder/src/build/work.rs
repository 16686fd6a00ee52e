//! A build that was planned: steps, outputs, caches.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use super::debug::Wreck;
use super::error::failed;
use super::imports::{beside, import_failed};
use super::output::Written;
use super::upload::Upload;
use super::{BuildError, Environment, Request, Resolver, output};
use crate::base::events::{Event, Outcome};
use crate::export::attest::provenance::Found;
use crate::image::platform::Platform;
use crate::ops::{Fetched, Imports, LocalExecutor, Wrecks};
use crate::plan::graph::{Plan, VertexId};
use crate::record::Shelf;
use crate::sandbox::net::resolv::HostDns;
use crate::snapshot::overlay::{SnapshotError, Snapshots};
use crate::snapshot::pending::Pending;
use crate::solve::{self, Ledger, Look, Options, Solved};
use crate::store::Store;

/// A build that was planned.
pub(super) struct Builder<'a> {
    pub environment: Environment<'a>,
    pub request: &'a Request,
    pub plan: &'a Plan,
    pub resolver: &'a Resolver<'a>,
    pub imports: Option<&'a Imports<'a>>,
    /// What to end with in place of the plan's images.
    pub until: Option<&'a [VertexId]>,
    pub ledger: &'a Ledger,
    pub wreck: &'a RefCell<Option<Wreck>>,
    pub written: &'a RefCell<BTreeMap<VertexId, u64>>,
    /// When the build began, in seconds since 1970.
    pub began: i64,
}

impl Builder<'_> {
    /// Runs what has to run, writes outputs and caches.
    pub(super) fn work(&self) -> Result<(Solved, Option<Written>), BuildError> {
        let Self { environment, request, plan, resolver, imports, until, ledger, wreck, written, began } =
            *self;
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
        let (commits, downloads) = executor.fetched.found();
        let found = Found { commits, downloads };
        let output = exporting(request, plan, || {
            let files = (&solved, &snapshots);
            output::write_all(environment, request, plan, files, &beside, (&found, began))
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
        Ok((solved, Some(output)))
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

/// Number of the step that stands for the outputs: the one after the last vertex.
pub(super) fn export_step(plan: &Plan) -> u32 {
    u32::try_from(plan.graph.vertices.len()).unwrap_or(u32::MAX - 1) + 1
}

/// Number of the step that stands for what comes from remote caches; those after it stand for `--cache-to`.
pub(super) fn cache_step(plan: &Plan) -> u32 {
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
