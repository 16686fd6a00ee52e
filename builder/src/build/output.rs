//! Where the result goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{BuildError, Environment, Request};
use crate::base::digest::Digest;
use crate::base::events::Event;
use crate::export::archive;
use crate::export::assemble::{self, BuiltIndex};
use crate::export::layers::LayerOptions;
use crate::export::merge::{self, Form, MANY_LAYERS};
use crate::export::spec::{self, Destination, OutputKind, OutputSpec};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::layer::compress::Compression;
use crate::ops::executor::VertexResult;
use crate::plan::graph::{Op, Plan, PlannedImage};
use crate::registry::PushOptions;
use crate::snapshot::overlay::Snapshots;
use crate::solve::Solved;
use crate::store::records::{ImageRecord, StepResult, now};

/// Compression gains nothing from more, and each has blocks of its own in memory.
const MAX_COMPRESSION_THREADS: usize = 16;

/// Writes every output. Gives the image of the last one that is an image.
pub(super) fn write_all(
    environment: Environment<'_>,
    request: &Request,
    plan: &Plan,
    solved: &Solved,
    snapshots: &Snapshots<'_>,
) -> Result<Option<BuiltIndex>, BuildError> {
    let into_store = [OutputSpec::new(OutputKind::Image)];
    let outputs = if request.outputs.is_empty() { &into_store[..] } else { &request.outputs };
    let mut results = Vec::new();
    for image in &plan.images {
        match solved.results.get(&image.result) {
            Some(VertexResult::Fs(result)) => results.push((image, result)),
            _ => return Err(BuildError::Cancelled),
        }
    }
    let mut built = None;
    for output in outputs {
        let writer = Writer { environment, request, plan, snapshots, output };
        if matches!(output.kind, OutputKind::Local | OutputKind::Tar) {
            writer.files(&results)?;
        } else {
            built = Some(writer.image(&results)?);
        }
    }
    Ok(built)
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
}

