//! `kiln pull`, `push`, `copy` and `tag`.
//!
//! Invariants: standard output has the digest of what was moved and nothing else; what is not complete has no name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::access::Access;
use super::args::access::AccessArgs;
use super::args::transfer::{CopyArgs, PullArgs, PushArgs, TagArgs};
use super::compare::existing_store;
use super::failure::of_transfer;
use super::session;
use crate::base::cancel::CancelToken;
use crate::base::digest::Digest;
use crate::base::events::{Event, EventSink, Outcome, StepNumber};
use crate::export::archive::Label;
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::registry::{BlobOutcome, Client};
use crate::store::Store;
use crate::store::records::{ImageRecord, now};
use crate::sys::signals;
use crate::transfer::{
    self, Content, Form, Inventory, Moved, Origin, Place, PushTarget, TransferError, find_in_store,
};
use crate::ui::failure::{Failure, Kind};
use crate::ui::progress::{Mode, Progress, Target};
use crate::ui::{print, size};

/// `kiln pull`.
pub(super) fn pull(root: Option<PathBuf>, args: &PullArgs) -> Result<u8, Failure> {
    let mover = Mover::start(args.progress.mode())?;
    let store = session::open_store(&session::store_root(root)?)?;
    let targets = args.images.iter().map(|image| image.registry.clone()).collect();
    let client = mover.client(&Access::new(&args.access, &targets, BTreeSet::new())?)?;
    let host = Platform::host();
    let platform = (!args.all_platforms).then(|| args.choice.platform.as_ref().unwrap_or(&host));
    for image in &args.images {
        let place = Place::Registry(image.clone());
        let origin = Origin::open(&place, None, &client).map_err(|e| of_transfer(&e))?;
        let content = &*origin.content;
        let inventory = Inventory::read(content, &origin.root, platform).map_err(|e| of_transfer(&e))?;
        let told = mover.moving(&inventory, |watch| {
            transfer::keep(content, &inventory, &store, std::slice::from_ref(image), watch)
        })?;
        mover.done(&inventory, &format!("pulled {}: {told}", image.familiar()))?;
    }
    mover.progress.finish();
    Ok(0)
}

/// `kiln push`.
pub(super) fn push(root: Option<PathBuf>, args: &PushArgs) -> Result<u8, Failure> {
    let mover = Mover::start(args.progress.mode())?;
    let Some(store) = existing_store(root)? else {
        return Err(of_transfer(&TransferError::NotInStore(args.image.clone())));
    };
    let origin = Origin::in_store(&store, &args.image).map_err(|e| of_transfer(&e))?;
    let destination = match (&args.destination, &origin.name) {
        (Some(place), _) => place.clone(),
        (None, Some(name)) => Place::Registry(name.clone()),
        (None, None) => {
            return Err(Failure::new(Kind::Usage, "this image's name cannot be pushed; give another one"));
        }
    };
    // A bare name is what it is pushed as, whatever `kiln copy` would take it for.
    let destination = match destination {
        Place::Named(reference, _) => Place::Registry(reference),
        other => other,
    };
    let client = mover.client(&access_for(&args.access, [destination.reference()])?)?;
    let content = &*origin.content;
    let inventory = Inventory::read(content, &origin.root, args.delivery.platform.as_ref())
        .map_err(|e| of_transfer(&e))?;
    mover.deliver(content, &inventory, &destination, &client, None, "pushed")?;
    finish(&mover, &inventory, args.delivery.digestfile.as_deref())
}

/// `kiln copy`.
pub(super) fn copy(root: Option<PathBuf>, args: &CopyArgs) -> Result<u8, Failure> {
    let mover = Mover::start(args.progress.mode())?;
    let store = match args.destination {
        Place::Named(..) => Some(session::open_store(&session::store_root(root)?)?),
        _ => existing_store(root)?,
    };
    let side = |creds: &Option<_>, tls_verify: Option<bool>| AccessArgs {
        creds: creds.clone().or_else(|| args.access.creds.clone()),
        tls_verify: tls_verify.or(args.access.tls_verify),
        ..args.access.clone()
    };
    let source_access = side(&args.src_creds, args.src_tls_verify);
    let source_client = mover.client(&access_for(&source_access, [args.source.reference()])?)?;
    let remote = match &args.destination {
        Place::Registry(reference) => Some(reference),
        _ => None,
    };
    let mut access = side(&args.dest_creds, args.dest_tls_verify);
    if remote.is_none() {
        access.creds = None;
    }
    let client = mover.client(&access_for(&access, [remote])?)?;
    let origin = Origin::open(&args.source, store.as_ref(), &source_client).map_err(|e| of_transfer(&e))?;
    let content = &*origin.content;
    // An archive for docker holds one platform; there is no question which when none is named.
    let host = Platform::host();
    let one = matches!(args.destination, Place::DockerArchive(..)).then_some(&host);
    let inventory = Inventory::read(content, &origin.root, args.delivery.platform.as_ref().or(one))
        .map_err(|e| of_transfer(&e))?;
    mover.deliver(content, &inventory, &args.destination, &client, store.as_ref(), "copied to")?;
    finish(&mover, &inventory, args.delivery.digestfile.as_deref())
}

