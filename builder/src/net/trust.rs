//! Whom to trust, and what to prove oneself with, where it is not the same for every server.
//!
//! Invariants: certificates are read when a [`Trust`] is made, so that a bad file is told by its name; a client
//! certificate goes to the origin that it was meant for and to no other.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use reqwest::{Certificate, Client, Identity};

use super::{MAX_CA_BYTES, NetError, read_bounded};

/// Certificates for some servers. Cheap to clone; clones share their HTTP clients.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    certificates: Vec<Certificate>,
    identity: Option<Identity>,
    /// By [`super::request::slot`].
    clients: [OnceLock<Client>; 4],
}

/// A client's certificate and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate, with those that lead to its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Trust {
    /// Reads authorities, and the certificate of this client.
    pub fn read(authorities: &[PathBuf], own: Option<&KeyPair>) -> Result<Self, NetError> {
        let mut certificates = Vec::new();
        for path in authorities {
            certificates.extend(authorities_in(path)?);
        }
        let identity = own.map(identity_in).transpose()?;
        Ok(Self(Arc::new(Inner { certificates, identity, clients: Default::default() })))
    }

    pub(super) fn certificates(&self) -> &[Certificate] {
        &self.0.certificates
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }

    pub(super) fn clients(&self) -> &[OnceLock<Client>; 4] {
        &self.0.clients
    }
}

pub(super) fn authorities_in(path: &Path) -> Result<Vec<Certificate>, NetError> {
    let pem = read(path)?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(NetError::CaFormat(path.to_owned())),
    }
}

fn identity_in(own: &KeyPair) -> Result<Identity, NetError> {
    let mut pem = read(&own.certificate)?;
    pem.push(b'\n');
    pem.extend(read(&own.key)?);
    Identity::from_pem(&pem)
        .map_err(|_| NetError::ClientCertificate(own.certificate.clone(), own.key.clone()))
}

fn read(path: &Path) -> Result<Vec<u8>, NetError> {
    read_bounded(path, MAX_CA_BYTES).map_err(|source| NetError::CaFile { path: path.to_owned(), source })
}
