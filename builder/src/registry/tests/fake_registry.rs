//! As much of a registry as the tests need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::base::digest::Digest;
use crate::image::manifest::{Descriptor, Index, Manifest, media_type, to_bytes};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::net::fake_server::{FakeServer, Received, Reply};

type Fault = Box<dyn FnMut(&Received) -> Option<Reply> + Send>;

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By repository and tag or digest.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    uploads: BTreeMap<usize, Vec<u8>>,
    /// Which blobs each repository may mount from elsewhere.
    mountable: BTreeSet<String>,
    faults: Vec<Fault>,
    /// `Some`: tokens are needed; these are good.
    tokens: Option<BTreeSet<String>>,
    /// How many tokens were given out.
    issued: usize,
    /// Only these `Authorization` values get a token.
    needs_login: Option<String>,
}

pub(crate) struct FakeRegistry {
    server: FakeServer,
    state: Arc<Mutex<State>>,
}

impl FakeRegistry {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = FakeServer::start(move |request| {
            let mut state = shared.lock().unwrap();
            let mut faults = std::mem::take(&mut state.faults);
            let fault = faults.iter_mut().find_map(|fault| fault(request));
            state.faults = faults;
            fault.unwrap_or_else(|| answer(&mut state, request))
        });
        Self { server, state }
    }

    /// `fault` may answer any request in the registry's place.
    pub(crate) fn fault(&self, fault: impl FnMut(&Received) -> Option<Reply> + Send + 'static) {
        self.state.lock().unwrap().faults.push(Box::new(fault));
    }

    /// Answers the first `times` requests whose path ends in `suffix` with `reply`.
    pub(crate) fn fail(&self, suffix: &str, mut times: usize, reply: Reply) {
        let suffix = suffix.to_owned();
        self.fault(move |request| {
            let hit = times > 0 && request.path().ends_with(&suffix);
            times -= usize::from(hit);
            hit.then(|| reply.clone())
        });
    }

    pub(crate) fn require_tokens(&self, needs_login: Option<&str>) {
        let mut state = self.state.lock().unwrap();
        state.tokens = Some(BTreeSet::new());
        state.needs_login = needs_login.map(str::to_owned);
    }

    /// Every token given out so far stops working.
    pub(crate) fn expire_tokens(&self) {
        if let Some(tokens) = &mut self.state.lock().unwrap().tokens {
            tokens.clear();
        }
    }

    pub(crate) fn issued(&self) -> usize {
        self.state.lock().unwrap().issued
    }

    pub(crate) fn allow_mount(&self, digest: &Digest) {
        self.state.lock().unwrap().mountable.insert(digest.to_string());
    }

    pub(crate) fn host(&self) -> String {
        self.server.host()
    }

    pub(crate) fn server(&self) -> &FakeServer {
        &self.server
    }

    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host()).parse().unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.server.requests()
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.state.lock().unwrap().blobs.get(&digest.to_string()).cloned()
    }

    pub(crate) fn add_blob(&self, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(bytes), bytes.len() as u64);
        self.state.lock().unwrap().blobs.insert(descriptor.digest.to_string(), bytes.to_vec());
        descriptor
    }

    pub(crate) fn add_manifest(&self, name: &str, kind: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64);
        let (repository, tag) = name.split_once(':').unwrap();
        let mut state = self.state.lock().unwrap();
        for key in [format!("{repository}:{tag}"), format!("{repository}:{}", descriptor.digest)] {
            state.manifests.insert(key, (kind.to_owned(), bytes.to_vec()));
        }
        descriptor
    }

    /// A whole image; its layer holds `content`.
    pub(crate) fn add_image(&self, name: &str, content: &[u8]) -> Descriptor {
        let config = Descriptor { media_type: media_type::OCI_CONFIG.to_owned(), ..self.add_blob(b"{}") };
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            config,
            layers: vec![self.add_blob(content)],
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        };
        self.add_manifest(name, media_type::OCI_MANIFEST, &to_bytes(&manifest))
    }

    /// An index of one image per platform.
    pub(crate) fn add_index(&self, name: &str, platforms: &[&str]) -> Descriptor {
        let repository = name.split_once(':').unwrap().0;
        let entry = |platform: &&str| {
            let image =
                self.add_image(&format!("{repository}:{}", platform.replace('/', "-")), platform.as_bytes());
            Descriptor { platform: Some(platform.parse::<Platform>().unwrap()), ..image }
        };
        let index = Index::new(platforms.iter().map(entry).collect());
        self.add_manifest(name, media_type::OCI_INDEX, &to_bytes(&index))
    }
}

