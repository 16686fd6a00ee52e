//! Image registries (OCI distribution spec 1.1): resolve, pull, push.
//!
//! Invariants:
//! - blocking outside, async inside; no thread and no connection exists before the first call;
//! - every manifest and blob is verified against its digest before a call returns `Ok`;
//! - credentials go to the registry's own origin and to the token server that it names, to nobody else, and never
//!   into a message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::base::cancel::CancelToken;
use crate::base::digest::Digest;
use crate::base::events::EventSink;
use crate::base::sink::BlobSink;
use crate::image::manifest::{Descriptor, Manifest};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::net::{KeyPair, Net};

mod auth;
mod auth_file;
mod certs;
mod credentials;
mod endpoint;
mod error;
mod exchange;
mod login;
mod mirrors;
mod pull;
mod push;
#[cfg(test)]
pub(crate) mod tests;

pub use auth_file::{AuthFileError, KeptIn, default_login_file, erase_login, keep_login};
pub use credentials::{Credential, CredentialProblem, default_auth_files};
pub use error::RegistryError;
pub use login::LoginCheck;
pub use mirrors::Mirror;
pub use push::{BlobOutcome, BlobSource, PushOptions};

/// How a [`Client`] works.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The network handle, shared with others; it has the retries, the CA file and the user agent.
    pub net: Net,
    /// Files of credentials in docker's format, the first that knows a registry wins; see [`default_auth_files`].
    pub auth_files: Vec<PathBuf>,
    /// Credentials given by hand, by registry host; they win over the files.
    pub credentials: BTreeMap<String, Credential>,
    /// Registries (`host[:port]`) that may have a bad certificate or none at all.
    pub insecure: BTreeSet<String>,
    /// Whether certificates have to be good, for all registries: `Some(true)` holds for loopback hosts too, which are
    /// otherwise trusted as they are.
    pub verify: Option<bool>,
    /// What is known of single registries.
    pub hosts: BTreeMap<String, HostOptions>,
    /// Directories of directories `HOST:PORT` of certificates ([`certs`]); the first that has a registry counts.
    pub certs_roots: Vec<PathBuf>,
    /// A directory of certificates for all registries.
    pub cert_dir: Option<PathBuf>,
    /// Stops every call, unless [`Client::stopped_by`] says otherwise.
    pub cancel: CancelToken,
    /// Hears what the user should know although it is no failure, such as a mirror that is left alone.
    pub notices: EventSink,
}

/// What is known of a registry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostOptions {
    /// Asked first, in this order.
    pub mirrors: Vec<Mirror>,
    /// Plain http and nothing else.
    pub http: Option<bool>,
    /// Any certificate, or none. `Some(false)` asks for a good one even of a loopback host.
    pub insecure: Option<bool>,
    /// Files of authorities.
    pub authorities: Vec<PathBuf>,
    /// Certificates of this client; the first is used.
    pub key_pairs: Vec<KeyPair>,
    /// Larger blobs are sent in pieces of so many bytes, for proxies that limit requests.
    pub chunk_bytes: Option<u64>,
}

/// A client for any number of registries. Cheap to clone; may be used from many threads at once.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>, CancelToken);

#[derive(Debug)]
struct Inner {
    options: Options,
    /// Which scheme each registry turned out to speak.
    endpoints: Mutex<BTreeMap<String, endpoint::Endpoint>>,
    /// By origin and scope.
    tokens: Mutex<BTreeMap<(String, String), auth::Token>>,
    /// What the credential files say, by registry and repository: helpers are slow.
    credentials: Mutex<BTreeMap<(String, String), Arc<credentials::Lookup>>>,
    /// Hosts of mirrors that failed.
    lost_mirrors: Mutex<BTreeSet<String>>,
    /// Registries that failed on uploads in one request, and took them as PATCH and PUT.
    patched: Mutex<BTreeSet<String>>,
}

/// A manifest that was chosen for a platform.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedManifest {
    /// Digest of `bytes`.
    pub digest: Digest,
    /// Media type of `bytes`.
    pub media_type: String,
    /// Exactly as the registry has them.
    pub bytes: Vec<u8>,
    /// `bytes`, read.
    pub manifest: Manifest,
    /// The index through which it was found.
    pub index: Option<Digest>,
    /// The platform that the index states for it.
    pub platform: Option<Platform>,
}

