//! The client against a service in this process.

pub(crate) mod fake_service;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fake_service::{Answer, Asked, FakeService};
use reqwest::Url;

use super::*;
use crate::cache::tests::{key, put_record, record};
use crate::cache::{Form, Location};
use crate::image::manifest::media_type;
use crate::net::fake_server::{FakeServer, Reply};
use crate::registry::tests::client;

const MAIN: &str = "refs/heads/main";

/// A service, and options for it.
pub(in crate::cache) struct Fake {
    pub(in crate::cache) service: Arc<FakeService>,
    server: FakeServer,
}

impl Fake {
    pub(in crate::cache) fn start() -> Self {
        let service = Arc::new(FakeService::default());
        let shared = service.clone();
        let server = FakeServer::start(move |received| {
            let asked = Asked {
                method: &received.method,
                target: &received.target,
                authorization: received.header("authorization"),
                range: received.header("range"),
                content_range: received.header("content-range"),
                blob_type: received.header("x-ms-blob-type"),
                body: &received.body,
            };
            let Answer { status, headers, body, cut } = shared.answer(&asked);
            Reply { headers, cut_after: cut, ..Reply::new(status, body) }
        });
        // The same address by another name is another origin.
        service.at(server.other_origin("").trim_end_matches('/'));
        service.grant("t", &[MAIN]);
        Self { service, server }
    }

    pub(in crate::cache) fn options(&self) -> ActionsOptions {
        ActionsOptions {
            url: Url::parse(&self.server.url("/")).unwrap(),
            protocol: Protocol::V2,
            token: Token("t".to_owned()),
            scope: "buildkit".to_owned(),
            refs: vec![MAIN.to_owned()],
            timeout: Duration::from_secs(60),
            rest: None,
        }
    }

    fn open(&self) -> ActionsCache {
        ActionsCache::new(&client(), &self.options())
    }

    /// As a job on another reference, which comes from main.
    fn open_as(&self, token: &str) -> ActionsCache {
        let reference = format!("refs/heads/{token}");
        self.service.grant(token, &[&reference, MAIN]);
        let refs = vec![reference, MAIN.to_owned()];
        ActionsCache::new(
            &client(),
            &ActionsOptions { token: Token(token.to_owned()), refs, ..self.options() },
        )
    }
}

fn tag(name: &str) -> Tag {
    Tag::new(&key(name), None)
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER, Digest::of(bytes), bytes.len() as u64)
}

fn put(cache: &ActionsCache, name: &str, layer: &[u8]) {
    put_record(cache, &[tag(name)], &record(&[name], None, &[layer]), &[layer]);
}

fn get(cache: &ActionsCache, bytes: &[u8]) -> Result<Vec<u8>, CacheError> {
    let mut out = Vec::new();
    cache.blob(&blob(bytes), &mut out, &|_| ()).map(|()| out)
}

fn finds(cache: &ActionsCache, name: &str) -> bool {
    crate::cache::find(cache, &key(name), None).unwrap().is_some()
}

#[test]
fn both_protocols_carry_a_cache() {
    for protocol in [Protocol::V1, Protocol::V2] {
        let fake = Fake::start();
        let open = || ActionsCache::new(&client(), &ActionsOptions { protocol, ..fake.options() });
        // More than two pieces, and one that ends with a piece.
        let large: Vec<u8> = (0..17 * 1024 * 1024u32).map(|n| (n % 251) as u8).collect();
        let even = &large[..8 * 1024 * 1024];
        for bytes in [&large[..], even, b"small", b""] {
            put(&open(), &format!("{}", bytes.len()), bytes);
            assert!(finds(&open(), &format!("{}", bytes.len())));
            assert!(get(&open(), bytes).unwrap() == bytes);
        }
        assert!(!finds(&open(), "other"));
        assert_eq!(fake.service.keys("kiln-index").len(), 4);
        assert_eq!(
            *fake.service.leaks.lock().unwrap(),
            Vec::<String>::new(),
            "the token went to the storage"
        );
    }
}

#[test]
fn a_step_costs_no_blob_but_its_layers() {
    let fake = Fake::start();
    let writer = fake.open();
    for name in ["a", "b", "c"] {
        crate::cache::put(&writer, &[tag(name)], &record(&[name], None, &[]), Form::Manifest).unwrap();
    }
    assert!(!finds(&fake.open(), "a"), "nobody sees it before it is flushed");
    writer.flush().unwrap();
    assert_eq!(fake.service.entries.lock().unwrap().len(), 1, "one index");
    let reader = fake.open();
    assert!(finds(&reader, "a") && finds(&reader, "b") && !finds(&reader, "d"));
    assert_eq!(fake.service.count("GET", "/storage/"), 1, "read once");
    // Nothing new is no new index.
    crate::cache::put(&reader, &[tag("a")], &record(&["a"], None, &[]), Form::Manifest).unwrap();
    reader.flush().unwrap();
    assert_eq!(fake.service.keys("kiln-index").len(), 1);
}

