//! The calls of the cache service: looking for an entry, reserving a key, and giving an entry to readers.
//!
//! | | version 2 (Twirp in JSON) | version 1 |
//! | --- | --- | --- |
//! | look | `GetCacheEntryDownloadURL` | `GET cache?keys=..` |
//! | reserve | `CreateCacheEntry` | `POST caches` |
//! | finish | `FinalizeCacheEntryUpload` | `POST caches/ID` |
//!
//! Invariants: the token goes to the service's own origin and nowhere else, redirects included; an answer is read within
//! limits; an address that the service names is not less safe than its own.

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::ActionsError;
use super::error::tidy;
use super::options::{ActionsOptions, Protocol, Token};
use crate::base::digest::Digest;
use crate::net::{Net, Request, body_within, error_body, failed, redacted, retry};

/// Largest answer of the service.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Longest time between two questions to a service that answers 429 without saying when to come again.
const MAX_STEP: u32 = 5;
/// What GitHub calls the version of an entry: entries of other programs have others, so that they never mix.
const VERSION_OF: &[u8] = b"kiln/actions-cache/v1";
/// Most pages of a list.
const MAX_PAGES: u32 = 50;
const PAGE: usize = 100;

/// An entry that is there.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) key: String,
    /// Signed: whoever has it may read.
    pub(super) url: Url,
}

/// A key that was taken for an entry.
#[derive(Debug)]
pub(super) enum Slot {
    /// A block blob of Azure's storage by its signed address.
    Storage { key: String, url: Url },
    /// An upload to the service itself.
    Upload(u64),
}

/// What asking for a key came to.
#[derive(Debug)]
pub(super) enum Reserved {
    Slot(Slot),
    /// Somebody has it, perhaps not yet whole.
    Taken,
}

/// The service of one job.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) net: Net,
    pub(super) options: ActionsOptions,
}

// Both ways of protobuf's JSON to spell a name.
#[derive(Deserialize)]
struct Located {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedDownloadUrl")]
    signed_download_url: String,
    #[serde(default, alias = "matchedKey")]
    matched_key: String,
}

#[derive(Deserialize)]
struct Created {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedUploadUrl")]
    signed_upload_url: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Finished {
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LocatedV1 {
    #[serde(default)]
    cache_key: String,
    #[serde(default)]
    archive_location: String,
}

#[derive(Deserialize)]
struct ReservedV1 {
    #[serde(alias = "cacheID", alias = "cacheId")]
    cache_id: u64,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    actions_caches: Vec<ListedEntry>,
}

#[derive(Deserialize)]
struct ListedEntry {
    key: String,
    version: String,
}

/// A refusal in either protocol.
#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default, alias = "message")]
    msg: String,
    #[serde(default, rename = "typeKey")]
    type_key: String,
}

impl Service {
    /// The newest entry whose key begins with `prefix`.
    pub(super) async fn look(&self, prefix: &str) -> Result<Option<Found>, ActionsError> {
        const ACTION: &str = "look for an entry";
        let (key, address) = match self.options.protocol {
            Protocol::V2 => {
                let body = json!({ "key": prefix, "restore_keys": [prefix], "version": version() });
                let url = self.method("GetCacheEntryDownloadURL")?;
                let response = self.post(&url, &body).await?;
                if response.status() == StatusCode::NOT_FOUND {
                    return Ok(None);
                }
                let found: Located = self.read(ACTION, response).await?;
                if !found.ok {
                    return Ok(None);
                }
                (found.matched_key, found.signed_download_url)
            }
            Protocol::V1 => {
                let mut url = self.resource("cache")?;
                url.query_pairs_mut().append_pair("keys", prefix).append_pair("version", &version());
                let response = self.send(|| self.request(Method::GET, &url)).await?;
                if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_FOUND) {
                    return Ok(None);
                }
                let found: LocatedV1 = self.read(ACTION, response).await?;
                (found.cache_key, found.archive_location)
            }
        };
        // Some services match the beginning of a key more freely than they should.
        if !key.starts_with(prefix) {
            return Ok(None);
        }
        Ok(Some(Found { key, url: self.address(&address)? }))
    }

