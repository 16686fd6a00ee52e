//! Which URL a registry answers at: https for everybody; plain http for loopback hosts and hosts named insecure.
//!
//! Invariants: a host that is neither loopback nor named insecure is only ever spoken to over verified TLS.

use reqwest::{StatusCode, Url};

use super::{Inner, RegistryError};
use crate::image::reference::Reference;
use crate::net::{Request, Verify, error_body, is_loopback};

/// Where a registry is.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// As named in references.
    pub(super) registry: String,
    /// `https://host[:port]/`.
    pub(super) base: Url,
    /// Whether its certificate must be good.
    pub(super) verify: Verify,
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
        Ok(Self { registry: registry.to_owned(), base, verify })
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
        let strict = Endpoint::new(registry, "https", Verify::Strict)?;
        let loopback = strict.base.host_str().is_some_and(is_loopback);
        let endpoint = if self.options.all_insecure || self.options.insecure.contains(registry) {
            self.first_that_answers([
                Endpoint::new(registry, "https", Verify::Lenient)?,
                Endpoint::new(registry, "http", Verify::Lenient)?,
            ])
            .await?
        } else if loopback {
            self.first_that_answers([
                Endpoint::new(registry, "http", Verify::Lenient)?,
                Endpoint::new(registry, "https", Verify::Lenient)?,
            ])
            .await?
        } else {
            strict
        };
        let mut endpoints = self.endpoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(endpoints.entry(registry.to_owned()).or_insert(endpoint).clone())
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
        let response =
            self.options.net.send(Request { verify: endpoint.verify, ..Request::get(url) }).await?;
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