#[test]
fn caches_and_branches_are_apart() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer a");
    let other =
        || ActionsCache::new(&client(), &ActionsOptions { scope: "other".to_owned(), ..fake.options() });
    assert!(!finds(&other(), "a"));
    assert!(other().has_blob(&blob(b"layer a"), &[]).unwrap(), "caches of a branch share blobs");
    // A branch reads what main has, and does not write it again.
    let branch = fake.open_as("topic");
    assert!(branch.has_manifest(&tag("a")).unwrap());
    put(&branch, "b", b"layer b");
    let (topic, sibling) = (fake.open_as("topic"), fake.open_as("sibling"));
    assert!(finds(&topic, "a") && finds(&topic, "b"));
    assert!(finds(&sibling, "a") && !finds(&sibling, "b") && !finds(&fake.open(), "b"));
    assert!(get(&topic, b"layer a").is_ok() && get(&sibling, b"layer b").is_err());
}

#[test]
fn a_token_that_may_only_read_does_not_write() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    let ac = format!(r#"{{"ac":"[{{\"Scope\":\"{MAIN}\",\"Permission\":1}}]"}}"#);
    let token = super::options::tests::token(&ac);
    fake.service.grant(&token.0, &[MAIN]);
    let cache = ActionsCache::new(&client(), &ActionsOptions { token, ..fake.options() });
    assert!(finds(&cache, "a"));
    let error = cache.put_blob(&blob(b"other"), &b"other".to_vec()).unwrap_err();
    assert!(matches!(error, CacheError::Actions(ActionsError::ReadOnly)), "{error}");
    assert_eq!(fake.service.keys("kiln-blob").len(), 1);
}

#[test]
fn an_expired_token_is_told_and_not_sent() {
    let fake = Fake::start();
    let token = super::options::tests::token(r#"{"exp":1000}"#);
    let cache = ActionsCache::new(&client(), &ActionsOptions { token, ..fake.options() });
    let error = cache.manifest(&tag("a")).unwrap_err();
    assert!(matches!(error, CacheError::Actions(ActionsError::Expired { .. })), "{error}");
    assert!(error.hint().is_some() && !error.is_about_one_step());
    assert_eq!(fake.service.log.lock().unwrap().len(), 0);
    // One that the service does not take (any more).
    let options = ActionsOptions { token: Token("old".to_owned()), ..fake.options() };
    let error = ActionsCache::new(&client(), &options).manifest(&tag("a")).unwrap_err();
    assert!(error.to_string().contains("refuses the token (401): who are you?"), "{error}");
}

#[test]
fn what_is_there_is_not_sent_again() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    let cache = fake.open();
    assert!(cache.has_blob(&blob(b"layer"), &[]).unwrap());
    assert!(!cache.has_blob(&blob(b"other"), &[]).unwrap());
    // A key that a killed job has taken is passed over; so is one whose blob turned out to be bad.
    let taken = blob(b"other");
    let service = &cache.service;
    let first = format!("{}1", blob_prefix(&taken.digest));
    cache.writing("reserve", service.reserve(&first, 5)).unwrap();
    assert!(!cache.has_blob(&taken, &[]).unwrap());
    cache.put_blob(&taken, &b"other".to_vec()).unwrap();
    assert!(fake.open().has_blob(&taken, &[]).unwrap());
    cache.put_blob(&taken, &b"other".to_vec()).unwrap();
    let keys = fake.service.keys(&blob_prefix(&taken.digest));
    assert_eq!(keys.iter().map(|key| &key[key.len() - 2..]).collect::<Vec<_>>(), ["#2", "#3"]);
}

