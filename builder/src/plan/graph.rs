//! The graph of a build: vertices with serialisable specs, and what an image made from it will say.
//!
//! Invariants:
//! - a vertex' inputs have smaller numbers than the vertex, so the vector is a topological order;
//! - two vertices with equal spec and inputs are one vertex;
//! - a spec holds no host path, no closure and no secret value: it could be sent to another machine;
//! - what is in a spec is in the cache key (language.md 1.13); everything else belongs to the
//!   vertex itself or to the executor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kiln_grammar::span::Span;
use serde::{Deserialize, Serialize};

use crate::base::digest::{DiffId, Digest};
use crate::image::config::{History, ImageConfig};
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;
use crate::image::reference::Reference;

use super::policy::Policy;

/// Number of a vertex in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VertexId(pub u32);

/// All vertices of a build.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// In topological order.
    pub vertices: Vec<Vertex>,
}

impl Graph {
    /// The vertex with this number.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0 as usize]
    }
}

/// One step.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// Results that it reads. For [`Op::Run`], [`Op::Copy`] and [`Op::Mkdir`] the first is the file system that it
    /// changes.
    pub inputs: Vec<VertexId>,
    /// For people: `[build 2/5] RUN make`.
    pub name: String,
    /// Name of the stage, lower case, or `stage-N` (for `--no-cache-filter`); empty for sources.
    pub stage: String,
    /// Do not take a stored result (`--no-cache`).
    pub ignore_cache: bool,
    /// Where in the Buildfile it comes from.
    pub origin: Option<Origin>,
    /// Platform of the stage.
    pub platform: Platform,
    /// Bounds of a RUN; not in the key. Of equal vertices those of the first one hold.
    pub guards: Guards,
}

/// kiln's own flags of RUN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guards {
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--retry`.
    pub retries: u32,
    /// `--memory`.
    pub memory_bytes: Option<u64>,
    /// `--cpus`, in thousandths.
    pub cpus_milli: Option<u64>,
}

impl Guards {
    /// Whether nothing is bounded.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What commands may do beyond docker's default, or less: `--cap-add`, `--cap-drop`, `--device`, `--security-opt`. In
/// the key, since a command can see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// Capabilities without `CAP_`; docker's default when `None`.
    pub capabilities: Option<Vec<String>>,
    /// Paths of devices inside.
    pub devices: Vec<String>,
    /// Digest of the seccomp profile, or `unconfined`; docker's default when `None`.
    pub seccomp: Option<String>,
    /// Set-user-id programs gain nothing.
    pub no_new_privileges: bool,
}

impl Privileges {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a vertex comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The instruction; for a trigger the `FROM` that brought it.
    pub span: Span,
    /// Text of the ONBUILD trigger, when it is one.
    pub trigger: Option<String>,
}

/// What a vertex does. Serialised canonically this is the spec that enters the cache key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Op {
    /// An empty file system.
    Scratch,
    /// Layers of an image.
    Image(ImageSpec),
    /// A directory of the client: the main context (empty name) or a named one. Never a file system by itself:
    /// only [`Op::Copy`] reads it.
    Local(LocalSpec),
    /// A downloaded file. Only [`Op::Copy`] reads it.
    Http(HttpSpec),
    /// A git checkout: a file system.
    Git(GitSpec),
    /// RUN.
    Run(RunSpec),
    /// COPY and ADD. `inputs[0]` is the file system that is changed.
    Copy(CopySpec),
    /// WORKDIR's directory.
    Mkdir(MkdirSpec),
    /// `COPY --link`: the layers of `inputs[1]` on top of `inputs[0]`.
    Merge,
}

/// A resolved image. Only `diff_ids` is in the key: equal layers are equal bases (semantics fact 103).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Bottom layer first.
    pub diff_ids: Vec<DiffId>,
    /// Where the layers come from; not part of the key.
    #[serde(skip)]
    pub image: Option<Arc<ResolvedImage>>,
}

/// A directory of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalSpec {
    /// Empty for the main context, else the name of `--build-context`.
    pub context: String,
}

/// `ADD https://…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSpec {
    /// URL.
    pub url: String,
    /// `--checksum=`.
    pub checksum: Option<Digest>,
}