fn unknown(code: &str) -> Reply {
    Reply::new(
        404,
        format!(r#"{{"errors":[{{"code":"{code}","message":"{} unknown"}}]}}"#, code.to_lowercase()),
    )
}

fn answer(state: &mut State, request: &Received) -> Reply {
    let host = request.header("host").unwrap_or_default().to_owned();
    if request.path() == "/token" {
        let login = request.header("authorization").map(str::to_owned);
        if state.needs_login.is_some() && login != state.needs_login {
            return Reply::new(401, r#"{"details":"incorrect username or password"}"#);
        }
        state.issued += 1;
        let token = format!("token-{}", state.issued);
        state.tokens.get_or_insert_default().insert(token.clone());
        return Reply::new(200, format!(r#"{{"token":"{token}","expires_in":300}}"#));
    }
    if let Some(tokens) = &state.tokens {
        let given = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if !given.is_some_and(|given| tokens.contains(given)) {
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="fake",scope="x""#);
            return Reply::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
            )
            .header("WWW-Authenticate", challenge);
        }
    }
    if request.path() == "/v2/" {
        return Reply::new(200, "{}");
    }
    let path = request.path().strip_prefix("/v2/").unwrap_or_default().to_owned();
    let query: BTreeMap<String, String> = reqwest::Url::parse(&format!("http://h{}", request.target))
        .unwrap()
        .query_pairs()
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect();
    if let Some((repository, name)) = path.split_once("/manifests/") {
        let key = format!("{repository}:{name}");
        if request.method == "PUT" {
            let kind = request.header("content-type").unwrap_or_default().to_owned();
            state.manifests.insert(key, (kind, request.body.clone()));
            return Reply::new(201, "")
                .header("Docker-Content-Digest", Digest::of(&request.body).to_string());
        }
        let Some((kind, bytes)) = state.manifests.get(&key) else { return unknown("MANIFEST") };
        return Reply::new(200, bytes.clone())
            .header("Content-Type", kind.clone())
            .header("Docker-Content-Digest", Digest::of(bytes).to_string());
    }
    if let Some((repository, id)) = path.split_once("/blobs/uploads/") {
        return upload(state, request, repository, id, &query);
    }
    let Some((_, digest)) = path.split_once("/blobs/") else { return unknown("PAGE") };
    let Some(bytes) = state.blobs.get(digest) else { return unknown("BLOB") };
    let start =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match start {
        Some(start) if start < bytes.len() => Reply::new(206, &bytes[start..])
            .header("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
        _ => Reply::new(200, bytes.clone()),
    }
}

fn upload(
    state: &mut State,
    request: &Received,
    repository: &str,
    id: &str,
    query: &BTreeMap<String, String>,
) -> Reply {
    let place = |id: usize| format!("/v2/{repository}/blobs/uploads/{id}?state=s3cret");
    if request.method == "POST" {
        if let Some(digest) = query.get("mount").filter(|digest| state.mountable.contains(*digest)) {
            return Reply::new(201, "").header("Location", format!("/v2/{repository}/blobs/{digest}"));
        }
        let id = state.uploads.len();
        state.uploads.insert(id, Vec::new());
        return Reply::new(202, "").header("Location", place(id));
    }
    let Some(data) = id.parse().ok().and_then(|id: usize| state.uploads.get_mut(&id)) else {
        return unknown("BLOB_UPLOAD");
    };
    let range = |data: &Vec<u8>| format!("0-{}", data.len().saturating_sub(1));
    let place = place(id.parse().unwrap());
    if request.method == "GET" {
        return Reply::new(204, "").header("Location", place).header("Range", range(data));
    }
    if let Some(start) =
        request.header("content-range").and_then(|r| r.split_once('-')?.0.parse::<usize>().ok())
        && start != data.len()
    {
        return Reply::new(416, "").header("Range", range(data));
    }
    data.extend_from_slice(&request.body);
    if request.method == "PATCH" {
        return Reply::new(202, "").header("Location", place).header("Range", range(data));
    }
    let digest = Digest::of(data).to_string();
    if query.get("digest") != Some(&digest) {
        return Reply::new(
            400,
            r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest does not match"}]}"#,
        );
    }
    state.blobs.insert(digest, data.clone());
    Reply::new(201, "")
}
