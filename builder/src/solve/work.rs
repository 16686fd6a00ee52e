//! The workers: each takes a vertex whose inputs are done, tries its content key, and runs it.
//!
//! A step that somebody else runs right now, another vertex with equal content or another process, is put aside: the
//! worker takes other work and comes back to it. Nothing is held while it waits but what it knows of the step.
//!
//! Invariants: the right to run a step is held while that very step runs, when its inputs are done; so two processes
//! never wait for each other.

use std::time::{Duration, Instant};

use crate::base::digest::CacheKey;
use crate::base::events::{Event, Outcome};
use crate::ops::executor::{Executor, VertexResult};
use crate::plan::graph::{Graph, Op, VertexId};
use crate::store::records::StepResult;

use super::keys::content_key;
use super::ledger::Look;
use super::{Failure, Job, Shared, Slot, State, early, finish, is_counted, is_step, is_told, step_number};

/// How soon a step that runs elsewhere is looked at again.
const RETRY: Duration = Duration::from_millis(25);

/// A vertex put aside because its step runs elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aside {
    content: Option<ContentKeys>,
    /// When to try again.
    retry: Instant,
    /// The user knows that another process is waited for.
    told: bool,
}

/// The content key of a vertex.
#[derive(Debug, Clone, Copy)]
struct ContentKeys {
    here: CacheKey,
    /// For remote caches, when that is another one.
    shared: Option<CacheKey>,
}

/// What became of a vertex.
enum Step {
    Done { result: VertexResult, cached: bool },
    Aside(Aside),
}

/// Work for one worker.
struct Ready {
    id: VertexId,
    inputs: Vec<VertexResult>,
    aside: Option<Aside>,
}

/// One worker: takes vertices whose inputs are done until nothing is left.
pub(super) fn work<E: Executor>(job: &Job<'_, E>) {
    while let Some(ready) = next(job) {
        let id = ready.id;
        let alive = Alive { shared: &job.shared, job };
        let done = step(job, &ready);
        std::mem::forget(alive);
        let mut state = job.shared.lock();
        state.running -= 1;
        match done {
            Ok(Step::Done { result, cached }) => {
                state.solved.executed += usize::from(!cached && is_counted(job.graph.vertex(id)));
                state.slots.insert(id, Slot::Done(result));
            }
            Ok(Step::Aside(aside)) => {
                state.slots.insert(id, Slot::Aside(aside));
            }
            Err(error) => fail(job, &mut state, ready, error),
        }
        drop(state);
        job.shared.changed.notify_all();
    }
}

fn fail<E: Executor>(job: &Job<'_, E>, state: &mut State<E::Error>, ready: Ready, error: E::Error) {
    let Ready { id, inputs, .. } = ready;
    state.slots.insert(id, Slot::Failed);
    let stopped = job.options.cancel.is_cancelled();
    match &mut state.failure {
        None => state.failure = Some(Failure { inputs, ..early(id, error, job.options) }),
        // Steps that fail because they were cancelled are not the cause.
        Some(Failure { others, .. }) if job.options.keep_going && !stopped => others.push((id, error)),
        Some(_) => {}
    }
    if !job.options.keep_going {
        job.options.cancel.cancel();
    }
}

/// Dropped only when the vertex between panics: lets the other workers end, so that the panic is seen and not waited
/// behind for ever.
struct Alive<'a, E: Executor> {
    shared: &'a Shared<E::Error>,
    job: &'a Job<'a, E>,
}

impl<E: Executor> Drop for Alive<'_, E> {
    fn drop(&mut self) {
        self.job.options.cancel.cancel();
        self.shared.lock().panicked = true;
        self.shared.changed.notify_all();
    }
}

