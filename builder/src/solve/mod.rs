//! The scheduler: which vertices have to run, in which order, on how many threads.
//!
//! A vertex has two keys:
//!
//! | key | made of | when it is tried |
//! | --- | --- | --- |
//! | definition key | spec, what it reads from outside (selected files, commit, body), definition keys of its inputs | first; a hit needs no file system, and inputs are not even looked at |
//! | content key | spec, what it reads from outside, content of its inputs' results | when an input had to run: if it gave what it gave before, everything below stays cached (early cutoff) |
//!
//! Not in a key: names, places in the Buildfile, proxies, addresses of extra hosts, limits, secret values
//! (language.md 1.13). A vertex that must run again (`--no-cache`), and everything that reads it, has no definition
//! key to look up, since that key would name the earlier result.
//!
//! Invariants:
//! - a vertex runs at most once, after all its inputs, and only if something that is needed reads it;
//! - after a failure nothing new starts and [`solve`] returns only when every running step has ended.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::cancel::CancelToken;
use crate::base::digest::{CacheKey, Digest, KeyHasher};
use crate::base::events::{Event, EventSink, Outcome};
use crate::ops::executor::{Executor, VertexResult};
use crate::plan::graph::{Graph, Op, Vertex, VertexId};

/// Limits and plumbing of a build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most vertices at a time.
    pub jobs: usize,
    /// Where progress goes.
    pub events: EventSink,
    /// Set from outside to stop the build, and by the scheduler at the first failure.
    pub cancel: CancelToken,
}

/// A build that did not come to its end.
#[derive(Debug)]
pub struct Failure<E> {
    /// The vertex that failed first.
    pub vertex: VertexId,
    /// Why.
    pub error: E,
    /// The build had been stopped from outside before this failed.
    pub interrupted: bool,
}

/// What a build did.
#[derive(Debug, Default)]
pub struct Solved {
    /// Results of every vertex that was looked at.
    pub results: BTreeMap<VertexId, VertexResult>,
    /// Steps that ran.
    pub executed: usize,
    /// Steps taken from the store.
    pub cached: usize,
    /// Keys of every vertex that the results depend on.
    pub keys: BTreeMap<VertexId, VertexKeys>,
}

/// The keys of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VertexKeys {
    /// Definition key.
    pub definition: CacheKey,
    /// Content key as remote caches know it, when it was needed.
    pub content: Option<CacheKey>,
    /// An earlier result of these keys was not to be used: the vertex, or something that it reads, had to run again.
    pub forced: bool,
}

/// Number of a vertex in events.
pub fn step_number(id: VertexId) -> u32 {
    id.0 + 1
}

/// Brings about the results of `roots`.
///
/// # Errors
/// The first failure; steps that do not depend on it are cancelled.
pub fn solve<E: Executor>(
    graph: &Graph,
    roots: &[VertexId],
    executor: &E,
    options: &Options,
) -> Result<Solved, Failure<E::Error>> {
    let keys = definition_keys(graph, roots, executor, options)?;
    let reusable = keys.iter().filter(|(id, key)| key.reusable && is_step(graph.vertex(**id)));
    // The results first, which is where look-ups begin.
    let expected: Vec<_> =
        reusable.rev().map(|(id, key)| (key.definition, graph.vertex(*id).name.as_str())).collect();
    executor.expect(&expected);
    let mut state = State {
        slots: BTreeMap::new(),
        solved: Solved {
            keys: keys.iter().map(|(id, key)| (*id, key.of_vertex())).collect(),
            ..Solved::default()
        },
        failure: None,
        running: 0,
        panicked: false,
    };
    let mut pending: Vec<VertexId> = roots.to_vec();
    while let Some(id) = pending.pop() {
        if state.slots.contains_key(&id) {
            continue;
        }
        let vertex = graph.vertex(id);
        let slot = match keys.get(&id) {
            _ if matches!(vertex.op, Op::Local(_)) => Slot::Done(VertexResult::Local),
            Some(key) if key.reusable => {
                match executor.lookup(&key.definition).map_err(|error| early(id, error, options))? {
                    Some(result) => {
                        state.solved.cached += usize::from(is_step(vertex));
                        announce(vertex, id, options);
                        finish(id, Outcome::Cached, Duration::ZERO, options);
                        Slot::Done(VertexResult::Fs(result))
                    }
                    None => Slot::Waiting,
                }
            }
            _ => Slot::Waiting,
        };
        if matches!(slot, Slot::Waiting) {
            pending.extend(&vertex.inputs);
        }
        state.slots.insert(id, slot);
    }
    for (id, slot) in &state.slots {
        if matches!(slot, Slot::Waiting) {
            announce(graph.vertex(*id), *id, options);
        }
    }
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
    let waiting = shared.lock().slots.values().filter(|slot| matches!(slot, Slot::Waiting)).count();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1).min(waiting) {
            scope.spawn(|| work(graph, executor, options, &keys, &shared));
        }
    });
    let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = state.failure {
        return Err(failure);
    }
    let mut solved = state.solved;
    for (id, slot) in state.slots {
        if let Slot::Done(result) = slot {
            solved.results.insert(id, result);
        }
    }
    Ok(solved)
}

