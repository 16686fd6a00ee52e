//! The cache service of GitHub Actions and its storage, as far as a client can tell, for tests of this crate and of the
//! program. It knows nothing of kiln.
//!
//! Invariants: an entry is written once, and seen only when it is finished; a token sees entries of its own git references
//! only; the storage takes signed addresses only, and remembers every request that had a token.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

const TWIRP: &str = "/twirp/github.actions.results.api.v1.CacheService/";
const V1: &str = "/_apis/artifactcache/";
const SIGNATURE: &str = "c2lnbmVk";

/// An entry, finished or not.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub key: String,
    pub version: String,
    pub reference: String,
    pub data: Vec<u8>,
    pub finished: bool,
    blocks: BTreeMap<String, Vec<u8>>,
}

/// A request.
pub struct Asked<'a> {
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub authorization: Option<&'a str>,
    pub range: Option<&'a str>,
    pub content_range: Option<&'a str>,
    pub blob_type: Option<&'a str>,
    pub body: &'a [u8],
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is closed after so many bytes.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    fn json(status: u16, body: &Value) -> Self {
        Self::new(status, body.to_string())
    }
}

type Fault = Box<dyn Fn(&Asked<'_>, Answer) -> Answer + Send + Sync>;

/// The service.
#[derive(Default)]
pub struct FakeService {
    pub entries: Mutex<Vec<Entry>>,
    /// References by token; the first one is written.
    grants: Mutex<BTreeMap<String, Vec<String>>>,
    /// Where the storage is.
    storage: Mutex<String>,
    /// Requests to the storage that should not have been.
    pub leaks: Mutex<Vec<String>>,
    fault: Mutex<Option<Fault>>,
    /// Targets without queries, with the methods.
    pub log: Mutex<Vec<String>>,
}

impl FakeService {
    /// `storage` is an origin of its own.
    pub fn at(&self, storage: &str) {
        *self.storage.lock().unwrap() = storage.to_owned();
    }

    /// Lets a token read these references, and write the first.
    pub fn grant(&self, token: &str, references: &[&str]) {
        let references = references.iter().map(|name| (*name).to_owned()).collect();
        self.grants.lock().unwrap().insert(format!("Bearer {token}"), references);
    }

    /// Changes answers from here on.
    pub fn fault(&self, fault: impl Fn(&Asked<'_>, Answer) -> Answer + Send + Sync + 'static) {
        *self.fault.lock().unwrap() = Some(Box::new(fault));
    }

    pub fn healthy(&self) {
        *self.fault.lock().unwrap() = None;
    }

    /// Keys of finished entries that begin so.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let entries = self.entries.lock().unwrap();
        let found = entries.iter().filter(|entry| entry.finished && entry.key.starts_with(prefix));
        found.map(|entry| entry.key.clone()).collect()
    }

    /// Requests of a method whose path has this in it.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.starts_with(&format!("{method} ")) && line.contains(part)).count()
    }

    pub fn answer(&self, asked: &Asked<'_>) -> Answer {
        let path = asked.target.split('?').next().unwrap_or_default();
        self.log.lock().unwrap().push(format!("{} {path}", asked.method));
        let answer = self.plain(asked, path);
        match &*self.fault.lock().unwrap() {
            Some(fault) => fault(asked, answer),
            None => answer,
        }
    }

    fn plain(&self, asked: &Asked<'_>, path: &str) -> Answer {
        if let Some(number) = path.strip_prefix("/storage/") {
            if asked.authorization.is_some() {
                self.leaks.lock().unwrap().push(format!("{} {path}", asked.method));
            }
            return self.storage(asked, number.parse().unwrap());
        }
        let grants = self.grants.lock().unwrap();
        let Some(references) = asked.authorization.and_then(|token| grants.get(token)) else {
            return Answer::json(401, &json!({ "code": "unauthenticated", "msg": "who are you?" }));
        };
        let body: Value = serde_json::from_slice(asked.body).unwrap_or_default();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        if let Some(method) = path.strip_prefix(TWIRP) {
            assert_eq!(asked.method, "POST");
            let own = |entry: &Entry| {
                entry.key == text("key")
                    && entry.version == text("version")
                    && entry.reference == references[0]
            };
            match method {
                "GetCacheEntryDownloadURL" => match self.find(references, &body) {
                    Some((number, key)) => {
                        let url = self.signed(number);
                        Answer::json(
                            200,
                            &json!({ "ok": true, "signed_download_url": url, "matched_key": key }),
                        )
                    }
                    None => Answer::json(
                        200,
                        &json!({ "ok": false, "signed_download_url": "", "matched_key": "" }),
                    ),
                },
                "CreateCacheEntry" => match self.create(&text("key"), &text("version"), &references[0]) {
                    Some(number) => {
                        Answer::json(200, &json!({ "ok": true, "signed_upload_url": self.signed(number) }))
                    }
                    None => {
                        Answer::json(409, &json!({ "code": "already_exists", "msg": "cache entry exists" }))
                    }
                },
                "FinalizeCacheEntryUpload" => {
                    let mut entries = self.entries.lock().unwrap();
                    let entry = entries.iter_mut().find(|entry| own(entry)).expect("a reserved entry");
                    let size: usize = text("size_bytes").parse().expect("a number as text");
                    assert_eq!(entry.data.len(), size, "the size of {}", entry.key);
                    entry.finished = true;
                    Answer::json(200, &json!({ "ok": true, "entry_id": "7" }))
                }
                other => Answer::json(404, &json!({ "code": "bad_route", "msg": other })),
            }
        } else if let Some(resource) = path.strip_prefix(V1) {
            self.version_1(asked, resource, references, &body)
        } else if path == "/repos/me/app/actions/caches" {
            let wanted = |name: &str| query(asked.target, name).unwrap_or_default();
            let (prefix, reference) = (wanted("key"), wanted("ref"));
            let page: usize = wanted("page").parse().unwrap();
            let entries = self.entries.lock().unwrap();
            let found = entries
                .iter()
                .filter(|e| e.finished && e.reference == reference && e.key.starts_with(&prefix));
            let found: Vec<Value> = found
                .map(|entry| json!({ "id": 1, "key": entry.key, "version": entry.version, "ref": reference }))
                .collect();
            let shown: Vec<_> = found.chunks(100).nth(page - 1).unwrap_or_default().to_vec();
            Answer::json(200, &json!({ "total_count": found.len(), "actions_caches": shown }))
        } else {
            Answer::new(404, "")
        }
    }

    fn version_1(&self, asked: &Asked<'_>, resource: &str, references: &[String], body: &Value) -> Answer {
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        match (asked.method, resource.strip_prefix("caches/")) {
            ("GET", None) if resource == "cache" => {
                let query = |name: &str| query(asked.target, name).unwrap_or_default();
                let body = json!({ "restore_keys": [query("keys")], "version": query("version") });
                match self.find(references, &body) {
                    Some((number, key)) => {
                        Answer::json(200, &json!({ "cacheKey": key, "archiveLocation": self.signed(number) }))
                    }
                    None => Answer::new(204, ""),
                }
            }
            ("POST", None) => match self.create(text("key"), text("version"), &references[0]) {
                Some(number) => Answer::json(201, &json!({ "cacheId": number + 1 })),
                None => {
                    let key = "ArtifactCacheItemAlreadyExistsException";
                    Answer::json(409, &json!({ "message": "Cache already exists.", "typeKey": key }))
                }
            },
            ("PATCH", Some(id)) => {
                let start =
                    asked.content_range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
                let start: usize = start.expect("a range").0.parse().unwrap();
                let mut entries = self.entries.lock().unwrap();
                let data = &mut entries[id.parse::<usize>().unwrap() - 1].data;
                data.resize(data.len().max(start + asked.body.len()), 0);
                data[start..start + asked.body.len()].copy_from_slice(asked.body);
                Answer::new(204, "")
            }
            ("POST", Some(id)) => {
                let entry = &mut self.entries.lock().unwrap()[id.parse::<usize>().unwrap() - 1];
                assert_eq!(Some(entry.data.len() as u64), body["size"].as_u64());
                entry.finished = true;
                Answer::new(204, "")
            }
            _ => Answer::new(404, ""),
        }
    }

    fn signed(&self, number: usize) -> String {
        format!("{}/storage/{number}?sv=2025-01-05&sig={SIGNATURE}", self.storage.lock().unwrap())
    }

    fn create(&self, key: &str, version: &str, reference: &str) -> Option<usize> {
        assert!(!key.is_empty() && key.len() <= 512 && !key.contains(','), "{key}");
        let mut entries = self.entries.lock().unwrap();
        if entries.iter().any(|e| e.key == key && e.version == version && e.reference == reference) {
            return None;
        }
        let (key, version, reference) = (key.to_owned(), version.to_owned(), reference.to_owned());
        entries.push(Entry { key, version, reference, ..Entry::default() });
        Some(entries.len() - 1)
    }

    /// The newest entry of the first reference that has one; later ones are newer.
    fn find(&self, references: &[String], body: &Value) -> Option<(usize, String)> {
        let entries = self.entries.lock().unwrap();
        let keys: Vec<&str> = body["restore_keys"].as_array()?.iter().filter_map(Value::as_str).collect();
        references.iter().find_map(|reference| {
            let fits = |entry: &Entry| {
                entry.finished
                    && entry.reference == *reference
                    && body["version"].as_str() == Some(&entry.version)
                    && keys.iter().any(|key| entry.key.starts_with(key))
            };
            let (number, entry) = entries.iter().enumerate().rev().find(|(_, entry)| fits(entry))?;
            Some((number, entry.key.clone()))
        })
    }

    fn storage(&self, asked: &Asked<'_>, number: usize) -> Answer {
        if query(asked.target, "sig").as_deref() != Some(SIGNATURE) {
            return Answer::new(403, "<Error><Code>AuthenticationFailed</Code></Error>");
        }
        let mut entries = self.entries.lock().unwrap();
        let entry = &mut entries[number];
        match (asked.method, query(asked.target, "comp").as_deref()) {
            ("GET", None) => {
                let start = asked.range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
                let Some(start) = start.map(|start| start.parse::<usize>().unwrap()) else {
                    return Answer::new(200, entry.data.clone());
                };
                let range = format!("bytes {start}-{}/{}", entry.data.len() - 1, entry.data.len());
                let mut answer = Answer::new(206, entry.data[start..].to_vec());
                answer.headers.push(("content-range".to_owned(), range));
                answer
            }
            _ if entry.finished => Answer::new(409, "<Error><Code>BlobImmutable</Code></Error>"),
            ("PUT", Some("block")) => {
                entry.blocks.insert(query(asked.target, "blockid").unwrap(), asked.body.to_vec());
                Answer::new(201, "")
            }
            ("PUT", Some("blocklist")) => {
                let list = std::str::from_utf8(asked.body).unwrap();
                let names = list.split("<Latest>").skip(1).map(|part| part.split('<').next().unwrap());
                entry.data = names.flat_map(|name| entry.blocks[name].clone()).collect();
                Answer::new(201, "")
            }
            ("PUT", None) if asked.blob_type == Some("BlockBlob") => {
                entry.data = asked.body.to_vec();
                Answer::new(201, "")
            }
            _ => Answer::new(400, ""),
        }
    }
}

/// A value of a query, decoded.
fn query(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let hex = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}