/// Waits for work; `None` when there will be none.
fn next<E: Executor>(job: &Job<'_, E>) -> Option<Ready> {
    let mut state = job.shared.lock();
    loop {
        if state.panicked || state.failure.is_some() && !job.options.keep_going {
            return None;
        }
        let stopped = job.options.cancel.is_cancelled();
        let now = Instant::now();
        if !stopped && let Some(ready) = next_ready(job.graph, &state, now) {
            state.slots.insert(ready.id, Slot::Running);
            state.running += 1;
            return Some(ready);
        }
        let retry = state.slots.values().filter_map(Slot::retry).min().filter(|_| !stopped);
        if state.running == 0 && retry.is_none() {
            return None;
        }
        state = match retry {
            Some(at) => {
                let wait = at.saturating_duration_since(now).max(Duration::from_millis(1));
                let waited = job.shared.changed.wait_timeout(state, wait);
                waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
            }
            None => job.shared.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
        };
    }
}

impl Slot {
    /// When a vertex that was put aside is tried again.
    fn retry(&self) -> Option<Instant> {
        match self {
            Self::Aside(aside) => Some(aside.retry),
            _ => None,
        }
    }
}

fn next_ready<E>(graph: &Graph, state: &State<E>, now: Instant) -> Option<Ready> {
    state.slots.iter().find_map(|(id, slot)| {
        let aside = match slot {
            Slot::Waiting => None,
            Slot::Aside(aside) if aside.retry <= now => Some(*aside),
            _ => return None,
        };
        let inputs = graph.vertex(*id).inputs.iter().map(|input| match state.slots.get(input) {
            Some(Slot::Done(result)) => Some(result.clone()),
            _ => None,
        });
        Some(Ready { id: *id, inputs: inputs.collect::<Option<Vec<_>>>()?, aside })
    })
}

