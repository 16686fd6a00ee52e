//! RUN: from a spec to a command in a sandbox, and its diff.
//!
//! Invariants:
//! - secrets are read here and nowhere else; they go to the sandbox, and to what masks them in records;
//! - the snapshot is committed only after the command ended with status 0.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, unlinkat};

use crate::base::digest::{Digest, KeyHasher};
use crate::base::events::{Event, Stream};
use crate::base::limits::MAX_SECRET_BYTES;
use crate::image::platform::Platform;
use crate::plan::graph::{Guards, MountSource, MountSpec, NetworkMode, RunSpec, SecurityMode, Vertex};
use crate::sandbox::agent::{self, Agent};
use crate::sandbox::emulate::{self, Handler, Support};
use crate::sandbox::net::hosts::hosts_file;
use crate::sandbox::net::{self, Policy};
use crate::sandbox::runner::{Ended, SandboxError, Stop, Streams, readable};
use crate::sandbox::spec::{
    SandboxDevice, SandboxHelper, SandboxMount, SandboxNetwork, SandboxSeccomp, SandboxSource, SandboxSpec,
};
use crate::snapshot::overlay::Begun;
use crate::store::records::{FsState, StepResult};
use crate::sys::capability::CapabilitySet;
use crate::sys::rootdir::{Last, RootDir};

use super::caches::{self, Claimed};
use super::commit::commit;
use super::local::{LocalExecutor, SecretSource};
use super::trust::{self, Trusted};
use super::{OpError, guards, stubs};

/// By which `host-gateway` reaches the host from inside a sandbox.
const HOST_GATEWAY: IpAddr = IpAddr::V4(net::HOST_GATEWAY_V4);
/// /dev/shm unless `--shm-size` says otherwise; docker's default.
const SHM_SIZE_BYTES: u64 = 64 * 1024 * 1024;

/// Longest `NAME=VALUE` that the kernel takes, with its end (`MAX_ARG_STRLEN`).
const MAX_VARIABLE_BYTES: usize = 128 * 1024;

/// Runs the command and commits what it changed.
pub(super) fn execute(
    executor: &LocalExecutor<'_>,
    vertex: &Vertex,
    spec: &RunSpec,
    step: u32,
    inputs: &[&StepResult],
) -> Result<StepResult, OpError> {
    let base =
        inputs.first().copied().ok_or_else(|| OpError::Unsupported("RUN without a base".to_owned()))?;
    let started = Instant::now();
    let send = |stream: Stream, data: &[u8]| {
        executor.events.send(Event::Log { step, stream, at: started.elapsed(), data: data.to_vec() });
    };
    guards::attempts(
        executor,
        &vertex.guards,
        |failure| send(Stream::Stderr, failure.as_bytes()),
        || attempt(executor, vertex, spec, inputs, base, &mut |stream, data| send(stream, data)),
    )
}

