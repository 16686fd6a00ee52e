//! A small HTTP server in the test's process, and the half of a registry that pulling needs.
//!
//! Invariants: it listens on loopback only, answers one request for each connection, and remembers every request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::base::Blobs;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A running server; its thread ends with the test process.
pub struct Server {
    /// `127.0.0.1:PORT`.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts a server that answers with `handler`.
    pub fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, handler) = (Arc::clone(&requests), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                std::thread::spawn(move || {
                    // A client that hangs up is its own business.
                    let _ = answer(stream, &seen, &*handler);
                });
            }
        });
        Self { address, requests }
    }

    /// A registry that has `image` as NAME:TAG, for every name and tag.
    pub fn registry(image: Blobs) -> Self {
        Self::start(move |request| {
            let path = request.path.split('?').next().unwrap_or_default();
            if path == "/v2/" {
                return Response::new(200, "{}");
            }
            if let Some((_, wanted)) = path.rsplit_once("/blobs/")
                && let Some(bytes) = image.blobs.get(wanted)
            {
                return Response::new(200, bytes.clone()).header("content-type", "application/octet-stream");
            }
            if let Some((_, wanted)) = path.rsplit_once("/manifests/")
                && !wanted.starts_with("missing")
            {
                return Response::new(200, image.blobs[&image.manifest].clone())
                    .header("content-type", image.media_type)
                    .header("docker-content-digest", image.manifest.clone());
            }
            Response::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
        })
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").clone()
    }
}

fn answer(
    stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    handler: &dyn Fn(&Request) -> Response,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut request = Request { method, path, headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    let response = handler(&request);
    let is_head = request.method == "HEAD";
    seen.lock().expect("requests").push(request);
    let mut out = stream;
    write!(out, "HTTP/1.1 {} Status\r\nconnection: close\r\n", response.status)?;
    write!(out, "content-length: {}\r\n", response.body.len())?;
    for (name, value) in &response.headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    out.write_all(b"\r\n")?;
    if !is_head {
        let end = response.cut.unwrap_or(response.body.len()).min(response.body.len());
        out.write_all(&response.body[..end])?;
    }
    out.flush()
}
