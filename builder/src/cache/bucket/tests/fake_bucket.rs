//! An object store with one bucket, as far as a client can tell, for tests of this crate and of the program. It knows
//! nothing of kiln.
//!
//! Invariants: an object of several parts appears when it is completed.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// A request.
pub struct Asked<'a> {
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Lower-case names.
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

impl Asked<'_> {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Path, decoded as far as keys of tests need it.
    pub fn path(&self) -> String {
        self.target.split('?').next().unwrap_or_default().replace("%3A", ":").replace("%20", " ")
    }
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

    pub fn error(status: u16, code: &str) -> Self {
        Self::new(
            status,
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no\nway</Message></Error>"),
        )
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Fault = Box<dyn Fn(&Asked<'_>, Answer) -> Answer + Send + Sync>;

/// The store.
#[derive(Default)]
pub struct FakeBucket {
    /// By path.
    pub objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Parts by path and number, of uploads that go on.
    pub parts: Mutex<BTreeMap<(String, usize), Vec<u8>>>,
    pub log: Mutex<Vec<String>>,
    /// `Last-Modified` of everything.
    pub modified: Mutex<Option<String>>,
    fault: Mutex<Option<Fault>>,
}

impl FakeBucket {
    pub fn fault(&self, fault: impl Fn(&Asked<'_>, Answer) -> Answer + Send + Sync + 'static) {
        *self.fault.lock().unwrap() = Some(Box::new(fault));
    }

    /// Requests of a method.
    pub fn count(&self, method: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.starts_with(&format!("{method} "))).count()
    }

    pub fn answer(&self, asked: &Asked<'_>) -> Answer {
        self.log.lock().unwrap().push(format!("{} {}", asked.method, asked.target));
        let answer = self.plain(asked);
        match &*self.fault.lock().unwrap() {
            Some(fault) => fault(asked, answer),
            None => answer,
        }
    }

    fn plain(&self, asked: &Asked<'_>) -> Answer {
        let path = asked.path();
        let query = asked.target.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let mut objects = self.objects.lock().unwrap();
        match (asked.method, value("uploadId")) {
            ("GET" | "HEAD", None) => {
                let Some(bytes) = objects.get(&path) else { return Answer::error(404, "NoSuchKey") };
                let start =
                    asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
                let start: usize = start.map_or(0, |start| start.parse().unwrap());
                let mut answer = Answer::new(if start > 0 { 206 } else { 200 }, bytes[start..].to_vec());
                if start > 0 {
                    answer = answer.header(
                        "content-range",
                        &format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
                    );
                }
                match &*self.modified.lock().unwrap() {
                    Some(modified) => answer.header("last-modified", modified),
                    None => answer,
                }
            }
            ("PUT", None) => {
                if let Some(source) = asked.header("x-amz-copy-source") {
                    assert_eq!(source.replace("%3A", ":").replace("%20", " "), path);
                    return Answer::new(200, "<CopyObjectResult></CopyObjectResult>");
                }
                objects.insert(path, asked.body.to_vec());
                Answer::new(200, "").header("etag", "\"e\"")
            }
            ("POST", None) if query == "uploads=" => {
                Answer::new(200, "<Result><UploadId>an/id+</UploadId></Result>")
            }
            ("PUT", Some(id)) => {
                assert_eq!(id, "an%2Fid%2B");
                let number = value("partNumber").unwrap().parse().unwrap();
                self.parts.lock().unwrap().insert((path, number), asked.body.to_vec());
                Answer::new(200, "").header("etag", &format!("\"tag-{number}\""))
            }
            ("POST", Some(_)) => {
                let list = String::from_utf8(asked.body.to_vec()).unwrap();
                let mut parts = self.parts.lock().unwrap();
                let mut all = Vec::new();
                for ((_, number), bytes) in parts.iter().filter(|((of, _), _)| *of == path) {
                    assert!(
                        list.contains(&format!(
                            "<PartNumber>{number}</PartNumber><ETag>\"tag-{number}\"</ETag>"
                        )),
                        "{list}"
                    );
                    all.extend_from_slice(bytes);
                }
                parts.retain(|(of, _), _| *of != path);
                objects.insert(path, all);
                Answer::new(200, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
            }
            ("DELETE", Some(_)) => {
                self.parts.lock().unwrap().retain(|(of, _), _| *of != path);
                Answer::new(204, "")
            }
            _ => Answer::error(400, "BadRequest"),
        }
    }
}
