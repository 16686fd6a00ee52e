//! The client against a registry that lives in this process and fails on demand.

use std::time::Duration;

use super::*;
use crate::net::NetOptions;

pub(crate) mod fake_registry;
mod pull;
mod push;

use fake_registry::FakeRegistry;

fn net(retries: u32) -> Net {
    Net::new(NetOptions { retries, retry_delay: Duration::from_millis(1), ..NetOptions::default() }).unwrap()
}

/// A client that retries twice, quickly.
pub(crate) fn client() -> Client {
    Client::new(Options { net: net(2), ..Options::default() }).unwrap()
}

fn client_of(registry: &FakeRegistry, credential: Credential) -> Client {
    let credentials = BTreeMap::from([(registry.host(), credential)]);
    Client::new(Options { net: net(2), credentials, ..Options::default() }).unwrap()
}

fn login() -> Credential {
    Credential::Basic { username: "me".to_owned(), password: "pass".to_owned() }
}
