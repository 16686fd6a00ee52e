//! Writing: blobs (looked for, mounted, uploaded in one piece or in chunks) and manifests.
//!
//! Invariants: an upload that broke starts again in a new session, and never longer than [`BlobSource`] can be read
//! again; the registry is told the digest and has to agree; the token may run out at any point in between.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::endpoint::Endpoint;
use super::error::{codes_of, message_of};
use super::exchange::{Call, MAX_RENEWALS, push_scope};
use super::{Inner, RegistryError};
use crate::base::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::net::{MAX_ERROR_BODY_BYTES, body_within, redacted, retry};

/// Blobs up to this size go in one request together with their digest.
const MAX_INLINE_BYTES: u64 = 1024 * 1024;
/// Size of the pieces in which a blob is read.
const READ_BYTES: usize = 128 * 1024;

/// A blob that can be read as often as it takes.
pub trait BlobSource {
    /// A reader of the blob from byte `offset` on.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>>;
}

/// A blob in memory.
impl BlobSource for Vec<u8> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.get(start..)).unwrap_or_default();
        Ok(Box::new(io::Cursor::new(rest.to_vec())))
    }
}

/// A file that holds the blob.
impl BlobSource for PathBuf {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let mut file = File::open(self)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

/// How a blob is pushed.
#[derive(Default)]
pub struct PushOptions<'a> {
    /// Repositories of the same registry that may have the blob already.
    pub mount_from: Vec<String>,
    /// Send it even if the registry says that it has it: what it says was wrong before.
    pub resend: bool,
    /// Upload in chunks of this size instead of one stream; for registries or proxies that limit requests.
    pub chunk_bytes: Option<u64>,
    /// Hears the number of bytes so far; starts again at 0 when an upload does.
    pub progress: Option<&'a dyn Fn(u64)>,
}

/// How a blob got where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobOutcome {
    /// It was there.
    Existed,
    /// The registry took it from another repository.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// What a piece of an upload came to.
enum Sent {
    Answer(Response),
    /// The connection broke, the session was lost, or the answer was 5xx; worth another try, after the time that the
    /// registry asked for, if it did.
    Broken(RegistryError, Option<Duration>),
}

/// What asking for a blob that may be there came to.
enum Taken {
    /// It is there now.
    Here(BlobOutcome),
    /// The registry could not mount it, and opened an upload for it.
    Session(Url),
    /// It has to be sent.
    No,
}