    /// Takes a key, which nobody can then take again.
    pub(super) async fn reserve(&self, key: &str, size: u64) -> Result<Reserved, ActionsError> {
        const ACTION: &str = "reserve a key";
        let v2 = self.options.protocol == Protocol::V2;
        let (url, body) = match v2 {
            true => (self.method("CreateCacheEntry")?, json!({ "key": key, "version": version() })),
            false => {
                (self.resource("caches")?, json!({ "key": key, "version": version(), "cacheSize": size }))
            }
        };
        let response = self.post(&url, &body).await?;
        if !response.status().is_success() {
            let (status, text) = (response.status(), error_body(response).await);
            let problem: Problem = serde_json::from_slice(&text).unwrap_or_default();
            if status == StatusCode::CONFLICT
                || problem.code == "already_exists"
                || problem.type_key.contains("AlreadyExists")
            {
                return Ok(Reserved::Taken);
            }
            return Err(refusal(ACTION, &url, status, &text));
        }
        if !v2 {
            let reserved: ReservedV1 = self.read(ACTION, response).await?;
            return Ok(Reserved::Slot(Slot::Upload(reserved.cache_id)));
        }
        let created: Created = self.read(ACTION, response).await?;
        if !created.ok {
            return Err(ActionsError::Refused { action: ACTION, message: tidy(&created.message) });
        }
        let url = self.address(&created.signed_upload_url)?;
        Ok(Reserved::Slot(Slot::Storage { key: key.to_owned(), url }))
    }

    /// Gives an entry of `size` bytes, all of which were sent, to readers.
    pub(super) async fn finish(&self, slot: &Slot, size: u64) -> Result<(), ActionsError> {
        const ACTION: &str = "finish an entry";
        match slot {
            Slot::Storage { key, .. } => {
                let url = self.method("FinalizeCacheEntryUpload")?;
                // Protobuf's JSON has 64-bit numbers as text.
                let body = json!({ "key": key, "size_bytes": size.to_string(), "version": version() });
                let response = self.post(&url, &body).await?;
                let finished: Finished = self.read(ACTION, response).await?;
                match finished.ok {
                    true => Ok(()),
                    false => Err(ActionsError::Refused { action: ACTION, message: tidy(&finished.message) }),
                }
            }
            Slot::Upload(id) => {
                let url = self.resource(&format!("caches/{id}"))?;
                let response = self.post(&url, &json!({ "size": size })).await?;
                self.accept(ACTION, response).await
            }
        }
    }

    /// Keys that begin with `prefix` and can be read from `references`, by GitHub's REST interface. `None` when it was
    /// not given, or did not answer: then there is nothing to know in advance.
    pub(super) async fn list(&self, prefix: &str, references: &[String]) -> Option<Vec<String>> {
        let rest = self.options.rest.as_ref()?;
        let mut keys = Vec::new();
        for reference in references {
            for page in 1..=MAX_PAGES {
                let mut url = rest.url.clone();
                let parts =
                    ["repos"].into_iter().chain(rest.repository.split('/')).chain(["actions", "caches"]);
                url.path_segments_mut().ok()?.pop_if_empty().extend(parts);
                url.query_pairs_mut()
                    .append_pair("per_page", &PAGE.to_string())
                    .append_pair("page", &page.to_string())
                    .append_pair("key", prefix)
                    .append_pair("ref", reference);
                let ask = || {
                    let mut request = Request::get(url.clone());
                    request.authorization = bearer(&rest.token);
                    request.headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
                    request
                };
                let response = self.send(ask).await.ok()?;
                let listed: Listed = self.read("list entries", response).await.ok()?;
                let count = listed.actions_caches.len();
                let own = listed.actions_caches.into_iter().filter(|entry| entry.version == version());
                keys.extend(own.map(|entry| entry.key).filter(|key| key.starts_with(prefix)));
                if count < PAGE {
                    break;
                }
            }
        }
        Some(keys)
    }

