//! Which URL a registry answers at: https for everybody; plain http for loopback hosts and hosts named insecure.
//!
//! Invariants: a host that is neither loopback nor named insecure is only ever spoken to over verified TLS; neither is a
//! loopback host for which an authority is named.

use reqwest::{StatusCode, Url};

use super::certs::Certificates;
use super::{Inner, RegistryError};
use crate::image::reference::Reference;
use crate::net::{Request, Trust, Verify, error_body, is_loopback};

/// Where a registry is.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// As named in references.
    pub(super) registry: String,
    /// `https://host[:port]/`.
    pub(super) base: Url,
    /// Whether its certificate must be good.
    pub(super) verify: Verify,
    /// What is trusted besides the usual, and this client's certificate.
    pub(super) trust: Option<Trust>,
}

impl Endpoint {
    fn new(registry: &str, scheme: &str, verify: Verify) -> Result<Self, RegistryError> {
        // Docker's own registry has a name of its own for the API.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let host_error = || RegistryError::Host(registry.to_owned());
        let base = Url::parse(&format!("{scheme}://{host}/")).map_err(|_| host_error())?;
        if base.host_str().is_none() || !base.username().is_empty() || base.path() != "/" {
            return Err(host_error());
        }
        Ok(Self { registry: registry.to_owned(), base, verify, trust: None })
    }

    /// The URL of `tail` (`manifests/latest`) in the repository of `reference`.
    pub(super) fn url(&self, reference: &Reference, tail: &str) -> Result<Url, RegistryError> {
        self.base
            .join(&format!("/v2/{}/{tail}", reference.repository))
            .map_err(|_| RegistryError::Host(self.registry.clone()))
    }
}

impl Inner {
    /// Where `registry` is, finding out how it speaks where that is open.
    pub(super) async fn endpoint(&self, registry: &str) -> Result<Endpoint, RegistryError> {
        let known =
            self.endpoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(registry).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let endpoint = self.find(registry).await?;
        let mut endpoints = self.endpoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(endpoints.entry(registry.to_owned()).or_insert(endpoint).clone())
    }

    async fn find(&self, registry: &str) -> Result<Endpoint, RegistryError> {
        let host = self.options.hosts.get(registry);
        let trust = self.trust(registry)?;
        let make = |scheme: &str, verify: Verify| -> Result<Endpoint, RegistryError> {
            Ok(Endpoint { trust: trust.clone(), ..Endpoint::new(registry, scheme, verify)? })
        };
        if host.and_then(|host| host.http) == Some(true) {
            return make("http", Verify::Lenient);
        }
        let strict = make("https", Verify::Strict)?;
        let loopback = strict.base.host_str().is_some_and(is_loopback);
        // The command line says it for all, the settings for one.
        let insecure = match (self.options.verify, host.and_then(|host| host.insecure)) {
            (Some(verify), _) => Some(!verify),
            (None, _) if self.options.insecure.contains(registry) => Some(true),
            (None, Some(insecure)) => Some(insecure),
            // Who names an authority for a loopback host wants to see its certificate.
            (None, None) if trust.is_some() => Some(false),
            (None, None) => None,
        };
        match (insecure, loopback) {
            (Some(true), false) => {
                self.first_that_answers([make("https", Verify::Lenient)?, make("http", Verify::Lenient)?])
                    .await
            }
            (Some(true) | None, true) => {
                self.first_that_answers([make("http", Verify::Lenient)?, make("https", Verify::Lenient)?])
                    .await
            }
            (Some(false), _) | (None, false) => Ok(strict),
        }
    }

    /// Certificates that the options have for a registry.
    fn trust(&self, registry: &str) -> Result<Option<Trust>, RegistryError> {
        let mut authorities = Vec::new();
        let mut key_pairs = Vec::new();
        let mut add = |found: Certificates| {
            authorities.extend(found.authorities);
            key_pairs.extend(found.key_pairs);
        };
        if let Some(directory) = &self.options.cert_dir {
            add(Certificates::list(directory)?.unwrap_or_default());
        }
        for root in &self.options.certs_roots {
            if let Some(found) = Certificates::list(&root.join(registry))? {
                add(found);
                break;
            }
        }
        if let Some(host) = self.options.hosts.get(registry) {
            add(Certificates { authorities: host.authorities.clone(), key_pairs: host.key_pairs.clone() });
        }
        if authorities.is_empty() && key_pairs.is_empty() {
            return Ok(None);
        }
        Ok(Some(Trust::read(&authorities, key_pairs.first())?))
    }

    /// Tries one, then the other; the first one's failure is told, since it is the likelier way.
    async fn first_that_answers(&self, candidates: [Endpoint; 2]) -> Result<Endpoint, RegistryError> {
        let [first, second] = candidates;
        let error = match self.speaks(&first).await {
            Ok(true) => return Ok(first),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        match (self.speaks(&second).await, error) {
            (Ok(true), _) => Ok(second),
            (_, Some(error)) => Err(error),
            (Err(error), None) => Err(error),
            (Ok(false), None) => Ok(first),
        }
    }

    /// False when the server says that it wants the other scheme.
    async fn speaks(&self, endpoint: &Endpoint) -> Result<bool, RegistryError> {
        let url = endpoint.base.join("/v2/").map_err(|_| RegistryError::Host(endpoint.registry.clone()))?;
        let response = self
            .options
            .net
            .send(Request { verify: endpoint.verify, trust: endpoint.trust.clone(), ..Request::get(url) })
            .await?;
        if response.status() != StatusCode::BAD_REQUEST || endpoint.base.scheme() == "https" {
            return Ok(true);
        }
        // Go and nginx answer a plain request at a TLS port with status 400 and a sentence that names HTTPS.
        let body = error_body(response).await;
        Ok(!String::from_utf8_lossy(&body).to_ascii_uppercase().contains("HTTPS"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let endpoint = Endpoint::new("docker.io", "https", Verify::Strict).unwrap();
        let reference: Reference = "debian:12".parse().unwrap();
        assert_eq!(
            endpoint.url(&reference, "manifests/12").unwrap().as_str(),
            "https://registry-1.docker.io/v2/library/debian/manifests/12"
        );
        assert!(Endpoint::new("a b", "https", Verify::Strict).is_err());
        assert!(Endpoint::new("a:port", "https", Verify::Strict).is_err());
        assert!(Endpoint::new("[::1]:5000", "http", Verify::Strict).is_ok());
    }
}