fn step<E: Executor>(job: &Job<'_, E>, ready: &Ready) -> Result<Step, E::Error> {
    let Ready { id, inputs, aside } = ready;
    let id = *id;
    let vertex = job.graph.vertex(id);
    let content = match aside {
        Some(aside) => aside.content,
        None => find_content_key(job, id, inputs)?,
    };
    // A step that was put aside is asked for when whoever runs it is done, not all the time.
    if aside.is_none()
        && let Some(step) = stored(job, id, inputs, content, Look::Content)?
    {
        return Ok(step);
    }
    let Some(key) = content.map(|keys| keys.here).or(job.keys.get(&id).map(|keys| keys.definition)) else {
        return run(job, id, inputs, content);
    };
    if !runs_once(&vertex.op) {
        return run(job, id, inputs, content);
    }
    let put_aside = |told| Ok(Step::Aside(Aside { content, retry: Instant::now() + RETRY, told }));
    let told = aside.is_some_and(|aside| aside.told);
    let ours = job.shared.lock().claimed.insert(key);
    // What has to run again whatever is stored waits for nobody.
    if !ours && !vertex.ignore_cache {
        return put_aside(told);
    }
    let claim = job.executor.claim(&key);
    let done = match claim {
        Ok(None) if !vertex.ignore_cache => {
            if !told {
                job.options.events.send(Event::Waiting { step: step_number(id) });
            }
            put_aside(true)
        }
        // Whoever had it until now may have stored what is wanted.
        Ok(claim) => match stored(job, id, inputs, content, Look::Elsewhere) {
            Ok(None) => {
                let done = run(job, id, inputs, content);
                drop(claim);
                done
            }
            Ok(Some(step)) => Ok(step),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    if ours {
        job.shared.lock().claimed.remove(&key);
    }
    done
}

/// Kinds of vertices that cost enough to be worth finding out whether somebody else is at them.
fn runs_once(op: &Op) -> bool {
    matches!(op, Op::Image(_) | Op::Git(_) | Op::Run(_) | Op::Copy(_) | Op::Mkdir(_))
}

/// The content key; sources have nothing below them that could have run again.
fn find_content_key<E: Executor>(
    job: &Job<'_, E>,
    id: VertexId,
    inputs: &[VertexResult],
) -> Result<Option<ContentKeys>, E::Error> {
    let vertex = job.graph.vertex(id);
    if vertex.inputs.is_empty() {
        return Ok(None);
    }
    let contents = job.executor.contents(job.graph, id, inputs)?;
    let outside = job.keys.get(&id).and_then(|keys| keys.outside.as_ref());
    let here = content_key(vertex, outside, &contents);
    let shared = job.executor.shared_contents(inputs, &contents);
    let shared = shared.map(|contents| content_key(vertex, outside, &contents));
    job.options.ledger.note(id, |account| {
        account.content = Some(here);
        account.contents = contents;
    });
    if let Some(keys) = job.shared.lock().solved.keys.get_mut(&id) {
        keys.content = Some(shared.unwrap_or(here));
    }
    Ok(Some(ContentKeys { here, shared }))
}

/// Takes the stored result, when there is one that may be taken.
fn stored<E: Executor>(
    job: &Job<'_, E>,
    id: VertexId,
    inputs: &[VertexResult],
    content: Option<ContentKeys>,
    look: Look,
) -> Result<Option<Step>, E::Error> {
    let vertex = job.graph.vertex(id);
    if vertex.ignore_cache {
        return Ok(None);
    }
    let own = job.keys.get(&id);
    let found = match content {
        Some(keys) => job.executor.lookup_content(&keys.here, keys.shared.as_ref())?,
        // The results of sources were looked for before anything ran.
        None => match own.filter(|keys| look == Look::Elsewhere && keys.reusable) {
            Some(keys) => job.executor.lookup(&keys.definition)?,
            None => None,
        },
    };
    let Some(found) = found else { return Ok(None) };
    if is_step(vertex) && job.options.is_too_old(found.ran) {
        job.options.ledger.note(id, |account| account.look = Look::Expired(found.ran));
        return Ok(None);
    }
    let result = match inputs.first().and_then(VertexResult::fs) {
        Some(base) => found.on(base),
        None => found,
    };
    if let (Some(keys), Some(_)) = (own, content) {
        job.executor.save(&[keys.definition], &result, &vertex.name, 0)?;
    }
    note_result(job, id, look, &result);
    if is_told(vertex) {
        finish(id, Outcome::Cached, Duration::ZERO, job.options);
    }
    Ok(Some(Step::Done { result: VertexResult::Fs(result), cached: true }))
}

fn note_result<E: Executor>(job: &Job<'_, E>, id: VertexId, look: Look, result: &StepResult) {
    job.options.ledger.note(id, |account| {
        account.look = look;
        account.result = Some(result.state.identity);
    });
}

fn run<E: Executor>(
    job: &Job<'_, E>,
    id: VertexId,
    inputs: &[VertexResult],
    content: Option<ContentKeys>,
) -> Result<Step, E::Error> {
    let options = job.options;
    let vertex = job.graph.vertex(id);
    let own = job.keys.get(&id).map(|keys| keys.definition);
    let save: Vec<CacheKey> = own.into_iter().chain(content.map(|keys| keys.here)).collect();
    options.ledger.note(id, |account| {
        if account.look == Look::Unneeded {
            account.look = Look::Missing;
        }
    });
    let finish = |outcome, took| {
        if is_told(vertex) {
            finish(id, outcome, took, options);
        }
    };
    if is_told(vertex) {
        options.events.send(Event::Started { step: step_number(id) });
    }
    let started = Instant::now();
    let outcome = job.executor.execute(job.graph, id, inputs);
    let took = started.elapsed();
    match outcome {
        Ok(result) => {
            if let VertexResult::Fs(step) = &result {
                let saved = job.executor.save(&save, step, &vertex.name, took.as_millis() as u64);
                if let Err(error) = saved {
                    finish(Outcome::Failed(error.to_string()), took);
                    return Err(error);
                }
                options.ledger.note(id, |account| account.result = Some(step.state.identity));
            }
            finish(Outcome::Done, took);
            Ok(Step::Done { result, cached: false })
        }
        Err(error) => {
            let outcome = if options.cancel.is_cancelled() {
                Outcome::Cancelled
            } else {
                Outcome::Failed(error.to_string())
            };
            finish(outcome, took);
            Err(error)
        }
    }
}
