//! The two keys of a vertex. What is in them and what is not is docs/caching.md's subject; in short:
//!
//! | of a vertex | in the definition key | in the content key | not in any key |
//! | --- | --- | --- | --- |
//! | every kind | its spec (canonical JSON of [`Op`]), what it reads from outside | the same | names, stage, place in the Buildfile, `--jobs`, limits, `--timeout`, `--retry` |
//! | inputs | their definition keys | what the vertex reads of their results | times of files, inode numbers, names of snapshots |
//! | image | `diff_id`s | - | name, tag, manifest digest, registry, config (what of it matters is in RUN's environment) |
//! | RUN | arguments, environment (ENV and every ARG in scope), directory, user, mounts, network, security, privileges, host name, names of extra hosts, ulimits, shm size, scripts, platform; HMACs of secrets with `cachekey=true` | content below `source=` of bind mounts | proxies, addresses of extra hosts, DNS settings, values of secrets and agents, content of cache mounts |
//! | COPY, ADD | sources as written, destination, owner, mode, patterns, flags; content of the selected local files | content of the selected files of other stages | owner and group/other write bits of local files, ignored files, where the context is |
//! | ADD of a URL | URL; digest of the body, file name, time | digest of the body, file name, time | other headers |
//! | ADD of a repository | reference; commit | content of the selected files | - |
//! | WORKDIR | path, owner | base | - |
//!
//! Invariants: a spec is hashed in one place, [`spec_hasher`]; keys of inputs are known before those of what reads them.

use std::collections::BTreeMap;

use crate::base::digest::{CacheKey, Digest, KeyHasher};
use crate::ops::executor::Executor;
use crate::plan::graph::{Graph, Op, Vertex, VertexId};

use super::ledger::Look;
use super::{Failure, Options, VertexKeys, early, is_step};

/// Domain of definition keys.
const DEFINITION: &str = "kiln/definition/v1";
/// Domain of content keys.
const CONTENT: &str = "kiln/content/v2";

pub(super) struct Keys {
    pub(super) definition: CacheKey,
    pub(super) outside: Option<Digest>,
    /// The definition key may be looked up: neither the vertex nor anything that it reads is forced to run.
    pub(super) reusable: bool,
}

impl Keys {
    /// As the build gives them away.
    pub(super) fn of_vertex(&self) -> VertexKeys {
        VertexKeys { definition: self.definition, content: None, forced: !self.reusable }
    }
}

/// The definition keys of everything that `roots` depend on.
pub(super) fn definition_keys<E: Executor>(
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
        let mut hasher = spec_hasher(DEFINITION, vertex, outside.as_ref());
        let mut reusable = !vertex.ignore_cache;
        for input in &vertex.inputs {
            // Inputs come before the vertex, so their keys are there.
            if let Some(key) = keys.get(input) {
                hasher.digest(&key.definition.0);
                reusable &= key.reusable;
            }
        }
        let definition = CacheKey(hasher.finish());
        let look = if vertex.ignore_cache { Look::Forced } else { Look::Unneeded };
        options.ledger.note(id, |account| {
            account.definition = Some(definition);
            account.outside = outside;
            account.look = look;
        });
        keys.insert(id, Keys { definition, outside, reusable });
    }
    let reusable = keys.iter().filter(|(id, key)| key.reusable && is_step(graph.vertex(**id)));
    // The results first, which is where look-ups begin.
    let expected: Vec<_> =
        reusable.rev().map(|(id, key)| (key.definition, graph.vertex(*id).name.as_str())).collect();
    executor.expect(&expected);
    if options.oldest.is_some() {
        expire(graph, executor, options, &mut keys)?;
    }
    Ok(keys)
}

/// Forces what is too old to run again. A fresh result may stand on an old one, which only shows when each is looked
/// at.
fn expire<E: Executor>(
    graph: &Graph,
    executor: &E,
    options: &Options,
    keys: &mut BTreeMap<VertexId, Keys>,
) -> Result<(), Failure<E::Error>> {
    let ids: Vec<VertexId> = keys.keys().copied().collect();
    for id in ids {
        let vertex = graph.vertex(id);
        let fresh = vertex.inputs.iter().all(|input| keys.get(input).is_none_or(|key| key.reusable));
        let Some(key) = keys.get_mut(&id) else { continue };
        key.reusable &= fresh;
        if !key.reusable || !is_step(vertex) {
            continue;
        }
        let stored = executor.lookup(&key.definition).map_err(|error| early(id, error, options))?;
        if let Some(ran) = stored.map(|stored| stored.ran).filter(|ran| options.is_too_old(*ran)) {
            key.reusable = false;
            options.ledger.note(id, |account| account.look = Look::Expired(ran));
        }
    }
    Ok(())
}

/// The content key of a vertex that reads `contents` of its inputs.
pub(super) fn content_key(vertex: &Vertex, outside: Option<&Digest>, contents: &[Digest]) -> CacheKey {
    let mut hasher = spec_hasher(CONTENT, vertex, outside);
    for digest in contents {
        hasher.digest(digest);
    }
    CacheKey(hasher.finish())
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
