//! A registry that can be pushed to, in the test's process, and the real one where it is installed.
//!
//! Invariants: what it stores was checked against its digest, and manifests are refused whose blobs are missing, as
//! registries do.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::base::{Blobs, digest};
use crate::server::{Request, Response, Server};

/// What a registry holds.
#[derive(Default)]
pub struct Content {
    /// By repository and digest.
    pub blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest: media type and bytes.
    pub manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: usize,
    /// Answers for everything below these paths.
    pub broken: BTreeMap<String, u16>,
}

/// A registry in this process.
pub struct Registry {
    server: Server,
    content: Arc<Mutex<Content>>,
    pace: Arc<Pace>,
}

/// How slowly it answers, and how many requests waited at a time.
#[derive(Default)]
struct Pace {
    delay_ms: AtomicU64,
    waiting: AtomicUsize,
    most: AtomicUsize,
    /// Answers for paths with this in them wait.
    held: Mutex<Option<String>>,
}

impl Registry {
    /// An empty one.
    pub fn start() -> Self {
        let content = Arc::new(Mutex::new(Content::default()));
        let pace = Arc::new(Pace::default());
        let (shared, own) = (Arc::clone(&content), Arc::clone(&pace));
        let server = Server::start(move |request| {
            let waiting = own.waiting.fetch_add(1, Ordering::SeqCst) + 1;
            own.most.fetch_max(waiting, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(own.delay_ms.load(Ordering::SeqCst)));
            let is_held = || {
                let held = own.held.lock().expect("what is held");
                held.as_ref().is_some_and(|part| request.path.contains(part))
            };
            while is_held() {
                std::thread::sleep(Duration::from_millis(20));
            }
            own.waiting.fetch_sub(1, Ordering::SeqCst);
            answer(&mut shared.lock().expect("content"), request)
        });
        Self { server, content, pace }
    }

    /// Has every answer take so long from now on.
    pub fn slow_down(&self, delay_ms: u64) {
        self.pace.delay_ms.store(delay_ms, Ordering::SeqCst);
        self.pace.most.store(0, Ordering::SeqCst);
    }

    /// Has answers for paths with `part` in them wait, until another part is held, or none.
    pub fn hold(&self, part: Option<&str>) {
        *self.pace.held.lock().expect("what is held") = part.map(str::to_owned);
    }

    /// Most requests that waited for an answer at a time since it was slowed down.
    pub fn most_at_once(&self) -> usize {
        self.pace.most.load(Ordering::SeqCst)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.server.address
    }

    /// What it holds.
    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("content")
    }

    /// Puts an image there.
    pub fn add(&self, repository: &str, tag: &str, image: &Blobs) {
        let mut content = self.content();
        for (name, bytes) in &image.blobs {
            content.blobs.insert((repository.to_owned(), name.clone()), bytes.clone());
        }
        let manifest = (image.media_type.to_owned(), image.blobs[&image.manifest].clone());
        content.manifests.insert((repository.to_owned(), tag.to_owned()), manifest.clone());
        content.manifests.insert((repository.to_owned(), image.manifest.clone()), manifest);
    }

    /// How many requests there were so far.
    pub fn count(&self) -> usize {
        self.server.requests().len()
    }

    /// Digests of the blobs that were read since the first `after` requests, each as often as it was read.
    pub fn blobs_read(&self, after: usize) -> Vec<String> {
        let requests = self.server.requests();
        let reads = requests.iter().skip(after).filter(|request| request.method == "GET");
        let mut blobs: Vec<String> = reads
            .filter_map(|request| request.path.rsplit_once("/blobs/").map(|(_, digest)| digest.to_owned()))
            .collect();
        blobs.sort();
        blobs
    }

    /// `METHOD PATH` of the requests since the first `after`.
    pub fn requests(&self, after: usize) -> Vec<String> {
        let requests = self.server.requests();
        requests.iter().skip(after).map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// Tags of a repository.
    pub fn tags(&self, repository: &str) -> BTreeSet<String> {
        let content = self.content();
        let names =
            content.manifests.keys().filter(|(place, name)| place == repository && !name.contains(':'));
        names.map(|(_, name)| name.clone()).collect()
    }
}

