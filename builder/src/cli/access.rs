//! How a command speaks to registries: what the command line and the environment say about it.

use std::collections::{BTreeMap, BTreeSet};

use super::args::access::{AccessArgs, Login};
use crate::base::cancel::CancelToken;
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
        let defaults = NetOptions::default();
        let net = NetOptions {
            retries: args.retry.unwrap_or(defaults.retries),
            retry_delay: args.retry_delay.unwrap_or(defaults.retry_delay),
            ..defaults
        };
        let auth_files = match &args.authfile {
            Some(file) => vec![file.clone()],
            None => registry::default_auth_files(|name| std::env::var_os(name)),
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
            all_insecure: args.tls_verify == Some(false),
            ..registry::Options::default()
        };
        Ok(Self { net, registries })
    }

    /// The network handle.
    pub(super) fn net(&self) -> Result<Net, Failure> {
        Net::new(self.net.clone()).map_err(|e| Failure::from_error(Kind::Config, &e))
    }

    /// A client that stops with `cancel`.
    pub(super) fn client(&self, net: &Net, cancel: &CancelToken) -> Result<Client, Failure> {
        let options =
            registry::Options { net: net.clone(), cancel: cancel.clone(), ..self.registries.clone() };
        Client::new(options).map_err(|e| Failure::from_error(Kind::Config, &e))
    }
}

/// A login as what the client wants.
pub(super) fn credential(login: &Login) -> Credential {
    Credential::Basic { username: login.username.clone(), password: login.password.clone() }
}
