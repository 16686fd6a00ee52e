//! RUN: from a spec to a command in a sandbox, and its diff.
//!
//! Invariants:
//! - secrets are read here and nowhere else; they go to the sandbox, and to what masks them in records;
//! - the snapshot is committed only after the command ended with status 0.

mod prepare;
mod visit;

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, unlinkat};

use crate::base::digest::{Digest, KeyHasher};
use crate::base::events::{Event, Stream};
use crate::plan::graph::{Guards, MountSource, NetworkMode, RunSpec, SecurityMode, Vertex};
use crate::sandbox::agent;
use crate::sandbox::net::hosts::hosts_file;
use crate::sandbox::net::{self, Policy};
use crate::sandbox::runner::{Ended, SandboxError, Stop, Streams, readable};
use crate::sandbox::spec::{SandboxDevice, SandboxHelper, SandboxNetwork, SandboxSeccomp, SandboxSpec};
use crate::sandbox::terminal;
use crate::snapshot::overlay::Begun;
use crate::snapshot::written::Written;
use crate::store::records::{FsState, StepResult};
use crate::sys::capability::CapabilitySet;
use crate::sys::process::limit_number;
use crate::sys::rootdir::{Last, RootDir};

use super::caches;
use super::commit::commit;
use super::local::LocalExecutor;
use super::trust;
use super::{OpError, guards, stubs};
use prepare::{Caches, Prepared, prepare, read_secret};

pub(super) use prepare::read_secret_file;
pub use visit::{Shell, Visit, Wrecks, interactive, missing, visit};

/// By which `host-gateway` reaches the host from inside a sandbox.
const HOST_GATEWAY: IpAddr = IpAddr::V4(net::HOST_GATEWAY_V4);
/// /dev/shm unless `--shm-size` says otherwise; docker's default.
const SHM_SIZE_BYTES: u64 = 64 * 1024 * 1024;

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
        || attempt(executor, vertex, spec, step, inputs, base, &mut |stream, data| send(stream, data)),
    )
}

/// One attempt, on a fresh snapshot and with fresh mounts.
fn attempt(
    executor: &LocalExecutor<'_>,
    vertex: &Vertex,
    spec: &RunSpec,
    step: u32,
    inputs: &[&StepResult],
    base: &StepResult,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<StepResult, OpError> {
    let begun = executor.snapshots.begin(&base.state.layers)?;
    let claimed = caches::claim(executor, vertex, spec, inputs)?;
    let caches = Caches { claimed, throwaway: false };
    let prepared = prepare(executor, &vertex.platform, spec, inputs, &base.state, caches)?;
    let guards = &vertex.guards;
    let ended = start(executor, spec, guards, &base.state, &begun, &prepared, Streams::Captured(output));
    let ended = ended.and_then(|ended| {
        guards::verdict(spec, &guards::limits(executor, guards), &ended, |text| executor.events.warn(text))?;
        Ok(ended)
    });
    let ended = match (ended, &executor.wrecks) {
        (Err(error), Some(wrecks)) if error.is_of_command() => {
            wrecks.keep(step, begun);
            return Err(error);
        }
        (ended, _) => ended?,
    };
    if ended.lost_owners > 0 {
        executor.events.warn(format!(
            "{} changes of owner of symlinks are left out of step {step}: the ids are not mapped here, and a symlink \
             cannot carry a note of them",
            ended.lost_owners
        ));
    }
    let upper = executor.snapshots.layer_dir_begun(&begun)?;
    if let (Some(trusted), Some(bundle)) = (&prepared.trusted, &executor.defaults.authorities) {
        trust::restore(&upper, &executor.snapshots.view(&base.state.layers)?, trusted, bundle)?;
    }
    remove_mount_points(&upper, &ended.made_mount_points);
    remove_mount_points(&upper, &copied_up(executor, &upper, &base.state, &prepared.stubs)?);
    drop((prepared.scratch, prepared.caches, upper));
    commit(executor, base, begun, false, &Written::default())
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
    if matches!(streams, Streams::Terminal) {
        sandbox.terminal = terminal::of_user();
    }
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
    let gateway = match network {
        SandboxNetwork::Host => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        // There is no way to the host's loopback through a helper.
        SandboxNetwork::Private | SandboxNetwork::None => helper.is_none().then_some(HOST_GATEWAY),
    };
    let ipv6 = helper.is_none() && net::host_has_ipv6();
    let resolv_conf = executor.resolv_conf(network, ipv6, helper.is_some());
    let seccomp = match (&spec.privileges.seccomp, &executor.defaults.seccomp) {
        _ if insecure => SandboxSeccomp::Unconfined,
        (None, _) => SandboxSeccomp::Default,
        (Some(_), Some(program)) => SandboxSeccomp::Program(program.to_bytes()),
        (Some(_), None) => SandboxSeccomp::Unconfined,
    };
    // Who asks for no filter gets none at all: a runtime in the command may want to be asked itself.
    let unfiltered = matches!(seccomp, SandboxSeccomp::Unconfined);
    let handed_over_from = if unfiltered { None } else { executor.sandboxes.handed_over_from() };
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
        handed_over_from,
        ipv6,
        terminal: None,
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
            let resource = limit_number(name).ok_or_else(|| fail("there is no such limit"))?;
            Ok((resource, number(soft)?, number(hard)?))
        })
        .collect()
}

/// Mount points of the stub directory, and directories above them, that the command touched, so that the kernel copied
/// them to the upper directory, and that the image itself does not have.
fn copied_up(
    executor: &LocalExecutor<'_>,
    upper: &RootDir,
    base: &FsState,
    targets: &[(String, bool)],
) -> Result<Vec<String>, OpError> {
    let mut points: Vec<String> = stubs::points(targets).into_iter().collect();
    let is_there = |root: &RootDir, path: &String| {
        root.entry(path.as_bytes(), Last::Keep, None).is_ok_and(|entry| matches!(entry.stat(), Ok(Some(_))))
    };
    points.retain(|path| is_there(upper, path));
    if !points.is_empty() {
        let view = executor.snapshots.view(&base.layers)?;
        let mut new = Vec::new();
        for path in points {
            if view.stat(path.as_bytes(), Last::Keep)?.is_none() {
                new.push(path);
            }
        }
        return Ok(new);
    }
    Ok(points)
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
        assert_eq!(parse("nofile=123:456").unwrap(), [(limit_number("nofile").unwrap(), 123, 456)]);
        assert_eq!(parse("core=-1").unwrap(), [(limit_number("core").unwrap(), u64::MAX, u64::MAX)]);
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
