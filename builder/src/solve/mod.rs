//! The scheduler: which vertices have to run, in which order, on how many threads.
//!
//! A vertex has two keys ([`keys`] has the table of what is in them):
//!
//! | key | made of | when it is tried |
//! | --- | --- | --- |
//! | definition key | spec, what it reads from outside (selected files, commit, body), definition keys of its inputs | first; a hit needs no file system, and inputs are not even looked at |
//! | content key | spec, what it reads from outside, content of its inputs' results | when an input had to run: if it gave what it gave before, everything below stays cached (early cutoff) |
//!
//! A vertex that must run again (`--no-cache`, `--cache-ttl`), and everything that reads it, has no definition key to
//! look up, since that key would name the earlier result.
//!
//! Invariants:
//! - a vertex runs at most once, after all its inputs, and only if something that is needed reads it;
//! - equal steps run once: in one build, and among processes that share a store ([`work`]);
//! - after a failure nothing new starts, unless it was asked to keep going, and [`solve`] returns only when every
//!   running step has ended.

mod keys;
mod ledger;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::cancel::CancelToken;
use crate::base::digest::CacheKey;
use crate::base::events::{Event, EventSink, Outcome};
use crate::ops::executor::{Executor, VertexResult};
use crate::plan::graph::{Graph, Op, Vertex, VertexId};

pub use ledger::{Account, Ledger, Look};

/// Limits and plumbing of a build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most vertices at a time.
    pub jobs: usize,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Steps that ran before this time, in seconds since 1970, run again.
    pub oldest: Option<i64>,
    /// Where progress goes.
    pub events: EventSink,
    /// Set from outside to stop the build, and by the scheduler at the first failure.
    pub cancel: CancelToken,
    /// What becomes of every vertex.
    pub ledger: Ledger,
}

impl Options {
    /// Takes any stored result, and stops at the first failure.
    pub fn new(jobs: usize, events: EventSink, cancel: CancelToken) -> Self {
        Self { jobs, keep_going: false, oldest: None, events, cancel, ledger: Ledger::default() }
    }

    fn is_too_old(&self, ran: i64) -> bool {
        self.oldest.is_some_and(|oldest| ran < oldest)
    }
}

/// A build that did not come to its end.
#[derive(Debug)]
pub struct Failure<E> {
    /// The vertex that failed first.
    pub vertex: VertexId,
    /// Why.
    pub error: E,
    /// The build was stopped from outside.
    pub interrupted: bool,
    /// What it was given, when it came to run.
    pub inputs: Vec<VertexResult>,
    /// What failed later and independently of it, when the build kept going.
    pub others: Vec<(VertexId, E)>,
}

/// What a build did.
#[derive(Debug, Default)]
pub struct Solved {
    /// Results of every vertex that was looked at.
    pub results: BTreeMap<VertexId, VertexResult>,
    /// Steps that ran.
    pub executed: usize,
    /// Steps taken from the store, or that nobody had to look at since what reads them was.
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
/// The first failure; steps that do not depend on it are cancelled, or run when the build keeps going.
pub fn solve<E: Executor>(
    graph: &Graph,
    roots: &[VertexId],
    executor: &E,
    options: &Options,
) -> Result<Solved, Failure<E::Error>> {
    let keys = keys::definition_keys(graph, roots, executor, options)?;
    let mut state = State {
        slots: BTreeMap::new(),
        solved: Solved {
            keys: keys.iter().map(|(id, key)| (*id, key.of_vertex())).collect(),
            ..Solved::default()
        },
        failure: None,
        running: 0,
        claimed: BTreeSet::new(),
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
                        options.ledger.note(id, |account| {
                            account.look = Look::Definition;
                            account.result = Some(result.state.identity);
                        });
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
        if matches!(slot, Slot::Waiting) && is_told(graph.vertex(*id)) {
            announce(graph.vertex(*id), *id, options);
        }
    }
    let waiting = state.slots.values().filter(|slot| matches!(slot, Slot::Waiting)).count();
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
    let job = Job { graph, executor, options, keys, shared };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1).min(waiting) {
            scope.spawn(|| work::work(&job));
        }
    });
    let state = job.shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(mut failure) = state.failure {
        // The scheduler itself cancels only when it does not keep going.
        failure.interrupted |= options.keep_going && options.cancel.is_cancelled();
        return Err(failure);
    }
    let mut solved = state.solved;
    let counted = solved.keys.keys().filter(|id| is_counted(graph.vertex(**id))).count();
    solved.cached = counted.saturating_sub(solved.executed);
    for (id, slot) in state.slots {
        if let Slot::Done(result) = slot {
            solved.results.insert(id, result);
        }
    }
    Ok(solved)
}

/// What every worker knows.
struct Job<'a, E: Executor> {
    graph: &'a Graph,
    executor: &'a E,
    options: &'a Options,
    keys: BTreeMap<VertexId, keys::Keys>,
    shared: Shared<E::Error>,
}

enum Slot {
    Waiting,
    Running,
    /// Its step runs elsewhere.
    Aside(work::Aside),
    Done(VertexResult),
    Failed,
}

struct State<E> {
    slots: BTreeMap<VertexId, Slot>,
    solved: Solved,
    failure: Option<Failure<E>>,
    running: usize,
    /// Keys of the steps that run.
    claimed: BTreeSet<CacheKey>,
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
    let interrupted = options.cancel.is_cancelled();
    Failure { vertex, error, interrupted, inputs: Vec::new(), others: Vec::new() }
}

/// Vertices that do something, which is worth remembering.
pub fn is_step(vertex: &Vertex) -> bool {
    matches!(vertex.op, Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) | Op::Merge)
}

/// Vertices that a person counts as steps: the merge of `COPY --link` is a part of that one.
pub fn is_counted(vertex: &Vertex) -> bool {
    is_step(vertex) && vertex.op != Op::Merge
}

/// Whether what happens to a vertex is told. A merge costs nothing; it has the name of its copy, which is told of,
/// unless the merge is found stored and nobody looks at the copy.
fn is_told(vertex: &Vertex) -> bool {
    vertex.op != Op::Merge
}

fn announce(vertex: &Vertex, id: VertexId, options: &Options) {
    if !vertex.name.is_empty() {
        options.events.send(Event::Planned { step: step_number(id), name: vertex.name.clone() });
    }
}

fn finish(id: VertexId, outcome: Outcome, took: Duration, options: &Options) {
    options.events.send(Event::Finished { step: step_number(id), outcome, took });
}

#[cfg(test)]
mod tests;
