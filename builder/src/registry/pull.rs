//! Reading: manifests, and blobs that go on where a cut connection left off.
//!
//! Invariants: manifests are verified before they are parsed; a document that could be read as an index and as a
//! manifest is refused (CVE-2021-41190); a blob's digest and size are verified over what the sink got; nothing that a
//! mirror gave stays in a sink unless the mirror gave all of the right blob.

use std::io::Write;

use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::endpoint::Endpoint;
use super::error::tidy;
use super::exchange::{Call, Whole};
use super::{Inner, ManifestHead, RawManifest, RegistryError, ResolvedManifest};
use crate::base::digest::{Digest, HashingWriter};
use crate::base::limits::MAX_METADATA_BYTES;
use crate::base::sink::BlobSink;
use crate::image::manifest::{Descriptor, Index, Manifest, media_type};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::net::{NetError, Request, failed, range_starts_at, redacted, retry};

const MANIFEST_TYPES: [&str; 4] =
    [media_type::OCI_INDEX, media_type::DOCKER_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST];
const DIGEST_HEADER: &str = "docker-content-digest";
/// How many indexes may lie within one another.
const MAX_INDEX_DEPTH: usize = 3;

/// Where a blob comes from.
pub(super) struct Origin<'a> {
    call: Call<'a>,
    /// False for the foreign URLs of a descriptor, which have nothing to do with the registry.
    registry: bool,
}

impl<'a> Origin<'a> {
    /// The registry of an endpoint, or a mirror.
    pub(super) fn registry(
        endpoint: &'a Endpoint,
        reference: &'a Reference,
        descriptor: &Descriptor,
    ) -> Result<Self, RegistryError> {
        let url = endpoint.url(reference, &format!("blobs/{}", descriptor.digest))?;
        Ok(Self { call: Call::get(endpoint, reference, url), registry: true })
    }
}

impl Inner {
    pub(super) async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedManifest, RegistryError> {
        let mut raw = self.manifest_raw(reference).await?;
        let mut index_digest = None;
        let mut stated = None;
        for _ in 0..=MAX_INDEX_DEPTH {
            let url = || reference.familiar();
            match raw.media_type.as_str() {
                media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => {
                    let manifest = serde_json::from_slice::<Manifest>(&raw.bytes).map_err(|source| {
                        RegistryError::Malformed { url: url(), what: "manifest", source }
                    })?;
                    let RawManifest { media_type, bytes, digest } = raw;
                    return Ok(ResolvedManifest {
                        digest,
                        media_type,
                        bytes,
                        manifest,
                        index: index_digest,
                        platform: stated,
                    });
                }
                media_type::OCI_INDEX | media_type::DOCKER_INDEX => {
                    let index = serde_json::from_slice::<Index>(&raw.bytes)
                        .map_err(|source| RegistryError::Malformed { url: url(), what: "index", source })?;
                    let chosen =
                        index.choose(platform).ok_or_else(|| no_platform(reference, platform, &index))?;
                    index_digest.get_or_insert(raw.digest);
                    stated.clone_from(&chosen.platform);
                    let child = Reference { tag: None, digest: Some(chosen.digest), ..reference.clone() };
                    raw = self.manifest_raw(&child).await?;
                    if raw.bytes.len() as u64 != chosen.size {
                        return Err(RegistryError::WrongSize {
                            url: child.familiar(),
                            expected: chosen.size,
                            actual: raw.bytes.len() as u64,
                        });
                    }
                }
                other => {
                    return Err(RegistryError::MediaType {
                        reference: reference.familiar(),
                        media_type: tidy(other),
                    });
                }
            }
        }
        Err(RegistryError::Nested(reference.familiar()))
    }

