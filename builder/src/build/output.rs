//! Where the result goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{BuildError, Environment, Request};
use crate::base::digest::Digest;
use crate::base::events::Event;
use crate::export::archive::{self, FileTree, Label, Parcel};
use crate::export::assemble::{self, BuiltIndex};
use crate::export::attest::provenance::Found;
use crate::export::attest::{self, Attestor};
use crate::export::layers::{Absent, LayerOptions};
use crate::export::merge::{self, Form, MANY_LAYERS};
use crate::export::spec::{self, Destination, OutputKind, OutputSpec};
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::layer::compress::Compression;
use crate::ops::executor::VertexResult;
use crate::plan::graph::{Op, Plan, PlannedImage};
use crate::record::Recorder;
use crate::snapshot::overlay::Snapshots;
use crate::solve::Solved;
use crate::store::records::{ImageRecord, SnapshotId, StepResult, now};
use crate::transfer::{self, Inventory, Moved, PushTarget, StoreContent};

/// Compression gains nothing from more, and each has blocks of its own in memory.
const MAX_COMPRESSION_THREADS: usize = 16;

/// Writes every output.
pub(super) fn write_all(
    environment: Environment<'_>,
    request: &Request,
    plan: &Plan,
    (solved, snapshots): (&Solved, &Snapshots<'_>),
    beside: &[Reference],
    (found, started): (&Found, i64),
) -> Result<Written, BuildError> {
    let into_store = [OutputSpec::new(OutputKind::Image)];
    let outputs = if request.outputs.is_empty() { &into_store[..] } else { &request.outputs };
    let mut results = Vec::new();
    for image in &plan.images {
        match solved.results.get(&image.result) {
            Some(VertexResult::Fs(result)) => results.push((image, result)),
            _ => return Err(BuildError::Cancelled),
        }
    }
    if outputs.iter().any(|output| output.kind == OutputKind::Docker) && !request.attestations.is_none() {
        request.events.warn(
            "an archive for docker has no place for attestations and gets none; type=oci and type=image have them",
        );
    }
    let attestor = Attestor {
        attestations: &request.attestations,
        plan,
        options: &request.plan,
        file_name: &request.file_name,
        text: &request.text,
        remote: request.remote_context.as_ref(),
        found,
        id: request.recorder.as_ref().map(Recorder::id),
        started,
        finished: now(),
        events: request.events.clone(),
    };
    let mut built = None;
    for output in outputs {
        let writer = Writer { environment, request, plan, snapshots, output, beside, attestor: &attestor };
        if matches!(output.kind, OutputKind::Local | OutputKind::Tar) {
            writer.files(&results)?;
        } else {
            built = Some(writer.image(&results)?);
        }
    }
    let provenance = request.reports_provenance.map(|mode| attestor.for_metadata(mode)).unwrap_or_default();
    Ok(Written { image: built, provenance })
}

/// What was written.
pub(super) struct Written {
    /// The last image.
    pub image: Option<BuiltIndex>,
    /// How it was made, when that was asked for.
    pub provenance: Vec<(Platform, Value)>,
}

/// What engines that pull file by file read from the descriptors of the bases' layers, which keep their bytes: tables of
/// contents of eStargz and of zstd:chunked.
fn lazy_annotations(plan: &Plan) -> BTreeMap<Digest, BTreeMap<String, String>> {
    const PREFIXES: [&str; 2] = ["containerd.io/snapshot/stargz/", "io.github.containers.zstd-chunked."];
    let images = plan.graph.vertices.iter().filter_map(|vertex| match &vertex.op {
        Op::Image(spec) => spec.image.as_ref(),
        _ => None,
    });
    let mut found = BTreeMap::new();
    for layer in images.flat_map(|image| &image.layers) {
        let annotations = layer.descriptor.annotations.iter();
        let kept: BTreeMap<String, String> = annotations
            .filter(|(key, _)| PREFIXES.iter().any(|prefix| key.starts_with(prefix)))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !kept.is_empty() {
            found.insert(layer.descriptor.digest, kept);
        }
    }
    found
}

struct Writer<'a> {
    environment: Environment<'a>,
    request: &'a Request,
    plan: &'a Plan,
    snapshots: &'a Snapshots<'a>,
    output: &'a OutputSpec,
    /// Repositories that may have blobs already.
    beside: &'a [Reference],
    attestor: &'a Attestor<'a>,
}