fn missing(code: &str) -> Response {
    Response::new(404, format!(r#"{{"errors":[{{"code":"{code}","message":"not known"}}]}}"#))
}

fn answer(content: &mut Content, request: &Request) -> Response {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if let Some((_, status)) = content.broken.iter().find(|(below, _)| path.contains(below.as_str())) {
        return Response::new(*status, "{}");
    }
    if path == "/v2/" {
        return Response::new(200, "{}");
    }
    let value = |key: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{key}=")))?;
        Some(pair.replace("%3A", ":").replace("%2F", "/"))
    };
    let path = path.trim_start_matches("/v2/");
    if let Some((repository, name)) = path.split_once("/manifests/") {
        return manifest(content, request, repository, name);
    }
    if let Some((repository, _)) = path.split_once("/blobs/uploads/") {
        if request.method == "POST" {
            if let (Some(digest), Some(from)) = (value("mount"), value("from"))
                && let Some(bytes) = content.blobs.get(&(from, digest.clone())).cloned()
            {
                content.blobs.insert((repository.to_owned(), digest.clone()), bytes);
                let place = format!("/v2/{repository}/blobs/{digest}");
                return Response::new(201, "").header("location", place);
            }
            content.uploads += 1;
            let place = format!("/v2/{repository}/blobs/uploads/{}", content.uploads);
            return Response::new(202, "").header("location", place);
        }
        let actual = digest(&request.body);
        if value("digest").as_deref() != Some(&actual) {
            return Response::new(400, "");
        }
        content.blobs.insert((repository.to_owned(), actual), request.body.clone());
        return Response::new(201, "");
    }
    let found = path
        .split_once("/blobs/")
        .and_then(|(repository, digest)| content.blobs.get(&(repository.to_owned(), digest.to_owned())));
    match found {
        Some(bytes) => Response::new(200, bytes.clone()),
        None => missing("BLOB_UNKNOWN"),
    }
}

fn manifest(content: &mut Content, request: &Request, repository: &str, name: &str) -> Response {
    let place = (repository.to_owned(), name.to_owned());
    if request.method != "PUT" {
        return match content.manifests.get(&place) {
            Some((kind, bytes)) => Response::new(200, bytes.clone())
                .header("content-type", kind.clone())
                .header("docker-content-digest", digest(bytes)),
            None => missing("MANIFEST_UNKNOWN"),
        };
    }
    let parsed: serde_json::Value = serde_json::from_slice(&request.body).expect("a manifest");
    let layers = parsed["layers"].as_array().cloned().unwrap_or_default();
    for blob in layers.iter().chain([&parsed["config"]]).filter(|blob| !blob.is_null()) {
        let named = blob["digest"].as_str().expect("a digest").to_owned();
        if !content.blobs.contains_key(&(repository.to_owned(), named)) {
            return Response::new(400, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#);
        }
    }
    let kind = request.header("content-type").unwrap_or_default().to_owned();
    let (stored, own) = ((kind, request.body.clone()), digest(&request.body));
    content.manifests.insert((repository.to_owned(), own.clone()), stored.clone());
    content.manifests.insert(place, stored);
    Response::new(201, "").header("docker-content-digest", own)
}

/// A port that the kernel gives to nobody who asks for any: it is free until the registry takes it.
fn free_port() -> Option<u16> {
    /// Below the usual range of ports for anybody (32768 and up).
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    (0..COUNT).find_map(|_| {
        let number = u32::try_from(NEXT.fetch_add(1, Ordering::SeqCst)).ok()?;
        // Several suites may run on a machine.
        let port = FIRST + (std::process::id().wrapping_mul(131).wrapping_add(number)) % COUNT;
        let port = u16::try_from(port).ok()?;
        std::net::TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    })
}

/// Whether an HTTP server answers there, if only that it wants TLS. A connection alone says nothing: a child that was
/// forked while the port was tried out may hold that socket for a moment.
fn answers(host: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<bool> {
        let mut stream = std::net::TcpStream::connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    ask().unwrap_or(false)
}

/// The reference implementation, from the package docker-registry.
pub struct RealRegistry {
    child: Child,
    dir: tempfile::TempDir,
    host: String,
}

impl RealRegistry {
    /// Starts one on a free port; why not otherwise.
    pub fn start() -> Result<Self, String> {
        Self::start_with("")
    }

    /// One that speaks TLS with `server.pem` and `server.key` of a directory, and wants a certificate of `ca.pem` of its
    /// clients, if that is asked for.
    pub fn start_with_tls(certificates: &std::path::Path, wants_client: bool) -> Result<Self, String> {
        let path = |name: &str| certificates.join(name).display().to_string();
        let clients = if wants_client { format!(", clientcas: [{}]", path("ca.pem")) } else { String::new() };
        let (certificate, key) = (path("server.pem"), path("server.key"));
        Self::start_with(&format!(", tls: {{certificate: {certificate}, key: {key}{clients}}}"))
    }

    fn start_with(more: &str) -> Result<Self, String> {
        // Its port may be lost between the look and the start; a machine without the program fails in the same way each time.
        Self::start_once(more).or_else(|_| Self::start_once(more)).or_else(|_| Self::start_once(more))
    }

    fn start_once(more: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let port = free_port().ok_or("there is no free port")?;
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}{more}}}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).map_err(|e| e.to_string())?;
        let log = std::fs::File::create(dir.path().join("log")).map_err(|e| e.to_string())?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("docker-registry cannot be started: {e}"))?;
        let registry = Self { child, dir, host: format!("127.0.0.1:{port}") };
        let mut registry = registry;
        for _ in 0..600 {
            if let Ok(Some(status)) = registry.child.try_wait() {
                return Err(format!("docker-registry ended with {status}"));
            }
            if answers(&registry.host) {
                return Ok(registry);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err("docker-registry does not answer".to_owned())
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Lines of its access log.
    pub fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("log")).expect("log");
        text.lines().filter(|line| line.contains("HTTP/1.1\"")).map(str::to_owned).collect()
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