struct Keys {
    definition: CacheKey,
    outside: Option<Digest>,
    /// The definition key may be looked up: neither the vertex nor anything that it reads is forced to run.
    reusable: bool,
}

impl Keys {
    fn of_vertex(&self) -> VertexKeys {
        VertexKeys { definition: self.definition, content: None, forced: !self.reusable }
    }
}

enum Slot {
    Waiting,
    Running,
    Done(VertexResult),
}

struct State<E> {
    slots: BTreeMap<VertexId, Slot>,
    solved: Solved,
    failure: Option<Failure<E>>,
    running: usize,
    /// A vertex panicked: its worker is gone, and the others must not wait for it.
    panicked: bool,
}

struct Shared<E> {
    /// Guards the table of slots; never held while a vertex runs.
    state: Mutex<State<E>>,
    changed: Condvar,
}

impl<E> Shared<E> {
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure before the scheduler itself has cancelled anything.
fn early<E>(vertex: VertexId, error: E, options: &Options) -> Failure<E> {
    Failure { vertex, error, interrupted: options.cancel.is_cancelled() }
}

/// Dropped only when the vertex between panics: lets the other workers end, so that the panic is seen and not waited
/// behind for ever.
struct Alive<'a, E> {
    shared: &'a Shared<E>,
    cancel: &'a CancelToken,
}

impl<E> Drop for Alive<'_, E> {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.shared.lock().panicked = true;
        self.shared.changed.notify_all();
    }
}

/// Vertices that a person counts as steps.
pub fn is_step(vertex: &Vertex) -> bool {
    matches!(vertex.op, Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) | Op::Merge)
}

fn announce(vertex: &Vertex, id: VertexId, options: &Options) {
    if !vertex.name.is_empty() {
        options.events.send(Event::Planned { step: step_number(id), name: vertex.name.clone() });
    }
}

fn finish(id: VertexId, outcome: Outcome, took: Duration, options: &Options) {
    options.events.send(Event::Finished { step: step_number(id), outcome, took });
}

fn definition_keys<E: Executor>(
    graph: &Graph,
    roots: &[VertexId],
    executor: &E,
    options: &Options,
) -> Result<BTreeMap<VertexId, Keys>, Failure<E::Error>> {
    let mut reachable = vec![false; graph.vertices.len()];
    let mut pending = roots.to_vec();
    while let Some(id) = pending.pop() {
        if !std::mem::replace(&mut reachable[id.0 as usize], true) {
            pending.extend(&graph.vertex(id).inputs);
        }
    }
    let mut keys: BTreeMap<VertexId, Keys> = BTreeMap::new();
    for (number, vertex) in graph.vertices.iter().enumerate().filter(|(number, _)| reachable[*number]) {
        let id = VertexId(number as u32);
        let outside = executor.outside(graph, id).map_err(|error| early(id, error, options))?;
        let mut hasher = spec_hasher("kiln/definition/v1", vertex, outside.as_ref());
        let mut reusable = !vertex.ignore_cache;
        for input in &vertex.inputs {
            // Inputs come before the vertex, so their keys are there.
            if let Some(key) = keys.get(input) {
                hasher.digest(&key.definition.0);
                reusable &= key.reusable;
            }
        }
        keys.insert(id, Keys { definition: CacheKey(hasher.finish()), outside, reusable });
    }
    Ok(keys)
}

/// Hashes what a vertex is, in the one canonical way: JSON with sorted keys of its spec.
fn spec_hasher(tag: &str, vertex: &Vertex, outside: Option<&Digest>) -> KeyHasher {
    let mut hasher = KeyHasher::new(tag);
    let spec =
        serde_json::to_value(&vertex.op).expect("invariant: specs are plain data and always serialise");
    hasher.field(spec.to_string().as_bytes());
    // Only commands can tell platforms apart; everything else is the same bytes (language.md 1.13).
    let platform = if matches!(vertex.op, Op::Run(_)) { vertex.platform.to_string() } else { String::new() };
    hasher.field(platform.as_bytes());
    hasher.field(outside.map_or(&[][..], |digest| digest.as_bytes()));
    hasher
}