/// A git repository (ADD or a context).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitSpec {
    /// The whole reference as written, e.g. `https://host/repo.git#v1:sub`.
    pub reference: String,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--checksum=`: a commit or the beginning of one.
    pub checksum: Option<String>,
}

/// Network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum NetworkMode {
    #[default]
    Default,
    None,
    Host,
}

/// `--security=` of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum SecurityMode {
    #[default]
    Sandbox,
    Insecure,
}

/// RUN, as far as it is in the key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The final argument vector.
    pub args: Vec<String>,
    /// `KEY=VALUE`, image environment and arguments in scope, PATH included, proxies not.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: String,
    /// As USER says; empty means root.
    pub user: String,
    /// In the order written.
    pub mounts: Vec<MountSpec>,
    /// Network mode.
    pub network: NetworkMode,
    /// Security mode.
    pub security: SecurityMode,
    /// Privileges; absent from the key where they are the default.
    #[serde(default, skip_serializing_if = "Privileges::is_default")]
    pub privileges: Privileges,
    /// Host name inside (`BUILDKIT_SANDBOX_HOSTNAME`).
    pub hostname: String,
    /// Names of `--add-host` (addresses are not in the key).
    pub extra_host_names: Vec<String>,
    /// `--ulimit`, as `name=soft:hard`.
    pub ulimits: Vec<String>,
    /// `--shm-size` in bytes.
    pub shm_size_bytes: Option<u64>,
    /// Scripts of here-documents with `#!`, put under `/dev/pipes/NAME` with mode 0755: (name, content).
    pub scripts: Vec<(String, String)>,
}

/// One mount of a RUN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute, clean path inside; for secrets given only as a variable it is empty.
    pub target: String,
    /// Kind and options.
    pub source: MountSource,
    /// Writes are refused.
    pub read_only: bool,
}

/// Where a mount's content comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MountSource {
    /// `path` in the result of an input; writes are discarded.
    Bind {
        /// Index into the vertex' inputs.
        input: usize,
        /// Path inside it.
        path: String,
    },
    /// A cache mount.
    Cache {
        /// With namespace.
        id: String,
        /// `shared`, `private` or `locked`.
        sharing: CacheSharing,
        /// Mode of a new directory.
        mode: u32,
        /// Owner of a new directory.
        uid: u32,
        /// Group of a new directory.
        gid: u32,
        /// Seed: index into the inputs and path.
        seed: Option<(usize, String)>,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// Size.
        size_bytes: Option<u64>,
    },
    /// A secret.
    Secret {
        /// Name of `--secret`.
        id: String,
        /// Variable to set.
        env: Option<String>,
        /// Fail when it was not given.
        required: bool,
        /// File mode.
        mode: u32,
        /// File owner.
        uid: u32,
        /// File group.
        gid: u32,
        /// Another value makes the step run again; absent from the key where it does not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cache_key: bool,
    },
    /// An SSH agent's socket.
    Ssh {
        /// Name of `--ssh`.
        id: String,
        /// Fail when it was not given.
        required: bool,
        /// Socket mode.
        mode: u32,
        /// Socket owner.
        uid: u32,
        /// Socket group.
        gid: u32,
    },
}

