//! Objects of a bucket: read, written, looked for (Amazon S3 API reference).
//!
//! Invariants: an object of several parts appears when all of it was sent and had the digest that it should have; parts of
//! one that failed are given up, so that nobody pays for them.

use std::io::{Read, Write};
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::sign::{Unsigned, encoded, sign};
use super::{BucketError, BucketOptions};
use crate::base::digest::{Digest, HashingWriter};
use crate::cache::download::{self, End, Place, Size};
use crate::net::{Net, Request, body_within, date, error_body, failed, redacted, retry};

/// Size of the parts of a large object. There are 10,000 at most, so an object has 320 GB at most.
const PART_BYTES: u64 = 32 * 1024 * 1024;
/// Largest answer that is read whole.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Longest words of a server that are shown.
const MAX_WORDS_CHARS: usize = 200;

/// A bucket.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) net: Net,
    pub(super) options: BucketOptions,
}

/// What is known of an object without reading it.
pub(super) struct Head {
    pub(super) size: Option<u64>,
    /// Seconds since 1970.
    pub(super) modified: Option<i64>,
}

/// A request before it has a time and a signature.
struct Call {
    method: Method,
    url: Url,
    /// Signed.
    headers: Vec<(&'static str, String)>,
    /// Not signed.
    plain: HeaderMap,
    body: Vec<u8>,
}

impl Call {
    fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: Vec::new(), plain: HeaderMap::new(), body: Vec::new() }
    }
}

