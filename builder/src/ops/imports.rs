//! Results of remote caches: found by key, described at once, brought when somebody reads their files.
//!
//! Look-ups: the first question (a result's key) is asked alone, since it usually answers everything; after a miss all
//! other keys are asked at the same time. What a cache said about a key holds for the whole build.
//!
//! Trust: a cache is trusted as a base image is. Its word counts for one thing only: that the layers in a record are
//! the result of the step whose key was asked for. Everything else is worked out here: the identity of the result is
//! made of its diff_ids, which are verified before a layer is on record or unpacked; its base has to be an image of
//! this very build; no name of anything in this store comes from a record. The identity that a record claims is kept
//! beside the own one and used for questions to caches only, so that a lie in it spoils nothing that does not come from
//! a cache anyway.
//!
//! Invariants:
//! - a failing cache never fails a build: it is left out, with one warning; a bad record is a miss;
//! - the snapshot of a layer that is not here has its final name, and a row only once it is complete;
//! - a step is stored under its keys only when all its layers are here.

mod layers;
mod mounts;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use layers::{Layer, Origin};

use super::OpError;
use super::commit::scratch;
use super::image::{self, LayerFetcher};
use crate::base::cancel::CancelToken;
use crate::base::causes::one_line;
use crate::base::digest::{CacheKey, DiffId, Digest, KeyHasher};
use crate::base::events::{EventSink, StepNumber};
use crate::base::parallel;
use crate::cache::mount::Mounts;
use crate::cache::record::Record;
use crate::cache::{self, Cache, CacheError};
use crate::image::reference::Reference;
use crate::plan::graph::{ImageLayer, ResolvedImage};
use crate::snapshot::overlay::Snapshots;
use crate::snapshot::pending::{LostLayer, PendingBlob};
use crate::store::Store;
use crate::store::records::{BlobRecord, FsState, LayerRef, SnapshotId, StepResult, Trail, TrailStep};

/// Questions at a time.
const LOOKUPS_AT_ONCE: usize = 16;
/// Most records whose badness is told one by one.
const MAX_TOLD: usize = 5;

/// What importing needs.
pub struct ImportSetup<'a> {
    /// Where results go.
    pub store: &'a Store,
    /// The caches in the order in which they are asked.
    pub caches: Vec<Box<dyn Cache>>,
    /// For each cache, which cache mounts come from it.
    pub mounts: Vec<Mounts>,
    /// Brings layers of base images.
    pub fetcher: &'a dyn LayerFetcher,
    /// The base images of the build.
    pub images: Vec<Arc<ResolvedImage>>,
    /// To which file times in new layers are clamped.
    pub epoch: Option<i64>,
    /// Progress.
    pub events: EventSink,
    /// Stops transfers.
    pub cancel: CancelToken,
    /// Number of the step that stands for transfers.
    pub step: StepNumber,
}

/// The remote caches of one build.
pub struct Imports<'a> {
    setup: ImportSetup<'a>,
    snapshots: Snapshots<'a>,
    /// Never held while anything is transferred or unpacked.
    state: Mutex<State>,
    /// Cache mounts that were looked for. Held while one is brought, so that nobody uses it before it is complete.
    mounts: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Imports<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imports").field("caches", &self.setup.caches).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// Definition keys that the build may ask for, the results' first, with names for people.
    expected: Vec<(CacheKey, String)>,
    /// The first question was asked.
    asked: bool,
    answers: BTreeMap<CacheKey, Option<Hit>>,
    /// Caches that are left out since they failed.
    down: BTreeSet<usize>,
    /// Caches and keys whose artifact there is bad.
    bad: BTreeSet<(usize, CacheKey)>,
    /// Names of snapshots by what they are called in the store's table of chains.
    names: BTreeMap<Digest, SnapshotId>,
    layers: BTreeMap<SnapshotId, Arc<Layer>>,
    unsaved: Vec<Unsaved>,
    /// When the first transfer began.
    started: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Hit {
    cache: usize,
    record: Arc<Record>,
    result: StepResult,
}

/// A result that cannot be stored before its layers are here.
struct Unsaved {
    keys: Vec<CacheKey>,
    result: StepResult,
    name: String,
    took_ms: u64,
}

