//! The client against a store in this process, which verifies every signature.

pub(crate) mod fake_bucket;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fake_bucket::{Answer, Asked, FakeBucket};

use super::sign::{Unsigned, sign};
use super::*;
use crate::base::digest::Digest;
use crate::cache::actions::Token;
use crate::cache::tests::{key, put_record, record};
use crate::image::manifest::media_type;
use crate::net::fake_server::{FakeServer, Received, Reply};
use crate::registry::tests::client;

/// A store, and options for it.
pub(in crate::cache) struct Fake {
    pub(in crate::cache) bucket: Arc<FakeBucket>,
    server: FakeServer,
}

fn keys() -> Keys {
    Keys {
        id: "id".to_owned(),
        secret: Token("secret".to_owned()),
        session: Some(Token("session".to_owned())),
    }
}

/// Why a request is not taken: its signature is that of another one.
fn wrong(received: &Received) -> Option<&'static str> {
    let header = |name: &str| received.header(name);
    let Some(authorization) = header("authorization") else { return Some("NoSignature") };
    let url = Url::parse(&format!("http://{}{}", header("host")?, received.target)).ok()?;
    let (_, names) = authorization.split_once("SignedHeaders=")?;
    let names = names.split(',').next()?.split(';');
    let fixed = ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];
    let others = ["range", "x-amz-copy-source", "x-amz-metadata-directive"];
    let headers: Vec<(&'static str, String)> = names
        .filter(|name| !fixed.contains(name))
        .map(|name| *others.iter().find(|other| **other == name).expect("a header that may be signed"))
        .map(|name| (name, header(name).expect("a signed header is sent").to_owned()))
        .collect();
    let body = Digest::of(&received.body);
    let request = Unsigned {
        method: &received.method,
        url: &url,
        headers: &headers,
        body: &body,
        region: "eu-north-1",
        time: header("x-amz-date")?,
    };
    let (signed, value) = sign(&keys(), &request)?;
    (value.to_str().ok()? != authorization
        || signed.iter().any(|(name, value)| header(name.as_str()) != value.to_str().ok()))
    .then_some("SignatureDoesNotMatch")
}

impl Fake {
    pub(in crate::cache) fn start() -> Self {
        let bucket = Arc::new(FakeBucket::default());
        let shared = bucket.clone();
        let server = FakeServer::start(move |received| {
            let asked = Asked {
                method: &received.method,
                target: &received.target,
                headers: &received.headers,
                body: &received.body,
            };
            let answer = match wrong(received) {
                Some(code) => Answer::error(403, code),
                None => shared.answer(&asked),
            };
            let Answer { status, headers, body, cut } = answer;
            Reply { headers, cut_after: cut, ..Reply::new(status, body) }
        });
        Self { bucket, server }
    }

    pub(in crate::cache) fn options(&self) -> BucketOptions {
        BucketOptions {
            endpoint: Url::parse(&self.server.url("/")).unwrap(),
            bucket: "our-bucket".to_owned(),
            path_style: true,
            region: "eu-north-1".to_owned(),
            prefix: "team a/".to_owned(),
            blobs_prefix: "blobs/".to_owned(),
            manifests_prefix: "manifests/".to_owned(),
            names: vec!["main".to_owned()],
            keys: keys(),
            touch_refresh: Duration::from_secs(24 * 3600),
            parallelism: 4,
            attempts: None,
        }
    }

    fn open(&self) -> BucketCache {
        BucketCache::new(&client(), &self.options())
    }
}

fn tag(name: &str) -> Tag {
    Tag::new(&key(name), None)
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER, Digest::of(bytes), bytes.len() as u64)
}

fn put(cache: &BucketCache, name: &str, layer: &[u8]) {
    put_record(cache, &[tag(name)], &record(&[name], None, &[layer]), &[layer]);
}

fn get(cache: &BucketCache, bytes: &[u8]) -> Result<Vec<u8>, CacheError> {
    let mut out = Vec::new();
    cache.blob(&blob(bytes), &mut out, &|_| ()).map(|()| out)
}

#[test]
fn objects_are_where_they_are_looked_for() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    let mut keys: Vec<String> = fake.bucket.objects.lock().unwrap().keys().cloned().collect();
    keys.sort();
    let at = "/our-bucket/team a";
    assert_eq!(
        keys,
        [format!("{at}/blobs/{}", Digest::of(b"layer")), format!("{at}/manifests/kiln-main/{}", tag("a"))]
    );
    assert!(
        fake.open().has_blob(&blob(b"layer"), &[]).unwrap()
            && !fake.open().has_blob(&blob(b"x"), &[]).unwrap()
    );
}