impl Inner {
    pub(super) async fn has_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let endpoint = self.endpoint(&reference.registry).await?;
        self.blob_exists(&endpoint, reference, digest, None).await
    }

    async fn blob_exists(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        digest: &Digest,
        scopes: Option<Vec<String>>,
    ) -> Result<bool, RegistryError> {
        let url = endpoint.url(reference, &format!("blobs/{digest}"))?;
        let mut call = Call { method: Method::HEAD, ..Call::get(endpoint, reference, url) };
        call.scopes = scopes.unwrap_or(call.scopes);
        let response = self.exchange(&call).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(&call, response).await),
        }
    }

    /// How a blob got there without being sent, if it did.
    pub(super) async fn take_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        mount_from: &[String],
    ) -> Result<Option<BlobOutcome>, RegistryError> {
        let endpoint = self.endpoint(&reference.registry).await?;
        Ok(match self.take(&endpoint, reference, digest, mount_from).await? {
            Taken::Here(outcome) => Some(outcome),
            Taken::Session(_) | Taken::No => None,
        })
    }

    async fn take(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        digest: &Digest,
        mount_from: &[String],
    ) -> Result<Taken, RegistryError> {
        let scopes = Some(vec![push_scope(reference)]);
        if self.blob_exists(endpoint, reference, digest, scopes).await? {
            return Ok(Taken::Here(BlobOutcome::Existed));
        }
        let mut taken = Taken::No;
        for from in mount_from.iter().filter(|from| **from != reference.repository) {
            match self.mount(endpoint, reference, digest, from).await? {
                Taken::No => {}
                Taken::Here(outcome) => return Ok(Taken::Here(outcome)),
                session @ Taken::Session(_) => taken = session,
            }
        }
        Ok(taken)
    }

    pub(super) async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        options: &PushOptions<'_>,
    ) -> Result<BlobOutcome, RegistryError> {
        let endpoint = self.endpoint(&reference.registry).await?;
        let mut opened = None;
        if !options.resend {
            match self.take(&endpoint, reference, &descriptor.digest, &options.mount_from).await? {
                Taken::Here(outcome) => return Ok(outcome),
                Taken::Session(session) => opened = Some(session),
                Taken::No => {}
            }
        }
        let net = self.options.net.options();
        let of_host = self.options.hosts.get(&reference.registry).and_then(|host| host.chunk_bytes);
        let chunk_bytes =
            options.chunk_bytes.or(of_host).filter(|bytes| (1..descriptor.size).contains(bytes));
        // Some registries know no upload in one request, although the specification asks for it.
        let mut patching = chunk_bytes.is_none() && self.wants_patches(&endpoint);
        let mut attempt = 0;
        loop {
            let session = match opened.take() {
                Some(session) => session,
                None => self.start_upload(&endpoint, reference).await?,
            };
            let result = match chunk_bytes.or(patching.then_some(descriptor.size)) {
                Some(bytes) => {
                    let chunks = (bytes, options);
                    self.upload_chunks(&endpoint, reference, descriptor, source, chunks, session).await
                }
                None => self.upload_whole(&endpoint, reference, descriptor, source, options, session).await,
            };
            let result = match result {
                // What was but a guess ends no push.
                Err(error @ RegistryError::Status { .. }) if patching => Sent::Broken(error, None),
                result => result?,
            };
            let (error, asked) = match result {
                Sent::Answer(_) => {
                    if patching {
                        self.note_patches(&endpoint);
                    }
                    return Ok(BlobOutcome::Uploaded);
                }
                Sent::Broken(error, asked) => (error, asked),
            };
            let failed = matches!(error, RegistryError::Status { status: 500..=599, .. });
            patching = chunk_bytes.is_none() && failed && !patching;
            if attempt >= net.retries {
                return Err(error);
            }
            tokio::time::sleep(retry::delay(net, attempt, asked)).await;
            attempt += 1;
        }
    }

    /// Whether an upload of one piece has to go as a PATCH and an empty PUT.
    fn wants_patches(&self, endpoint: &Endpoint) -> bool {
        let patched = self.patched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        patched.contains(&endpoint.registry)
    }

    fn note_patches(&self, endpoint: &Endpoint) {
        let mut patched = self.patched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        patched.insert(endpoint.registry.clone());
    }

    /// Asks the registry to take a blob from `from`. Any other answer than yes means no: a registry that cannot
    /// mount opens an upload instead.
    async fn mount(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        digest: &Digest,
        from: &str,
    ) -> Result<Taken, RegistryError> {
        let mut url = endpoint.url(reference, "blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        // Done twice it is still mounted once, or there is one session more that nobody uses.
        let mut call = Call { idempotent: true, ..Call::push(endpoint, reference, Method::POST, url) };
        call.scopes.push(format!("repository:{from}:pull"));
        match self.exchange(&call).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(Taken::Here(BlobOutcome::Mounted)),
            Ok(response) if response.status() == StatusCode::ACCEPTED => {
                Ok(location(&call.url, &response).map_or(Taken::No, Taken::Session))
            }
            Ok(_) => Ok(Taken::No),
            // No right to read the other repository is no reason to fail the push.
            Err(RegistryError::Denied { .. }) => Ok(Taken::No),
            Err(error) => Err(error),
        }
    }

    async fn start_upload(&self, endpoint: &Endpoint, reference: &Reference) -> Result<Url, RegistryError> {
        let url = endpoint.url(reference, "blobs/uploads/")?;
        // Opening a second session when the first answer got lost harms nobody.
        let call = Call { idempotent: true, ..Call::push(endpoint, reference, Method::POST, url) };
        let response = self.exchange(&call).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refusal(&call, response).await);
        }
        location(&call.url, &response)
    }

    async fn upload_whole(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        options: &PushOptions<'_>,
        session: Url,
    ) -> Result<Sent, RegistryError> {
        let url = with_digest(session, &descriptor.digest);
        let call = Call::push(endpoint, reference, Method::PUT, url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .header(CONTENT_LENGTH, HeaderValue::from(descriptor.size));
        let piece = Piece { offset: 0, length: descriptor.size, descriptor, source, options };
        match self.send_piece(&call, &piece).await? {
            Sent::Answer(response) if response.status() == StatusCode::CREATED => Ok(Sent::Answer(response)),
            Sent::Answer(response) => Err(self.refusal(&call, response).await),
            broken => Ok(broken),
        }
    }

    async fn upload_chunks(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        (chunk_bytes, options): (u64, &PushOptions<'_>),
        mut session: Url,
    ) -> Result<Sent, RegistryError> {
        let mut offset = 0;
        let mut corrections = 0;
        while offset < descriptor.size {
            let length = chunk_bytes.min(descriptor.size - offset);
            let range = format!("{offset}-{}", offset + length - 1);
            let call = Call::push(endpoint, reference, Method::PATCH, session.clone())
                .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
                .header(CONTENT_LENGTH, HeaderValue::from(length))
                .header(
                    CONTENT_RANGE,
                    HeaderValue::from_str(&range).expect("invariant: digits are a valid header value"),
                );
            let piece = Piece { offset, length, descriptor, source, options };
            match self.send_piece(&call, &piece).await? {
                Sent::Answer(response) if response.status() == StatusCode::ACCEPTED => {
                    session = location(&call.url, &response)?;
                    offset += length;
                }
                // The registry has another idea of how far it got: ask, and go on from there.
                Sent::Answer(response) if response.status() == StatusCode::RANGE_NOT_SATISFIABLE => {
                    corrections += 1;
                    if corrections > self.options.net.options().retries {
                        return Err(self.refusal(&call, response).await);
                    }
                    (session, offset) = self.upload_state(endpoint, reference, session).await?;
                }
                Sent::Answer(response) => return Err(self.refusal(&call, response).await),
                broken => return Ok(broken),
            }
        }
        let url = with_digest(session, &descriptor.digest);
        let call = Call::push(endpoint, reference, Method::PUT, url)
            .header(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = match self.exchange(&call).await {
            Err(RegistryError::Net(error)) if error.is_temporary() => {
                return Ok(Sent::Broken(error.into(), None));
            }
            result => result?,
        };
        match response.status() {
            StatusCode::CREATED => Ok(Sent::Answer(response)),
            status if may_pass(status) => {
                let asked = retry::asked_delay(response.headers());
                Ok(Sent::Broken(self.refusal(&call, response).await, asked))
            }
            _ => Err(self.refusal(&call, response).await),
        }
    }

    /// Where an upload goes on (distribution spec, "Pushing a blob in chunks").
    async fn upload_state(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        session: Url,
    ) -> Result<(Url, u64), RegistryError> {
        let call = Call {
            method: Method::GET,
            idempotent: true,
            ..Call::push(endpoint, reference, Method::GET, session)
        };
        let response = self.exchange(&call).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Err(self.refusal(&call, response).await);
        }
        let range = response.headers().get(RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let last =
            range.trim_start_matches("bytes=").split_once('-').and_then(|(_, last)| last.parse::<u64>().ok());
        // Registries say `0-0` both for nothing and for one byte; starting again at 0 is right for the first and
        // answered with 416 for the second, which blobs of that size never meet: they go in one piece.
        let offset = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
        Ok((location(&call.url, &response)?, offset))
    }

    /// Sends a part of the blob. A 401 is answered with a fresh token.
    async fn send_piece(&self, call: &Call<'_>, piece: &Piece<'_>) -> Result<Sent, RegistryError> {
        let mut renewals = 0;
        loop {
            let authorization = self.known_authorization(call);
            let response = match self.stream_piece(call, piece, authorization.clone()).await? {
                Ok(response) => response,
                Err(error) => return Ok(Sent::Broken(error, None)),
            };
            match response.status() {
                StatusCode::UNAUTHORIZED if renewals < MAX_RENEWALS => {
                    renewals += 1;
                    if !self.authorize(call, authorization.as_ref(), response.headers()).await? {
                        return Ok(Sent::Answer(response));
                    }
                }
                status if may_pass(status) => {
                    let asked = retry::asked_delay(response.headers());
                    return Ok(Sent::Broken(self.refusal(call, response).await, asked));
                }
                _ => return Ok(Sent::Answer(response)),
            }
        }
    }

    /// The inner error is one that a new session may get past.
    async fn stream_piece(
        &self,
        call: &Call<'_>,
        piece: &Piece<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Result<Response, RegistryError>, RegistryError> {
        let source_error = |source| RegistryError::Source { digest: piece.descriptor.digest, source };
        let mut reader = piece.source.open(piece.offset).map_err(source_error)?.take(piece.length);
        let mut request = call.request(authorization);
        if piece.length <= MAX_INLINE_BYTES {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(source_error)?;
            piece.check(bytes.len() as u64)?;
            request.body = Some(Body::from(bytes));
            let answer = self.options.net.send(request).await;
            piece.report(piece.length);
            return passing(answer);
        }
        let (sender, receiver) = mpsc::channel(4);
        request.body = Some(Body::wrap_stream(Chunks(receiver)));
        let mut request = Box::pin(self.options.net.send(request));
        let mut sent = 0;
        loop {
            let mut chunk = vec![0; READ_BYTES];
            let count = reader.read(&mut chunk).map_err(source_error)?;
            if count == 0 {
                break;
            }
            chunk.truncate(count);
            tokio::select! {
                // An early answer (401, say) makes the rest pointless.
                answer = &mut request => return passing(answer),
                _ = sender.send(Ok(chunk)) => {}
            }
            sent += count as u64;
            piece.report(sent);
        }
        // Dropping the request breaks the connection, so that the registry does not take the part for the whole.
        piece.check(sent)?;
        drop(sender);
        passing(request.await)
    }

    pub(super) async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let digest = Digest::of(bytes);
        let endpoint = self.endpoint(&reference.registry).await?;
        let url = endpoint.url(reference, &format!("manifests/{}", reference.manifest_name()))?;
        if let Some(expected) = reference.digest.filter(|expected| *expected != digest) {
            return Err(RegistryError::WrongDigest { url: redacted(&url), expected, actual: digest });
        }
        let media = HeaderValue::from_str(media_type).map_err(|_| RegistryError::MediaType {
            reference: reference.familiar(),
            media_type: super::error::tidy(media_type),
        })?;
        let call = Call { idempotent: true, ..Call::push(&endpoint, reference, Method::PUT, url) };
        let call = Call { body: bytes.to_vec(), ..call.header(CONTENT_TYPE, media) };
        let options = self.options.net.options();
        let mut attempt = 0;
        let response = loop {
            let response = self.exchange(&call).await?;
            let status = response.status();
            if matches!(status, StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED) {
                break response;
            }
            // What the registry lacks stands in the body, so one that breaks off is asked for again.
            match body_within(response, MAX_ERROR_BODY_BYTES).await {
                Err(_) if attempt < options.retries => {}
                body => {
                    let body = body.ok().flatten().unwrap_or_default();
                    return Err(self.manifest_refused(&call, status, &body));
                }
            }
            tokio::time::sleep(retry::delay(options, attempt, None)).await;
            attempt += 1;
        };
        let header = HeaderName::from_static("docker-content-digest");
        let stated =
            response.headers().get(header).and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        match stated {
            Some(actual) if actual != digest => {
                Err(RegistryError::WrongDigest { url: redacted(&call.url), expected: digest, actual })
            }
            _ => Ok(digest),
        }
    }
}

impl Inner {
    fn manifest_refused(&self, call: &Call<'_>, status: StatusCode, body: &[u8]) -> RegistryError {
        const LACKS: [&str; 3] = ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"];
        if codes_of(body).iter().any(|code| LACKS.contains(&code.as_str())) {
            return RegistryError::Incomplete {
                reference: call.reference.familiar(),
                registry: call.endpoint.registry.clone(),
                message: message_of(body),
            };
        }
        self.refused(call, redacted(&call.url), status, body)
    }
}

/// A part of a blob on its way.
struct Piece<'a> {
    offset: u64,
    length: u64,
    descriptor: &'a Descriptor,
    source: &'a dyn BlobSource,
    options: &'a PushOptions<'a>,
}

impl Piece<'_> {
    fn report(&self, sent: u64) {
        if let Some(progress) = self.options.progress {
            progress(self.offset + sent);
        }
    }

    fn check(&self, read: u64) -> Result<(), RegistryError> {
        if read == self.length {
            return Ok(());
        }
        Err(RegistryError::ShortSource {
            digest: self.descriptor.digest,
            size: self.descriptor.size,
            actual: self.offset + read,
        })
    }
}

/// Whether a new session may get past an answer. 404: the registry does not know the session any more.
fn may_pass(status: StatusCode) -> bool {
    retry::is_temporary_status(status) || status == StatusCode::NOT_FOUND
}

fn passing(
    answer: Result<Response, crate::net::NetError>,
) -> Result<Result<Response, RegistryError>, RegistryError> {
    match answer {
        Err(error) if error.is_temporary() => Ok(Err(error.into())),
        Err(error) => Err(error.into()),
        Ok(response) => Ok(Ok(response)),
    }
}

/// The pieces that the pushing thread reads, as a request body.
struct Chunks(mpsc::Receiver<io::Result<Vec<u8>>>);

impl futures_core::Stream for Chunks {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

fn location(base: &Url, response: &Response) -> Result<Url, RegistryError> {
    let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    text.and_then(|text| base.join(text).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
        .ok_or_else(|| RegistryError::NoLocation(redacted(base)))
}

fn with_digest(mut url: Url, digest: &Digest) -> Url {
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}