#[test]
fn a_list_takes_the_place_of_many_questions() {
    let fake = Fake::start();
    for name in 0..120 {
        let bytes = format!("layer {name}");
        fake.open().put_blob(&blob(bytes.as_bytes()), &bytes.into_bytes()).unwrap();
    }
    fake.service.grant("g", &[MAIN]);
    let asked = fake.service.count("POST", "GetCacheEntryDownloadURL");
    let (repository, token) = ("me/app".to_owned(), Token("g".to_owned()));
    let rest = Some(Rest { url: fake.options().url, repository, token });
    let cache = ActionsCache::new(&client(), &ActionsOptions { rest: rest.clone(), ..fake.options() });
    for name in 0..120 {
        assert!(cache.has_blob(&blob(format!("layer {name}").as_bytes()), &[]).unwrap(), "{name}");
    }
    assert!(!cache.has_blob(&blob(b"layer 120"), &[]).unwrap());
    assert_eq!(fake.service.count("GET", "/actions/caches"), 2, "two pages");
    assert_eq!(fake.service.count("POST", "GetCacheEntryDownloadURL"), asked);
    // Without an answer each is asked for.
    let rest = rest.map(|rest| Rest { token: Token("bad".to_owned()), ..rest });
    let cache = ActionsCache::new(&client(), &ActionsOptions { rest, ..fake.options() });
    assert!(
        cache.has_blob(&blob(b"layer 7"), &[]).unwrap() && !cache.has_blob(&blob(b"layer x"), &[]).unwrap()
    );
}

#[test]
fn a_step_whose_blob_was_dropped_is_not_there() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    assert!(fake.open().has_manifest(&tag("a")).unwrap());
    fake.service.entries.lock().unwrap().retain(|entry| entry.key.starts_with("kiln-index"));
    assert!(!fake.open().has_manifest(&tag("a")).unwrap());
    let error = get(&fake.open(), b"layer").unwrap_err();
    assert!(error.is_about_one_step(), "{error}");
}

#[test]
fn jobs_that_write_at_the_same_time_lose_nothing() {
    let fake = Fake::start();
    let names: Vec<String> = (0..6).map(|n| format!("k{n}")).collect();
    crate::base::parallel::map(&names, 6, |name| {
        // However slow one of them is, nobody passes it over.
        let patience = (u32::MAX, Duration::from_millis(5));
        put(&ActionsCache { patience, ..fake.open() }, name, name.as_bytes());
    });
    let reader = fake.open();
    for name in &names {
        assert!(finds(&reader, name), "{name} is lost");
    }
}

#[test]
fn an_index_that_was_never_finished_is_passed_over() {
    let fake = Fake::start();
    let cache = ActionsCache { patience: (2, Duration::from_millis(1)), ..fake.open() };
    let own = index::prefix("buildkit", MAIN);
    cache.writing("reserve", cache.service.reserve(&format!("{own}1"), 1)).unwrap();
    put(&cache, "a", b"layer");
    assert!(finds(&fake.open(), "a"));
    assert_eq!(fake.service.keys("kiln-index"), [format!("{own}2")]);
}

#[test]
fn a_bad_index_is_left_out_and_replaced() {
    for bytes in [&b"{}"[..], b"", &zstd::bulk::compress(b"[1]", 1).unwrap()] {
        let fake = Fake::start();
        let key = format!("{}7", index::prefix("buildkit", MAIN));
        let cache = fake.open();
        let content =
            Content { reader: Box::new(bytes), digest: Digest::of(bytes), size: bytes.len() as u64 };
        cache.writing("write", cache.service.write(&key, content)).unwrap();
        let error = fake.open().manifest(&tag("a")).unwrap_err();
        assert!(error.to_string().contains("is damaged") && !error.is_about_one_step(), "{error}");
        assert!(!cache.has_manifest(&tag("a")).unwrap());
        put(&cache, "a", b"layer");
        assert!(finds(&fake.open(), "a"));
        assert_eq!(fake.service.keys("kiln-index").len(), 2);
    }
}

