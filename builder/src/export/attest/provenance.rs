//! How an image was made: SLSA provenance v1 and v0.2 in BuildKit's shape (its docs/attestations/slsa-definitions.md).
//!
//! | field | from | mode |
//! | --- | --- | --- |
//! | `externalParameters.configSource` | the main context when it is remote, name of the Buildfile | min |
//! | `externalParameters.request` | target, network, local contexts; with max build arguments, labels, ids of secrets and agents | min, max |
//! | `resolvedDependencies` | vertices that the image is made of: images, git checkouts, downloads, with digests | min |
//! | `internalParameters.buildConfig.steps` | specs of these vertices, as records of builds have them | max |
//! | `runDetails.metadata` | times and the build's number; with an epoch both times are it, and there is no number | min |
//! | `buildkit_metadata.source` | text of the Buildfile, and which lines each step is from | max |
//!
//! Invariants:
//! - what is not reachable from the image is not told;
//! - no secret's value, no user or password of a URL, and no path of this machine gets in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_grammar::span::LineIndex;
use serde_json::{Map, Value, json};

use super::options::{Mode, ProvenanceOptions, Version};
use super::purl;
use crate::base::digest::Digest;
use crate::export::assemble::timestamp;
use crate::image::platform::Platform;
use crate::plan::graph::{
    BlobLocation, ContextKind, GitSpec, Graph, MountSource, NetworkMode, Op, PlanOptions, PlannedImage,
    ResolvedImage, Vertex, VertexId,
};
use crate::plan::{public_spec, without_credentials};

/// Predicate type of v1.
pub const V1: &str = "https://slsa.dev/provenance/v1";
/// Predicate type of v0.2.
pub const V02: &str = "https://slsa.dev/provenance/v0.2";

const BUILD_TYPE: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";
/// Who builds when nobody says: SLSA wants a URI.
const BUILDER_ID: &str = "pkg:generic/kiln";

/// What a build found outside.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Commits of git vertices.
    pub commits: BTreeMap<VertexId, String>,
    /// Digests of downloads.
    pub downloads: BTreeMap<VertexId, Digest>,
}

/// A downloaded archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteContext {
    /// Where it came from, without credentials.
    pub uri: String,
    /// What came.
    pub digest: Digest,
}

/// A build, as far as a provenance tells of it.
#[derive(Debug)]
pub struct Invocation<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// What was asked for.
    pub options: &'a PlanOptions,
    /// Name of the Buildfile.
    pub file_name: &'a str,
    /// Its text.
    pub text: &'a str,
    /// The archive that the main context was unpacked from.
    pub remote: Option<&'a RemoteContext>,
    /// What was found outside.
    pub found: &'a Found,
    /// Number of the build; `None` when it must not matter.
    pub id: Option<String>,
    /// When it began, in seconds since 1970.
    pub started: i64,
    /// When it ended.
    pub finished: i64,
}

/// Predicate type and predicate of how `image` was made.
pub fn predicate(
    invocation: &Invocation<'_>,
    image: &PlannedImage,
    options: &ProvenanceOptions,
) -> (&'static str, Value) {
    let whole = Account { invocation, vertices: reachable(invocation.graph, image.result), options }.v1();
    match options.version {
        Version::V1 => (V1, whole),
        Version::V02 => (V02, to_v02(whole)),
    }
}

/// What is said of a build in a metadata file: v0.2, and with [`Mode::Min`] without steps and metadata, as buildx has it
/// (build/provenance.go).
pub fn for_metadata(invocation: &Invocation<'_>, image: &PlannedImage, options: &ProvenanceOptions) -> Value {
    let options = ProvenanceOptions { version: Version::V02, ..options.clone() };
    let (_, mut predicate) = predicate(invocation, image, &options);
    if let (Mode::Min, Some(object)) = (options.mode, predicate.as_object_mut()) {
        object.remove("metadata");
        object.remove("buildConfig");
    }
    predicate
}

/// Vertices that a result is made of.
fn reachable(graph: &Graph, root: VertexId) -> BTreeSet<VertexId> {
    let mut seen = BTreeSet::new();
    let mut pending = vec![root];
    while let Some(id) = pending.pop() {
        if seen.insert(id) {
            pending.extend(&graph.vertex(id).inputs);
        }
    }
    seen
}

