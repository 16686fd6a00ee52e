//! The executor of this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::base::cancel::CancelToken;
use crate::base::digest::{CacheKey, Digest, KeyHasher};
use crate::base::events::EventSink;
use crate::context::git::GitEnvironment;
use crate::context::local::LocalContext;
use crate::image::platform::Platform;
use crate::net::Net;
use crate::plan::graph::{CopySource, CopySpec, Graph, Op, VertexId};
use crate::record::listing::{Listing, Listings};
use crate::sandbox::agent::Agent;
use crate::sandbox::cgroup::Limits;
use crate::sandbox::net::hosts::ExtraHost;
use crate::sandbox::net::resolv::{DnsOverrides, HostDns};
use crate::sandbox::net::{NAMESPACE_ADDRESS_V4, NetworkMode};
use crate::sandbox::runner::Sandboxes;
use crate::sandbox::spec::{SandboxLabels, SandboxNetwork};
use crate::snapshot::overlay::Snapshots;
use crate::snapshot::written::Written;
use crate::store::Store;
use crate::store::records::StepResult;
use crate::sys::seccomp::Program;

use super::commit::{commit, merge, scratch};
use super::executor::{Executor, VertexResult};
use super::image::{self, LayerFetcher};
use super::imports::Imports;
use super::run::Wrecks;
use super::trust::Bundle;
use super::{OpError, mounted, run, sources};

/// Where a secret's value is.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// Read from the environment by the command line.
    Value(Vec<u8>),
    /// Read when a step needs it.
    File(PathBuf),
}

/// What every RUN of a build gets and what is in no key.
#[derive(Debug, Default)]
pub struct RunDefaults {
    /// Proxy variables, `KEY=VALUE`.
    pub proxy_env: Vec<String>,
    /// `--add-host`.
    pub hosts: Vec<ExtraHost>,
    /// `--dns` and so on.
    pub dns: DnsOverrides,
    /// `--secret`.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `--ssh`.
    pub agents: BTreeMap<String, Agent>,
    /// Directories of PATH, where emulators may be.
    pub programs: Vec<PathBuf>,
    /// `--ca-bundle`.
    pub authorities: Option<Bundle>,
    /// `--memory`, `--cpus` and so on.
    pub limits: Limits,
    /// `--cgroup-parent`.
    pub cgroup_parent: Option<String>,
    /// `--security-opt seccomp=FILE`: the program, in place of docker's default.
    pub seccomp: Option<Program>,
    /// `--device`: path on the host, and inside.
    pub devices: Vec<(String, String)>,
    /// `--security-opt apparmor=…` and `label=…`.
    pub labels: SandboxLabels,
}

impl RunDefaults {
    /// The values of all secrets that can be read, for masking them.
    pub fn secret_values(&self) -> Vec<Vec<u8>> {
        let read = |source: &SecretSource| match source {
            SecretSource::Value(value) => Some(value.clone()),
            // The step that needs it tells why it cannot be read.
            SecretSource::File(path) => run::read_secret_file(path).ok().flatten(),
        };
        self.secrets.values().filter_map(read).collect()
    }
}

/// Executes vertices on this machine.
pub struct LocalExecutor<'a> {
    /// The store.
    pub store: &'a Store,
    /// Its snapshots.
    pub snapshots: Snapshots<'a>,
    /// Starts commands.
    pub sandboxes: &'a Sandboxes,
    /// Brings layers.
    pub fetcher: &'a dyn LayerFetcher,
    /// Downloads.
    pub net: &'a Net,
    /// What git may see of the environment.
    pub git: &'a GitEnvironment,
    /// Directories of the client by context name; the main one's is empty.
    pub contexts: &'a BTreeMap<String, LocalContext>,
    /// What RUN gets.
    pub defaults: &'a RunDefaults,
    /// The host's name servers.
    pub dns: HostDns,
    /// Progress.
    pub events: EventSink,
    /// Stops everything.
    pub cancel: CancelToken,
    /// This machine.
    pub host: Platform,
    /// Downloads and checkouts of this build by vertex.
    pub fetched: sources::Fetched,
    /// Remote caches, when there are any.
    pub imports: Option<&'a Imports<'a>>,
    /// Where listings of what COPY reads are kept, when the build is recorded.
    pub listings: Option<Listings>,
    /// Keeps what failed attempts of RUN wrote.
    pub wrecks: Option<Wrecks>,
}