fn file_epoch(request: &Request, plan: &Plan, output: &OutputSpec) -> Option<i64> {
    let rewrite = output.rewrite_timestamp.unwrap_or(request.rewrite_timestamps);
    output.epoch(plan.source_date_epoch).filter(|_| rewrite)
}

/// To which file times are clamped in a remote cache: as in the images, when they agree.
pub(super) fn cache_epoch(request: &Request, plan: &Plan) -> Option<i64> {
    let images = request.outputs.iter().filter(|output| output.kind.is_image());
    let mut epochs: Vec<_> = images.map(|output| file_epoch(request, plan, output)).collect();
    epochs.dedup();
    match epochs[..] {
        [] => plan.source_date_epoch.filter(|_| request.rewrite_timestamps),
        [only] => only,
        _ => None,
    }
}

/// How layers of a remote cache are compressed when nothing is said: as in the first image, so that blobs are shared.
pub(super) fn cache_compression(request: &Request) -> Compression {
    let image = request.outputs.iter().find(|output| output.kind.is_image());
    image.map_or(Compression::DEFAULT_GZIP, compression)
}

/// What an output's attributes ask for.
fn compression(output: &OutputSpec) -> Compression {
    spec::compressor(output.compression, output.compression_level)
}

impl Writer<'_> {
    fn epoch(&self) -> Option<i64> {
        self.output.epoch(self.plan.source_date_epoch)
    }

    fn file_epoch(&self) -> Option<i64> {
        file_epoch(self.request, self.plan, self.output)
    }

    fn files(&self, results: &[(&PlannedImage, &StepResult)]) -> Result<(), BuildError> {
        let destination = self.output.destination.clone().unwrap_or(Destination::Path(PathBuf::from(".")));
        let mut trees = Vec::new();
        for (image, result) in results {
            let platform = image.platform.to_string().replace('/', "_");
            let root = self.snapshots.view(&result.state.layers)?;
            let beside = self.attestor.of_files(image, &root, self.output)?;
            trees.push(FileTree { platform, root, beside });
        }
        let split = self.output.platform_split.unwrap_or(trees.len() > 1);
        if let (OutputKind::Local, Destination::Path(path)) = (self.output.kind, &destination) {
            return Ok(archive::write_tree(&trees, path, split, self.output.delete)?);
        }
        if trees.len() > 1 && !split {
            return Err(BuildError::Load(
                "in a tar the files of several platforms need a directory each: leave out platform-split=false, or choose \
                 one platform with --platform"
                    .to_owned(),
            ));
        }
        Ok(archive::write_tree_tar(&trees, split, self.file_epoch(), &destination)?)
    }

    fn names(&self) -> Vec<Reference> {
        let mut names = self.request.names.clone();
        for name in &self.output.names {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    fn image(&self, results: &[(&PlannedImage, &StepResult)]) -> Result<BuiltIndex, BuildError> {
        let store = self.environment.store;
        let form = self.form();
        let of_bases = lazy_annotations(self.plan);
        let mut images = Vec::new();
        let mut attestations = Vec::new();
        let names = self.names();
        let mut absent = BTreeMap::new();
        for (planned, result) in results {
            let mut exported = merge::export(store, self.snapshots, result, &form)?;
            for layer in &mut exported.layers {
                if let Some(kept) = of_bases.get(&layer.descriptor.digest) {
                    layer.descriptor.annotations.extend(kept.clone());
                }
            }
            self.warn_of_many(result, exported.layers.len());
            for layer in exported.layers.iter().filter(|layer| !self.is_here(&layer.descriptor)) {
                absent.insert(layer.descriptor.digest, layer.snapshot.clone());
            }
            let epoch = self.epoch();
            let image = assemble::image(store, planned, &result.trail, exported, epoch, self.output)?;
            let view = || Ok::<_, BuildError>(self.snapshots.view(&result.state.layers)?);
            let statements = self.attestor.of_image(planned, &image, &names, self.output, view)?;
            if !statements.is_empty() {
                let artifact = self.output.oci_artifact;
                attestations.push(attest::manifest(store, &statements, &image.descriptor, artifact)?);
            }
            images.push(image);
        }
        let has_index = images.len() > 1 || !attestations.is_empty();
        let platforms: Vec<&Platform> = results.iter().map(|(planned, _)| &planned.platform).collect();
        for name in spec::homeless_annotations(self.output, &platforms, has_index) {
            self.request.events.warn(format!(
                "the annotation `{name}` has no effect: an image of these platforms has nothing to carry it"
            ));
        }
        let built = assemble::index(store, images, attestations, self.output)?;
        if self.request.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        match self.output.kind {
            OutputKind::Oci | OutputKind::Docker => self.archive(&built, &names)?,
            OutputKind::Image if absent.is_empty() => {
                self.keep(&built, &names)?;
                if self.output.push {
                    self.push(&built, &names, &absent)?;
                }
            }
            OutputKind::Image => {
                self.push(&built, &names, &absent)?;
                if built.blobs().iter().all(|blob| self.is_here(blob)) {
                    self.keep(&built, &names)?;
                } else {
                    self.refer(&built, &names)?;
                }
            }
            OutputKind::CacheOnly | OutputKind::Local | OutputKind::Tar => {}
        }
        Ok(built)
    }

    /// How layers are written.
    fn form(&self) -> Form {
        let compression = spec::compressor(self.output.compression, self.output.compression_level);
        let options = LayerOptions {
            epoch: self.file_epoch(),
            compression,
            force: self.output.force_compression,
            threads: std::thread::available_parallelism().map_or(1, usize::from).min(MAX_COMPRESSION_THREADS),
            cancel: self.request.cancel.clone(),
            absent: match self.output.kind {
                OutputKind::Image if !self.output.push => Absent::Fetch,
                OutputKind::Image | OutputKind::CacheOnly => Absent::Leave,
                _ => Absent::Fetch,
            },
            progress: Some((self.request.events.clone(), super::work::export_step(self.plan))),
        };
        let estargz = match (self.output.compression, compression) {
            (Some(spec::Compression::Estargz), Compression::Gzip { level }) => Some(level),
            _ => None,
        };
        Form { options, estargz, merge: self.request.merge }
    }

    /// Advice when there are more layers than some engines stack.
    fn warn_of_many(&self, result: &StepResult, layers: usize) {
        let own = merge::own_layers(result);
        let base = result.state.layers.len() - own;
        if let Some(max) = self.request.merge.max_layers.filter(|max| layers > *max) {
            self.request.events.warn(format!(
                "the image has {layers} layers, more than --max-layers {max}: {base} of them are the base's; only \
                 --squash=all makes them fewer"
            ));
            return;
        }
        if layers <= MANY_LAYERS {
            return;
        }
        let advice = if base >= MANY_LAYERS {
            format!("{base} of them are the base's; only --squash=all makes them fewer")
        } else {
            format!(
                "join RUN steps (a heredoc takes many commands), or have --max-layers {MANY_LAYERS} merge the uppermost ones"
            )
        };
        self.request.events.warn(format!(
            "the image has {layers} layers, and docker and older engines take {MANY_LAYERS} at most: {advice}"
        ));
    }

    fn archive(&self, built: &BuiltIndex, names: &[Reference]) -> Result<(), BuildError> {
        let store = self.environment.store;
        let (parcel, labels) = (Parcel::from(built), Label::of(names));
        let docker = self.output.kind == OutputKind::Docker;
        match &self.output.destination {
            Some(Destination::Path(path)) if !self.output.archive => {
                Ok(archive::write_directory(store, &parcel, &labels, path)?)
            }
            Some(destination) => Ok(archive::write_archive(store, &parcel, &labels, destination, docker)?),
            None if docker => self.load(built, names),
            None => Ok(archive::write_archive(store, &parcel, &labels, &Destination::Stdout, false)?),
        }
    }

    /// Gives the image its names in the store.
    fn keep(&self, built: &BuiltIndex, names: &[Reference]) -> Result<(), BuildError> {
        let record = |name: &Reference| ImageRecord {
            name: name.to_string(),
            media_type: built.descriptor.media_type.clone(),
            digest: built.descriptor.digest,
            size_bytes: built.size_bytes(),
            created: now(),
        };
        Ok(transfer::name_in_store(self.environment.store, names.iter().map(record))?)
    }

    fn is_here(&self, blob: &Descriptor) -> bool {
        self.environment.store.blob_size(&blob.digest) == Some(blob.size)
    }

    /// Has the names stand for an image whose layers are in its registry only: none in the store has them any more, and
    /// `FROM` finds this one.
    fn refer(&self, built: &BuiltIndex, names: &[Reference]) -> Result<(), BuildError> {
        let database = self.environment.store.database();
        for name in names.iter().map(Reference::to_string) {
            database.unname_image(&name)?;
            for image in &built.images {
                database.set_resolved(&name, &image.platform.to_string(), &image.descriptor.digest)?;
            }
        }
        Ok(self.environment.store.write_index()?)
    }

    fn push(
        &self,
        built: &BuiltIndex,
        names: &[Reference],
        absent: &BTreeMap<Digest, SnapshotId>,
    ) -> Result<(), BuildError> {
        if names.is_empty() {
            return Err(BuildError::NoName);
        }
        let Environment { store, registry, .. } = self.environment;
        let content = StoreContent::new(store)?;
        let inventory = Inventory::read(&content, &built.descriptor, None)?;
        let watcher = |blob: &Descriptor, moved: Moved| {
            if let Moved::Bytes(done_bytes) = moved {
                self.request.events.send(Event::Progress {
                    step: super::work::export_step(self.plan),
                    what: format!("pushing sha256:{}", blob.digest.short()),
                    done_bytes,
                    total_bytes: Some(blob.size),
                });
            }
        };
        for name in names {
            self.bring_absent(name, absent)?;
            let target =
                PushTarget { client: registry, reference: name, by_digest: self.output.push_by_digest };
            transfer::push(&content, &inventory, target, &watcher)?;
        }
        Ok(())
    }

    /// Has the layers that are not here got by the registry itself, from another repository, or fetched.
    fn bring_absent(
        &self,
        name: &Reference,
        absent: &BTreeMap<Digest, SnapshotId>,
    ) -> Result<(), BuildError> {
        let Environment { store, registry, .. } = self.environment;
        let same = self.beside.iter().filter(|other| other.registry == name.registry);
        let from: Vec<String> = same.map(|other| other.repository.clone()).collect();
        for (digest, snapshot) in absent {
            if store.blob_size(digest).is_none() && !registry.take_blob(name, digest, &from)? {
                self.snapshots.fetch_pending(snapshot)?;
            }
        }
        Ok(())
    }

    /// Hands the image to docker or podman, whichever answers.
    fn load(&self, built: &BuiltIndex, names: &[Reference]) -> Result<(), BuildError> {
        let dir = self.environment.store.temporary()?;
        let path = dir.path().join("image.tar");
        let destination = Destination::Path(path.clone());
        let (parcel, labels) = (Parcel::from(built), Label::of(names));
        archive::write_archive(self.environment.store, &parcel, &labels, &destination, true)?;
        let mut tried = Vec::new();
        // Only docker has contexts.
        let context = self.output.engine_context.as_deref();
        for engine in ["docker", "podman"].into_iter().take(if context.is_some() { 1 } else { 2 }) {
            let mut command = Command::new(engine);
            command.args(context.into_iter().flat_map(|name| ["--context", name]));
            command.arg("load").arg("-i").arg(&path).stdin(Stdio::null());
            command.envs(self.request.engine_variables.iter().map(|(name, value)| (name, value)));
            let output = command.output();
            match output {
                Ok(output) if output.status.success() => return Ok(()),
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stderr);
                    tried.push(format!("{engine}: {}", text.lines().last().unwrap_or("failed").trim()));
                }
                Err(error) => tried.push(format!("{engine}: {error}")),
            }
        }
        Err(BuildError::Load(format!("no engine took the image ({})", tried.join("; "))))
    }
}
