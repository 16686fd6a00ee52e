//! A registry that fails in every way that registries and the lines to them do, and by a seed: what happens to a request
//! depends on the seed, on what is asked for and on how often that was asked, not on the order of threads.
//!
//! Invariants: a request meets [`MOST_FAULTS`] at most, however often it is repeated and from however many threads, so
//! that whoever keeps on gets through; what is stored was checked against its digest; every fault is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::base::digest::Digest;

/// Faults of the same request.
const MOST_FAULTS: usize = 2;
/// One of so many requests goes wrong.
const RARITY: u64 = 3;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The connection is cut somewhere in the answer.
    CutAnswer,
    /// The connection is cut somewhere in the request's body.
    CutRequest,
    /// It is done, but nobody hears of it.
    LostAnswer,
    /// 429 with Retry-After.
    TooMany,
    /// 500, 502 or 503.
    ServerError,
    /// The answer comes with a pause in the middle.
    Slow,
    /// The token is not good any more.
    Expired,
    /// A blob of other content.
    WrongBytes,
    /// A blob that is longer than its descriptor says.
    TooLong,
    /// A blob that ends early, as if that were all of it.
    TooShort,
    /// A blob is said to be there and is not.
    Ghost,
    /// An upload is not known any more.
    LostSession,
    /// The storage is another server.
    Elsewhere,
}

impl Fault {
    /// Whether no client can get past it.
    pub(super) fn is_fatal(self) -> bool {
        matches!(self, Self::WrongBytes | Self::TooLong)
    }
}

/// What it has, and what it saw.
#[derive(Default)]
pub(super) struct Content {
    pub(super) blobs: BTreeMap<Digest, Vec<u8>>,
    /// By tag or digest.
    pub(super) manifests: BTreeMap<String, (String, Vec<u8>)>,
    pub(super) faults: BTreeMap<Fault, usize>,
    /// What credentials reached that are not meant for it.
    pub(super) leaks: Vec<String>,
    sessions: BTreeSet<u64>,
    /// Good tokens, and how often each was used.
    tokens: BTreeMap<String, u32>,
    issued: u32,
    asked: BTreeMap<String, (u32, Vec<Fault>)>,
}

struct Shared {
    seed: u64,
    content: Mutex<Content>,
    own: String,
    storage: String,
    ended: AtomicBool,
}

/// The registry, and the storage that it redirects to.
pub(super) struct FaultyRegistry(Arc<Shared>);

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::SeqCst);
        // Wakes the threads that wait for connections.
        for address in [&self.0.own, &self.0.storage] {
            drop(TcpStream::connect(address));
        }
    }
}

struct Request {
    method: String,
    path: String,
    query: String,
    authorization: Option<String>,
    content_type: String,
    length: usize,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn error(status: u16, code: &str) -> Self {
        Self::new(status, format!(r#"{{"errors":[{{"code":"{code}","message":"a fault"}}]}}"#))
    }
}

impl FaultyRegistry {
    pub(super) fn start(seed: u64) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (own, storage) = (bind(), bind());
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            seed,
            content: Mutex::default(),
            own: address(&own),
            storage: address(&storage),
            ended: AtomicBool::new(false),
        });
        for (listener, is_storage) in [(own, false), (storage, true)] {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if shared.ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // A client that hangs up is what this is about.
                    std::thread::spawn(move || drop(shared.serve(stream, is_storage)));
                }
            });
        }
        Self(shared)
    }

    pub(super) fn host(&self) -> &str {
        &self.0.own
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.0.content()
    }
}