/// Sharing of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum CacheSharing {
    Shared,
    Private,
    Locked,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopySpec {
    /// In the order written.
    pub sources: Vec<CopySource>,
    /// Absolute; a final slash (or `/.`) means a directory (semantics fact 5).
    pub destination: String,
    /// `--chown=` after expansion.
    pub chown: Option<String>,
    /// `--chmod=` after expansion, octal or symbolic, already validated.
    pub chmod: Option<String>,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude=` patterns.
    pub exclude: Vec<String>,
    /// Unpacking of archives.
    pub unpack: Unpack,
    /// `--link`: symlinks at the destination are not followed (there is nothing below to follow).
    pub link: bool,
}

/// Whether ADD unpacks archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unpack {
    /// COPY, or ADD `--unpack=false`.
    Never,
    /// ADD without flag: local archives are unpacked, downloads are not.
    Local,
    /// ADD `--unpack=true`.
    Always,
}

/// A source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CopySource {
    /// A path or wildcard pattern in an input (local context, stage, image or git checkout).
    Path {
        /// Index into the vertex' inputs.
        input: usize,
        /// As written after expansion.
        path: String,
    },
    /// The file of an [`Op::Http`] input, with the name that the download states.
    Download {
        /// Index into the vertex' inputs.
        input: usize,
    },
    /// A here-document: mode 0644, owner 0:0.
    Inline {
        /// File name.
        name: String,
        /// Content.
        content: String,
    },
}

/// WORKDIR's directory: made with mode 0755 and its missing parents, owned by the current user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MkdirSpec {
    /// Absolute, clean.
    pub path: String,
    /// As USER says; empty means root.
    pub user: String,
}

/// A request for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Name as in FROM, after expansion.
    pub name: String,
    /// Wanted platform.
    pub platform: Platform,
}

/// An image that was found: manifest and config are read, layers are not.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedImage {
    /// For messages: the reference or layout path.
    pub name: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// The parsed config.
    pub config: ImageConfig,
    /// One for each `diff_id`, bottom first.
    pub layers: Vec<ImageLayer>,
    /// Where its blobs are.
    pub location: BlobLocation,
}

/// A layer of a resolved image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageLayer {
    /// Of the uncompressed tar.
    pub diff_id: DiffId,
    /// The blob as the manifest states it.
    pub descriptor: Descriptor,
}

/// Where the blobs of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobLocation {
    /// In a registry.
    Registry(Reference),
    /// In an OCI layout (directory or tar); the number is the session's.
    Layout(usize),
    /// In kiln's own store.
    Store,
}

/// Finds images. The builder implements it over named contexts, the store and registries.
pub trait ImageResolver: Sync {
    /// Reads manifest and config of an image.
    ///
    /// # Errors
    /// A message for people: what was looked for, where, and what to do.
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError>;
}

/// Why an image was not found.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ResolveError {
    /// One line.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// An image to be made: one for each platform.
#[derive(Debug, Clone)]
pub struct PlannedImage {
    /// Platform.
    pub platform: Platform,
    /// Final config; `rootfs`, `history` and `created` are filled in when the layers are known.
    pub config: ImageConfig,
    /// The file system.
    pub result: VertexId,
    /// History of the base image, as it stands there.
    pub base_history: Vec<History>,
    /// History of this build, in order.
    pub history: Vec<PlannedHistory>,
}

/// One history entry of this build.
#[derive(Debug, Clone)]
pub struct PlannedHistory {
    /// Text as BuildKit writes it.
    pub created_by: String,
    /// `buildkit.dockerfile.v0`, or empty.
    pub comment: String,
    /// The vertex whose layer it describes; `None` for metadata.
    pub vertex: Option<VertexId>,
}

/// A planned build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Vertices.
    pub graph: Graph,
    /// Images, in the order of `--platform`.
    pub images: Vec<PlannedImage>,
    /// Warnings found while planning.
    pub diagnostics: Vec<kiln_grammar::diagnostic::Diagnostic>,
    /// Images that stages start from, by the name in FROM with its variables replaced; of several platforms the first.
    pub base_images: BTreeMap<String, Arc<ResolvedImage>>,
    /// Values of `--build-arg` that nothing consumed.
    pub unused_build_args: Vec<String>,
    /// Epoch of the build in seconds, from the build argument, the global ARG or the environment.
    pub source_date_epoch: Option<i64>,
}

/// What the user asked for, as far as planning needs it.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, already completed from the environment.
    pub build_args: BTreeMap<String, String>,
    /// `--label`, in order.
    pub labels: Vec<(String, String)>,
    /// `--env`, for the final image only, in order.
    pub env: Vec<(String, String)>,
    /// `--unsetenv`: what the final image does not get of the Buildfile and its base.
    pub unset_env: Vec<String>,
    /// `--unsetlabel`, likewise.
    pub unset_labels: Vec<String>,
    /// `--platform`; empty means the host's.
    pub platforms: Vec<Platform>,
    /// `--network`.
    pub network: NetworkMode,
    /// `--allow`: entitlements such as `network.host`, `security.insecure`.
    pub allow: Vec<String>,
    /// Names of `--build-context` and what kind each is.
    pub contexts: BTreeMap<String, ContextKind>,
    /// The main context; `Local` unless it is a git or http URL.
    pub main_context: ContextKind,
    /// Whether everything is to run again.
    pub no_cache: bool,
    /// `--no-cache-filter` stages.
    pub no_cache_stages: Vec<String>,
    /// Names of `--add-host`.
    pub extra_host_names: Vec<String>,
    /// `--mount`, for every RUN.
    pub mounts: Vec<String>,
    /// `--ulimit`.
    pub ulimits: Vec<String>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--cap-add` and so on.
    pub privileges: Privileges,
    /// SOURCE_DATE_EPOCH of the environment.
    pub environment_epoch: Option<String>,
    /// What may be taken from outside.
    pub policies: Vec<Policy>,
}

/// What a context is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ContextKind {
    /// A directory of the client.
    #[default]
    Local,
    /// No context at all (Buildfile on stdin).
    None,
    /// An image (`docker-image://REF`, without the prefix) or `scratch`.
    Image(String),
    /// An OCI layout; resolved by the builder through [`ImageResolver`] under `oci-layout://…` as written.
    Layout(String),
    /// A git reference.
    Git(String),
    /// An http URL of an archive.
    Http(String),
}
