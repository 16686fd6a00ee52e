//! Downloads against a server with faults.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::net::NetOptions;
use crate::net::fake_server::{FakeServer, Reply};

fn net() -> Net {
    Net::new(NetOptions { retries: 2, retry_delay: Duration::from_millis(1), ..NetOptions::default() })
        .unwrap()
}

fn get(url: &str) -> (Result<FetchOutcome, FetchError>, Vec<u8>) {
    let mut sink = Vec::new();
    let outcome = fetch(&net(), url, &FetchOptions::default(), &mut sink);
    (outcome, sink)
}

fn fetched(outcome: Result<FetchOutcome, FetchError>) -> Fetched {
    match outcome.unwrap() {
        FetchOutcome::Fetched(fetched) => fetched,
        FetchOutcome::NotModified => panic!("not modified"),
    }
}

#[test]
fn a_file_with_its_facts() {
    let server = FakeServer::start(|request| match request.path() {
        "/d/remote.txt" => Reply::new(200, "remote\n")
            .header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("ETag", "\"e\""),
        _ => Reply::new(302, "").header("Location", "/d/remote.txt"),
    });
    let (outcome, sink) = get(&server.url("/d/remote.txt?x=1&y=/z"));
    let result = fetched(outcome);
    assert_eq!(sink, b"remote\n");
    assert_eq!(result.file_name, b"remote.txt");
    assert_eq!(result.last_modified, Some(784_111_777));
    assert_eq!(result.etag.as_deref(), Some("\"e\""));
    assert_eq!((result.digest, result.size), (Digest::of(b"remote\n"), 7));
    // The name is that of the URL that was written.
    assert_eq!(fetched(get(&server.url("/alias")).0).file_name, b"alias");
    assert!(server.requests().iter().all(|request| request.header("accept-encoding") == Some("identity")));
}

#[test]
fn names() {
    for (url, name) in [
        ("http://h/a/b.tar", "b.tar"),
        ("http://h/dir/", "dir"),
        ("http://h/", "__unnamed__"),
        ("http://h", "__unnamed__"),
        ("http://h/a%20b", "a b"),
        ("http://h/a%2Fb", "b"),
        ("http://h/x/..%2f", "__unnamed__"),
        ("http://h/x/%2e%2e", "__unnamed__"),
        ("http://h/a%00b", "__unnamed__"),
        ("http://h/100%", "100%"),
        ("http://h/f?name=other#frag", "f"),
    ] {
        let found = file_name(&Url::parse(url).unwrap());
        assert_eq!(String::from_utf8_lossy(&found), name, "{url}");
    }
}

#[test]
fn errors_name_url_and_status_and_no_secret() {
    let server = FakeServer::start(|_| Reply::new(404, "no"));
    let url = server.url("/missing?token=s3cret").replace("http://", "http://me:pw@");
    let error = get(&url).0.unwrap_err().to_string();
    assert!(error.contains("/missing") && error.contains("404") && error.contains("not found"), "{error}");
    assert!(!error.contains("s3cret") && !error.contains("pw"), "{error}");
    assert!(matches!(get("ftp://h/x").0, Err(FetchError::Url(_))));
}

#[test]
fn current_content_is_not_sent_again() {
    let server = FakeServer::start(|request| {
        let current = request.header("if-none-match") == Some("\"e\"")
            || request.header("if-modified-since") == Some("Sun, 06 Nov 1994 08:49:37 GMT");
        if current { Reply::new(304, "") } else { Reply::new(200, "new") }
    });
    let ask = |etag: Option<&str>, last_modified| {
        let options =
            FetchOptions { etag: etag.map(str::to_owned), last_modified, ..FetchOptions::default() };
        fetch(&net(), &server.url("/f"), &options, &mut Vec::new()).unwrap()
    };
    assert_eq!(ask(Some("\"e\""), None), FetchOutcome::NotModified);
    assert_eq!(ask(None, Some(784_111_777)), FetchOutcome::NotModified);
    assert!(matches!(ask(Some("\"old\""), Some(784_111_777)), FetchOutcome::Fetched(_)));
}

#[test]
fn a_cut_download_goes_on() {
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    for etag in ["\"strong\"", "W/\"weak\""] {
        let (body, count) = (content.clone(), AtomicUsize::new(0));
        let server = FakeServer::start(move |request| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            let start = request
                .header("range")
                .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
            match start {
                None if first => Reply::new(200, body.clone()).header("ETag", etag).cut(150_000),
                None => Reply::new(200, body.clone()).header("ETag", etag),
                Some(start) => Reply::new(206, &body[start..])
                    .header("ETag", etag)
                    .header("Content-Range", format!("bytes {start}-{}/{}", body.len() - 1, body.len())),
            }
        });
        let (outcome, sink) = get(&server.url("/f"));
        assert_eq!(fetched(outcome).digest, Digest::of(&content));
        assert!(sink == content);
        let second = &server.requests()[1];
        assert_eq!(second.header("if-range").is_some(), etag.starts_with('"'));
        assert_eq!(second.header("range").is_some(), etag.starts_with('"'));
    }
}

#[test]
fn content_that_changes_meanwhile_is_an_error() {
    let count = AtomicUsize::new(0);
    let server = FakeServer::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(200, vec![b'a'; 300_000]).cut(100_000),
        _ => Reply::new(200, vec![b'b'; 300_000]),
    });
    assert!(matches!(get(&server.url("/f")).0, Err(FetchError::Changed(_))));
}

#[test]
fn authorization_stays_with_its_origin() {
    let server = FakeServer::start(|_| Reply::new(200, "x"));
    let target = server.other_origin("/moved");
    let front = FakeServer::start(move |_| Reply::new(302, "").header("Location", target.clone()));
    let options = FetchOptions { authorization: Some("Bearer s".to_owned()), ..FetchOptions::default() };
    fetch(&net(), &front.url("/f"), &options, &mut Vec::new()).unwrap();
    assert_eq!(front.requests()[0].header("authorization"), Some("Bearer s"));
    assert_eq!(server.requests()[0].header("authorization"), None);
}

#[test]
fn redirects_end() {
    let server = FakeServer::start(|_| Reply::new(302, "").header("Location", "/again"));
    assert!(matches!(get(&server.url("/f")).0, Err(FetchError::Net(NetError::TooManyRedirects(_)))));
    let server = FakeServer::start(|_| Reply::new(302, "").header("Location", "file:///etc/passwd"));
    assert!(matches!(get(&server.url("/f")).0, Err(FetchError::Net(NetError::BadRedirect { .. }))));
}