    /// Sends what `request` makes until there is an answer that another try would not change.
    pub(super) async fn send(&self, request: impl Fn() -> Request) -> Result<Response, ActionsError> {
        let options = self.net.options();
        let mut attempt = 0;
        loop {
            let asked = match self.net.send(request()).await {
                // Whoever asks too often comes again for as long as the time lasts.
                Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS => {
                    retry::asked_delay(response.headers())
                }
                Ok(response)
                    if attempt < options.retries && retry::is_temporary_status(response.status()) =>
                {
                    retry::asked_delay(response.headers())
                }
                Ok(response) => return Ok(response),
                Err(error) if attempt < options.retries && error.is_temporary() => None,
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(retry::delay(options, attempt.min(MAX_STEP), asked)).await;
            attempt += 1;
        }
    }

    /// A request to the service itself.
    pub(super) fn request(&self, method: Method, url: &Url) -> Request {
        let mut request = Request::new(method, url.clone());
        request.authorization = bearer(&self.options.token);
        if self.options.protocol == Protocol::V1 {
            let kind = HeaderValue::from_static("application/json;api-version=6.0-preview.1");
            request.headers.insert(ACCEPT, kind);
        }
        request
    }

    async fn post(&self, url: &Url, body: &serde_json::Value) -> Result<Response, ActionsError> {
        let text = body.to_string();
        self.send(|| {
            let mut request = self.request(Method::POST, url);
            request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.body = Some(text.clone().into());
            request
        })
        .await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        action: &'static str,
        response: Response,
    ) -> Result<T, ActionsError> {
        let url = response.url().clone();
        if !response.status().is_success() {
            let status = response.status();
            return Err(refusal(action, &url, status, &error_body(response).await));
        }
        let bytes = body_within(response, MAX_ANSWER_BYTES).await;
        let Some(bytes) = bytes.map_err(|source| failed(&Method::POST, &url, source))? else {
            return Err(ActionsError::TooLarge { action, url: redacted(&url), limit: MAX_ANSWER_BYTES });
        };
        serde_json::from_slice(&bytes).map_err(|source| ActionsError::Malformed {
            action,
            url: redacted(&url),
            source,
        })
    }

    /// Takes any success.
    pub(super) async fn accept(&self, action: &'static str, response: Response) -> Result<(), ActionsError> {
        let (url, status) = (response.url().clone(), response.status());
        if status.is_success() {
            return Ok(());
        }
        Err(refusal(action, &url, status, &error_body(response).await))
    }

    fn method(&self, name: &str) -> Result<Url, ActionsError> {
        self.below(&format!("twirp/github.actions.results.api.v1.CacheService/{name}"))
    }

    /// A resource of version 1.
    pub(super) fn resource(&self, name: &str) -> Result<Url, ActionsError> {
        self.below(&format!("_apis/artifactcache/{name}"))
    }

    fn below(&self, path: &str) -> Result<Url, ActionsError> {
        let base = self.options.url.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{path}")).map_err(|_| ActionsError::Address("it cannot be put together"))
    }

    pub(super) fn address(&self, text: &str) -> Result<Url, ActionsError> {
        let url = Url::parse(text).map_err(|_| ActionsError::Address("it is no URL"))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.options.url.scheme() == "http" => Ok(url),
            "http" => Err(ActionsError::Address("it is plain http")),
            _ => Err(ActionsError::Address("it is neither http nor https")),
        }
    }
}

/// Of all entries of kiln.
fn version() -> String {
    Digest::of(VERSION_OF).hex()
}

fn bearer(token: &Token) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.0)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The error of a status of the service and the beginning of its body.
fn refusal(action: &'static str, url: &Url, status: StatusCode, body: &[u8]) -> ActionsError {
    match status_of(action, url, status, body) {
        ActionsError::Status { url, status: status @ (401 | 403), message, .. } => {
            ActionsError::Denied { url, status, message }
        }
        error => error,
    }
}

/// [`refusal`] of a server that was not given the token.
pub(super) fn status_of(action: &'static str, url: &Url, status: StatusCode, body: &[u8]) -> ActionsError {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let message = tidy(if problem.msg.is_empty() { &problem.code } else { &problem.msg });
    ActionsError::Status { action, url: redacted(url), status: status.as_u16(), message }
}