impl<'a> Imports<'a> {
    /// Nothing is asked yet.
    pub fn new(setup: ImportSetup<'a>) -> Result<Self, OpError> {
        let snapshots = Snapshots::new(setup.store)?;
        Ok(Self { setup, snapshots, state: Mutex::default(), mounts: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what may be asked.
    pub(super) fn expect(&self, steps: &[(CacheKey, &str)]) {
        self.state().expected = steps.iter().map(|(key, name)| (*key, (*name).to_owned())).collect();
    }

    /// A result by definition key.
    pub(super) fn lookup(&self, key: &CacheKey) -> Result<Option<StepResult>, OpError> {
        let batch: Vec<CacheKey> = {
            let mut state = self.state();
            if !state.expected.iter().any(|(expected, _)| expected == key) {
                // A source: nothing is gained by asking for what the source itself has.
                return Ok(None);
            }
            match (state.answers.contains_key(key), std::mem::replace(&mut state.asked, true)) {
                (true, _) => Vec::new(),
                (false, false) => vec![*key],
                (false, true) => state
                    .expected
                    .iter()
                    .map(|(expected, _)| *expected)
                    .filter(|expected| !state.answers.contains_key(expected))
                    .collect(),
            }
        };
        self.ask(&batch)?;
        Ok(self.answer(key, key))
    }

    /// A result by content key. Caches are asked by the `shared` one, which rests on their word, so that nothing is
    /// stored under it here.
    pub(super) fn lookup_content(
        &self,
        key: &CacheKey,
        shared: &CacheKey,
    ) -> Result<Option<StepResult>, OpError> {
        if !self.state().answers.contains_key(shared) {
            self.ask(&[*shared])?;
        }
        Ok(self.answer(shared, key))
    }

    /// What was answered to `asked`, to be stored under `key`.
    fn answer(&self, asked: &CacheKey, key: &CacheKey) -> Option<StepResult> {
        let result = self.known(asked)?;
        let name = self.state().expected.iter().find(|(expected, _)| expected == key).cloned();
        self.save_later(&[*key], &result, &name.map_or_else(String::new, |(_, name)| name), 0);
        Some(result)
    }

    fn ask(&self, keys: &[CacheKey]) -> Result<(), OpError> {
        let find = |key: &CacheKey| -> Result<_, OpError> {
            // What the store has is not asked for.
            let known = keys.len() > 1 && self.setup.store.use_step(key)?.is_some();
            Ok((*key, known, if known { None } else { self.find(key)? }))
        };
        for (key, known, hit) in parallel::try_map(keys, LOOKUPS_AT_ONCE, find)? {
            if !known {
                self.state().answers.entry(key).or_insert(hit);
            }
        }
        Ok(())
    }

    /// Asks the caches one after the other.
    fn find(&self, key: &CacheKey) -> Result<Option<Hit>, OpError> {
        for (number, cache) in self.setup.caches.iter().enumerate() {
            if self.setup.cancel.is_cancelled() {
                return Err(OpError::Cancelled);
            }
            let state = self.state();
            if state.down.contains(&number) || state.bad.contains(&(number, *key)) {
                continue;
            }
            drop(state);
            match cache::find(&**cache, key, self.setup.epoch) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let record = Arc::new(record);
                    match self.adopt(number, &record)? {
                        Some(result) => return Ok(Some(Hit { cache: number, record, result })),
                        None => self.refuse(
                            number,
                            key,
                            &format!("a step in `{}` stands on another base", cache.name()),
                        ),
                    }
                }
                Err(_) if self.setup.cancel.is_cancelled() => return Err(OpError::Cancelled),
                Err(error) if error.is_about_one_step() => self.refuse(number, key, &one_line(&error)),
                Err(error) => self.leave_out(number, &error),
            }
        }
        Ok(None)
    }

    fn leave_out(&self, number: usize, error: &CacheError) {
        if self.state().down.insert(number) {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let name = self.setup.caches.get(number).map(|cache| cache.name()).unwrap_or_default();
            let why = one_line(error);
            self.setup.events.warn(format!("cache `{name}` is left out: {why}{hint}"));
        }
    }

    fn refuse(&self, cache: usize, key: &CacheKey, why: &str) {
        let mut state = self.state();
        state.bad.insert((cache, *key));
        let count = state.bad.len();
        drop(state);
        if count <= MAX_TOLD {
            self.setup.events.warn(format!("a cached step is refused: {why}"));
        }
    }

    /// Describes the result that a record tells of. None when its base is no image of this build.
    fn adopt(&self, cache: usize, record: &Record) -> Result<Option<StepResult>, OpError> {
        let base: Vec<(Arc<ResolvedImage>, &ImageLayer)> = if record.base.is_empty() {
            Vec::new()
        } else {
            let fits = |image: &&Arc<ResolvedImage>| {
                image.layers.iter().map(|layer| layer.diff_id).eq(record.base.iter().copied())
            };
            let Some(image) = self.setup.images.iter().find(fits) else { return Ok(None) };
            image.layers.iter().map(|layer| (image.clone(), layer)).collect()
        };
        let own = record.layers.iter().map(|layer| layer.diff_id);
        let diff_ids: Vec<DiffId> = record.base.iter().copied().chain(own).collect();
        let mut layers: Vec<LayerRef> = Vec::new();
        for (index, chain) in image::chain_ids(&diff_ids).into_iter().enumerate() {
            let (chain, what, origin) = match base.get(index) {
                Some((image, layer)) => {
                    let blob = image::blob_record(&layer.descriptor);
                    let compressor = "original".to_owned();
                    let what = PendingBlob { diff_id: layer.diff_id, epoch: None, compressor, blob };
                    (chain, what, Origin::Image(image.clone(), (*layer).clone()))
                }
                None => {
                    let Some(layer) = record.layers.get(index - base.len()) else { break };
                    let blob = BlobRecord {
                        media_type: layer.media_type.clone(),
                        digest: layer.digest,
                        size_bytes: layer.size_bytes,
                    };
                    let compressor = layer.compressor.clone();
                    let epoch = Some(record.epoch);
                    let what = PendingBlob { diff_id: layer.diff_id, epoch, compressor, blob };
                    (imported_chain(&chain, record.epoch), what, Origin::Cache(cache))
                }
            };
            let snapshot = self.name(chain, &layers, what, origin)?;
            layers.push(LayerRef { snapshot, standalone: false });
        }
        let identity = match (diff_ids.is_empty(), record.layers.is_empty()) {
            (true, _) => scratch().identity,
            // A step that changed nothing gives its base.
            (false, true) => image::identity(&diff_ids),
            (false, false) => imported_identity(&diff_ids, record.epoch),
        };
        let trail = record.trail.iter();
        let trail: Trail =
            trail.map(|step| TrailStep { added_layer: step.added_layer, created: step.created }).collect();
        // As old as the oldest step in it.
        let ran = trail.iter().map(|step| step.created).min().unwrap_or(0);
        let claimed = (record.identity != identity).then_some(record.identity);
        Ok(Some(StepResult { state: FsState { layers, identity, claimed }, trail, ran }))
    }

    /// The name of a layer's snapshot: of one that is here, or the one that it will have.
    fn name(
        &self,
        chain: Digest,
        below: &[LayerRef],
        what: PendingBlob,
        origin: Origin,
    ) -> Result<SnapshotId, OpError> {
        let store = self.setup.store;
        if let Some(id) = self.state().names.get(&chain) {
            return Ok(id.clone());
        }
        if let Some(id) = store.database().snapshot_of_chain(&chain)?
            && self.snapshots.claim(&id)?
        {
            self.state().names.insert(chain, id.clone());
            return Ok(id);
        }
        let id = SnapshotId(store.fresh_name()?);
        let layer = Arc::new(Layer::new(id.clone(), below.to_vec(), chain, what, origin));
        let mut state = self.state();
        // Another thread may have named it meanwhile.
        if let Some(id) = state.names.get(&chain) {
            return Ok(id.clone());
        }
        state.names.insert(chain, id.clone());
        state.layers.insert(id.clone(), layer);
        Ok(id)
    }

    /// Stores a result as soon as its layers are here, see [`Imports::settle`].
    pub(super) fn save_later(&self, keys: &[CacheKey], result: &StepResult, name: &str, took_ms: u64) {
        let (keys, result, name) = (keys.to_vec(), result.clone(), name.to_owned());
        self.state().unsaved.push(Unsaved { keys, result, name, took_ms });
    }

    /// Stores the results whose layers are here by now.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn settle(&self) -> Result<(), OpError> {
        let unsaved = std::mem::take(&mut self.state().unsaved);
        let (here, not_yet): (Vec<_>, Vec<_>) =
            unsaved.into_iter().partition(|unsaved| self.snapshots.is_complete(&unsaved.result.state));
        self.state().unsaved.extend(not_yet);
        for Unsaved { keys, result, name, took_ms } in here {
            self.setup.store.database().add_step(&keys, &result, &name, took_ms)?;
        }
        Ok(())
    }

