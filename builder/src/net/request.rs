//! One request with its redirects, and bodies read within bounds.
//!
//! Invariants: credentials, client certificates and [`Verify::Lenient`] apply to the origin of the first URL only; loopback hosts are
//! never reached through a proxy; no redirect leaves http and https.

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Client, Method, Response, StatusCode, Url};

use super::{MAX_REDIRECTS, Net, NetError, Trust, is_loopback, redacted, same_origin};

/// Whether the server's certificate has to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Verify {
    /// Yes.
    #[default]
    Strict,
    /// No: the user named the host insecure, or it is a loopback registry.
    Lenient,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// Value of `Authorization`.
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) verify: Verify,
    /// Besides what is trusted everywhere, and the client's certificate; for the first URL's origin only.
    pub(crate) trust: Option<Trust>,
    pub(crate) body: Option<Body>,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            verify: Verify::Strict,
            trust: None,
            body: None,
        }
    }

    pub(crate) fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }
}

impl Net {
    /// Sends a request; GET and HEAD follow redirects. Any status is an answer.
    pub(crate) async fn send(&self, mut request: Request) -> Result<Response, NetError> {
        let first = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let own = same_origin(&first, &request.url);
            let verify = if own { request.verify } else { Verify::Strict };
            let mut builder = self
                .client(&request.url, verify, request.trust.as_ref().filter(|_| own))?
                .request(request.method.clone(), request.url.clone())
                .headers(request.headers.clone());
            if !request.headers.contains_key(ACCEPT_ENCODING) {
                builder = builder.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            if let (true, Some(value)) = (own, &request.authorization) {
                builder = builder.header(AUTHORIZATION, value.clone());
            }
            if let Some(body) = request.body.take() {
                builder = builder.body(body);
            }
            let response =
                builder.send().await.map_err(|source| failed(&request.method, &request.url, source))?;
            let Some(next) = redirect(&request.method, &request.url, &response)? else { return Ok(response) };
            request.url = next;
        }
        Err(NetError::TooManyRedirects(redacted(&first)))
    }

    fn client<'a>(
        &'a self,
        url: &Url,
        verify: Verify,
        own: Option<&'a Trust>,
    ) -> Result<&'a Client, NetError> {
        let direct = url.host_str().is_some_and(is_loopback);
        // For plain http the certificates do not matter, and a system without any can still use it.
        let lenient = verify == Verify::Lenient || url.scheme() == "http";
        let slot = &own.unwrap_or(&self.0.trust).clients()[slot(lenient, direct)];
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        // A second call finds the provider installed, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = &self.0.options;
        let mut builder = Client::builder()
            .user_agent(&options.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
            .retry(reqwest::retry::never())
            .http2_adaptive_window(true);
        if direct {
            builder = builder.no_proxy();
        }
        if lenient {
            builder = builder.tls_danger_accept_invalid_certs(true);
        } else {
            let own = own.map(Trust::certificates).unwrap_or_default();
            let all: Vec<_> = self.0.trust.certificates().iter().chain(own).cloned().collect();
            if !all.is_empty() {
                builder = builder.tls_certs_merge(all);
            }
        }
        if let Some(identity) = own.and_then(Trust::identity) {
            builder = builder.identity(identity.clone());
        }
        let client = builder.build().map_err(|source| NetError::Client(source.without_url()))?;
        Ok(slot.get_or_init(|| client))
    }
}

/// Which of the four clients of a [`Trust`] serves.
fn slot(lenient: bool, direct: bool) -> usize {
    usize::from(lenient) * 2 + usize::from(direct)
}

/// An error of `reqwest` with a URL that may be shown.
pub(crate) fn failed(method: &Method, url: &Url, source: reqwest::Error) -> NetError {
    NetError::Request { method: method.to_string(), url: redacted(url), source: source.without_url() }
}

fn redirect(method: &Method, url: &Url, response: &Response) -> Result<Option<Url>, NetError> {
    let moved = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !moved || !matches!(*method, Method::GET | Method::HEAD) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    let bad = || NetError::BadRedirect {
        url: redacted(url),
        location: String::from_utf8_lossy(location.as_bytes()).chars().take(100).collect(),
    };
    let text = std::str::from_utf8(location.as_bytes()).map_err(|_| bad())?;
    let next = url.join(text).map_err(|_| bad())?;
    if !matches!(next.scheme(), "http" | "https") || next.host_str().is_none() {
        return Err(bad());
    }
    Ok(Some(next))
}

/// Reads at most `max_bytes`; `None` when there is more.
pub(crate) async fn body_within(
    mut response: Response,
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > max_bytes {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// Reads the beginning of an error answer; what cannot be read is left out.
pub(crate) async fn error_body(mut response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = super::MAX_ERROR_BODY_BYTES - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if bytes.len() == super::MAX_ERROR_BODY_BYTES {
            break;
        }
    }
    bytes
}

/// True when a partial answer begins at `offset`.
pub(crate) fn range_starts_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start =
        range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse::<u64>().ok());
    start == Some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let mut headers = HeaderMap::new();
        assert!(!range_starts_at(&headers, 0));
        headers.insert(CONTENT_RANGE, HeaderValue::from_static("bytes 5-9/10"));
        assert!(range_starts_at(&headers, 5) && !range_starts_at(&headers, 4));
    }
}