struct Account<'a> {
    invocation: &'a Invocation<'a>,
    vertices: BTreeSet<VertexId>,
    options: &'a ProvenanceOptions,
}

impl Account<'_> {
    fn is_max(&self) -> bool {
        self.options.mode == Mode::Max
    }

    fn vertices(&self) -> impl Iterator<Item = (VertexId, &Vertex)> {
        self.vertices.iter().map(|id| (*id, self.invocation.graph.vertex(*id)))
    }

    fn v1(&self) -> Value {
        let Invocation { started, finished, id, .. } = self.invocation;
        let mut internal =
            Map::from_iter([("builderPlatform".to_owned(), json!(Platform::host().to_string()))]);
        let mut extra = Map::new();
        if self.is_max() {
            internal.insert("buildConfig".to_owned(), json!({ "steps": self.steps() }));
            extra.insert("source".to_owned(), self.source());
        }
        let locals = self.locals().next().is_some();
        let mut metadata = json!({
            "startedOn": timestamp(*started),
            "finishedOn": timestamp(*finished),
            "buildkit_metadata": extra,
            "buildkit_completeness": { "request": self.is_max(), "resolvedDependencies": !locals },
        });
        if let Some(id) = id {
            metadata["invocationId"] = json!(id);
        }
        if !locals && !self.uses_network() {
            metadata["buildkit_hermetic"] = json!(true);
        }
        if self.options.reproducible {
            metadata["buildkit_reproducible"] = json!(true);
        }
        json!({
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": { "configSource": self.config_source(), "request": self.request() },
                "internalParameters": internal,
                "resolvedDependencies": self.dependencies(),
            },
            "runDetails": {
                "builder": {
                    "id": self.options.builder_id.as_deref().unwrap_or(BUILDER_ID),
                    "version": { "kiln": env!("CARGO_PKG_VERSION") },
                },
                "metadata": metadata,
            },
        })
    }

    /// Directories of this machine.
    fn locals(&self) -> impl Iterator<Item = &str> {
        let is_here = |name: &&str| !name.is_empty() || self.invocation.remote.is_none();
        let all = self.vertices().filter_map(|(_, vertex)| match &vertex.op {
            Op::Local(local) => Some(local.context.as_str()),
            _ => None,
        });
        all.filter(is_here)
    }

    fn uses_network(&self) -> bool {
        self.vertices()
            .any(|(_, vertex)| matches!(&vertex.op, Op::Run(run) if run.network != NetworkMode::None))
    }

    fn config_source(&self) -> Value {
        let Invocation { options, file_name, .. } = self.invocation;
        // A path may be one of this machine.
        let name =
            Path::new(file_name).file_name().map_or((*file_name).into(), |name| name.to_string_lossy());
        let mut source = Map::from_iter([("path".to_owned(), json!(name))]);
        if let Some(RemoteContext { uri, digest }) = self.invocation.remote {
            source.insert("uri".to_owned(), json!(uri));
            source.insert("digest".to_owned(), json!({ "sha256": digest.hex() }));
        }
        match &options.main_context {
            ContextKind::Git(reference) => {
                source.insert("uri".to_owned(), json!(without_credentials(reference)));
                let is_it =
                    |op: &Op| matches!(op, Op::Git(GitSpec { reference: other, .. }) if other == reference);
                let vertices = self.invocation.graph.vertices.iter().zip(0..);
                let commit = vertices
                    .filter(|(vertex, _)| is_it(&vertex.op))
                    .find_map(|(_, number)| self.invocation.found.commits.get(&VertexId(number)));
                if let Some(commit) = commit {
                    source.insert("digest".to_owned(), commit_digest(commit));
                }
            }
            ContextKind::Http(url) => {
                source.insert("uri".to_owned(), json!(without_credentials(url)));
            }
            ContextKind::Local | ContextKind::None | ContextKind::Image(_) | ContextKind::Layout(_) => {}
        }
        Value::Object(source)
    }

    /// In the words of BuildKit's frontend.
    fn request(&self) -> Value {
        let options = self.invocation.options;
        let mut args = BTreeMap::new();
        if let Some(target) = &options.target {
            args.insert("target".to_owned(), target.clone());
        }
        match options.network {
            NetworkMode::Default => {}
            NetworkMode::None => drop(args.insert("force-network-mode".to_owned(), "none".to_owned())),
            NetworkMode::Host => drop(args.insert("force-network-mode".to_owned(), "host".to_owned())),
        }
        for (name, kind) in &options.contexts {
            let value = match kind {
                ContextKind::Image(image) => format!("docker-image://{image}"),
                ContextKind::Git(address) | ContextKind::Http(address) => without_credentials(address),
                ContextKind::Layout(_) => "oci-layout".to_owned(),
                ContextKind::Local => "local".to_owned(),
                ContextKind::None => continue,
            };
            args.insert(format!("context:{name}"), value);
        }
        if self.is_max() {
            for (name, value) in &options.build_args {
                // Proxies have users and passwords; nothing else is expected to be a URL with some.
                args.insert(format!("build-arg:{name}"), without_credentials(value));
            }
            args.extend(options.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone())));
        }
        let mut request = Map::from_iter([("frontend".to_owned(), json!("dockerfile.v0"))]);
        if !args.is_empty() {
            request.insert("args".to_owned(), json!(args));
        }
        let names = self.locals().map(|name| if name.is_empty() { "context" } else { name });
        let mut locals: BTreeSet<&str> = names.collect();
        if self.invocation.remote.is_none()
            && !matches!(options.main_context, ContextKind::Git(_) | ContextKind::Http(_))
        {
            locals.insert("dockerfile");
        }
        let named = |names: BTreeSet<&str>| -> Vec<Value> {
            names.into_iter().map(|name| json!({ "name": name })).collect()
        };
        request.insert("locals".to_owned(), json!(named(locals)));
        if self.is_max() {
            for (key, mounts) in [("secrets", self.ids(secret)), ("ssh", self.ids(agent))] {
                if !mounts.is_empty() {
                    request.insert(key.to_owned(), json!(mounts));
                }
            }
        }
        Value::Object(request)
    }

    /// Ids of what mounts ask for. What one step needs is not optional.
    fn ids(&self, of: fn(&MountSource) -> Option<(&str, bool)>) -> Vec<Value> {
        let mut ids: BTreeMap<&str, bool> = BTreeMap::new();
        for (_, vertex) in self.vertices() {
            let Op::Run(run) = &vertex.op else { continue };
            for (id, required) in run.mounts.iter().filter_map(|mount| of(&mount.source)) {
                *ids.entry(id).or_default() |= required;
            }
        }
        let value = |(id, required)| {
            if required { json!({ "id": id }) } else { json!({ "id": id, "optional": true }) }
        };
        ids.into_iter().map(value).collect()
    }

    /// Images first, then repositories, then downloads, as BuildKit has them.
    fn dependencies(&self) -> Vec<Value> {
        let found = self.invocation.found;
        let mut all: BTreeSet<(u8, String, String)> = BTreeSet::new();
        if let Some(RemoteContext { uri, digest }) = self.invocation.remote {
            all.insert((2, uri.clone(), json!({ "sha256": digest.hex() }).to_string()));
        }
        for (id, vertex) in self.vertices() {
            match &vertex.op {
                Op::Image(spec) => {
                    if let Some(image) = &spec.image {
                        let digest = json!({ "sha256": image.digest.hex() });
                        all.insert((0, image_uri(image, &vertex.platform), digest.to_string()));
                    }
                }
                Op::Git(spec) => {
                    let digest = found.commits.get(&id).map_or(Value::Null, |commit| commit_digest(commit));
                    all.insert((1, without_credentials(&spec.reference), digest.to_string()));
                }
                Op::Http(spec) => {
                    let digest = found.downloads.get(&id).or(spec.checksum.as_ref());
                    let digest = digest.map_or(Value::Null, |digest| json!({ "sha256": digest.hex() }));
                    all.insert((2, without_credentials(&spec.url), digest.to_string()));
                }
                _ => {}
            }
        }
        all.into_iter()
            .map(|(_, uri, digest)| match serde_json::from_str::<Value>(&digest) {
                Ok(digest) if !digest.is_null() => json!({ "uri": uri, "digest": digest }),
                _ => json!({ "uri": uri }),
            })
            .collect()
    }

    /// Numbers of steps: the vertices' places among those that are told of.
    fn step_of(&self, id: &VertexId) -> String {
        format!("step{}", self.vertices.range(..id).count())
    }

    fn steps(&self) -> Vec<Value> {
        // Names are made of the Buildfile's text, and of places on this machine.
        let step = |(id, vertex): (VertexId, &Vertex)| {
            let inputs: Vec<String> =
                vertex.inputs.iter().map(|input| format!("{}:0", self.step_of(input))).collect();
            json!({
                "id": self.step_of(&id),
                "op": public_spec(&vertex.op),
                "platform": vertex.platform.to_string(),
                "inputs": inputs,
            })
        };
        self.vertices().map(step).collect()
    }

    fn source(&self) -> Value {
        let Invocation { file_name, text, .. } = self.invocation;
        let lines = LineIndex::new(text);
        let mut locations = Map::new();
        for (id, vertex) in self.vertices() {
            let Some(origin) = &vertex.origin else { continue };
            let last = origin.span.end.saturating_sub(1).max(origin.span.start);
            let range = json!({
                "start": { "line": lines.line(origin.span.start) },
                "end": { "line": lines.line(last) },
            });
            locations.insert(self.step_of(&id), json!({ "locations": [{ "ranges": [range] }] }));
        }
        let name =
            Path::new(file_name).file_name().map_or((*file_name).into(), |name| name.to_string_lossy());
        json!({
            "locations": locations,
            "infos": [{ "filename": name, "language": "Dockerfile", "data": STANDARD.encode(text) }],
        })
    }
}