impl LocalExecutor<'_> {
    pub(super) fn resolv_conf(&self, network: SandboxNetwork, ipv6: bool, helped: bool) -> String {
        let mode = match network {
            SandboxNetwork::Private => NetworkMode::Private { ipv6 },
            SandboxNetwork::None => NetworkMode::None,
            SandboxNetwork::Host => NetworkMode::Host,
        };
        let conf = self.dns.for_sandbox(mode, &self.defaults.dns);
        // Nothing is redirected there: the forwarder has an address of its own.
        if helped { conf.with_server(NAMESPACE_ADDRESS_V4.into()) } else { conf }.to_text()
    }

    pub(super) fn nameservers(&self) -> Vec<SocketAddr> {
        self.dns.upstream_servers(&self.defaults.dns)
    }

    /// A result of this machine.
    fn stored(&self, key: &CacheKey) -> Result<Option<StepResult>, OpError> {
        let Some(result) = self.store.use_step(key)? else { return Ok(None) };
        if self.snapshots.is_complete(&result.state) {
            return Ok(Some(result));
        }
        // Somebody removed a snapshot: the step simply runs again.
        self.store.database().forget_step(key)?;
        self.store.forget_lost()?;
        Ok(None)
    }

    /// Keeps word of the files that a digest stands for, so that a later build can name the one that changed.
    fn keep_listing(&self, digest: &Digest, parts: &[sources::Selected<'_>]) {
        if let Some(listings) = &self.listings {
            listings.keep(digest, || {
                let mut listing = Listing::new();
                parts.iter().for_each(|part| part.list(&mut listing));
                listing
            });
        }
    }

    fn copy_inputs(&self, spec: &CopySpec) -> Vec<usize> {
        let mut inputs: Vec<usize> = spec
            .sources
            .iter()
            .filter_map(|source| match source {
                CopySource::Path { input, .. } | CopySource::Download { input } => Some(*input),
                CopySource::Inline { .. } => None,
            })
            .collect();
        inputs.sort_unstable();
        inputs.dedup();
        inputs
    }
}

fn file_systems(inputs: &[VertexResult]) -> Vec<&StepResult> {
    // Mounts name inputs by number; the inputs of RUN are all file systems, so the numbers stay.
    inputs.iter().filter_map(VertexResult::fs).collect()
}