impl Objects {
    /// What is known of an object; `None` when there is none.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Head>, BucketError> {
        let url = self.url(key, &[])?;
        let response = self.send(&Call::new(Method::HEAD, url)).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let text =
                    |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
                let size = text(CONTENT_LENGTH).and_then(|text| text.parse().ok());
                Ok(Some(Head { size, modified: text(LAST_MODIFIED).and_then(date::parse_http_date) }))
            }
            _ => Err(refusal("look for", response).await),
        }
    }

    /// Reads an object; `None` when there is none.
    pub(super) async fn read(
        &self,
        key: &str,
        size: Size,
        sink: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<Option<()>, BucketError> {
        let url = self.url(key, &[])?;
        let mut at = Place { received: 0, size };
        let mut failures = 0;
        loop {
            let before = at.received;
            let mut call = Call::new(Method::GET, url.clone());
            if before > 0 {
                let range = HeaderValue::from_str(&format!("bytes={before}-"));
                call.plain.insert(RANGE, range.expect("invariant: digits are a valid header value"));
            }
            let response = self.send(&call).await?;
            let cause = match download::receive(response, &url, &mut at, sink, progress).await {
                End::Whole => return Ok(Some(())),
                End::Refused(response) if response.status() == StatusCode::NOT_FOUND => return Ok(None),
                End::Refused(response) => return Err(refusal("read", response).await),
                End::TooLong => return Err(BucketError::TooLong { url: redacted(&url), size: size.most() }),
                End::Sink(source) => return Err(BucketError::Sink { url: redacted(&url), source }),
                End::Broken(Some(error)) if !error.is_temporary() => return Err(error.into()),
                End::Broken(cause) => cause,
            };
            if at.received > before {
                failures = 0;
            }
            failures += 1;
            if failures > self.retries() {
                let (url, received, size) = (redacted(&url), at.received, size.most());
                return Err(BucketError::Broken { url, received, size, attempts: failures, source: cause });
            }
            tokio::time::sleep(retry::delay(self.net.options(), failures - 1, None)).await;
        }
    }

    /// Writes a small object.
    pub(super) async fn put(&self, key: &str, body: Vec<u8>) -> Result<(), BucketError> {
        let call = Call { body, ..Call::new(Method::PUT, self.url(key, &[])?) };
        done("write", self.send(&call).await?).await.map(drop)
    }

    /// Makes an object as new as if it was written now, for rules that delete by age.
    pub(super) async fn touch(&self, key: &str) -> Result<(), BucketError> {
        let mut call = Call::new(Method::PUT, self.url(key, &[])?);
        let source = format!("/{}/{}", self.options.bucket, encoded(key, true));
        call.headers.push(("x-amz-copy-source", source));
        call.headers.push(("x-amz-metadata-directive", "REPLACE".to_owned()));
        done("renew", self.send(&call).await?).await.map(drop)
    }

    /// Writes an object that should have this digest. Gives the digest that it has; with another one nothing is written.
    pub(super) async fn write<'a>(
        &self,
        key: &str,
        reader: Box<dyn Read + 'a>,
        digest: &Digest,
    ) -> Result<Digest, BucketError> {
        let mut parts = Parts { reader, hash: HashingWriter::new(std::io::sink()) };
        let first = parts.next()?;
        if (first.len() as u64) < PART_BYTES {
            let actual = parts.hash.digest();
            if actual == *digest {
                self.put(key, first).await?;
            }
            return Ok(actual);
        }
        let call = Call::new(Method::POST, self.url(key, &[("uploads", "")])?);
        let begun = done("begin an upload of", self.send(&call).await?).await?;
        let lacks = |what| BucketError::Answer { url: redacted(&call.url), what };
        let upload = element(&begun, "UploadId").ok_or_else(|| lacks("its id"))?;
        let sent = self.parts(key, &upload, first, &mut parts, digest).await;
        if !matches!(&sent, Ok(actual) if actual == digest) {
            // The error that is told is the one before this one.
            let abort = Call::new(Method::DELETE, self.url(key, &[("uploadId", &upload)])?);
            let _ = self.send(&abort).await;
        }
        sent
    }

    async fn parts(
        &self,
        key: &str,
        upload: &str,
        first: Vec<u8>,
        parts: &mut Parts<'_>,
        digest: &Digest,
    ) -> Result<Digest, BucketError> {
        let mut list = String::new();
        let mut part = first;
        for number in 1.. {
            let last = (part.len() as u64) < PART_BYTES;
            if part.is_empty() {
                break;
            }
            let query = [("partNumber", number.to_string()), ("uploadId", upload.to_owned())];
            let query: Vec<(&str, &str)> =
                query.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let call = Call { body: part, ..Call::new(Method::PUT, self.url(key, &query)?) };
            let response = self.send(&call).await?;
            let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            done("send a part of", response).await?;
            let lacks = || BucketError::Answer { url: redacted(&call.url), what: "the tag of a part" };
            let tag = tag.filter(|tag| !tag.contains(['<', '&'])).ok_or_else(lacks)?;
            list.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"));
            if last {
                break;
            }
            part = parts.next()?;
        }
        let actual = parts.hash.digest();
        if actual == *digest {
            let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>").into_bytes();
            let call = Call { body, ..Call::new(Method::POST, self.url(key, &[("uploadId", upload)])?) };
            done("finish an upload of", self.send(&call).await?).await?;
        }
        Ok(actual)
    }

    fn retries(&self) -> u32 {
        self.options.attempts.map_or(self.net.options().retries, |attempts| attempts.saturating_sub(1))
    }

    /// Signs and sends a request until there is an answer that another try would not change.
    async fn send(&self, call: &Call) -> Result<Response, BucketError> {
        let options = self.net.options();
        let digest = Digest::of(&call.body);
        let mut attempt = 0;
        loop {
            // A signature is good for some minutes.
            let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
            let unsigned = Unsigned {
                method: call.method.as_str(),
                url: &call.url,
                headers: &call.headers,
                body: &digest,
                region: &self.options.region,
                time: &time,
            };
            let Some((headers, authorization)) = sign(&self.options.keys, &unsigned) else {
                return Err(BucketError::Name(redacted(&call.url)));
            };
            let mut request = Request::new(call.method.clone(), call.url.clone());
            request.headers = headers;
            request.headers.extend(call.plain.clone());
            request.authorization = Some(authorization);
            if !call.body.is_empty() || matches!(call.method, Method::PUT | Method::POST) {
                request.body = Some(call.body.clone().into());
            }
            let asked = match self.net.send(request).await {
                Ok(response) if attempt < self.retries() && retry::is_temporary_status(response.status()) => {
                    retry::asked_delay(response.headers())
                }
                Ok(response) => return Ok(response),
                Err(error) if attempt < self.retries() && error.is_temporary() => None,
                Err(error) => return Err(error.into()),
            };
            let pause: Duration = retry::delay(options, attempt, asked);
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// The address of an object, in the form that is signed.
    pub(super) fn url(&self, key: &str, query: &[(&str, &str)]) -> Result<Url, BucketError> {
        let BucketOptions { endpoint, bucket, path_style, .. } = &self.options;
        let bad = || BucketError::Name(key.to_owned());
        let mut base = endpoint.clone();
        let mut path = endpoint.path().trim_end_matches('/').to_owned();
        if *path_style {
            path.push_str(&format!("/{}", encoded(bucket, false)));
        } else {
            let host = format!("{bucket}.{}", endpoint.host_str().ok_or_else(bad)?);
            base.set_host(Some(&host)).map_err(|_| bad())?;
        }
        path.push_str(&format!("/{}", encoded(key, true)));
        base.set_path(&path);
        let pairs =
            query.iter().map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false)));
        let pairs = pairs.collect::<Vec<_>>().join("&");
        base.set_query((!pairs.is_empty()).then_some(pairs.as_str()));
        // Such as one with `..` in it, which would be another object.
        if base.path() == path { Ok(base) } else { Err(bad()) }
    }
}