/// One attempt, on a fresh snapshot and with fresh mounts.
fn attempt(
    executor: &LocalExecutor<'_>,
    vertex: &Vertex,
    spec: &RunSpec,
    inputs: &[&StepResult],
    base: &StepResult,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<StepResult, OpError> {
    let begun = executor.snapshots.begin(&base.state.layers)?;
    let mut prepared = Prepared::for_platform(executor, &vertex.platform)?;
    prepared.caches = caches::claim(executor, vertex, spec, inputs)?;
    for mount in parents_first(&spec.mounts) {
        prepare_mount(executor, mount, spec, inputs, &mut prepared)?;
    }
    prepared.trust(executor, &base.state)?;
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
    let guards = &vertex.guards;
    let ended = start(executor, spec, guards, &base.state, &begun, &prepared, Streams::Captured(output))?;
    guards::verdict(spec, &guards::limits(executor, guards), &ended, |text| executor.events.warn(text))?;
    let upper = executor.snapshots.layer_dir_begun(&begun)?;
    if let (Some(trusted), Some(bundle)) = (&prepared.trusted, &executor.defaults.authorities) {
        trust::restore(&upper, &executor.snapshots.view(&base.state.layers)?, trusted, bundle)?;
    }
    remove_mount_points(&upper, &ended.made_mount_points);
    drop((prepared.scratch, prepared.caches, upper));
    commit(executor, base, begun, false)
}

/// Runs a command on a file system with kiln's own standard streams; what it changes is thrown away (`kiln run`).
///
/// # Errors
/// When the command could not be started; a command that fails is not an error.
pub fn interactive(
    executor: &LocalExecutor<'_>,
    base: &FsState,
    platform: &Platform,
    spec: &RunSpec,
) -> Result<Ended, OpError> {
    let begun = executor.snapshots.begin(&base.layers)?;
    let mut prepared = Prepared::for_platform(executor, platform)?;
    prepared.trust(executor, base)?;
    start(executor, spec, &Guards::default(), base, &begun, &prepared, Streams::Inherited)
}

fn start(
    executor: &LocalExecutor<'_>,
    spec: &RunSpec,
    guards: &Guards,
    base: &FsState,
    begun: &Begun,
    prepared: &Prepared,
    streams: Streams<'_>,
) -> Result<Ended, OpError> {
    let mut sandbox = sandbox_spec(executor, spec, base, begun, prepared)?;
    sandbox.group = guards::group(executor, &guards::limits(executor, guards));
    let serve = |sockets: Vec<OwnedFd>| agent::serve(sockets, &prepared.agents);
    let stop = Stop { cancel: &executor.cancel, timeout: guards.timeout };
    let ended = executor.sandboxes.run(&sandbox, policy(executor, spec), streams, &serve, &stop);
    ended.map_err(|error| match error {
        SandboxError::TimedOut(limit) => {
            OpError::TimedOut { command: spec.args.join(" "), limit: readable(limit) }
        }
        other => other.into(),
    })
}

/// What the mounts of one RUN need until it has ended.
#[derive(Default)]
struct Prepared {
    mounts: Vec<SandboxMount>,
    /// Mount points for the stub directory.
    stubs: Vec<(String, bool)>,
    /// Variables that name sockets.
    env: Vec<String>,
    /// Variables that hold secrets.
    secret_env: Vec<String>,
    caches: Claimed,
    agents: Vec<Agent>,
    /// Where the files of `--ca-bundle` are.
    trusted: Option<Trusted>,
    /// Upper directories whose content is thrown away.
    scratch: Vec<Begun>,
    /// Emulator to register.
    handler: Option<Handler>,
}

impl Prepared {
    /// With what programs of another processor need.
    fn for_platform(executor: &LocalExecutor<'_>, platform: &Platform) -> Result<Self, OpError> {
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
    fn trust(&mut self, executor: &LocalExecutor<'_>, base: &FsState) -> Result<(), OpError> {
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
            let path = prepared.caches.directories.get(id).cloned().ok_or(OpError::Cancelled)?;
            prepared.add(mount, SandboxSource::Directory { path }, true);
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

fn read_secret(executor: &LocalExecutor<'_>, id: &str) -> Result<Option<Vec<u8>>, OpError> {
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
pub(super) fn read_secret_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_SECRET_BYTES).then_some(bytes))
}

/// What the key holds of secrets whose mounts say `cachekey=true`: HMACs, so that who has the key but not the store
/// learns nothing of a value, not even by guessing.
pub(super) fn secrets_in_key(
    executor: &LocalExecutor<'_>,
    spec: &RunSpec,
) -> Result<Option<Digest>, OpError> {
    let mut hasher = KeyHasher::new("kiln/secrets/v1");
    let mut any = false;
    for mount in &spec.mounts {
        let MountSource::Secret { id, cache_key: true, .. } = &mount.source else { continue };
        any = true;
        hasher.field(id.as_bytes());
        match read_secret(executor, id)? {
            Some(value) => hasher.digest(&executor.store.secret_fingerprint(id, &value)?),
            None => hasher.field(b""),
        };
    }
    Ok(any.then(|| hasher.finish()))
}

fn sandbox_spec(
    executor: &LocalExecutor<'_>,
    spec: &RunSpec,
    base: &FsState,
    begun: &Begun,
    prepared: &Prepared,
) -> Result<SandboxSpec, OpError> {
    let mut lowers: Vec<String> = prepared.trusted.iter().map(|trusted| trusted.lower.clone()).collect();
    lowers.extend(executor.snapshots.lowers(&base.layers)?);
    lowers.push(stubs::directory(executor.store, &prepared.stubs)?);
    let network = match spec.network {
        NetworkMode::Default => SandboxNetwork::Private,
        NetworkMode::None => SandboxNetwork::None,
        NetworkMode::Host => SandboxNetwork::Host,
    };
    let helper = match network {
        SandboxNetwork::Private => executor.sandboxes.network_helper()?,
        SandboxNetwork::None | SandboxNetwork::Host => None,
    };
    let helper = match helper {
        Some(helper) => {
            Some(SandboxHelper { helper, refused: net::kept_from_helpers().map_err(SandboxError::Network)? })
        }
        None => None,
    };
    let mut env = spec.env.clone();
    for pair in executor.defaults.proxy_env.iter().chain(&prepared.env) {
        let name = pair.split('=').next().unwrap_or_default();
        // What the Buildfile declares wins over a proxy taken from outside.
        if !env.iter().any(|have| have.split('=').next() == Some(name)) {
            env.push(pair.clone());
        }
    }
    // A secret is asked for by this very RUN, so it wins over an ENV of that name, as in BuildKit.
    for pair in &prepared.secret_env {
        let name = pair.split('=').next();
        env.retain(|have| have.split('=').next() != name);
        env.push(pair.clone());
    }
    let bad_host = |e: crate::sandbox::net::hosts::HostsError| OpError::Setting {
        what: "host",
        value: spec.hostname.clone(),
        reason: e.to_string(),
    };
    let insecure = spec.security == SecurityMode::Insecure;
    let capabilities = match &spec.privileges.capabilities {
        _ if insecure => CapabilitySet::ALL,
        None => CapabilitySet::DEFAULT,
        Some(names) => CapabilitySet::from_names(names).map_err(|e| OpError::Setting {
            what: "capability",
            value: names.join(","),
            reason: e.to_string(),
        })?,
    };
    // Routes keep a helped network from the host, and these could change them or go around.
    let capabilities = match &helper {
        Some(_) if !insecure => capabilities.without(CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW)),
        _ => capabilities,
    };
    // There is no way to the host's loopback through a helper.
    let gateway = helper.is_none().then_some(HOST_GATEWAY);
    let ipv6 = helper.is_none() && net::host_has_ipv6();
    let resolv_conf = executor.resolv_conf(network, ipv6, helper.is_some());
    let seccomp = match (&spec.privileges.seccomp, &executor.defaults.seccomp) {
        _ if insecure => SandboxSeccomp::Unconfined,
        (None, _) => SandboxSeccomp::Default,
        (Some(_), Some(program)) => SandboxSeccomp::Program(program.to_bytes()),
        (Some(_), None) => SandboxSeccomp::Unconfined,
    };
    Ok(SandboxSpec {
        lowers,
        upper: begun.relative(),
        args: spec.args.clone(),
        env,
        cwd: spec.cwd.clone(),
        user: spec.user.clone(),
        hostname: spec.hostname.clone(),
        mounts: prepared.mounts.clone(),
        network,
        helper,
        insecure,
        capabilities: capabilities.bits(),
        seccomp,
        no_new_privileges: spec.privileges.no_new_privileges,
        labels: executor.defaults.labels.clone(),
        devices: devices(executor, spec),
        handler: prepared.handler.clone(),
        group: None,
        limits: limits(&spec.ulimits)?,
        shm_size_bytes: spec.shm_size_bytes.unwrap_or(SHM_SIZE_BYTES),
        resolv_conf: Some(resolv_conf),
        hosts: Some(hosts_file(&spec.hostname, &executor.defaults.hosts, gateway).map_err(bad_host)?),
        ids: executor.sandboxes.ids().map_err(OpError::io("read the id maps"))?,
        ipv6,
        terminal: false,
    })
}

/// Devices of `--device`; those that the build was not given are left out.
fn devices(executor: &LocalExecutor<'_>, spec: &RunSpec) -> Vec<SandboxDevice> {
    let given =
        executor.defaults.devices.iter().filter(|(_, inside)| spec.privileges.devices.contains(inside));
    given
        .filter_map(|(host, inside)| {
            let source = executor.sandboxes.device_source(host)?;
            Some(SandboxDevice { source, target: inside.clone() })
        })
        .collect()
}

fn policy(executor: &LocalExecutor<'_>, spec: &RunSpec) -> Policy {
    if spec.network != NetworkMode::Default {
        return Policy::default();
    }
    let gateway =
        executor.defaults.hosts.iter().any(|host| host.address == net::hosts::ExtraAddress::HostGateway);
    Policy {
        nameservers: executor.nameservers(),
        host_gateway: gateway.then_some(HOST_GATEWAY),
        ..Policy::default()
    }
}

/// `nofile=123:456` and so on, as numbers.
fn limits(values: &[String]) -> Result<Vec<(u32, u64, u64)>, OpError> {
    values
        .iter()
        .map(|value| {
            let fail = |reason: &str| OpError::Setting {
                what: "ulimit",
                value: value.clone(),
                reason: reason.to_owned(),
            };
            let (name, numbers) = value.split_once('=').ok_or_else(|| fail("it has no `=`"))?;
            let (soft, hard) = numbers.split_once(':').unwrap_or((numbers, numbers));
            let number = |text: &str| match text {
                "-1" | "unlimited" => Ok(u64::MAX),
                text => text.parse::<u64>().map_err(|_| fail("it is not a number")),
            };
            let resource = match name {
                "core" => libc::RLIMIT_CORE,
                "cpu" => libc::RLIMIT_CPU,
                "data" => libc::RLIMIT_DATA,
                "fsize" => libc::RLIMIT_FSIZE,
                "locks" => libc::RLIMIT_LOCKS,
                "memlock" => libc::RLIMIT_MEMLOCK,
                "msgqueue" => libc::RLIMIT_MSGQUEUE,
                "nice" => libc::RLIMIT_NICE,
                "nofile" => libc::RLIMIT_NOFILE,
                "nproc" => libc::RLIMIT_NPROC,
                "rss" => libc::RLIMIT_RSS,
                "rtprio" => libc::RLIMIT_RTPRIO,
                "rttime" => libc::RLIMIT_RTTIME,
                "sigpending" => libc::RLIMIT_SIGPENDING,
                "stack" => libc::RLIMIT_STACK,
                _ => return Err(fail("there is no such limit")),
            };
            Ok((resource, number(soft)?, number(hard)?))
        })
        .collect()
}

/// Takes mount points that had to be made in the upper directory out again, unless the command put something there.
fn remove_mount_points(upper: &RootDir, made: &[String]) {
    for path in made.iter().rev() {
        // The command may have moved a parent directory and left a symlink in its place. Nothing behind one is a
        // mount point any more, and kiln has rights on the host that the command has not.
        let mut through_link = false;
        let entry = upper.entry_through(path.as_bytes(), Last::Keep, &mut |_| through_link = true);
        let Ok(entry) = entry else { continue };
        let Ok(Some(stat)) = entry.stat() else { continue };
        let flags = match FileType::from_raw_mode(stat.st_mode) {
            _ if through_link || entry.name.is_empty() => continue,
            FileType::Directory => AtFlags::REMOVEDIR,
            FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
            _ => continue,
        };
        // Failing to remove one leaves an empty entry in the layer, which is what other builders do always.
        let _ = unlinkat(&entry.dir, OsStr::from_bytes(&entry.name), flags);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn limits_are_read() {
        let parse = |text: &str| limits(&[text.to_owned()]);
        assert_eq!(parse("nofile=123:456").unwrap(), [(libc::RLIMIT_NOFILE, 123, 456)]);
        assert_eq!(parse("core=-1").unwrap(), [(libc::RLIMIT_CORE, u64::MAX, u64::MAX)]);
        for bad in ["nofile", "nofile=x", "nonsense=1", "nofile=1:y"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_empty_mount_points_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/f"), "").unwrap();
        fs::write(dir.path().join("kept"), "x").unwrap();
        remove_mount_points(
            &RootDir::open(dir.path()).unwrap(),
            &["a".into(), "a/b".into(), "a/f".into(), "kept".into(), "gone".into()],
        );
        assert!(!dir.path().join("a").exists());
        assert!(dir.path().join("kept").exists());
    }

    #[test]
    fn a_symlink_in_the_place_of_a_mount_points_parent_is_not_followed() {
        let (host, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(host.path().join("point"), "").unwrap();
        fs::create_dir_all(upper.path().join("own")).unwrap();
        fs::write(upper.path().join("own/point"), "").unwrap();
        std::os::unix::fs::symlink(host.path(), upper.path().join("out")).unwrap();
        std::os::unix::fs::symlink("own", upper.path().join("in")).unwrap();
        let root = RootDir::open(upper.path()).unwrap();
        remove_mount_points(&root, &["out/point".into(), "in/point".into()]);
        assert!(host.path().join("point").exists());
        assert!(upper.path().join("own/point").exists());
    }
}
