//! One call of the API: authentication, retries, and errors from statuses.
//!
//! Invariants: a call is sent again only when that cannot do harm ([`Call::idempotent`]) or when the server refused it
//! unseen (401, 429); a token is renewed twice per call at most: what another thread got may have run out meanwhile.

use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};

use super::endpoint::Endpoint;
use super::error::message_of;
use super::{Inner, RegistryError};
use crate::image::reference::Reference;
use crate::net::{Request, Verify, body_within, error_body, failed, redacted, retry, same_origin};

/// How often a call gets a new token.
pub(super) const MAX_RENEWALS: u32 = 2;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) reference: &'a Reference,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// `repository:NAME:pull`, one or more.
    pub(super) scopes: Vec<String>,
    /// Whether doing it twice is the same as once.
    pub(super) idempotent: bool,
}

impl<'a> Call<'a> {
    /// Reads something.
    pub(super) fn get(endpoint: &'a Endpoint, reference: &'a Reference, url: Url) -> Self {
        Self {
            endpoint,
            reference,
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Vec::new(),
            scopes: vec![format!("repository:{}:pull", reference.repository)],
            idempotent: true,
        }
    }

    /// Writes something.
    pub(super) fn push(endpoint: &'a Endpoint, reference: &'a Reference, method: Method, url: Url) -> Self {
        let scopes = vec![push_scope(reference)];
        Self { method, scopes, idempotent: false, ..Self::get(endpoint, reference, url) }
    }

    pub(super) fn header(mut self, name: reqwest::header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The request with its authorization; both only for the registry's own origin.
    pub(super) fn request(&self, authorization: Option<HeaderValue>) -> Request {
        let own = same_origin(&self.url, &self.endpoint.base);
        Request {
            headers: self.headers.clone(),
            authorization: authorization.filter(|_| own),
            verify: if own { self.endpoint.verify } else { Verify::Strict },
            trust: self.endpoint.trust.clone().filter(|_| own),
            ..Request::new(self.method.clone(), self.url.clone())
        }
    }
}

/// An answer that was to be read whole.
pub(super) enum Whole {
    /// Headers and body of a 200.
    Read(HeaderMap, Vec<u8>),
    /// Another status.
    Refused(Response),
}

pub(super) fn push_scope(reference: &Reference) -> String {
    format!("repository:{}:pull,push", reference.repository)
}

impl Inner {
    /// Sends a call until it has an answer that another try would not change.
    pub(super) async fn exchange(&self, call: &Call<'_>) -> Result<Response, RegistryError> {
        let options = self.options.net.options();
        let mut attempt = 0;
        let mut renewals = 0;
        loop {
            let authorization = self.known_authorization(call);
            let mut request = call.request(authorization.clone());
            if !call.body.is_empty() {
                request.body = Some(call.body.clone().into());
            }
            let asked = match self.options.net.send(request).await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && renewals < MAX_RENEWALS => {
                    renewals += 1;
                    if self.authorize(call, authorization.as_ref(), response.headers()).await? {
                        continue;
                    }
                    return Ok(response);
                }
                Ok(response) if attempt < options.retries && self.try_again(call, response.status()) => {
                    retry::asked_delay(response.headers())
                }
                Ok(response) => return Ok(response),
                Err(error) if call.idempotent && attempt < options.retries && error.is_temporary() => None,
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(retry::delay(options, attempt, asked)).await;
            attempt += 1;
        }
    }

    /// [`Inner::exchange`] for an answer that is read whole; one that breaks off is asked for again. An answer with another
    /// status than 200 is given back as it is.
    pub(super) async fn exchange_whole(
        &self,
        call: &Call<'_>,
        max_bytes: usize,
    ) -> Result<Whole, RegistryError> {
        let options = self.options.net.options();
        let mut attempt = 0;
        loop {
            let response = self.exchange(call).await?;
            if response.status() != StatusCode::OK {
                return Ok(Whole::Refused(response));
            }
            let headers = response.headers().clone();
            let error = match body_within(response, max_bytes).await {
                Ok(Some(bytes)) => return Ok(Whole::Read(headers, bytes)),
                Ok(None) => {
                    let url = redacted(&call.url);
                    return Err(RegistryError::TooLarge { url, limit: max_bytes as u64 });
                }
                Err(source) => failed(&call.method, &call.url, source),
            };
            if attempt >= options.retries || !error.is_temporary() {
                return Err(error.into());
            }
            tokio::time::sleep(retry::delay(options, attempt, None)).await;
            attempt += 1;
        }
    }

    fn try_again(&self, call: &Call<'_>, status: StatusCode) -> bool {
        status == StatusCode::TOO_MANY_REQUESTS || (call.idempotent && retry::is_temporary_status(status))
    }

    /// The error that a bad answer stands for.
    pub(super) async fn refusal(&self, call: &Call<'_>, response: Response) -> RegistryError {
        let (status, url) = (response.status(), redacted(response.url()));
        self.refused(call, url, status, &error_body(response).await)
    }

    /// [`Inner::refusal`] of an answer that has been read.
    pub(super) fn refused(
        &self,
        call: &Call<'_>,
        url: String,
        status: StatusCode,
        body: &[u8],
    ) -> RegistryError {
        let message = message_of(body);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(call, url, status, message),
            _ => RegistryError::Status {
                method: call.method.to_string(),
                url,
                status: status.as_u16(),
                message,
            },
        }
    }

    pub(super) fn denied(
        &self,
        call: &Call<'_>,
        url: String,
        status: StatusCode,
        message: String,
    ) -> RegistryError {
        let registry = call.endpoint.registry.clone();
        let lookup = self.lookup(&registry, &call.reference.repository);
        RegistryError::Denied { registry, url, status: status.as_u16(), message, lookup: Arc::clone(&lookup) }
    }
}