/// A number that depends on its arguments in no simple way (splitmix64 over them).
pub(super) fn mixed(seed: u64, text: &str) -> u64 {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for byte in text.bytes().map(u64::from).chain([0xff]) {
        state = (state ^ byte).wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    state
}

impl Shared {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream, is_storage: bool) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let Some(request) = read_head(&mut reader)? else { return Ok(()) };
        let (fault, dice) = self.fault(&request, is_storage);
        if fault == Some(Fault::CutRequest) {
            let part = dice as usize % request.length.max(1);
            io::copy(&mut reader.take(part as u64), &mut io::sink())?;
            return stream.shutdown(Shutdown::Both);
        }
        let mut body = vec![0; request.length];
        reader.read_exact(&mut body)?;
        let mut answer = match fault {
            Some(Fault::TooMany) => Answer::error(429, "TOOMANYREQUESTS").header("retry-after", "0"),
            Some(Fault::ServerError) => Answer::error([500, 502, 503][dice as usize % 3], "UNKNOWN"),
            _ if is_storage => self.store(&request, &body),
            _ => self.answer(&request, &body, fault),
        };
        let mut out = stream;
        let mut bytes = answer.body.split_off(0);
        match fault {
            Some(Fault::LostAnswer) => return out.shutdown(Shutdown::Both),
            Some(Fault::WrongBytes) if !bytes.is_empty() => {
                let place = dice as usize % bytes.len();
                bytes[place] ^= 1;
            }
            Some(Fault::TooLong) => bytes.push(0),
            Some(Fault::TooShort) => bytes.truncate(dice as usize % bytes.len().max(1)),
            _ => {}
        }
        let mut head = format!("HTTP/1.1 {} Said\r\nconnection: close\r\n", answer.status);
        head.push_str(&format!("content-length: {}\r\n", bytes.len()));
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut whole = head.into_bytes();
        if request.method != "HEAD" {
            whole.extend(bytes);
        }
        let half = whole.len() / 2;
        match fault {
            Some(Fault::CutAnswer) => {
                out.write_all(&whole[..dice as usize % whole.len()])?;
                out.shutdown(Shutdown::Both)
            }
            Some(Fault::Slow) => {
                out.write_all(&whole[..half])?;
                std::thread::sleep(Duration::from_millis(5));
                out.write_all(&whole[half..])
            }
            _ => out.write_all(&whole),
        }
    }

    /// What goes wrong with a request, and a number that says how.
    fn fault(&self, request: &Request, is_storage: bool) -> (Option<Fault>, u64) {
        let path = match request.path.split_once("/blobs/uploads/") {
            // The number of a session depends on who came first; the digest does not.
            Some(_) => format!(
                "upload {}",
                request.query.split('&').find(|p| p.starts_with("digest=")).unwrap_or("")
            ),
            None => request.path.clone(),
        };
        let key = format!("{} {path} {is_storage}", request.method);
        let mut content = self.content();
        let (asked, met) = content.asked.entry(key.clone()).or_default();
        *asked += 1;
        let (dice, met) = (mixed(self.seed, &format!("{key} {asked}")), met.clone());
        if met.len() >= MOST_FAULTS || dice % RARITY != 0 || request.path == "/v2/" {
            return (None, dice);
        }
        let is_blob = request.method == "GET" && request.path.contains("/blobs/");
        let token = request.authorization.as_deref().unwrap_or_default();
        let was_used = content.tokens.get(token).is_some_and(|uses| *uses > 0);
        let mut faults =
            vec![Fault::CutAnswer, Fault::LostAnswer, Fault::TooMany, Fault::ServerError, Fault::Slow];
        if request.length > 0 {
            faults.push(Fault::CutRequest);
        }
        // No client asks for a third token in a row.
        if was_used && !met.contains(&Fault::Expired) {
            faults.push(Fault::Expired);
        }
        if is_blob && !is_storage {
            faults.push(Fault::Elsewhere);
        }
        if is_blob {
            faults.push(Fault::TooShort);
            // Rare, since they end everything.
            if dice / 7 % 4 == 0 {
                faults.extend([Fault::WrongBytes, Fault::TooLong]);
            }
        }
        match request.method.as_str() {
            "HEAD" if request.path.contains("/blobs/") => faults.push(Fault::Ghost),
            "PUT" if request.path.contains("/uploads/") => faults.push(Fault::LostSession),
            "POST" if request.path.contains("/uploads/") => faults.push(Fault::Elsewhere),
            _ => {}
        }
        let fault = faults[(dice / 31) as usize % faults.len()];
        *content.faults.entry(fault).or_default() += 1;
        content.asked.entry(key).or_default().1.push(fault);
        (Some(fault), dice / 1009)
    }

    fn answer(&self, request: &Request, body: &[u8], fault: Option<Fault>) -> Answer {
        let mut content = self.content();
        if request.path == "/token" {
            content.issued += 1;
            let token = format!("token{}", content.issued);
            content.tokens.insert(format!("Bearer {token}"), 0);
            return Answer::new(200, format!(r#"{{"token":"{token}","expires_in":3600}}"#));
        }
        if request.path == "/v2/" {
            return Answer::new(200, "{}");
        }
        let token = request.authorization.clone().unwrap_or_default();
        let Some(uses) = content.tokens.get_mut(&token) else {
            return self.challenge();
        };
        *uses += 1;
        if fault == Some(Fault::Expired) {
            return self.challenge();
        }
        let (_, rest) = request.path.split_once("/v2/x/").unwrap_or_default();
        if let Some(name) = rest.strip_prefix("manifests/") {
            return manifest(&mut content, request, name, body);
        }
        if rest.starts_with("blobs/uploads/") {
            return self.upload(&mut content, request, body, fault);
        }
        let Some(digest) = rest.strip_prefix("blobs/").and_then(|text| text.parse::<Digest>().ok()) else {
            return Answer::error(404, "NAME_UNKNOWN");
        };
        if fault == Some(Fault::Ghost) && !content.blobs.contains_key(&digest) {
            return Answer::new(200, "");
        }
        if fault == Some(Fault::Elsewhere) {
            let place = format!("http://localhost:{}/{digest}", port(&self.storage));
            return Answer::new(307, "").header("location", place);
        }
        match content.blobs.get(&digest) {
            Some(bytes) => Answer::new(200, bytes.clone()),
            None => Answer::error(404, "BLOB_UNKNOWN"),
        }
    }

    fn challenge(&self) -> Answer {
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"faulty\"", self.own);
        Answer::error(401, "UNAUTHORIZED").header("www-authenticate", challenge)
    }

    fn upload(&self, content: &mut Content, request: &Request, body: &[u8], fault: Option<Fault>) -> Answer {
        if request.method == "POST" {
            let session = content.sessions.len() as u64 + 1;
            content.sessions.insert(session);
            let place = match fault {
                Some(Fault::Elsewhere) => {
                    format!("http://localhost:{}/uploads/{session}", port(&self.storage))
                }
                _ => format!("/v2/x/blobs/uploads/{session}"),
            };
            return Answer::new(202, "").header("location", place);
        }
        if fault == Some(Fault::LostSession) {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
        }
        take(content, request, body)
    }

    /// The storage knows nothing of tokens, and is not to be told any.
    fn store(&self, request: &Request, body: &[u8]) -> Answer {
        let mut content = self.content();
        if let Some(token) = &request.authorization {
            content.leaks.push(format!("{} {} {token}", request.method, request.path));
        }
        if request.method == "PUT" {
            return take(&mut content, request, body);
        }
        let digest = request.path.trim_start_matches('/').parse::<Digest>().ok();
        match digest.and_then(|digest| content.blobs.get(&digest)) {
            Some(bytes) => Answer::new(200, bytes.clone()),
            None => Answer::new(404, ""),
        }
    }
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').map_or("", |(_, port)| port)
}

