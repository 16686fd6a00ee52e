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
use crate::cache::mount::Mounts;
use crate::cache::record::{Record, RecordLayer, RecordStep};
use crate::cache::{self, Cache, CacheError, Form, Location, Tag};
use crate::export::layers::{self, Absent, ExportedLayer, LayerOptions};
use crate::image::reference::Reference;
use crate::layer::compress::{Compression, Compressor};
use crate::ops::Imports;
use crate::ops::executor::VertexResult;
use crate::plan::graph::{Graph, MountSource, Op, Plan, VertexId};
use crate::snapshot::mounts::{self, MountError};
use crate::snapshot::overlay::Snapshots;
use crate::solve::{Solved, is_step};
use crate::store::StoreError;
use crate::store::records::StepResult;
use crate::transfer::StoredBlob;

/// Requests at a time.
const AT_ONCE: usize = 8;
/// Blobs at a time.
const BLOBS_AT_ONCE: usize = 4;
/// How often what a registry turned out to lack is sent again.
const RESENDS: usize = 2;

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
    /// Cache mounts that are written as well.
    pub mounts: Mounts,
    /// How artifacts are written.
    pub form: Form,
    /// What this build does not use is removed from a directory.
    pub reset: bool,
}

/// Where results are taken from.
#[derive(Debug, Clone)]
pub struct CacheSource {
    /// The cache.
    pub location: Location,
    /// Cache mounts that are taken as well, where there is none here.
    pub mounts: Mounts,
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
            let number = super::work::cache_step(self.plan) + 1 + u32::try_from(index).unwrap_or(0);
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
        let steps = self.steps(target.mode, cache, epoch).map_err(|error| match error {
            Refused::Cache(error) => failed(error),
            Refused::Here(error) => error,
        })?;
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
            progress: None,
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
        parallel::try_map(&records, AT_ONCE, |(record, tags)| {
            self.put(target, cache, (tags, record), &blobs).map_err(|error| match error {
                Refused::Cache(error) => failed(error),
                Refused::Here(error) => error,
            })
        })?;
        let layers = sent.iter().filter(|sent| **sent).count();
        let mut told =
            format!("{} of {} steps were new, {layers} layers were sent", records.len(), steps.len());
        if target.mounts != Mounts::None {
            let mounts = self.mounts(target, cache, &failed)?;
            told.push_str(&format!(", {mounts} cache mounts were sent"));
        }
        cache.flush().map_err(failed)?;
        if target.reset {
            let removed = cache.keep_only(&self.used(target, epoch)).map_err(failed)?;
            told.push_str(&format!(", {removed} files that this build has no use for were removed"));
        }
        Ok(told)
    }

    /// Writes the artifact of a step. A registry that then lacks a blob which it had, or which another build was sending,
    /// gets it again.
    fn put(
        &self,
        target: &CacheTarget,
        cache: &dyn Cache,
        (tags, record): (&[Tag], &Record),
        blobs: &[ExportedLayer],
    ) -> Result<(), Refused> {
        let mut put = cache::put(cache, tags, record, target.form);
        for _ in 0..RESENDS {
            if !put.as_ref().is_err_and(CacheError::lacks_blob) {
                break;
            }
            for wanted in &record.layers {
                let layer = blobs.iter().find(|layer| layer.descriptor.digest == wanted.digest);
                layer.map_or(Ok(()), |layer| self.write(cache, layer))?;
            }
            put = cache::put_again(cache, tags, record, target.form);
        }
        Ok(put?)
    }

    /// The cache mounts that the build uses and that travel.
    fn used_mounts(&self, target: &CacheTarget) -> BTreeSet<&str> {
        let used = self.solved.keys.keys().flat_map(|id| match &self.plan.graph.vertex(*id).op {
            Op::Run(spec) => &spec.mounts[..],
            _ => &[],
        });
        used.filter_map(|mount| match &mount.source {
            MountSource::Cache { id, .. } if target.mounts.include(id) => Some(id.as_str()),
            _ => None,
        })
        .collect()
    }

    /// Writes the cache mounts that the build uses. Gives their number.
    fn mounts(
        &self,
        target: &CacheTarget,
        cache: &dyn Cache,
        failed: &(dyn Fn(CacheError) -> BuildError + Sync),
    ) -> Result<usize, BuildError> {
        let mut sent = 0;
        for id in self.used_mounts(target) {
            // When nothing ran, nothing has changed.
            let unchanged = self.solved.executed == 0;
            if unchanged && cache.has_manifest(&cache::mount::tag(id)).map_err(failed)? {
                continue;
            }
            sent += usize::from(self.mount(id, target.form, cache, failed)?);
        }
        Ok(sent)
    }

    /// Writes a cache mount, unless there is none or the cache has the very same.
    fn mount(
        &self,
        id: &str,
        form: Form,
        cache: &dyn Cache,
        failed: &(dyn Fn(CacheError) -> BuildError + Sync),
    ) -> Result<bool, BuildError> {
        let (store, cancel) = (self.environment.store, &self.request.cancel);
        if store.use_cache_mount(id)?.is_none() {
            return Ok(false);
        }
        let incoming = store.incoming_blob()?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let write = || -> Result<_, MountError> {
            let io = |source| MountError::Io { action: "write", path: incoming.path().to_owned(), source };
            let mut out =
                Compressor::new(incoming.writer()?, Compression::DEFAULT_ZSTD, threads).map_err(io)?;
            mounts::export(store, id, cancel, &mut out)?;
            let (buffer, digest, size) = out.finish().map_err(io)?.finish();
            buffer.into_inner().map_err(|e| io(e.into_error()))?;
            Ok(cache::mount::descriptor(digest, size))
        };
        let archive = match write() {
            Ok(archive) => archive,
            Err(MountError::Cancelled) => return Err(BuildError::Cancelled),
            // Something else uses it: the next build writes it.
            Err(error @ MountError::Changed { .. }) => {
                self.request.events.warn(format!("the cache mount `{id}` is not written: {error}"));
                return Ok(false);
            }
            Err(error) => return Err(BuildError::Mount(error)),
        };
        if cache.has_blob(&archive, &[]).map_err(failed)? {
            // The artifact may have been deleted, or be of an earlier state.
            cache::mount::put(cache, id, &archive, form).map_err(failed)?;
            return Ok(false);
        }
        cache.put_blob(&archive, &incoming.path().to_owned()).map_err(failed)?;
        cache::mount::put(cache, id, &archive, form).map_err(failed)?;
        Ok(true)
    }

    /// Writes a layer, unless it is there.
    fn send(
        &self,
        cache: &dyn Cache,
        layer: &ExportedLayer,
        failed: &(dyn Fn(CacheError) -> BuildError + Sync),
    ) -> Result<bool, BuildError> {
        if cache.has_blob(&layer.descriptor, self.beside).map_err(failed)? {
            return Ok(false);
        }
        self.write(cache, layer).map(|()| true).map_err(|error| match error {
            Refused::Cache(error) => failed(error),
            Refused::Here(error) => error,
        })
    }

    /// Writes a layer, which is fetched first when it is elsewhere.
    fn write(&self, cache: &dyn Cache, layer: &ExportedLayer) -> Result<(), Refused> {
        let (store, blob) = (self.environment.store, &layer.descriptor);
        if store.blob_size(&blob.digest) != Some(blob.size) {
            self.snapshots.fetch_pending(&layer.snapshot).map_err(BuildError::from)?;
        }
        cache.put_blob(blob, &StoredBlob { store, blob }).map_err(|error| {
            match store.check_blob(&blob.digest) {
                Some(_) => Refused::Here(StoreError::DamagedBlob { digest: blob.digest }.into()),
                None => error.into(),
            }
        })
    }

    /// The steps of a mode whose results are known.
    fn steps(&self, mode: CacheMode, cache: &dyn Cache, epoch: Option<i64>) -> Result<Vec<Step>, Refused> {
        let graph = &self.plan.graph;
        let chosen = self.chosen(mode);
        self.ask_for_unseen(&chosen, cache, epoch)?;
        let mut steps = Vec::new();
        for id in chosen {
            let Some(keys) = self.solved.keys.get(&id) else { continue };
            let bad = |key: &CacheKey| self.imports.is_some_and(|imports| imports.is_bad(key));
            let replace = keys.forced || bad(&keys.definition);
            let Some(result) = self.result(id, &keys.definition)? else { continue };
            // Content keys that this build had no need of travel on with the record.
            let carried = || self.imports?.content_key(&keys.definition);
            let content = keys.content.or_else(carried);
            let keys: Vec<CacheKey> = [keys.definition].into_iter().chain(content).collect();
            let base = base_of(graph, id).to_vec();
            if result.state.layers.len() >= base.len() {
                steps.push(Step { keys, base, result, replace });
            }
        }
        Ok(steps)
    }

    /// The steps of a mode.
    fn chosen(&self, mode: CacheMode) -> BTreeSet<VertexId> {
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
        chosen.retain(|id| is_step(graph.vertex(*id)));
        chosen
    }

    /// Tags of what this build uses, known or not.
    fn used(&self, target: &CacheTarget, epoch: Option<i64>) -> BTreeSet<Tag> {
        let keys = self.chosen(target.mode).into_iter().filter_map(|id| self.solved.keys.get(&id));
        let keys = keys.flat_map(|keys| [Some(keys.definition), keys.content].into_iter().flatten());
        let mounts = self.used_mounts(target).into_iter().map(cache::mount::tag);
        keys.map(|key| Tag::new(&key, epoch)).chain(mounts).collect()
    }

    /// Asks the caches of `--cache-from` for steps that nobody looked at, since what stands on them was cached: their
    /// records are carried over to a cache that lacks them.
    fn ask_for_unseen(
        &self,
        chosen: &BTreeSet<VertexId>,
        cache: &dyn Cache,
        epoch: Option<i64>,
    ) -> Result<(), Refused> {
        let Some(imports) = self.imports else { return Ok(()) };
        let mut unseen = Vec::new();
        for id in chosen {
            if let Some(keys) = self.solved.keys.get(id)
                && !keys.forced
                && self.result(*id, &keys.definition)?.is_none()
            {
                unseen.push(keys.definition);
            }
        }
        let lacks = |key: &CacheKey| {
            let there = cache.has_manifest(&Tag::new(key, epoch))?;
            Ok::<_, CacheError>((!there).then_some(*key))
        };
        let wanted = parallel::try_map(&unseen, AT_ONCE, lacks)?;
        let wanted: Vec<CacheKey> = wanted.into_iter().flatten().collect();
        imports.ask_all(&wanted).map_err(|error| Refused::Here(super::imports::import_failed(error)))
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

/// Why something was not written.
enum Refused {
    /// The cache did not take it.
    Cache(CacheError),
    /// It cannot be read.
    Here(BuildError),
}

impl From<CacheError> for Refused {
    fn from(error: CacheError) -> Self {
        Self::Cache(error)
    }
}

impl From<BuildError> for Refused {
    fn from(error: BuildError) -> Self {
        Self::Here(error)
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