#[test]
fn a_large_object_is_sent_in_parts() {
    let fake = Fake::start();
    let large: Vec<u8> = (0..65 * 1024 * 1024u32).map(|n| (n % 251) as u8).collect();
    // One that ends with a part, and one that does not.
    for bytes in [&large[..64 * 1024 * 1024], &large] {
        fake.open().put_blob(&blob(bytes), &bytes.to_vec()).unwrap();
        assert!(get(&fake.open(), bytes).unwrap() == bytes);
    }
    assert_eq!(fake.bucket.count("POST"), 4);
    // Other bytes than promised, and a store that fails in the end, leave nothing.
    let promised = Descriptor::new("", Digest::of(b"other"), large.len() as u64);
    let error = fake.open().put_blob(&promised, &large).unwrap_err();
    assert!(matches!(error, CacheError::WrongDigest { .. }), "{error}");
    fake.bucket.objects.lock().unwrap().clear();
    fake.bucket.fault(|asked, answer| match asked.method == "POST" && asked.target.contains("uploadId") {
        true => Answer { status: 200, ..Answer::error(200, "InternalError") },
        false => answer,
    });
    let error = fake.open().put_blob(&blob(&large), &large).unwrap_err();
    assert!(error.to_string().ends_with("200: InternalError: no way"), "{error}");
    assert_eq!((fake.bucket.count("DELETE"), fake.bucket.parts.lock().unwrap().len()), (2, 0));
}

#[test]
fn wrong_keys_are_told() {
    let fake = Fake::start();
    let keys = Keys { secret: Token("wrong".to_owned()), ..keys() };
    let cache = BucketCache::new(&client(), &BucketOptions { keys, ..fake.options() });
    let error = cache.manifest(&tag("a")).unwrap_err();
    assert!(error.to_string().contains("refuses the keys (403): SignatureDoesNotMatch: no way"), "{error}");
    assert!(error.hint().is_some() && !error.is_about_one_step());
    assert!(!format!("{cache:?}").contains("wrong"), "{cache:?}");
}

#[test]
fn a_cache_has_several_names() {
    let fake = Fake::start();
    let open = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        BucketCache::new(&client(), &BucketOptions { names, ..fake.options() })
    };
    put(&open(&["a", "b"]), "step", b"layer");
    let there = |names: &[&str]| crate::cache::find(&open(names), &key("step"), None).unwrap().is_some();
    assert!(there(&["a"]) && there(&["b"]) && there(&["c", "b"]) && !there(&["c"]));
    assert!(open(&["a", "b"]).has_manifest(&tag("step")).unwrap());
    assert!(!open(&["a", "c"]).has_manifest(&tag("step")).unwrap(), "it is to be written under all");
}

#[test]
fn what_is_used_stays_young() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    let puts = fake.bucket.count("PUT");
    *fake.bucket.modified.lock().unwrap() = crate::net::date::format_http_date(now() - 3600);
    assert!(
        fake.open().has_blob(&blob(b"layer"), &[]).unwrap() && fake.open().has_manifest(&tag("a")).unwrap()
    );
    assert_eq!(fake.bucket.count("PUT"), puts);
    *fake.bucket.modified.lock().unwrap() = crate::net::date::format_http_date(now() - 30 * 3600);
    assert!(
        fake.open().has_blob(&blob(b"layer"), &[]).unwrap() && fake.open().has_manifest(&tag("a")).unwrap()
    );
    assert_eq!(fake.bucket.count("PUT"), puts + 2);
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

#[test]
fn a_bad_object_is_refused_and_a_cut_one_is_completed() {
    let fake = Fake::start();
    put(&fake.open(), "a", b"layer");
    let count = AtomicUsize::new(0);
    fake.bucket.fault(move |asked, answer| match asked.method == "GET" && asked.target.contains("/blobs/") {
        true if count.fetch_add(1, Ordering::SeqCst) == 0 => Answer { cut: Some(2), ..answer },
        _ => answer,
    });
    assert_eq!(get(&fake.open(), b"layer").unwrap(), b"layer");
    for (data, part) in [
        (&b"LAYER"[..], "instead of"),
        (b"layer and more", "larger than the 5 bytes"),
        (b"lay", "3 of 5 bytes"),
    ] {
        for (name, object) in &mut *fake.bucket.objects.lock().unwrap() {
            if name.contains("/blobs/") {
                *object = data.to_vec();
            }
        }
        let error = get(&fake.open(), b"layer").unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    fake.bucket.objects.lock().unwrap().clear();
    assert!(get(&fake.open(), b"layer").unwrap_err().is_about_one_step());
}

#[test]
fn requests_are_sent_as_often_as_was_said() {
    let fake = Fake::start();
    fake.bucket.fault(|_, _| Answer::error(503, "SlowDown"));
    let cache = BucketCache::new(&client(), &BucketOptions { attempts: Some(5), ..fake.options() });
    let error = cache.manifest(&tag("a")).unwrap_err();
    assert!(error.to_string().contains("503: SlowDown"), "{error}");
    assert_eq!(fake.bucket.count("GET"), 5);
}

#[test]
fn a_bucket_may_be_part_of_the_host_name() {
    let fake = Fake::start();
    let port = fake.server.host().rsplit_once(':').unwrap().1.to_owned();
    // Every name below localhost is this machine (RFC 6761), for those who ask for it; nobody is asked here.
    let endpoint = Url::parse(&format!("http://localhost:{port}/")).unwrap();
    let objects = Objects {
        net: client().network().0.clone(),
        options: BucketOptions { endpoint, path_style: false, ..fake.options() },
    };
    let url = objects.url("a b/c", &[("x", "y z")]).unwrap();
    assert_eq!(url.as_str(), format!("http://our-bucket.localhost:{port}/a%20b/c?x=y%20z"));
    assert!(matches!(objects.url("a/../b", &[]), Err(BucketError::Name(_))), "another object");
}