/// `kiln tag`.
pub(super) fn tag(root: Option<PathBuf>, args: &TagArgs) -> Result<u8, Failure> {
    let missing = || of_transfer(&TransferError::NotInStore(args.image.clone()));
    let store = existing_store(root)?.ok_or_else(missing)?;
    let found = find_in_store(&store, &args.image).map_err(|e| of_transfer(&e))?.ok_or_else(missing)?;
    let record = |name: &Reference| ImageRecord { name: name.to_string(), created: now(), ..found.clone() };
    transfer::name_in_store(&store, args.names.iter().map(record)).map_err(|e| of_transfer(&e))?;
    Ok(0)
}

/// Access with `--creds` for the registries of these references.
pub(super) fn access_for<'a>(
    args: &AccessArgs,
    references: impl IntoIterator<Item = Option<&'a Reference>>,
) -> Result<Access, Failure> {
    let hosts = references.into_iter().flatten().map(|reference| reference.registry.clone());
    Access::new(args, &hosts.collect(), BTreeSet::new())
}

fn finish(mover: &Mover, inventory: &Inventory, digestfile: Option<&Path>) -> Result<u8, Failure> {
    mover.progress.finish();
    if let Some(path) = digestfile {
        let digest = inventory.root().descriptor.digest.to_string();
        std::fs::write(path, digest).map_err(|e| Failure {
            causes: vec![e.to_string()],
            ..Failure::new(Kind::User, format!("cannot write `{}`", path.display()))
        })?;
    }
    Ok(0)
}

/// Moves images, showing how it goes.
pub(super) struct Mover {
    progress: Progress,
    cancel: CancelToken,
    shows: bool,
    /// Number of the next step.
    next: Mutex<StepNumber>,
}

impl Mover {
    /// Call before any thread exists.
    pub(super) fn start(mode: Mode) -> Result<Self, Failure> {
        signals::block_termination().map_err(|e| Failure::from_error(Kind::Internal, &e))?;
        let cancel = CancelToken::new();
        let progress = Progress::new(mode, Target::Stderr);
        session::watch_signals(cancel.clone(), progress.clone());
        let shows = !matches!(mode, Mode::Quiet | Mode::None | Mode::RawJson);
        Ok(Self { progress, cancel, shows, next: Mutex::new(1) })
    }

    pub(super) fn client(&self, access: &Access) -> Result<Client, Failure> {
        access.client(&access.net()?, &self.cancel, self.progress.sink())
    }

    /// Writes an image wherever it is to go.
    fn deliver(
        &self,
        content: &dyn Content,
        inventory: &Inventory,
        destination: &Place,
        client: &Client,
        store: Option<&Store>,
        verb: &str,
    ) -> Result<(), Failure> {
        let told = self.moving(inventory, |watch| match (destination, store) {
            (Place::Named(name, _), Some(store)) => {
                transfer::keep(content, inventory, store, std::slice::from_ref(name), watch)
            }
            (Place::Registry(reference) | Place::Named(reference, _), _) => {
                // A digest cannot be chosen: what is pushed has its own.
                let reference = &Reference { digest: None, ..reference.clone() };
                let target = PushTarget { client, reference, by_digest: reference.tag.is_none() };
                transfer::push(content, inventory, target, watch).map(drop)
            }
            (Place::Layout(to), _) => {
                let labels: Vec<Label> = to.tag.clone().map(Label::Tag).into_iter().collect();
                transfer::write(content, inventory, Form::Directory, &to.path, &labels, watch)
            }
            (Place::OciArchive(to), _) => {
                let labels: Vec<Label> = to.tag.clone().map(Label::Tag).into_iter().collect();
                transfer::write(content, inventory, Form::OciArchive, &to.path, &labels, watch)
            }
            (Place::DockerArchive(path, name), _) => {
                let labels: Vec<Label> = name.clone().map(Label::Image).into_iter().collect();
                transfer::write(content, inventory, Form::DockerArchive, path, &labels, watch)
            }
        })?;
        self.done(inventory, &format!("{verb} {destination}: {told}"))
    }

