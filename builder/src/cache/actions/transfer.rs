//! Bytes of entries: to and from the storage that the service names.
//!
//! Invariants: requests to signed addresses have no token; nothing is given to readers before all of it was sent and had
//! the digest that it should have; a reader gets the bytes that the digest is of, over as many connections as it takes.

use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use reqwest::{Method, Url};

use super::ActionsError;
use super::service::{Found, Reserved, Service, Slot, status_of};
use crate::base::digest::{Digest, HashingWriter};
use crate::cache::download::{self, End, Place, Size};
use crate::net::{Request, error_body, redacted, retry};

/// Size of the pieces in which an entry is sent. Azure takes 50,000, which is far beyond GitHub's limits.
const BLOCK_BYTES: u64 = 8 * 1024 * 1024;
const SEND: &str = "send an entry";
const READ: &str = "read an entry";

/// What sending an entry came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It can be read.
    Whole,
    /// The key is somebody else's.
    Taken,
    /// The bytes are not those that were promised; nobody will see them.
    Wrong(Digest),
}

/// What is sent.
pub(super) struct Content<'a> {
    pub(super) reader: Box<dyn Read + 'a>,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Service {
    /// Makes an entry.
    pub(super) async fn write(&self, key: &str, content: Content<'_>) -> Result<Sent, ActionsError> {
        let slot = match self.reserve(key, content.size).await? {
            Reserved::Taken => return Ok(Sent::Taken),
            Reserved::Slot(slot) => slot,
        };
        let (digest, size) = (content.digest, content.size);
        let mut blocks = Blocks { reader: content.reader, hash: HashingWriter::new(std::io::sink()) };
        let mut names = Vec::new();
        let mut sent = 0;
        loop {
            let block = blocks.next()?;
            if block.is_empty() && sent > 0 {
                break;
            }
            let length = block.len() as u64;
            let last = length < BLOCK_BYTES;
            match &slot {
                // All of it in one request; nothing is sent that is not right.
                Slot::Storage { .. } if last && sent == 0 && blocks.hash.digest() != digest => {}
                Slot::Storage { url, .. } if last && sent == 0 => {
                    self.put(url, &[("x-ms-blob-type", "BlockBlob")], block).await?;
                }
                Slot::Storage { url, .. } => {
                    // Names of equal length, as Azure wants them.
                    let name = BASE64.encode(format!("{:08}", names.len()));
                    let mut url = url.clone();
                    url.query_pairs_mut().append_pair("comp", "block").append_pair("blockid", &name);
                    names.push(name);
                    self.put(&url, &[], block).await?;
                }
                Slot::Upload(_) if length == 0 => {}
                Slot::Upload(id) => self.patch(*id, sent, block).await?,
            }
            sent += length;
            if last || sent > size {
                break;
            }
        }
        let actual = blocks.hash.digest();
        if actual != digest || sent != size {
            return Ok(Sent::Wrong(actual));
        }
        if let (Slot::Storage { url, .. }, false) = (&slot, names.is_empty()) {
            let mut url = url.clone();
            url.query_pairs_mut().append_pair("comp", "blocklist");
            let list: String = names.iter().map(|name| format!("<Latest>{name}</Latest>")).collect();
            let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
            self.put(&url, &[], list.into_bytes()).await?;
        }
        match self.finish(&slot, size).await {
            Ok(()) => Ok(Sent::Whole),
            // The answer to an earlier try may have been lost: what counts is what readers see.
            Err(
                error @ (ActionsError::Status { .. } | ActionsError::Refused { .. } | ActionsError::Net(_)),
            ) => match self.look(key).await {
                Ok(Some(found)) if found.key == key => Ok(Sent::Whole),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Sends bytes to a signed address.
    async fn put(
        &self,
        url: &Url,
        headers: &[(&'static str, &'static str)],
        body: Vec<u8>,
    ) -> Result<(), ActionsError> {
        let make = || {
            let mut request = Request::new(Method::PUT, url.clone());
            for (name, value) in headers {
                request.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            request.body = Some(body.clone().into());
            request
        };
        let response = self.send(make).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            // The token has no part in it: it is no refusal of that.
            status => Err(status_of(SEND, url, status, &error_body(response).await)),
        }
    }

    /// Sends a piece to the service itself.
    async fn patch(&self, id: u64, offset: u64, body: Vec<u8>) -> Result<(), ActionsError> {
        let url = self.resource(&format!("caches/{id}"))?;
        let range = format!("bytes {offset}-{}/*", offset + body.len() as u64 - 1);
        let range = HeaderValue::from_str(&range).expect("invariant: digits are a valid header value");
        let make = || {
            let mut request = self.request(Method::PATCH, &url);
            request.headers.insert(CONTENT_RANGE, range.clone());
            request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            request.body = Some(body.clone().into());
            request
        };
        let response = self.send(make).await?;
        self.accept(SEND, response).await
    }

    /// Reads an entry into `sink`.
    pub(super) async fn fetch(
        &self,
        found: &Found,
        size: Size,
        sink: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<(), ActionsError> {
        let options = self.net.options();
        let mut url = found.url.clone();
        let mut at = Place { received: 0, size };
        let mut failures = 0;
        let mut renewed = false;
        loop {
            let before = at.received;
            let cause = match self.stream(&url, &mut at, sink, progress).await {
                Ok(End::Whole) => return Ok(()),
                Ok(End::Broken(Some(error))) if !error.is_temporary() => return Err(error.into()),
                Ok(End::Broken(cause)) => cause,
                Ok(End::Refused(_) | End::TooLong | End::Sink(_)) => None,
                // A signed address is good for some minutes only.
                Err(error @ ActionsError::Status { status: 401 | 403, .. }) if !renewed => {
                    renewed = true;
                    match self.look(&found.key).await? {
                        Some(again) if again.key == found.key => url = again.url,
                        _ => return Err(error),
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if at.received > before {
                (failures, renewed) = (0, false);
            }
            failures += 1;
            if failures > options.retries {
                let (received, size, url) = (at.received, at.size.most(), redacted(&url));
                return Err(ActionsError::Broken { url, received, size, attempts: failures, source: cause });
            }
            tokio::time::sleep(retry::delay(options, failures - 1, None)).await;
        }
    }

    /// One connection.
    async fn stream(
        &self,
        url: &Url,
        at: &mut Place,
        sink: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<End, ActionsError> {
        let from = at.received;
        let make = || {
            let mut request = Request::get(url.clone());
            if from > 0 {
                let range = HeaderValue::from_str(&format!("bytes={from}-"));
                request.headers.insert(RANGE, range.expect("invariant: digits are a valid header value"));
            }
            request
        };
        let response = self.send(make).await?;
        match download::receive(response, url, at, sink, progress).await {
            End::Refused(response) => {
                let status = response.status();
                Err(status_of(READ, url, status, &error_body(response).await))
            }
            End::TooLong => Err(ActionsError::TooLong { url: redacted(url), size: at.size.most() }),
            End::Sink(source) => Err(ActionsError::Sink { url: redacted(url), source }),
            end => Ok(end),
        }
    }
}

/// Pieces of what is sent, hashed while they are read.
struct Blocks<'a> {
    reader: Box<dyn Read + 'a>,
    hash: HashingWriter<std::io::Sink>,
}

impl Blocks<'_> {
    /// The next piece; shorter than [`BLOCK_BYTES`] when it is the last one.
    fn next(&mut self) -> Result<Vec<u8>, ActionsError> {
        let mut block = Vec::new();
        let read = self.reader.by_ref().take(BLOCK_BYTES).read_to_end(&mut block);
        read.and_then(|_| self.hash.write_all(&block)).map_err(ActionsError::Source)?;
        Ok(block)
    }
}
