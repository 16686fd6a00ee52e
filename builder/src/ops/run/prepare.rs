//! What a RUN finds besides its root: mounts, sockets, secrets, an emulator.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::FileType;

use crate::base::limits::MAX_SECRET_BYTES;
use crate::image::platform::Platform;
use crate::ops::caches::Claimed;
use crate::ops::local::{LocalExecutor, SecretSource};
use crate::ops::trust::{self, Trusted};
use crate::ops::{OpError, stubs};
use crate::plan::graph::{MountSource, MountSpec, RunSpec};
use crate::sandbox::agent::Agent;
use crate::sandbox::emulate::{self, Handler, Support};
use crate::sandbox::spec::{SandboxMount, SandboxSource};
use crate::snapshot::overlay::Begun;
use crate::store::records::{FsState, StepResult};
use crate::sys::rootdir::Last;

/// Longest `NAME=VALUE` that the kernel takes, with its end (`MAX_ARG_STRLEN`).
const MAX_VARIABLE_BYTES: usize = 128 * 1024;

/// Brings all of it about.
pub(super) fn prepare(
    executor: &LocalExecutor<'_>,
    platform: &Platform,
    spec: &RunSpec,
    inputs: &[&StepResult],
    base: &FsState,
    caches: Caches,
) -> Result<Prepared, OpError> {
    let mut prepared = Prepared { caches, ..Prepared::for_platform(executor, platform)? };
    for mount in parents_first(&spec.mounts) {
        prepare_mount(executor, mount, spec, inputs, &mut prepared)?;
    }
    prepared.trust(executor, base)?;
    for (name, content) in &spec.scripts {
        prepared.mounts.push(SandboxMount {
            target: format!("/dev/pipes/{name}"),
            source: SandboxSource::File {
                content: content.clone().into_bytes(),
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
            read_only: true,
        });
    }
    Ok(prepared)
}

/// The directories of cache mounts.
#[derive(Default)]
pub(super) struct Caches {
    /// By id, and what holds them.
    pub claimed: Claimed,
    /// Writes are thrown away.
    pub throwaway: bool,
}

/// What the mounts of one RUN need until it has ended.
#[derive(Default)]
pub(super) struct Prepared {
    pub mounts: Vec<SandboxMount>,
    /// Mount points for the stub directory.
    pub stubs: Vec<(String, bool)>,
    /// Variables that name sockets.
    pub env: Vec<String>,
    /// Variables that hold secrets.
    pub secret_env: Vec<String>,
    pub caches: Caches,
    pub agents: Vec<Agent>,
    /// Where the files of `--ca-bundle` are.
    pub trusted: Option<Trusted>,
    /// Upper directories whose content is thrown away.
    pub scratch: Vec<Begun>,
    /// Emulator to register.
    pub handler: Option<Handler>,
}

impl Prepared {
    /// With what programs of another processor need.
    pub(super) fn for_platform(executor: &LocalExecutor<'_>, platform: &Platform) -> Result<Self, OpError> {
        let mut prepared = Self::default();
        match emulate::support(
            &executor.host.architecture,
            &platform.architecture,
            &executor.defaults.programs,
        ) {
            Support::Native | Support::Registered => {}
            Support::Own(handler) => prepared.handler = Some(handler),
            Support::Visible(interpreter) => {
                let path = interpreter.display().to_string();
                prepared.stubs.push((path.clone(), false));
                let source = SandboxSource::HostFile { path: path.clone() };
                prepared.mounts.push(SandboxMount { target: path, source, read_only: true });
            }
            Support::Missing(reason) => {
                return Err(OpError::ForeignPlatform { platform: platform.to_string(), reason });
            }
        }
        Ok(prepared)
    }

    /// With the authorities of `--ca-bundle`.
    pub(super) fn trust(&mut self, executor: &LocalExecutor<'_>, base: &FsState) -> Result<(), OpError> {
        let Some(bundle) = &executor.defaults.authorities else { return Ok(()) };
        self.trusted = Some(trust::lower(executor, base, bundle)?);
        for mount in bundle.mounts() {
            self.stubs.push((mount.target.clone(), false));
            self.mounts.push(mount);
        }
        self.env.extend(trust::environment());
        Ok(())
    }

    fn add(&mut self, spec: &MountSpec, source: SandboxSource, is_directory: bool) {
        self.stubs.push((spec.target.clone(), is_directory));
        self.mounts.push(SandboxMount { target: spec.target.clone(), source, read_only: spec.read_only });
    }
}

/// A mount covers those below it that were there before, so parents come first whatever the order written (as in
/// BuildKit); of equal targets the last one holds.
fn parents_first(mounts: &[MountSpec]) -> Vec<&MountSpec> {
    let mut ordered: Vec<&MountSpec> = mounts.iter().collect();
    ordered.sort_by(|a, b| a.target.split('/').cmp(b.target.split('/')));
    ordered
}

/// Mount points below a read-only bind, which nobody could make in it: relative to the bind's source.
fn points_below(mount: &MountSpec, real: &str, spec: &RunSpec) -> Vec<(String, bool)> {
    let below = |target: &str| Some(target.strip_prefix(&mount.target)?.strip_prefix('/')?.to_owned());
    let point = |other: &MountSpec| {
        let rest = below(&other.target).filter(|rest| !rest.is_empty())?;
        let is_file = matches!(other.source, MountSource::Secret { .. } | MountSource::Ssh { .. });
        Some((format!("{real}/{rest}"), !is_file))
    };
    spec.mounts.iter().filter_map(point).collect()
}

fn prepare_mount(
    executor: &LocalExecutor<'_>,
    mount: &MountSpec,
    spec: &RunSpec,
    inputs: &[&StepResult],
    prepared: &mut Prepared,
) -> Result<(), OpError> {
    match &mount.source {
        MountSource::Bind { input, path } => {
            let missing = || OpError::MountSource { path: path.clone() };
            let state = &inputs.get(*input).ok_or_else(missing)?.state;
            let view = executor.snapshots.view(&state.layers)?;
            let stat = view.stat(path.as_bytes(), Last::Follow)?.ok_or_else(missing)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
            let (lowers, upper) = if mount.read_only {
                let mut lowers = executor.snapshots.read_only_lowers(&state.layers)?;
                let real = view.entry(path.as_bytes(), Last::Follow, None)?.real;
                let points = points_below(mount, &String::from_utf8_lossy(&real), spec);
                if is_directory && !points.is_empty() {
                    lowers.push(stubs::only(executor.store, &points)?);
                }
                (lowers, None)
            } else {
                let begun = executor.snapshots.begin(&state.layers)?;
                let upper = begun.relative();
                prepared.scratch.push(begun);
                (executor.snapshots.read_only_lowers(&state.layers)?, Some(upper))
            };
            let source = SandboxSource::Layers { lowers, upper, path: path.clone() };
            prepared.add(mount, source, is_directory);
        }
        MountSource::Cache { id, .. } => {
            let path = prepared.caches.claimed.directories.get(id).cloned().ok_or(OpError::Cancelled)?;
            let source = if prepared.caches.throwaway {
                let begun = executor.snapshots.begin(&[])?;
                let upper = Some(begun.relative());
                prepared.scratch.push(begun);
                SandboxSource::Layers { lowers: vec![path], upper, path: "/".to_owned() }
            } else {
                SandboxSource::Directory { path }
            };
            prepared.add(mount, source, true);
        }
        MountSource::Tmpfs { size_bytes } => {
            prepared.add(mount, SandboxSource::Tmpfs { size_bytes: *size_bytes }, true);
        }
        MountSource::Secret { id, env, required, mode, uid, gid, cache_key: _ } => {
            let Some(value) = read_secret(executor, id)? else {
                return if *required { Err(OpError::MissingSecret { id: id.clone() }) } else { Ok(()) };
            };
            if let Some(name) = env {
                let text = std::str::from_utf8(&value).ok().filter(|text| !text.contains('\0'));
                let text = text.ok_or_else(|| OpError::BinarySecret { id: id.clone() })?;
                if name.len() + text.len() + 2 > MAX_VARIABLE_BYTES {
                    return Err(OpError::LargeVariable { id: id.clone(), limit: MAX_VARIABLE_BYTES });
                }
                prepared.secret_env.push(format!("{name}={text}"));
            }
            if !mount.target.is_empty() {
                let source = SandboxSource::File { content: value, mode: *mode, uid: *uid, gid: *gid };
                prepared.add(mount, source, false);
            }
        }
        MountSource::Ssh { id, required, mode, uid, gid } => match executor.defaults.agents.get(id) {
            Some(agent) => {
                if !prepared.env.iter().any(|pair| pair.starts_with("SSH_AUTH_SOCK=")) {
                    prepared.env.push(format!("SSH_AUTH_SOCK={}", mount.target));
                }
                prepared.agents.push(agent.clone());
                prepared.add(mount, SandboxSource::Socket { mode: *mode, uid: *uid, gid: *gid }, false);
            }
            None if *required => return Err(OpError::MissingAgent { id: id.clone() }),
            None => {}
        },
    }
    Ok(())
}

pub(super) fn read_secret(executor: &LocalExecutor<'_>, id: &str) -> Result<Option<Vec<u8>>, OpError> {
    let fail = |source| OpError::Secret { id: id.to_owned(), source };
    match executor.defaults.secrets.get(id) {
        None => Ok(None),
        Some(SecretSource::Value(value)) => Ok(Some(value.clone())),
        Some(SecretSource::File(path)) => match read_secret_file(path).map_err(fail)? {
            None => Err(OpError::LargeSecret { id: id.to_owned(), limit: MAX_SECRET_BYTES }),
            value => Ok(value),
        },
    }
}

/// The content of a secret's file; `None` when it is too large.
pub(in crate::ops) fn read_secret_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_SECRET_BYTES).then_some(bytes))
}