    /// Ends the display.
    pub(super) fn finish(&self) {
        self.progress.finish();
    }

    /// Runs a transfer, and tells in a few words how its blobs got where they are.
    pub(super) fn moving(
        &self,
        inventory: &Inventory,
        run: impl FnOnce(transfer::Watcher<'_>) -> Result<(), TransferError>,
    ) -> Result<String, Failure> {
        let watch = Watch::plan(inventory, self.progress.sink(), &self.next);
        let result = run(&|blob, moved| watch.hear(blob, moved));
        if let Err(error) = &result {
            // Before the failure is told, which belongs below everything.
            self.progress.finish();
            return Err(of_transfer(error));
        }
        Ok(watch.told())
    }

    fn done(&self, inventory: &Inventory, told: &str) -> Result<(), Failure> {
        if self.shows {
            self.progress.say(told);
        }
        let digest = inventory.root().descriptor.digest.to_string();
        print::line(digest).map_err(|e| Failure::from_error(Kind::User, &e))
    }
}

/// Turns what is heard of blobs into events: each blob is a step.
struct Watch {
    events: EventSink,
    steps: BTreeMap<Digest, StepNumber>,
    /// When blobs began, and how they ended.
    states: Mutex<BTreeMap<Digest, State>>,
}

struct State {
    began: Instant,
    size: u64,
    ended: Option<BlobOutcome>,
}

impl Watch {
    fn plan(inventory: &Inventory, events: EventSink, next: &Mutex<StepNumber>) -> Self {
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut steps = BTreeMap::new();
        let configs: BTreeSet<Digest> =
            inventory.images().map(|(_, manifest)| manifest.config.digest).collect();
        for blob in inventory.blobs() {
            let what = if configs.contains(&blob.digest) { "config" } else { "layer" };
            let name = format!("{what} sha256:{} {}", blob.digest.short(), size::human(blob.size));
            events.send(Event::Planned { step: *next, name });
            steps.insert(blob.digest, *next);
            *next += 1;
        }
        Self { events, steps, states: Mutex::default() }
    }

    fn hear(&self, blob: &Descriptor, moved: Moved) {
        let Some(step) = self.steps.get(&blob.digest).copied() else { return };
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !states.contains_key(&blob.digest);
        let state = states.entry(blob.digest).or_insert_with(|| State {
            began: Instant::now(),
            size: blob.size,
            ended: None,
        });
        // A blob that has to be sent a second time is one step all the same.
        if state.ended.is_some() {
            return;
        }
        let took = state.began.elapsed();
        match moved {
            Moved::Begun if first => self.events.send(Event::Started { step }),
            Moved::Begun => {}
            Moved::Bytes(done_bytes) => self.events.send(Event::Progress {
                step,
                what: format!("sha256:{}", blob.digest.short()),
                done_bytes,
                total_bytes: Some(blob.size),
            }),
            Moved::Done(outcome) => {
                state.ended = Some(outcome);
                let (outcome, took) = match outcome {
                    BlobOutcome::Uploaded => (Outcome::Done, took),
                    BlobOutcome::Existed | BlobOutcome::Mounted => (Outcome::Cached, Duration::ZERO),
                };
                self.events.send(Event::Finished { step, outcome, took });
            }
            Moved::Failed => {
                let outcome = Outcome::Failed("could not be moved".to_owned());
                self.events.send(Event::Finished { step, outcome, took });
            }
        }
    }

    fn told(&self) -> String {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |wanted: BlobOutcome| states.values().filter(move |state| state.ended == Some(wanted));
        let bytes: u64 = of(BlobOutcome::Uploaded).map(|state| state.size).sum();
        let mut parts = vec![format!("{} blobs, {}", of(BlobOutcome::Uploaded).count(), size::human(bytes))];
        let (mounted, existed) = (of(BlobOutcome::Mounted).count(), of(BlobOutcome::Existed).count());
        if mounted > 0 {
            parts.push(format!("{mounted} taken from another repository"));
        }
        if existed > 0 {
            parts.push(format!("{existed} were there"));
        }
        parts.join("; ")
    }
}