/// One worker: takes vertices whose inputs are done until nothing is left.
fn work<E: Executor>(
    graph: &Graph,
    executor: &E,
    options: &Options,
    keys: &BTreeMap<VertexId, Keys>,
    shared: &Shared<E::Error>,
) {
    loop {
        let mut state = shared.lock();
        let (id, inputs) = loop {
            let stopped = state.failure.is_some() || state.panicked;
            if stopped || options.cancel.is_cancelled() && state.running == 0 {
                return;
            }
            if !options.cancel.is_cancelled()
                && let Some(next) = next_ready(graph, &state)
            {
                break next;
            }
            if state.running == 0 {
                return;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.slots.insert(id, Slot::Running);
        state.running += 1;
        drop(state);
        let alive = Alive { shared, cancel: &options.cancel };
        let done = run_one(graph, executor, options, keys, id, &inputs);
        std::mem::forget(alive);
        let mut state = shared.lock();
        state.running -= 1;
        match done {
            Ok((result, content, cached)) => {
                if let Some(keys) = state.solved.keys.get_mut(&id) {
                    keys.content = content;
                }
                if is_step(graph.vertex(id)) {
                    if cached {
                        state.solved.cached += 1;
                    } else {
                        state.solved.executed += 1;
                    }
                }
                state.slots.insert(id, Slot::Done(result));
            }
            Err(error) => {
                // Steps that fail because the first failure cancelled them are not the cause.
                if state.failure.is_none() {
                    state.failure = Some(early(id, error, options));
                }
                options.cancel.cancel();
            }
        }
        drop(state);
        shared.changed.notify_all();
    }
}

fn next_ready<E>(graph: &Graph, state: &State<E>) -> Option<(VertexId, Vec<VertexResult>)> {
    state.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Waiting)).find_map(|(id, _)| {
        let inputs = graph.vertex(*id).inputs.iter().map(|input| match state.slots.get(input) {
            Some(Slot::Done(result)) => Some(result.clone()),
            _ => None,
        });
        Some((*id, inputs.collect::<Option<Vec<_>>>()?))
    })
}

fn run_one<E: Executor>(
    graph: &Graph,
    executor: &E,
    options: &Options,
    keys: &BTreeMap<VertexId, Keys>,
    id: VertexId,
    inputs: &[VertexResult],
) -> Result<(VertexResult, Option<CacheKey>, bool), E::Error> {
    let vertex = graph.vertex(id);
    let own = keys.get(&id);
    let content_key = |digests: &[Digest]| {
        let mut hasher = spec_hasher("kiln/content/v1", vertex, own.and_then(|k| k.outside.as_ref()));
        for digest in digests {
            hasher.digest(digest);
        }
        CacheKey(hasher.finish())
    };
    // Sources have nothing below them that could have run again.
    let (content, shared) = if vertex.inputs.is_empty() {
        (None, None)
    } else {
        let contents = executor.contents(graph, id, inputs)?;
        let shared = executor.shared_contents(inputs, &contents);
        (Some(content_key(&contents)), shared.as_deref().map(content_key))
    };
    let known_as = shared.or(content);
    let mut save: Vec<CacheKey> = own.map(|k| k.definition).into_iter().chain(content).collect();
    if let Some(key) = content.filter(|_| !vertex.ignore_cache)
        && let Some(result) = executor.lookup_content(&key, shared.as_ref())?
    {
        save.pop();
        let result = match inputs.first().and_then(VertexResult::fs) {
            Some(base) => result.on(base),
            None => result,
        };
        executor.save(&save, &result, &vertex.name, 0)?;
        finish(id, Outcome::Cached, Duration::ZERO, options);
        return Ok((VertexResult::Fs(result), known_as, true));
    }
    options.events.send(Event::Started { step: step_number(id) });
    let started = Instant::now();
    let outcome = executor.execute(graph, id, inputs);
    let took = started.elapsed();
    match outcome {
        Ok(result) => {
            if let VertexResult::Fs(step) = &result
                && let Err(error) = executor.save(&save, step, &vertex.name, took.as_millis() as u64)
            {
                finish(id, Outcome::Failed(error.to_string()), took, options);
                return Err(error);
            }
            finish(id, Outcome::Done, took, options);
            Ok((result, known_as, false))
        }
        Err(error) => {
            let outcome = if options.cancel.is_cancelled() {
                Outcome::Cancelled
            } else {
                Outcome::Failed(error.to_string())
            };
            finish(id, outcome, took, options);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