/// Parts of what is sent, hashed while they are read.
struct Parts<'a> {
    reader: Box<dyn Read + 'a>,
    hash: HashingWriter<std::io::Sink>,
}

impl Parts<'_> {
    /// The next part; shorter than [`PART_BYTES`] when it is the last one.
    fn next(&mut self) -> Result<Vec<u8>, BucketError> {
        let mut part = Vec::new();
        let read = self.reader.by_ref().take(PART_BYTES).read_to_end(&mut part);
        read.and_then(|_| self.hash.write_all(&part)).map_err(BucketError::Source)?;
        Ok(part)
    }
}

/// The body of a success. A long operation may say 200 before it fails.
async fn done(action: &'static str, response: Response) -> Result<String, BucketError> {
    let (url, status) = (response.url().clone(), response.status());
    if !status.is_success() {
        return Err(refusal(action, response).await);
    }
    let bytes = body_within(response, MAX_ANSWER_BYTES).await;
    let bytes = bytes.map_err(|source| failed(&Method::PUT, &url, source))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if text.contains("<Error>") {
        return Err(status_of(action, &url, status, &text));
    }
    Ok(text)
}

async fn refusal(action: &'static str, response: Response) -> BucketError {
    let (url, status) = (response.url().clone(), response.status());
    let text = String::from_utf8_lossy(&error_body(response).await).into_owned();
    status_of(action, &url, status, &text)
}

fn status_of(action: &'static str, url: &Url, status: StatusCode, text: &str) -> BucketError {
    let words = |name| tidy(&element(text, name).unwrap_or_default());
    let (code, message, url, number) = (words("Code"), words("Message"), redacted(url), status.as_u16());
    match number {
        401 | 403 => BucketError::Denied { url, status: number, code, message },
        _ => BucketError::Status { action, url, status: number, code, message },
    }
}

/// The text of the first element of this name. Answers of object stores have no attributes and no CDATA where this looks.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    (!text.is_empty() && !text.contains('<')).then(|| text.replace("&quot;", "\"").replace("&amp;", "&"))
}

fn tidy(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(MAX_WORDS_CHARS).collect()
}