#[test]
fn a_blob_that_is_not_what_it_should_be_is_refused() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    for (data, part) in [
        (&b"LAYER"[..], "instead of"),
        (b"layer and more", "sends more than the 5 bytes"),
        (b"lay", "after 3 of 5 bytes"),
    ] {
        for entry in &mut *fake.service.entries.lock().unwrap() {
            if entry.key.starts_with("kiln-blob") {
                entry.data = data.to_vec();
            }
        }
        let error = get(&fake.open(), b"layer").unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let fake = Fake::start();
    let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    put(&fake.open(), "a", &bytes);
    let (count, whole) = (AtomicUsize::new(0), bytes.clone());
    fake.service.fault(move |asked, answer| {
        let blob = asked.method == "GET" && asked.target.contains("/storage/");
        match blob.then(|| count.fetch_add(1, Ordering::SeqCst)) {
            Some(0) => Answer { cut: Some(60_000), ..answer },
            // The address has become too old meanwhile.
            Some(1) => Answer::new(403, "too old"),
            Some(2) => Answer::new(503, ""),
            // A server that does not know ranges begins at the beginning.
            Some(3) => Answer::new(200, whole.clone()),
            _ => answer,
        }
    });
    assert!(get(&fake.open(), &bytes).unwrap() == bytes);
    assert_eq!(*fake.service.leaks.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_download_that_always_breaks_ends() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    fake.service.fault(|asked, answer| match asked.target.contains("/storage/") && asked.method == "GET" {
        true => Answer { cut: Some(0), ..answer },
        false => answer,
    });
    let error = get(&fake.open(), b"layer").unwrap_err();
    assert!(matches!(error, CacheError::Actions(ActionsError::Broken { .. })), "{error}");
    assert!(!error.is_about_one_step() && !error.to_string().contains("c2lnbmVk"), "{error}");
}

#[test]
fn an_upload_that_fails_half_way_is_seen_by_nobody() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"first");
    fake.service.fault(|asked, answer| {
        match asked.method == "PUT" && asked.target.contains("blockid=MDAwMDAwMDE") {
            true => Answer::new(500, "<Error>full</Error>"),
            false => answer,
        }
    });
    let large = vec![7; 9 * 1024 * 1024];
    let error = fake.open().put_blob(&blob(&large), &large).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("cannot send an entry") && text.contains("answers 500") && !text.contains("c2lnbmVk"),
        "{text}"
    );
    fake.service.healthy();
    assert!(!fake.open().has_blob(&blob(&large), &[]).unwrap());
    assert_eq!(fake.service.keys("kiln-index").len(), 1);
    // The next job sends it.
    put(&fake.open(), "b", &large);
    assert!(get(&fake.open(), &large).unwrap() == large);
}

#[test]
fn a_lost_answer_to_the_last_call_is_no_failure() {
    let fake = Fake::start();
    fake.service.fault(|asked, answer| match asked.target.contains("Finalize") {
        true => Answer::new(400, ""),
        false => answer,
    });
    put(&fake.open(), "a", b"layer");
    assert!(get(&fake.open(), b"layer").is_ok());
}

#[test]
fn whoever_asks_too_often_comes_again() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    let left = AtomicUsize::new(6);
    fake.service.fault(move |_, answer| {
        let more = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if more { Answer::new(429, r#"{"code":"resource_exhausted","msg":"slow down"}"#) } else { answer }
    });
    assert!(finds(&fake.open(), "a"), "more often than other failures are forgiven");
    fake.service.fault(|_, _| Answer::new(429, ""));
    let options = ActionsOptions { timeout: Duration::from_millis(50), ..fake.options() };
    let error = ActionsCache::new(&client(), &options).manifest(&tag("a")).unwrap_err();
    assert_eq!(error.to_string(), "the cache service took longer than 50ms to read the index");
}

#[test]
fn an_address_that_is_less_safe_is_not_used() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    for (address, part) in
        [("file:///etc/passwd", "neither"), ("nothing", "no URL"), ("ftp://h/x", "neither")]
    {
        fake.service.fault(move |asked, answer| match asked.target.contains("GetCacheEntry") {
            true => {
                let body = String::from_utf8(answer.body.clone()).unwrap();
                let mut body: serde_json::Value = serde_json::from_str(&body).unwrap();
                body["signed_download_url"] = address.into();
                Answer { body: body.to_string().into_bytes(), ..answer }
            }
            false => answer,
        });
        let error = fake.open().manifest(&tag("a")).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    let https = ActionsOptions { url: Url::parse("https://h/").unwrap(), ..fake.options() };
    let service = ActionsCache::new(&client(), &https).service;
    let error = service.address("http://h/x").unwrap_err();
    assert!(error.to_string().contains("plain http"), "{error}");
}

#[test]
fn answers_are_read_within_limits() {
    let fake = Fake::start();
    fake.service.fault(|_, _| Answer::new(200, vec![b' '; 2 * 1024 * 1024]));
    let error = fake.open().manifest(&tag("a")).unwrap_err();
    assert!(error.to_string().contains("larger than 1048576 bytes"), "{error}");
    fake.service.fault(|_, _| Answer::new(200, "<html>"));
    let error = fake.open().manifest(&tag("a")).unwrap_err();
    assert!(error.to_string().contains("is not what the cache service answers"), "{error}");
}

#[test]
fn a_location_is_opened_as_such() {
    let fake = Fake::start();
    let cache = Location::Actions(Box::new(fake.options())).open(&client());
    assert_eq!(cache.name(), "GitHub Actions (buildkit)");
    assert!(!format!("{cache:?}").contains("\"t\""), "{cache:?}");
}