/// A manifest or an index as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// Media type.
    pub media_type: String,
    /// Exactly as the registry has them.
    pub bytes: Vec<u8>,
    /// Digest of `bytes`.
    pub digest: Digest,
}

/// What a registry says about a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Media type; empty when not said.
    pub media_type: String,
    /// The digest that the registry states. Not verified: nothing was read.
    pub digest: Digest,
    /// Bytes, when said.
    pub size: Option<u64>,
}

impl Client {
    /// Makes a client. Nothing is contacted or started yet.
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        if let Some(bad) = options.insecure.iter().find(|host| host.is_empty() || host.contains('/')) {
            return Err(RegistryError::InsecureName(bad.clone()));
        }
        let cancel = options.cancel.clone();
        let inner = Inner {
            options,
            endpoints: Mutex::default(),
            tokens: Mutex::default(),
            credentials: Mutex::default(),
            lost_mirrors: Mutex::default(),
            patched: Mutex::default(),
        };
        Ok(Self(Arc::new(inner), cancel))
    }

    /// The network that it uses, and what stops it: for services beside registries.
    pub(crate) fn network(&self) -> (&Net, &CancelToken) {
        (&self.0.options.net, &self.1)
    }

    /// The same client, whose calls are stopped by `cancel`.
    #[must_use]
    pub fn stopped_by(&self, cancel: &CancelToken) -> Self {
        Self(self.0.clone(), cancel.clone())
    }

    /// The manifest that `reference` names, chosen from an index through [`crate::image::manifest::Index::choose`]
    /// when it names one.
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedManifest, RegistryError> {
        self.run(self.0.resolve(reference, platform))
    }

    /// The manifest or index itself.
    pub fn manifest_raw(&self, reference: &Reference) -> Result<RawManifest, RegistryError> {
        self.run(self.0.manifest_raw(reference))
    }

    /// What `reference` points to, as cheaply as the registry allows; `None` when it does not exist.
    pub fn head_manifest(&self, reference: &Reference) -> Result<Option<ManifestHead>, RegistryError> {
        self.run(self.0.head_manifest(reference))
    }

    /// Streams a blob into `sink` and verifies it. What the sink got counts only when this returns `Ok`; it is restarted
    /// when a mirror gave something wrong.
    /// `progress` hears the number of bytes so far.
    pub fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), RegistryError> {
        self.run(self.0.blob(reference, descriptor, sink, progress))
    }

    /// Whether a mirror would be asked before the registry of `reference`.
    pub fn asks_mirrors(&self, reference: &Reference) -> bool {
        self.0.asks_mirrors(reference)
    }

    /// A small blob, such as an image config.
    pub fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RegistryError> {
        self.run(self.0.blob_bytes(reference, descriptor))
    }

    /// Whether the repository of `reference` has a blob.
    pub fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        self.run(self.0.has_blob(reference, digest))
    }

    /// Whether the repository of `reference` has a blob, or could mount it from one of `mount_from` beside it.
    pub fn take_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        mount_from: &[String],
    ) -> Result<bool, RegistryError> {
        self.run(self.0.take_blob(reference, digest, mount_from)).map(|outcome| outcome.is_some())
    }

    /// Makes sure that the repository of `reference` has a blob: looks, mounts it from a repository beside it, or
    /// uploads it.
    pub fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        options: &PushOptions<'_>,
    ) -> Result<BlobOutcome, RegistryError> {
        self.run(self.0.push_blob(reference, descriptor, source, options))
    }

    /// Stores a manifest or an index under the tag or digest of `reference`.
    pub fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        self.run(self.0.put_manifest(reference, media_type, bytes))
    }

    /// Whether a registry takes the credentials that the options have for it.
    pub fn check_login(&self, registry: &str) -> Result<LoginCheck, RegistryError> {
        self.run(self.0.check_login(registry))
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        self.0.options.net.run(&self.1, work)
    }
}