fn take(content: &mut Content, request: &Request, body: &[u8]) -> Answer {
    let named = request.query.replace("%3A", ":");
    let digest = Digest::of(body);
    if named.split('&').find_map(|pair| pair.strip_prefix("digest=")) != Some(&digest.to_string()) {
        return Answer::error(400, "DIGEST_INVALID");
    }
    content.blobs.insert(digest, body.to_vec());
    Answer::new(201, "")
}

fn manifest(content: &mut Content, request: &Request, name: &str, body: &[u8]) -> Answer {
    if request.method != "PUT" {
        return match content.manifests.get(name) {
            Some((kind, bytes)) => Answer::new(200, bytes.clone())
                .header("content-type", kind.clone())
                .header("docker-content-digest", Digest::of(bytes).to_string()),
            None => Answer::error(404, "MANIFEST_UNKNOWN"),
        };
    }
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    let named = |value: &serde_json::Value| value["digest"].as_str().unwrap_or_default().to_owned();
    let blobs =
        list("layers").into_iter().chain([value["config"].clone()].into_iter().filter(|v| !v.is_null()));
    for blob in blobs {
        let digest = named(&blob).parse::<Digest>().ok();
        if digest.is_none_or(|digest| !content.blobs.contains_key(&digest)) {
            return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
        }
    }
    if list("manifests").iter().any(|child| !content.manifests.contains_key(&named(child))) {
        return Answer::error(400, "MANIFEST_UNKNOWN");
    }
    let stored = (request.content_type.clone(), body.to_vec());
    let digest = Digest::of(body).to_string();
    content.manifests.insert(digest.clone(), stored.clone());
    content.manifests.insert(name.to_owned(), stored);
    Answer::new(201, "").header("docker-content-digest", digest)
}

fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        authorization: None,
        content_type: String::new(),
        length: 0,
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some(request)) };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value),
            "content-type" => request.content_type = value,
            "content-length" => request.length = value.parse().unwrap_or(0),
            _ => {}
        }
    }
}
