//! `--cache-to`: results as artifacts of a remote cache.
//!
//! | mode | steps |
//! | --- | --- |
//! | `min` | those that the image's file system was made by, one on top of the other |
//! | `max` | all that the image depends on: other stages too |
//!
//! Invariants:
//! - nothing is sent that is there: artifacts are looked for by tag, blobs by digest, before a layer is even written;
//! - an artifact is replaced only when its step was made to run again, or when it could not be read;
//! - layers of base images stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{BuildError, Environment, Request, output};
use crate::base::digest::{CacheKey, DiffId};
use crate::base::events::{Event, Outcome, Stream};
use crate::base::parallel;
use crate::cache::record::{Record, RecordLayer, RecordStep};
use crate::cache::{self, Cache, CacheError, Location, Tag};
use crate::export::layers::{self, Absent, ExportedLayer, LayerOptions};
use crate::image::reference::Reference;
use crate::layer::compress::Compression;
use crate::ops::Imports;
use crate::ops::executor::VertexResult;
use crate::plan::graph::{Graph, Op, Plan, VertexId};
use crate::snapshot::overlay::Snapshots;
use crate::solve::{Solved, is_step};
use crate::store::records::StepResult;

/// Requests at a time.
const AT_ONCE: usize = 8;
/// Blobs at a time.
const BLOBS_AT_ONCE: usize = 4;

/// How much is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// What the image was made by.
    #[default]
    Min,
    /// Every step.
    Max,
}

/// Where results are written to.
#[derive(Debug, Clone)]
pub struct CacheTarget {
    /// The cache.
    pub location: Location,
    /// Which steps.
    pub mode: CacheMode,
    /// A cache that cannot be written is no reason to fail.
    pub ignore_error: bool,
    /// Of new layers; `None` takes the image's, so that both share blobs.
    pub compression: Option<Compression>,
    /// Compress again what has another compression.
    pub force_compression: bool,
}

/// What uploading works with.
pub(super) struct Upload<'a> {
    pub environment: Environment<'a>,
    pub request: &'a Request,
    pub plan: &'a Plan,
    pub solved: &'a Solved,
    pub snapshots: &'a Snapshots<'a>,
    pub imports: Option<&'a Imports<'a>>,
    /// Repositories that may have blobs already.
    pub beside: &'a [Reference],
}

/// A step that may have to be written.
struct Step {
    keys: Vec<CacheKey>,
    base: Vec<DiffId>,
    result: StepResult,
    /// Replaces what is there.
    replace: bool,
}

/// A step that has to be written, and where.
struct Missing<'a> {
    step: &'a Step,
    tags: Vec<Tag>,
}