fn secret(source: &MountSource) -> Option<(&str, bool)> {
    match source {
        MountSource::Secret { id, required, .. } => Some((id, *required)),
        _ => None,
    }
}

fn agent(source: &MountSource) -> Option<(&str, bool)> {
    match source {
        MountSource::Ssh { id, required, .. } => Some((id, *required)),
        _ => None,
    }
}

fn image_uri(image: &ResolvedImage, platform: &Platform) -> String {
    match (&image.location, image.name.parse()) {
        (BlobLocation::Registry(reference), _) => purl::of_image(reference, platform),
        (BlobLocation::Store, Ok(reference)) => purl::of_image(&reference, platform),
        (BlobLocation::Layout(_), _) | (BlobLocation::Store, Err(_)) => {
            // Where the layout is says something of this machine.
            let name = image.name.rsplit('/').next().unwrap_or_default();
            let name = name.split(['@', ':']).next().unwrap_or_default();
            purl::of_layout(if name.is_empty() { "layout" } else { name }, platform)
        }
    }
}

fn commit_digest(commit: &str) -> Value {
    let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
    json!({ algorithm: commit })
}

/// The same in the older form (BuildKit's ConvertToSLSA02).
fn to_v02(v1: Value) -> Value {
    let at = |path: &str| v1.pointer(path).cloned().unwrap_or(Value::Null);
    let mut source = at("/buildDefinition/externalParameters/configSource");
    if let Some(source) = source.as_object_mut()
        && let Some(path) = source.remove("path")
    {
        source.insert("entryPoint".to_owned(), path);
    }
    let metadata = at("/runDetails/metadata");
    let mut old = json!({
        "buildStartedOn": metadata["startedOn"],
        "buildFinishedOn": metadata["finishedOn"],
        "completeness": {
            "parameters": metadata["buildkit_completeness"]["request"],
            "environment": true,
            "materials": metadata["buildkit_completeness"]["resolvedDependencies"],
        },
        "reproducible": metadata["buildkit_reproducible"] == true,
        "https://mobyproject.org/buildkit@v1#metadata": metadata["buildkit_metadata"],
    });
    if let Some(id) = metadata.get("invocationId") {
        old["buildInvocationID"] = id.clone();
    }
    if metadata["buildkit_hermetic"] == true {
        old["https://mobyproject.org/buildkit@v1#hermetic"] = json!(true);
    }
    let mut predicate = json!({
        "builder": { "id": at("/runDetails/builder/id") },
        "buildType": BUILD_TYPE_V02,
        "invocation": {
            "configSource": source,
            "parameters": at("/buildDefinition/externalParameters/request"),
            "environment": { "platform": at("/buildDefinition/internalParameters/builderPlatform") },
        },
        "materials": at("/buildDefinition/resolvedDependencies"),
        "metadata": old,
    });
    if let Some(config) = v1.pointer("/buildDefinition/internalParameters/buildConfig") {
        predicate["buildConfig"] = config.clone();
    }
    predicate
}

#[cfg(test)]
mod tests;