    /// A manifest from the registry of `reference` itself, which may be a mirror.
    pub(super) async fn manifest_at(&self, reference: &Reference) -> Result<RawManifest, RegistryError> {
        let endpoint = self.endpoint(&reference.registry).await?;
        let call = manifest_call(&endpoint, reference, Method::GET)?;
        let (headers, bytes) = match self.exchange_whole(&call, MAX_METADATA_BYTES as usize).await? {
            Whole::Read(headers, bytes) => (headers, bytes),
            Whole::Refused(response) => return Err(self.manifest_refusal(&call, response).await),
        };
        let url = redacted(&call.url);
        let stated = stated_digest(&headers, &url, reference)?;
        let header_type = content_type(&headers);
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest.or(stated).filter(|expected| *expected != digest) {
            return Err(RegistryError::WrongDigest { url, expected, actual: digest });
        }
        let media_type = manifest_type(&url, &header_type, &bytes)?;
        Ok(RawManifest { media_type, bytes, digest })
    }

    pub(super) async fn head_manifest(
        &self,
        reference: &Reference,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let endpoint = self.endpoint(&reference.registry).await?;
        let call = manifest_call(&endpoint, reference, Method::HEAD)?;
        let response = self.exchange(&call).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            // Some registries do not know HEAD here.
            StatusCode::METHOD_NOT_ALLOWED => return self.head_by_get(reference).await,
            _ => return Err(self.manifest_refusal(&call, response).await),
        }
        match stated_digest(response.headers(), &redacted(&call.url), reference)?.or(reference.digest) {
            Some(digest) => Ok(Some(ManifestHead {
                media_type: content_type(response.headers()),
                digest,
                size: number(response.headers(), CONTENT_LENGTH.as_str()),
            })),
            None => self.head_by_get(reference).await,
        }
    }

    async fn head_by_get(&self, reference: &Reference) -> Result<Option<ManifestHead>, RegistryError> {
        match self.manifest_raw(reference).await {
            Ok(RawManifest { media_type, bytes, digest }) => {
                Ok(Some(ManifestHead { media_type, digest, size: Some(bytes.len() as u64) }))
            }
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn manifest_refusal(&self, call: &Call<'_>, response: Response) -> RegistryError {
        let missing = response.status() == StatusCode::NOT_FOUND;
        match self.refusal(call, response).await {
            RegistryError::Status { message, .. } if missing => RegistryError::NotFound {
                reference: call.reference.familiar(),
                registry: call.endpoint.registry.clone(),
                message,
            },
            error => error,
        }
    }

    pub(super) async fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RegistryError> {
        if descriptor.size > MAX_METADATA_BYTES {
            let url = format!("{}@{}", reference.name(), descriptor.digest);
            return Err(RegistryError::TooLarge { url, limit: MAX_METADATA_BYTES });
        }
        let mut bytes = Vec::new();
        self.blob(reference, descriptor, &mut bytes, &|_| ()).await?;
        Ok(bytes)
    }

    pub(super) async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<(), RegistryError> {
        let mut sink = HashingWriter::new(sink);
        if self.blob_from_mirrors(reference, descriptor, &mut sink, progress).await? {
            return Ok(());
        }
        let endpoint = self.endpoint(&reference.registry).await?;
        let mut received = 0;
        let mut missing = None;
        for origin in origins(&endpoint, reference, descriptor)? {
            match self.blob_from(&origin, descriptor, &mut received, &mut sink, progress).await {
                Ok(()) => return Ok(()),
                // The next origin is asked for the rest; the digest tells in the end whether it fits.
                Err(
                    error @ (RegistryError::Status { .. }
                    | RegistryError::Denied { .. }
                    | RegistryError::BlobNotFound { .. }),
                ) => {
                    missing.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(missing.expect("invariant: the registry itself is always an origin"))
    }

    /// Fills `sink` from `received` on and verifies what is in it then.
    pub(super) async fn blob_from(
        &self,
        origin: &Origin<'_>,
        descriptor: &Descriptor,
        received: &mut u64,
        sink: &mut HashingWriter<&mut dyn BlobSink>,
        progress: &dyn Fn(u64),
    ) -> Result<(), RegistryError> {
        self.transfer(origin, descriptor.size, received, sink, progress).await?;
        let actual = sink.digest();
        if actual == descriptor.digest {
            return Ok(());
        }
        let (url, expected) = (redacted(&origin.call.url), descriptor.digest);
        Err(RegistryError::WrongDigest { url, expected, actual })
    }

    /// Moves the bytes from `received` on into `sink`, over as many connections as it takes.
    async fn transfer(
        &self,
        origin: &Origin<'_>,
        size: u64,
        received: &mut u64,
        sink: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<(), RegistryError> {
        let options = self.options.net.options();
        let mut failures = 0;
        while *received < size {
            let before = *received;
            let cause = match self.stream(origin, size, received, sink, progress).await? {
                Some(error) if !error.is_temporary() => return Err(error.into()),
                _ if *received == size => break,
                cause => cause,
            };
            if *received > before {
                failures = 0;
            }
            failures += 1;
            if failures > options.retries {
                return Err(RegistryError::Broken {
                    url: redacted(&origin.call.url),
                    received: *received,
                    size,
                    attempts: failures,
                    source: cause,
                });
            }
            tokio::time::sleep(retry::delay(options, failures - 1, None)).await;
        }
        Ok(())
    }

    /// One connection. `Ok(Some(_))`: it broke; `Ok(None)`: the body ended, perhaps too early.
    async fn stream(
        &self,
        origin: &Origin<'_>,
        size: u64,
        received: &mut u64,
        sink: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<Option<NetError>, RegistryError> {
        let mut response = self.open(origin, *received).await?;
        let url = redacted(&origin.call.url);
        // A server that ignores Range starts again at the beginning.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *received };
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(None),
                Err(source) => return Ok(Some(failed(&Method::GET, &origin.call.url, source))),
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let Some(fresh) = usize::try_from(skipped).ok().and_then(|skipped| chunk.get(skipped..)) else {
                continue;
            };
            if *received + fresh.len() as u64 > size {
                let actual = *received + fresh.len() as u64;
                return Err(RegistryError::WrongSize { url, expected: size, actual });
            }
            sink.write_all(fresh).map_err(|source| RegistryError::Sink { url: url.clone(), source })?;
            *received += fresh.len() as u64;
            progress(*received);
        }
    }

    async fn open(&self, origin: &Origin<'_>, offset: u64) -> Result<Response, RegistryError> {
        let call = &origin.call;
        let mut headers = call.headers.clone();
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"))
                .expect("invariant: digits and ASCII words are a valid header value");
            headers.insert(RANGE, range);
        }
        let call = Call {
            headers,
            scopes: call.scopes.clone(),
            ..Call::get(call.endpoint, call.reference, call.url.clone())
        };
        let response = if origin.registry {
            self.exchange(&call).await?
        } else {
            let request = Request { headers: call.headers.clone(), ..Request::get(call.url.clone()) };
            self.options.net.send(request).await?
        };
        let url = redacted(&call.url);
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT if range_starts_at(response.headers(), offset) => Ok(response),
            StatusCode::PARTIAL_CONTENT => {
                let got = response.headers().get(CONTENT_RANGE);
                let got = tidy(&String::from_utf8_lossy(got.map_or(&[], |got| got.as_bytes())));
                Err(RegistryError::WrongRange { url, wanted: offset, got })
            }
            StatusCode::NOT_FOUND => match self.refusal(&call, response).await {
                RegistryError::Status { message, .. } => Err(RegistryError::BlobNotFound { url, message }),
                error => Err(error),
            },
            _ => Err(self.refusal(&call, response).await),
        }
    }
}

fn manifest_call<'a>(
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    method: Method,
) -> Result<Call<'a>, RegistryError> {
    let url = endpoint.url(reference, &format!("manifests/{}", reference.manifest_name()))?;
    let mut call = Call { method, ..Call::get(endpoint, reference, url) };
    for name in MANIFEST_TYPES {
        call.headers.append(ACCEPT, HeaderValue::from_static(name));
    }
    Ok(call)
}

/// The registry, and the URLs of a foreign layer: those before the registry when the media type says that it need not
/// have it.
fn origins<'a>(
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    descriptor: &Descriptor,
) -> Result<Vec<Origin<'a>>, RegistryError> {
    let foreign = descriptor.urls.iter().filter_map(|url| Url::parse(url).ok());
    let mut origins: Vec<_> = foreign
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
        .map(|url| Origin { call: Call::get(endpoint, reference, url), registry: false })
        .collect();
    let elsewhere =
        descriptor.media_type.contains("nondistributable") || descriptor.media_type.contains(".foreign.");
    let own = Origin::registry(endpoint, reference, descriptor)?;
    origins.insert(if elsewhere { origins.len() } else { 0 }, own);
    Ok(origins)
}