impl Upload<'_> {
    /// Writes to every `--cache-to`.
    pub(super) fn run(&self) -> Result<(), BuildError> {
        for (index, target) in self.request.cache_to.iter().enumerate() {
            let cache = target.location.open(self.environment.registry);
            let number = super::cache_step(self.plan) + 1 + u32::try_from(index).unwrap_or(0);
            let events = &self.request.events;
            events
                .send(Event::Planned { step: number, name: format!("exporting cache to {}", cache.name()) });
            events.send(Event::Started { step: number });
            let started = Instant::now();
            let written = self.one(target, &*cache);
            let outcome = match &written {
                Ok(told) => {
                    let (stream, at, data) = (Stream::Stdout, started.elapsed(), format!("{told}\n").into());
                    events.send(Event::Log { step: number, stream, at, data });
                    Outcome::Done
                }
                Err(BuildError::Cancelled) => Outcome::Cancelled,
                Err(error) => Outcome::Failed(error.to_string()),
            };
            events.send(Event::Finished { step: number, outcome, took: started.elapsed() });
            match written {
                Ok(_) => {}
                Err(error @ BuildError::CacheExport { .. }) if target.ignore_error => {
                    let why = crate::base::causes::one_line(&error);
                    events.warn(format!("the build goes on without it: {why}"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes to one cache. Gives a line for people.
    fn one(&self, target: &CacheTarget, cache: &dyn Cache) -> Result<String, BuildError> {
        let failed = |error: CacheError| match self.request.cancel.is_cancelled() {
            true => BuildError::Cancelled,
            false => BuildError::CacheExport { cache: cache.name(), source: Box::new(error) },
        };
        let epoch = output::cache_epoch(self.request, self.plan);
        let steps = self.steps(target.mode)?;
        let missing = parallel::try_map(&steps, AT_ONCE, |step| {
            let mut tags = Vec::new();
            for key in &step.keys {
                let tag = Tag::new(key, epoch);
                if step.replace || !cache.has_manifest(&tag)? {
                    tags.push(tag);
                }
            }
            Ok(Missing { step, tags })
        });
        let mut missing = missing.map_err(failed)?;
        missing.retain(|missing| !missing.tags.is_empty());
        let compression = target.compression.unwrap_or_else(|| output::cache_compression(self.request));
        let options = LayerOptions {
            epoch,
            compression,
            force: target.force_compression,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cancel: self.request.cancel.clone(),
            absent: Absent::Leave,
        };
        let store = self.environment.store;
        let mut records = Vec::new();
        let mut blobs: BTreeMap<_, ExportedLayer> = BTreeMap::new();
        for Missing { step, tags } in missing {
            let state = &step.result.state;
            let layers = layers::export_above(store, self.snapshots, state, step.base.len(), &options)?;
            records.push((record(step, epoch, &layers), tags));
            blobs.extend(layers.into_iter().map(|layer| (layer.descriptor.digest, layer)));
        }
        let blobs: Vec<ExportedLayer> = blobs.into_values().collect();
        let sent = parallel::try_map(&blobs, BLOBS_AT_ONCE, |layer| self.send(cache, layer, &failed))?;
        let put = |(record, tags): &(Record, Vec<Tag>)| cache::put(cache, tags, record);
        parallel::try_map(&records, AT_ONCE, put).map_err(failed)?;
        let layers = sent.iter().filter(|sent| **sent).count();
        Ok(format!("{} of {} steps were new, {layers} layers were sent", records.len(), steps.len()))
    }

    /// Writes a layer, unless it is there.
    fn send(
        &self,
        cache: &dyn Cache,
        layer: &ExportedLayer,
        failed: &(dyn Fn(CacheError) -> BuildError + Sync),
    ) -> Result<bool, BuildError> {
        let (store, blob) = (self.environment.store, &layer.descriptor);
        if cache.has_blob(blob, self.beside).map_err(failed)? {
            return Ok(false);
        }
        if store.blob_size(&blob.digest) != Some(blob.size) {
            self.snapshots.fetch_pending(&layer.snapshot)?;
        }
        cache.put_blob(blob, &store.blob_path(&blob.digest)).map_err(failed)?;
        Ok(true)
    }

    /// The steps of a mode whose results are known.
    fn steps(&self, mode: CacheMode) -> Result<Vec<Step>, BuildError> {
        let graph = &self.plan.graph;
        let mut chosen: BTreeSet<VertexId> = BTreeSet::new();
        let mut pending: Vec<VertexId> = self.plan.images.iter().map(|image| image.result).collect();
        while let Some(id) = pending.pop() {
            if chosen.insert(id) {
                let vertex = graph.vertex(id);
                let count = match (mode, &vertex.op) {
                    (CacheMode::Max, _) => vertex.inputs.len(),
                    // Both sides of a merge are in the image.
                    (CacheMode::Min, Op::Merge) => 2,
                    (CacheMode::Min, _) => 1,
                };
                pending.extend(vertex.inputs.iter().take(count));
            }
        }
        let mut steps = Vec::new();
        for id in chosen.into_iter().filter(|id| is_step(graph.vertex(*id))) {
            let Some(keys) = self.solved.keys.get(&id) else { continue };
            let bad = |key: &CacheKey| self.imports.is_some_and(|imports| imports.is_bad(key));
            let replace = keys.forced || bad(&keys.definition);
            let Some(result) = self.result(id, &keys.definition)? else { continue };
            let keys: Vec<CacheKey> = [keys.definition].into_iter().chain(keys.content).collect();
            let base = base_of(graph, id).to_vec();
            if result.state.layers.len() >= base.len() {
                steps.push(Step { keys, base, result, replace });
            }
        }
        Ok(steps)
    }

    /// What a step gave: in this build, or earlier when nobody had to look at it this time.
    fn result(&self, id: VertexId, key: &CacheKey) -> Result<Option<StepResult>, BuildError> {
        if let Some(VertexResult::Fs(result)) = self.solved.results.get(&id) {
            return Ok(Some(result.clone()));
        }
        let stored = self.environment.store.use_step(key)?;
        Ok(stored
            .filter(|result| self.snapshots.is_complete(&result.state))
            .or_else(|| self.imports?.known(key)))
    }
}

/// The layers of the image that a step stands on.
fn base_of(graph: &Graph, mut id: VertexId) -> &[DiffId] {
    loop {
        let vertex = graph.vertex(id);
        match (&vertex.op, vertex.inputs.first()) {
            (Op::Image(spec), _) => return &spec.diff_ids,
            (Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) | Op::Merge, Some(input)) => id = *input,
            _ => return &[],
        }
    }
}

fn record(step: &Step, epoch: Option<i64>, layers: &[ExportedLayer]) -> Record {
    let layers = layers.iter().map(|layer| RecordLayer {
        diff_id: layer.diff_id,
        media_type: layer.descriptor.media_type.clone(),
        digest: layer.descriptor.digest,
        size_bytes: layer.descriptor.size,
        compressor: layer.compressor.clone(),
    });
    let trail = step.result.trail.iter();
    let trail = trail.map(|step| RecordStep { added_layer: step.added_layer, created: step.created });
    let identity = *step.result.state.shared_identity();
    Record::new(step.keys.clone(), epoch, step.base.clone(), layers.collect(), identity, trail.collect())
}
