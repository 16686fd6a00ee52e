//! What the machine around a build offers to its RUN steps: agents and keys, authorities, ways into the network.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::ssh::SshSpec;
use crate::ops::trust::{BUNDLES, Bundle};
use crate::sandbox::agent::{Agent, KeyRing};
use crate::sandbox::net::mechanism::{self, Kind as Means, Programs};
use crate::sys::userns::IdMap;
use crate::ui::failure::{Failure, Kind};

/// Forces the way into the network, for tests and for who has to compare.
const NETWORK_VARIABLE: &str = "KILN_NETWORK";

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Usage, message)
}

/// The agent of one `--ssh`: that of `SSH_AUTH_SOCK`, another one's socket, or keys.
pub(super) fn agent(spec: &SshSpec) -> Result<Agent, Failure> {
    let id = &spec.id;
    let from_environment = || {
        std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| {
            usage(format!("--ssh {id}: there is no agent: SSH_AUTH_SOCK is not set")).with_hint(
                "start one: eval \"$(ssh-agent)\" && ssh-add, or name its socket or a key: --ssh default=PATH",
            )
        })
    };
    let path = match &spec.paths[..] {
        [] => from_environment()?,
        [path] => path.clone(),
        keys => return ring(id, keys),
    };
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(Agent::Socket { path, raw: spec.raw }),
        Ok(metadata) if metadata.is_file() && !spec.raw => ring(id, &[path]),
        Ok(_) => Err(usage(format!("--ssh {id}: `{}` is not an agent's socket", path.display()))),
        Err(error) => Err(Failure {
            causes: vec![error.to_string()],
            ..usage(format!("--ssh {id}: cannot use `{}`", path.display()))
        }),
    }
}

fn ring(id: &str, paths: &[PathBuf]) -> Result<Agent, Failure> {
    KeyRing::load(paths).map(|keys| Agent::Keys(Arc::new(keys))).map_err(|error| {
        let failure = Failure::from_error(Kind::Usage, &error).with_hint(error.hint());
        Failure { message: format!("--ssh {id}: {}", failure.message), ..failure }
    })
}

/// The authorities of `--ca-bundle`.
pub(super) fn authorities(path: Option<&Path>) -> Result<Option<Bundle>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let hosts = path == Path::new("host");
    let path = if hosts {
        let found = BUNDLES.iter().map(Path::new).find(|path| path.is_file());
        found.ok_or_else(|| {
            usage("--ca-bundle=host: this machine has no bundle of authorities at the usual places")
                .with_hint("install ca-certificates, or name a file: --ca-bundle FILE")
        })?
    } else {
        path
    };
    Bundle::read(path).map(Some).map_err(|error| {
        let failure = Failure::from_error(Kind::Usage, &error);
        let mut causes = vec![failure.message];
        causes.extend(failure.causes);
        Failure { causes, ..usage(format!("--ca-bundle: cannot use `{}`", path.display())) }.with_hint(
            "a bundle is a file of certificates, each between BEGIN CERTIFICATE and END CERTIFICATE",
        )
    })
}

/// What there is to bring a RUN's connections out, from `PATH` and `KILN_NETWORK`.
pub(super) fn network_means() -> Result<Programs, Failure> {
    let forced = match std::env::var_os(NETWORK_VARIABLE).filter(|value| !value.is_empty()) {
        None => None,
        Some(value) => Some(value.to_str().and_then(Means::parse).ok_or_else(|| {
            usage(format!("{NETWORK_VARIABLE} is `{}`; use nftables, pasta or slirp4netns", value.display()))
        })?),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| {
        std::env::split_paths(&path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|p| p.is_file())
    };
    Ok(Programs { forced, pasta: find("pasta"), slirp: find("slirp4netns") })
}

/// One line for `kiln info`. Call it while the process has one thread.
pub(super) fn network(ids: Option<IdMap>) -> Result<String, Failure> {
    let probe = || {
        let map = ids.map_or_else(IdMap::of_current_namespace, Ok);
        map.and_then(|map| mechanism::probe(&map)).unwrap_or_else(|error| Err(error.to_string()))
    };
    Ok(match mechanism::choose(&network_means()?, probe) {
        Ok(chosen) => chosen.describe(),
        Err(reason) => format!("not possible: {reason}"),
    })
}