/// `Docker-Content-Digest`. An algorithm that kiln does not know says nothing, unless it is all there is.
fn stated_digest(
    headers: &HeaderMap,
    url: &str,
    reference: &Reference,
) -> Result<Option<Digest>, RegistryError> {
    let Some(text) = headers.get(DIGEST_HEADER).and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(_) if reference.digest.is_some() => Ok(None),
        Err(source) => Err(RegistryError::DigestHeader { url: url.to_owned(), source }),
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
}

/// The one media type on which header, body and shape agree.
fn manifest_type(url: &str, header: &str, bytes: &[u8]) -> Result<String, RegistryError> {
    let shape: Shape = serde_json::from_slice(bytes).map_err(|source| RegistryError::Malformed {
        url: url.to_owned(),
        what: "manifest",
        source,
    })?;
    let ambiguous = |reason: String| RegistryError::Ambiguous { url: url.to_owned(), reason };
    if shape.manifests.is_some() && (shape.config.is_some() || shape.layers.is_some()) {
        return Err(ambiguous("it has both `manifests` and `layers`".to_owned()));
    }
    let stated = shape.media_type.filter(|text| !text.is_empty());
    let generic = !MANIFEST_TYPES.contains(&header);
    let media_type = match stated {
        Some(stated) if !generic && stated != header => {
            return Err(ambiguous(format!(
                "it is sent as `{}` and says it is `{}`",
                tidy(header),
                tidy(&stated)
            )));
        }
        Some(stated) => stated,
        None if !generic => header.to_owned(),
        None if shape.schema_version != Some(2) => header.to_owned(),
        None if shape.manifests.is_some() => media_type::OCI_INDEX.to_owned(),
        None if shape.config.is_some() => media_type::OCI_MANIFEST.to_owned(),
        None => header.to_owned(),
    };
    let index = matches!(media_type.as_str(), media_type::OCI_INDEX | media_type::DOCKER_INDEX);
    let manifest = matches!(media_type.as_str(), media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST);
    if (index && shape.config.is_some()) || (manifest && shape.manifests.is_some()) {
        return Err(ambiguous(format!("its content does not fit the type `{}`", tidy(&media_type))));
    }
    Ok(media_type)
}

