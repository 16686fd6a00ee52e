//! Downloads for `ADD https://…` and for contexts behind http URLs (language.md 1.8, 1.12, semantics fact 29).
//!
//! Invariants:
//! - the bytes are those on the wire, and their sha256 is taken while they pass;
//! - the file name comes from the URL that was written, not from where redirects lead, and is one path component;
//! - a broken download goes on only with the same content: either the server vouches for it (`If-Range` with a
//!   strong ETag), or the beginning is fetched again and compared.

use std::io::{self, Write};

use reqwest::header::{
    ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED,
    RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};

use crate::base::cancel::CancelToken;
use crate::base::digest::Digest;
use crate::net::date::{format_http_date, parse_http_date};
use crate::net::{Net, NetError, Request, failed, range_starts_at, redacted, retry};

#[cfg(test)]
mod tests;

/// The name of a download whose URL has none.
pub const UNNAMED: &[u8] = b"__unnamed__";
/// Longest component that Linux file systems take.
const MAX_NAME_BYTES: usize = 255;

/// How a URL is fetched.
#[derive(Default)]
pub struct FetchOptions<'a> {
    /// Value of `Authorization`; goes to the URL's own origin only.
    pub authorization: Option<String>,
    /// ETag of the content that the caller has.
    pub etag: Option<String>,
    /// Time of the content that the caller has; asked with when there is no ETag.
    pub last_modified: Option<i64>,
    /// Hears bytes so far and in all.
    pub progress: Option<&'a dyn Fn(u64, Option<u64>)>,
    /// Stops the download.
    pub cancel: CancelToken,
}

/// A finished download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Name for a destination that is a directory.
    pub file_name: Vec<u8>,
    /// `Last-Modified`, seconds since 1970.
    pub last_modified: Option<i64>,
    /// `ETag`, as sent.
    pub etag: Option<String>,
    /// Of the bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// How a fetch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The bytes are in the sink.
    Fetched(Fetched),
    /// What the caller has is current; nothing was written.
    NotModified,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The text is not an http URL.
    #[error("`{0}` is not an http or https URL with a host")]
    Url(String),
    /// No answer.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A bad status.
    #[error("cannot fetch `{url}`: the server answered with status {status}{}", reason(*status))]
    Status {
        /// Redacted.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The connection broke too often.
    #[error("cannot fetch `{url}`: it broke off after {received} bytes, {attempts} times in a row")]
    Broken {
        /// Redacted.
        url: String,
        /// Bytes so far.
        received: u64,
        /// Number of tries.
        attempts: u32,
        /// The last reason.
        source: Option<NetError>,
    },
    /// A retry found other content.
    #[error("cannot fetch `{0}`: its content changed while it was being downloaded")]
    Changed(String),
    /// The `Authorization` value cannot be sent.
    #[error("the authorization for `{0}` has characters that a header may not have")]
    Authorization(String),
    /// The caller's writer failed.
    #[error("cannot store `{url}`")]
    Sink {
        /// Redacted.
        url: String,
        /// Why.
        source: io::Error,
    },
}

fn reason(status: u16) -> String {
    let text = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    text.map(|text| format!(" ({})", text.to_lowercase())).unwrap_or_default()
}

/// Fetches `url` into `sink`. What the sink got counts only when this returns [`FetchOutcome::Fetched`].
pub fn fetch(
    net: &Net,
    url: &str,
    options: &FetchOptions<'_>,
    sink: &mut dyn Write,
) -> Result<FetchOutcome, FetchError> {
    let parsed = Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
        .ok_or_else(|| FetchError::Url(url.chars().take(200).collect()))?;
    let authorization = match &options.authorization {
        None => None,
        Some(text) => {
            let mut value =
                HeaderValue::from_str(text).map_err(|_| FetchError::Authorization(redacted(&parsed)))?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    let download = Download { net, url: parsed, authorization, options };
    net.run(&options.cancel, download.run(sink))
}

/// The name that a download gets in a directory: the last component of the URL's decoded path.
pub fn file_name(url: &Url) -> Vec<u8> {
    let path = percent_decode(url.path());
    let name = path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty()).unwrap_or_default();
    match name {
        b"" | b"." | b".." => UNNAMED.to_vec(),
        name if name.len() > MAX_NAME_BYTES || name.contains(&0) => UNNAMED.to_vec(),
        name => name.to_vec(),
    }
}

pub(super) fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

struct Download<'a> {
    net: &'a Net,
    url: Url,
    authorization: Option<HeaderValue>,
    options: &'a FetchOptions<'a>,
}

/// How far a download got.
struct Progress {
    hasher: Sha256,
    received: u64,
    /// Of the first answer: later ones have to be about the same content.
    first: Option<First>,
}

struct First {
    etag: Option<String>,
    last_modified: Option<i64>,
    size: Option<u64>,
}

