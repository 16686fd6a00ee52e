//! How a command speaks to registries: what the command line and the environment say about it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use super::args::access::{AccessArgs, Login};
use super::settings;
use crate::base::cancel::CancelToken;
use crate::base::events::EventSink;
use crate::net::{Net, NetOptions};
use crate::registry::{self, Client, Credential};
use crate::ui::failure::{Failure, Kind};

/// Settings for clients of one command.
pub(super) struct Access {
    net: NetOptions,
    registries: registry::Options,
}

impl Access {
    /// `targets` are the registries that `--creds` is for, `insecure` those that other options name so.
    pub(super) fn new(
        args: &AccessArgs,
        targets: &BTreeSet<String>,
        insecure: BTreeSet<String>,
    ) -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var_os(name);
        let settings = settings::load(variable)?;
        let defaults = NetOptions::default();
        let net = NetOptions {
            ca_files: settings.authorities,
            retries: args.retry.or(settings.retries).unwrap_or(defaults.retries),
            retry_delay: args.retry_delay.or(settings.retry_delay).unwrap_or(defaults.retry_delay),
            ..defaults
        };
        if let Some(directory) = args.cert_dir.as_deref().filter(|directory| !directory.is_dir()) {
            let message = format!("--cert-dir: there is no directory `{}`", directory.display());
            return Err(Failure::new(Kind::Usage, message));
        }
        let auth_files = match &args.authfile {
            Some(file) => vec![file.clone()],
            None => registry::default_auth_files(variable),
        };
        let credentials = match &args.creds {
            Some(_) if targets.is_empty() => {
                return Err(Failure::new(
                    Kind::Usage,
                    "--creds: there is no registry that they could be for",
                )
                .with_hint("name the image with its registry, and push or pull it"));
            }
            Some(login) => targets.iter().map(|host| (host.clone(), credential(login))).collect(),
            None => BTreeMap::new(),
        };
        let registries = registry::Options {
            auth_files,
            credentials,
            insecure,
            verify: args.tls_verify,
            hosts: settings.registries,
            certs_roots: certs_roots(variable),
            cert_dir: args.cert_dir.clone(),
            ..registry::Options::default()
        };
        Ok(Self { net, registries })
    }

    /// The network handle.
    pub(super) fn net(&self) -> Result<Net, Failure> {
        Net::new(self.net.clone()).map_err(|e| Failure::from_error(Kind::Config, &e))
    }

    /// A client that stops with `cancel` and tells `notices` what is no failure.
    pub(super) fn client(
        &self,
        net: &Net,
        cancel: &CancelToken,
        notices: EventSink,
    ) -> Result<Client, Failure> {
        let options = registry::Options {
            net: net.clone(),
            cancel: cancel.clone(),
            notices,
            ..self.registries.clone()
        };
        Client::new(options).map_err(|e| Failure::from_error(Kind::Config, &e))
    }
}

/// Where podman and docker keep certificates of registries, the user's before the machine's.
fn certs_roots(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = directory("XDG_CONFIG_HOME").or_else(|| directory("HOME").map(|home| home.join(".config")));
    let own = user.into_iter().flat_map(|dir| [dir.join("containers/certs.d"), dir.join("docker/certs.d")]);
    own.chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from)).collect()
}

/// A login as what the client wants.
pub(super) fn credential(login: &Login) -> Credential {
    Credential::Basic { username: login.username.clone(), password: login.password.clone() }
}