impl Executor for LocalExecutor<'_> {
    type Error = OpError;

    fn outside(&self, graph: &Graph, id: VertexId) -> Result<Option<Digest>, OpError> {
        match &graph.vertex(id).op {
            Op::Http(spec) => sources::http(self, id, spec).map(Some),
            Op::Git(spec) => sources::git_commit(self, id, spec).map(Some),
            Op::Copy(spec) => {
                let mut hasher = KeyHasher::new("kiln/outside/v1");
                let mut parts = Vec::new();
                for input in self.copy_inputs(spec) {
                    let Some(source) = graph.vertex(id).inputs.get(input) else { continue };
                    if let Op::Local(local) = &graph.vertex(*source).op {
                        let part = sources::selected_of_context(self, &local.context, spec, input)?;
                        hasher.digest(&part.digest);
                        parts.push(part);
                    }
                }
                if parts.is_empty() {
                    return Ok(None);
                }
                let digest = hasher.finish();
                self.keep_listing(&digest, &parts);
                Ok(Some(digest))
            }
            Op::Run(spec) => run::secrets_in_key(self, spec),
            _ => Ok(None),
        }
    }

    fn expect(&self, steps: &[(CacheKey, &str)]) {
        if let Some(imports) = self.imports {
            imports.expect(steps);
        }
    }

    fn lookup(&self, key: &CacheKey) -> Result<Option<StepResult>, OpError> {
        match (self.stored(key)?, self.imports) {
            (None, Some(imports)) => imports.lookup(key),
            (stored, _) => Ok(stored),
        }
    }

    fn lookup_content(
        &self,
        key: &CacheKey,
        shared: Option<&CacheKey>,
    ) -> Result<Option<StepResult>, OpError> {
        match (self.stored(key)?, self.imports) {
            (None, Some(imports)) => imports.lookup_content(key, shared.unwrap_or(key)),
            (stored, _) => Ok(stored),
        }
    }

    fn claim(&self, key: &CacheKey) -> Result<Option<Box<dyn Send>>, OpError> {
        Ok(self.store.claim_step(key)?.map(|claim| Box::new(claim) as Box<dyn Send>))
    }

    fn save(&self, keys: &[CacheKey], result: &StepResult, name: &str, took_ms: u64) -> Result<(), OpError> {
        match self.imports {
            // A row may lag a snapshot, never lead it.
            Some(imports) if !self.snapshots.is_complete(&result.state) => {
                imports.save_later(keys, result, name, took_ms);
                Ok(())
            }
            _ => Ok(self.store.database().add_step(keys, result, name, took_ms)?),
        }
    }

    fn contents(&self, graph: &Graph, id: VertexId, inputs: &[VertexResult]) -> Result<Vec<Digest>, OpError> {
        let mut digests = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            digests.push(match (input, &graph.vertex(id).op) {
                // Content of contexts is in the key already, see `outside`.
                (VertexResult::Local, _) => KeyHasher::new("kiln/local/v1").finish(),
                (VertexResult::File(file), _) => sources::digest_of_download(file),
                // COPY --from reads the selected files only, so only they count.
                (VertexResult::Fs(step), Op::Copy(spec)) if index > 0 => {
                    let part = sources::selected_of_state(self, &step.state, spec, index)?;
                    self.keep_listing(&part.digest, std::slice::from_ref(&part));
                    part.digest
                }
                // Likewise a bind mount: what it shows of another stage.
                (VertexResult::Fs(step), Op::Run(spec)) if index > 0 => {
                    mounted::of_state(self, &step.state, spec, index)?
                }
                (VertexResult::Fs(step), _) => step.state.identity,
            });
        }
        Ok(digests)
    }

    fn shared_contents(&self, inputs: &[VertexResult], contents: &[Digest]) -> Option<Vec<Digest>> {
        // What is not an identity is made of files that were read, and the same everywhere.
        let shared: Vec<Digest> = inputs
            .iter()
            .zip(contents)
            .map(|(input, content)| match input {
                VertexResult::Fs(step) if step.state.identity == *content => *step.state.shared_identity(),
                _ => *content,
            })
            .collect();
        (shared != contents).then_some(shared)
    }

    fn execute(&self, graph: &Graph, id: VertexId, inputs: &[VertexResult]) -> Result<VertexResult, OpError> {
        if self.cancel.is_cancelled() {
            return Err(OpError::Cancelled);
        }
        let vertex = graph.vertex(id);
        let step = id.0 + 1;
        let base = || {
            inputs.first().and_then(VertexResult::fs).ok_or_else(|| {
                OpError::Unsupported(format!("`{}` has no file system to change", vertex.name))
            })
        };
        let result = match &vertex.op {
            Op::Scratch => StepResult::source(scratch()),
            Op::Image(spec) => {
                let context = image::Context {
                    store: self.store,
                    snapshots: &self.snapshots,
                    fetcher: self.fetcher,
                    events: &self.events,
                    cancel: &self.cancel,
                    step,
                };
                image::execute(spec, &context)?
            }
            Op::Local(_) => return Ok(VertexResult::Local),
            Op::Http(_) => return sources::downloaded(self, id).map(VertexResult::File),
            Op::Git(spec) => sources::checkout(self, id, spec)?,
            Op::Run(spec) => run::execute(self, vertex, spec, step, &file_systems(inputs))?,
            Op::Mkdir(spec) => {
                let base = base()?;
                let begun = self.snapshots.begin(&base.state.layers)?;
                let root = self.snapshots.writable(&base.state.layers, &begun)?;
                super::copy::mkdir(spec, &root)?;
                drop(root);
                commit(self, base, begun, false, &Written::default())?
            }
            Op::Copy(spec) => {
                let base = base()?;
                let begun = self.snapshots.begin(&base.state.layers)?;
                let root = self.snapshots.writable(&base.state.layers, &begun)?;
                let written = sources::copy(self, graph, vertex, spec, inputs, &root, step)?;
                drop(root);
                commit(self, base, begun, false, &written)?
            }
            Op::Merge => {
                let link = inputs.get(1).and_then(VertexResult::state).ok_or(OpError::Cancelled)?;
                merge(base()?, link)
            }
        };
        Ok(VertexResult::Fs(result))
    }
}