impl Writer<'_> {
    fn epoch(&self) -> Option<i64> {
        let own = self.output.source_date_epoch.and_then(|seconds| i64::try_from(seconds).ok());
        own.or(self.plan.source_date_epoch)
    }

    fn file_epoch(&self) -> Option<i64> {
        let rewrite = self.output.rewrite_timestamp.unwrap_or(self.request.rewrite_timestamps);
        self.epoch().filter(|_| rewrite)
    }

    fn files(&self, results: &[(&PlannedImage, &StepResult)]) -> Result<(), BuildError> {
        let destination = self.output.destination.clone().unwrap_or(Destination::Path(PathBuf::from(".")));
        let mut roots = Vec::new();
        for (image, result) in results {
            let name = image.platform.to_string().replace('/', "_");
            roots.push((name, self.snapshots.view(&result.state.layers)?));
        }
        let split = self.output.platform_split.unwrap_or(roots.len() > 1);
        match (&self.output.kind, &destination, &roots[..]) {
            (OutputKind::Local, Destination::Path(path), _) => archive::write_tree(&roots, path, split)?,
            (_, _, [(_, root)]) => archive::write_tree_tar(root, self.file_epoch(), &destination)?,
            _ => {
                return Err(BuildError::Load(
                    "a tar of the files holds one platform: choose one with --platform, or use type=local"
                        .to_owned(),
                ));
            }
        }
        Ok(())
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
        for (planned, result) in results {
            let mut exported = merge::export(store, self.snapshots, result, &form)?;
            for layer in &mut exported.layers {
                if let Some(kept) = of_bases.get(&layer.descriptor.digest) {
                    layer.descriptor.annotations.extend(kept.clone());
                }
            }
            self.warn_of_many(result, exported.layers.len());
            let epoch = self.epoch();
            images.push(assemble::image(store, planned, &result.trail, exported, epoch, self.output)?);
        }
        let platforms: Vec<&Platform> = results.iter().map(|(planned, _)| &planned.platform).collect();
        for name in spec::homeless_annotations(self.output, &platforms) {
            self.request.events.warn(format!(
                "the annotation `{name}` has no effect: an image of these platforms has nothing to carry it"
            ));
        }
        let built = assemble::index(store, images, self.output)?;
        if self.request.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        let names = self.names();
        match self.output.kind {
            OutputKind::Oci | OutputKind::Docker => self.archive(&built, &names)?,
            OutputKind::Image => {
                self.keep(&built, &names)?;
                if self.output.push {
                    self.push(&built, &names)?;
                }
            }
            OutputKind::CacheOnly | OutputKind::Local | OutputKind::Tar => {}
        }
        Ok(built)
    }

    /// How layers are written.
    fn form(&self) -> Form {
        let level = self.output.compression_level;
        // buildx counts from 0, the least that gzip can do.
        let gzip = level.map_or(6, |level| level.max(1));
        let options = LayerOptions {
            epoch: self.file_epoch(),
            compression: match self.output.compression {
                Some(spec::Compression::Uncompressed) => Compression::None,
                Some(spec::Compression::Zstd) => match level {
                    // zstd's 0 means its default.
                    None | Some(0) => Compression::DEFAULT_ZSTD,
                    Some(level) => Compression::Zstd { level: level as i32 },
                },
                Some(spec::Compression::Gzip | spec::Compression::Estargz) | None => {
                    Compression::Gzip { level: gzip }
                }
            },
            force: self.output.force_compression,
            threads: std::thread::available_parallelism().map_or(1, usize::from).min(MAX_COMPRESSION_THREADS),
            cancel: self.request.cancel.clone(),
        };
        let estargz = (self.output.compression == Some(spec::Compression::Estargz)).then_some(gzip);
        Form { options, estargz, merge: self.request.merge }
    }

    /// Advice when there are more layers than some engines stack.
    fn warn_of_many(&self, result: &StepResult, layers: usize) {
        let own = merge::own_layers(result);
        let base = result.state.layers.len() - own;
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
        let docker = self.output.kind == OutputKind::Docker;
        match &self.output.destination {
            Some(Destination::Path(path)) if !self.output.archive => {
                Ok(archive::write_directory(store, built, names, path)?)
            }
            Some(destination) => Ok(archive::write_archive(store, built, names, destination, docker)?),
            None if docker => self.load(built, names),
            None => Ok(archive::write_archive(store, built, names, &Destination::Stdout, false)?),
        }
    }

    /// Gives the image its names in the store.
    fn keep(&self, built: &BuiltIndex, names: &[Reference]) -> Result<(), BuildError> {
        // Should the index be left behind, the next process brings it up to date.
        self.environment.store.writing()?;
        for name in names {
            self.environment.store.database().name_image(&ImageRecord {
                name: name.to_string(),
                media_type: built.descriptor.media_type.clone(),
                digest: built.descriptor.digest,
                size_bytes: built.size_bytes(),
                created: now(),
            })?;
        }
        Ok(self.environment.store.write_index()?)
    }

    fn push(&self, built: &BuiltIndex, names: &[Reference]) -> Result<(), BuildError> {
        if names.is_empty() {
            return Err(BuildError::NoName);
        }
        let Environment { store, registry, .. } = self.environment;
        for name in names {
            for image in &built.images {
                for blob in image.manifest.layers.iter().chain([&image.manifest.config]) {
                    let progress = |done_bytes| {
                        self.request.events.send(Event::Progress {
                            step: super::export_step(self.plan),
                            what: format!("pushing sha256:{}", blob.digest.short()),
                            done_bytes,
                            total_bytes: Some(blob.size),
                        });
                    };
                    let options = PushOptions { progress: Some(&progress), ..PushOptions::default() };
                    registry.push_blob(name, blob, &store.blob_path(&blob.digest), &options)?;
                }
                if built.images.len() > 1 {
                    let digest = image.descriptor.digest;
                    let by_digest = Reference { tag: None, digest: Some(digest), ..name.clone() };
                    let bytes = store.read_blob(&digest, image.descriptor.size)?;
                    registry.put_manifest(&by_digest, &image.descriptor.media_type, &bytes)?;
                }
            }
            let root = &built.descriptor;
            let bytes = store.read_blob(&root.digest, root.size)?;
            let target = if self.output.push_by_digest {
                Reference { tag: None, digest: Some(root.digest), ..name.clone() }
            } else {
                name.clone()
            };
            registry.put_manifest(&target, &root.media_type, &bytes)?;
        }
        Ok(())
    }

    /// Hands the image to docker or podman, whichever answers.
    fn load(&self, built: &BuiltIndex, names: &[Reference]) -> Result<(), BuildError> {
        let dir = self.environment.store.temporary()?;
        let path = dir.path().join("image.tar");
        let destination = Destination::Path(path.clone());
        archive::write_archive(self.environment.store, built, names, &destination, true)?;
        let mut tried = Vec::new();
        for engine in ["docker", "podman"] {
            let mut command = Command::new(engine);
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
