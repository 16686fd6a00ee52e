//! One build from end to end: parse, plan, solve, export. The entry point for programs that use kiln as a library;
//! the command line is one of them.

pub mod compare;
pub mod contents;
mod course;
pub mod debug;
pub mod edit;
mod error;
mod heal;
mod imports;
pub mod layers;
mod lint;
mod output;
mod request;
mod resolve;
mod run;
pub mod until;
mod upload;
mod work;

use std::time::Instant;

use kiln_grammar::diagnostic::Diagnostic;

use crate::plan;
use crate::plan::graph::Plan;
use crate::solve;
use crate::store::Store;
use crate::store::records::now;

use course::Course;
use output::Written;
use work::Builder;

pub use error::{BuildError, FailedStep};
pub use request::{Environment, OnArrival, OnFailure, Report, Request};
pub use resolve::{PullPolicy, Resolver};
pub use run::{RunRequest, run, unpack};
pub use upload::{CacheMode, CacheSource, CacheTarget};

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

fn run_course(
    environment: Environment<'_>,
    request: &Request,
    course: &mut Course,
) -> Result<Report, BuildError> {
    let (started, began) = (Instant::now(), now());
    let parsed = kiln_grammar::parse(&request.text);
    if parsed.has_errors() {
        return Err(BuildError::Parse(parsed.diagnostics));
    }
    course.arguments = plan::arguments(&parsed.buildfile);
    let config = lint::configuration(&parsed.buildfile, request)?;
    let resolver =
        Resolver::new(environment, request.pull, request.cancel.clone()).reporting(&request.events);
    // What fails because the build was stopped (a request that was broken off, a layer half written) is no failure.
    let unless_stopped = |error| if request.cancel.is_cancelled() { BuildError::Cancelled } else { error };
    let plan =
        plan::plan(&parsed.buildfile, &request.plan, &resolver).map_err(|e| unless_stopped(e.into()))?;
    let warnings = lint::findings(&parsed.buildfile, parsed.diagnostics, &plan, request, &config)?;
    let until =
        request.until.as_ref().map(|until| until::find(until, &parsed.buildfile, &plan)).transpose()?;
    course.graph = Some(plan.graph.clone());
    let imports = imports::open(environment, request, &plan, &resolver)?;
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
        began,
    };
    let mut made = builder.work();
    // A layer that a cache had promised cannot be had: its step is no longer taken for cached, and runs.
    while let (Some(imports), Err(error)) = (&imports, &made)
        && !request.cancel.is_cancelled()
        && imports::discredit(imports, error)?
    {
        made = builder.work();
    }
    if let Some(imports) = &imports {
        imports.finish();
    }
    let (solved, written) = made?;
    settle(environment.store, &solved, request);
    let last = until.and_then(|steps| steps.into_iter().next_back());
    let stopped = last.map(|id| (solve::step_number(id), plan.graph.vertex(id).name.clone()));
    Ok(Report { stopped, ..report(warnings, plan, written, (solved.executed, solved.cached), started) })
}

/// Notes what was used, and sees to it that what was made outlives the machine's power. The image is there already, so
/// nothing of this makes a build fail.
fn settle(store: &Store, solved: &solve::Solved, request: &Request) {
    let synced = if solved.executed > 0 { store.sync_if_cheap() } else { Ok(()) };
    if let Err(error) = store.write_uses().and(synced) {
        request.events.warn(error.to_string());
    }
}

fn report(
    warnings: Vec<Diagnostic>,
    plan: Plan,
    written: Option<Written>,
    (executed, cached): (usize, usize),
    started: Instant,
) -> Report {
    let (image, provenance) =
        written.map_or((None, Vec::new()), |written| (written.image, written.provenance));
    Report {
        image,
        provenance,
        warnings,
        unused_build_args: plan.unused_build_args,
        stopped: None,
        executed,
        cached,
        took: started.elapsed(),
    }
}