    /// What a cache said about a key, if it was asked.
    pub fn known(&self, key: &CacheKey) -> Option<StepResult> {
        self.state().answers.get(key)?.as_ref().map(|hit| hit.result.clone())
    }

    /// Asks for keys that nobody has asked for, see [`Imports::known`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn ask_all(&self, keys: &[CacheKey]) -> Result<(), OpError> {
        let unasked: Vec<CacheKey> = {
            let state = self.state();
            keys.iter().filter(|key| !state.answers.contains_key(key)).copied().collect()
        };
        let find = |key: &CacheKey| Ok::<_, OpError>((*key, self.find(key)?));
        for (key, hit) in parallel::try_map(&unasked, LOOKUPS_AT_ONCE, find)? {
            self.state().answers.entry(key).or_insert(hit);
        }
        Ok(())
    }

    /// The other key under which a cache has what it said about a definition key.
    pub fn content_key(&self, definition: &CacheKey) -> Option<CacheKey> {
        let state = self.state();
        let hit = state.answers.get(definition)?.as_ref()?;
        hit.record.keys.iter().find(|key| *key != definition).copied()
    }

    /// Whether the artifact of a key is there and bad, so that another one should take its place.
    pub fn is_bad(&self, key: &CacheKey) -> bool {
        self.state().bad.iter().any(|(_, bad)| bad == key)
    }

    /// Repositories that have blobs of this build.
    pub fn repositories(&self) -> Vec<Reference> {
        self.setup.caches.iter().filter_map(|cache| cache.repository().cloned()).collect()
    }

    /// Forgets every record that names the lost layer among the causes of `error`, or all of its cache when that is
    /// out of reach by now. False when there is none, so that building again would come to the same end.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn discredit(&self, error: &(dyn Error + 'static)) -> Result<bool, OpError> {
        let Some(lost) = LostLayer::among(error).filter(|lost| lost.of_cache) else { return Ok(false) };
        let mut state = self.state();
        let origin = state.layers.values().find(|layer| layer.what.blob.digest == lost.digest);
        let Some(Origin::Cache(number)) = origin.map(|layer| &layer.origin) else { return Ok(false) };
        let number = *number;
        let out_of_reach = matches!(
            lost.source.downcast_ref(),
            Some(OpError::Cache(error)) if !error.is_about_one_step()
        );
        // Names are given anew: what has been brought meanwhile is found in the store.
        state.names.clear();
        state.layers.clear();
        state.unsaved.clear();
        // Without an answer a key is asked for again, of the caches that are left.
        let answers = std::mem::take(&mut state.answers);
        if out_of_reach {
            state.down.insert(number);
        }
        drop(state);
        for (key, answer) in answers {
            let answer = match answer {
                Some(hit) if hit.cache == number && out_of_reach => continue,
                Some(hit) if hit.record.layers.iter().any(|layer| layer.digest == lost.digest) => {
                    self.state().bad.insert((hit.cache, key));
                    continue;
                }
                Some(hit) => self.adopt(hit.cache, &hit.record)?.map(|result| Hit { result, ..hit }),
                None => None,
            };
            self.state().answers.insert(key, answer);
        }
        let what = if out_of_reach { "a cache is left out" } else { "cached steps are refused" };
        self.setup.events.warn(format!("{what}: {}", one_line(lost)));
        Ok(true)
    }
}

/// Imported layers have names of their own in the table of chains: unlike an image's layers they are written anew for
/// another epoch.
fn imported_chain(chain: &Digest, epoch: Option<i64>) -> Digest {
    let mut hasher = KeyHasher::new("kiln/imported-chain/v1");
    hasher.digest(chain).field(epoch.map_or_else(String::new, |epoch| epoch.to_string()).as_bytes());
    hasher.finish()
}

fn imported_identity(diff_ids: &[DiffId], epoch: Option<i64>) -> Digest {
    let mut hasher = KeyHasher::new("kiln/imported/v1");
    hasher.field(epoch.map_or_else(String::new, |epoch| epoch.to_string()).as_bytes());
    for diff_id in diff_ids {
        hasher.digest(&diff_id.0);
    }
    hasher.finish()
}