impl Download<'_> {
    async fn run(&self, sink: &mut dyn Write) -> Result<FetchOutcome, FetchError> {
        let retries = self.net.options();
        let mut progress = Progress { hasher: Sha256::new(), received: 0, first: None };
        let mut failures = 0;
        loop {
            let before = progress.received;
            let response = self.open(&progress).await?;
            if response.status() == StatusCode::NOT_MODIFIED {
                return Ok(FetchOutcome::NotModified);
            }
            let cause = match self.receive(response, &mut progress, sink).await? {
                End::Complete => return Ok(FetchOutcome::Fetched(self.finish(progress))),
                End::Broken(cause) => cause,
            };
            failures = if progress.received > before { 1 } else { failures + 1 };
            if failures > retries.retries || !cause.is_temporary() {
                return Err(FetchError::Broken {
                    url: redacted(&self.url),
                    received: progress.received,
                    attempts: failures,
                    source: Some(cause),
                });
            }
            tokio::time::sleep(retry::delay(retries, failures - 1, None)).await;
        }
    }

    /// An answer with content (or 304), after retries.
    async fn open(&self, progress: &Progress) -> Result<Response, FetchError> {
        let options = self.net.options();
        let headers = self.headers(progress);
        let mut attempt = 0;
        loop {
            let request = Request {
                headers: headers.clone(),
                authorization: self.authorization.clone(),
                ..Request::get(self.url.clone())
            };
            let asked = match self.net.send(request).await {
                Ok(response)
                    if attempt < options.retries && retry::is_temporary_status(response.status()) =>
                {
                    retry::asked_delay(response.headers())
                }
                Ok(response) => match response.status() {
                    StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => return Ok(response),
                    StatusCode::PARTIAL_CONTENT if progress.received > 0 => return Ok(response),
                    StatusCode::NOT_MODIFIED if progress.first.is_none() && self.is_conditional() => {
                        return Ok(response);
                    }
                    status => {
                        let url = redacted(&self.url);
                        return Err(FetchError::Status { url, status: status.as_u16() });
                    }
                },
                Err(error) if attempt < options.retries && error.is_temporary() => None,
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(retry::delay(options, attempt, asked)).await;
            attempt += 1;
        }
    }

    fn is_conditional(&self) -> bool {
        self.options.etag.is_some() || self.options.last_modified.is_some()
    }

    fn headers(&self, progress: &Progress) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        };
        match &progress.first {
            None => match (&self.options.etag, self.options.last_modified.and_then(format_http_date)) {
                (Some(etag), _) => set(IF_NONE_MATCH, etag),
                (None, Some(date)) => set(IF_MODIFIED_SINCE, &date),
                (None, None) => {}
            },
            Some(First { etag: Some(etag), .. }) if progress.received > 0 && !etag.starts_with("W/") => {
                set(IF_RANGE, etag);
                set(RANGE, &format!("bytes={}-", progress.received));
            }
            Some(_) => {}
        }
        headers
    }

    async fn receive(
        &self,
        mut response: Response,
        progress: &mut Progress,
        sink: &mut dyn Write,
    ) -> Result<End, FetchError> {
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let total =
            response.content_length().map(|length| if partial { progress.received + length } else { length });
        let headers = response.headers();
        progress.first.get_or_insert_with(|| First {
            etag: text(headers, &ETAG).map(str::to_owned),
            last_modified: text(headers, &LAST_MODIFIED).and_then(parse_http_date),
            size: total,
        });
        if partial && !range_starts_at(headers, progress.received) {
            return Err(FetchError::Changed(redacted(&self.url)));
        }
        // What has already been written is fetched again, unless the server goes on behind it.
        let mut again = if partial { None } else { Some((Sha256::new(), 0u64)) };
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(source) => return Ok(End::Broken(failed(&Method::GET, &self.url, source))),
            };
            let mut fresh = &chunk[..];
            if let Some((hasher, seen)) = &mut again {
                let old = usize::try_from(progress.received - *seen).unwrap_or(usize::MAX).min(fresh.len());
                let (repeated, rest) = fresh.split_at(old);
                hasher.update(repeated);
                *seen += old as u64;
                fresh = rest;
                if *seen == progress.received {
                    self.compare(hasher, progress)?;
                    again = None;
                }
            }
            if fresh.is_empty() {
                continue;
            }
            sink.write_all(fresh).map_err(|source| FetchError::Sink { url: redacted(&self.url), source })?;
            progress.hasher.update(fresh);
            progress.received += fresh.len() as u64;
            if let Some(report) = self.options.progress {
                report(progress.received, total);
            }
        }
        if again.is_some_and(|(_, seen)| seen < progress.received)
            || progress
                .first
                .as_ref()
                .and_then(|first| first.size)
                .is_some_and(|size| size != progress.received)
        {
            return Err(FetchError::Changed(redacted(&self.url)));
        }
        Ok(End::Complete)
    }

    fn compare(&self, again: &Sha256, progress: &Progress) -> Result<(), FetchError> {
        if again.clone().finalize() == progress.hasher.clone().finalize() {
            return Ok(());
        }
        Err(FetchError::Changed(redacted(&self.url)))
    }

    fn finish(&self, progress: Progress) -> Fetched {
        let (etag, last_modified) = match progress.first {
            Some(First { etag, last_modified, .. }) => (etag, last_modified),
            None => (None, None),
        };
        Fetched {
            file_name: file_name(&self.url),
            last_modified,
            etag,
            digest: Digest::from_bytes(progress.hasher.finalize().into()),
            size: progress.received,
        }
    }
}

enum End {
    Complete,
    Broken(NetError),
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