fn no_platform(reference: &Reference, platform: &Platform, index: &Index) -> RegistryError {
    let mut offered: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(Platform::to_string)
        .collect();
    offered.sort();
    offered.dedup();
    RegistryError::NoPlatform { reference: reference.familiar(), wanted: platform.to_string(), offered }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn confusing_manifests_are_refused() {
        let kind = |header: &str, body: &str| manifest_type("u", header, body.as_bytes());
        let manifest = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        assert_eq!(kind(media_type::OCI_MANIFEST, manifest).unwrap(), media_type::OCI_MANIFEST);
        assert_eq!(kind("application/json", manifest).unwrap(), media_type::OCI_MANIFEST);
        assert_eq!(kind("", r#"{"schemaVersion":2,"manifests":[]}"#).unwrap(), media_type::OCI_INDEX);
        let both = r#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#;
        assert!(matches!(kind(media_type::OCI_INDEX, both), Err(RegistryError::Ambiguous { .. })));
        assert!(matches!(kind(media_type::OCI_INDEX, manifest), Err(RegistryError::Ambiguous { .. })));
        let other =
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{{}}}}"#, media_type::DOCKER_MANIFEST);
        assert!(matches!(kind(media_type::OCI_MANIFEST, &other), Err(RegistryError::Ambiguous { .. })));
        assert!(matches!(kind(media_type::OCI_MANIFEST, "<html>"), Err(RegistryError::Malformed { .. })));
    }
}
