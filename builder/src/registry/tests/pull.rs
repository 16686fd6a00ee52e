//! Reading.

use super::*;
use crate::image::manifest::media_type;
use crate::net::NetError;
use crate::net::fake_server::{FakeServer, Reply};

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn pull(client: &Client, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    client.blob(reference, descriptor, &mut bytes, &|_| ())?;
    Ok(bytes)
}

fn large() -> Vec<u8> {
    (0..200_000u32).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn an_image_is_resolved_and_pulled() {
    let registry = FakeRegistry::start();
    let image = registry.add_image("a/b:1", b"layer");
    let client = client();
    let reference = registry.reference("a/b:1");
    let resolved = client.resolve(&reference, &amd64()).unwrap();
    assert_eq!(resolved.digest, image.digest);
    assert_eq!(resolved.media_type, media_type::OCI_MANIFEST);
    assert_eq!(resolved.index, None);
    assert_eq!(pull(&client, &reference, &resolved.manifest.layers[0]).unwrap(), b"layer");
    assert_eq!(client.blob_bytes(&reference, &resolved.manifest.config).unwrap(), b"{}");
    let head = client.head_manifest(&reference).unwrap().unwrap();
    assert_eq!((head.digest, head.size), (image.digest, Some(image.size)));
    assert_eq!(client.head_manifest(&registry.reference("a/b:2")).unwrap(), None);
}

#[test]
fn an_index_is_searched() {
    let registry = FakeRegistry::start();
    let index = registry.add_index("x:1", &["linux/arm64", "linux/amd64"]);
    let reference = registry.reference("x:1");
    let resolved = client().resolve(&reference, &amd64()).unwrap();
    assert_eq!(resolved.index, Some(index.digest));
    assert_eq!(resolved.platform, Some(amd64()));
    let layer = &resolved.manifest.layers[0];
    assert_eq!(pull(&client(), &reference, layer).unwrap(), b"linux/amd64");
    let error = client().resolve(&reference, &"linux/s390x".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`{}/x:1` has no image for linux/s390x; it offers linux/amd64, linux/arm64", registry.host())
    );
}

#[test]
fn an_unknown_tag_is_named() {
    let registry = FakeRegistry::start();
    let error = client().resolve(&registry.reference("a/b:nope"), &amd64()).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }));
    let text = error.to_string();
    assert!(text.contains("a/b:nope") && text.contains("not found"), "{text}");
    assert!(text.contains("manifest unknown"), "{text}");
}

#[test]
fn a_cut_blob_is_resumed() {
    let registry = FakeRegistry::start();
    let content = large();
    let blob = registry.add_blob(&content);
    registry.fail(&blob.digest.to_string(), 1, Reply::new(200, content.clone()).cut(300_000));
    let seen = std::cell::Cell::new(0);
    let mut bytes = Vec::new();
    client().blob(&registry.reference("x"), &blob, &mut bytes, &|done| seen.set(done)).unwrap();
    assert!(bytes == content);
    assert_eq!(seen.get(), blob.size);
    let ranges: Vec<_> =
        registry.requests().iter().filter_map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges.len(), 1);
    assert_ne!(ranges[0], "bytes=0-");
}

#[test]
fn a_server_without_ranges_is_read_again() {
    let registry = FakeRegistry::start();
    let content = large();
    let blob = registry.add_blob(&content);
    registry.fail(&blob.digest.to_string(), 1, Reply::new(200, content.clone()).cut(300_000));
    registry.fail(&blob.digest.to_string(), 1, Reply::new(200, content.clone()));
    assert!(pull(&client(), &registry.reference("x"), &blob).unwrap() == content);
}

#[test]
fn a_blob_that_always_breaks_is_given_up() {
    let registry = FakeRegistry::start();
    let blob = registry.add_blob(&large());
    registry.fail(&blob.digest.to_string(), 99, Reply::new(200, large()).cut(0));
    let error = pull(&client(), &registry.reference("x"), &blob).unwrap_err();
    assert!(matches!(error, RegistryError::Broken { received: 0, attempts: 3, .. }), "{error:?}");
}

#[test]
fn busy_servers_are_asked_again() {
    let registry = FakeRegistry::start();
    let image = registry.add_image("x:1", b"layer");
    registry.fail("manifests/1", 1, Reply::new(429, "").header("Retry-After", "0"));
    registry.fail("manifests/1", 1, Reply::new(500, ""));
    assert_eq!(client().resolve(&registry.reference("x:1"), &amd64()).unwrap().digest, image.digest);
    registry.fail("manifests/1", 99, Reply::new(503, "down for repairs"));
    let error = client().resolve(&registry.reference("x:1"), &amd64()).unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 503, .. }), "{error:?}");
    assert!(error.to_string().contains("down for repairs"));
    // Three requests: one and two retries.
    assert_eq!(registry.requests().iter().filter(|r| r.path().ends_with("manifests/1")).count(), 6);
}

#[test]
fn wrong_content_is_refused() {
    let registry = FakeRegistry::start();
    let blob = registry.add_blob(b"good");
    let reference = registry.reference("x:1");
    let path = blob.digest.to_string();
    registry.fail(&path, 1, Reply::new(200, "evil"));
    assert!(matches!(pull(&client(), &reference, &blob), Err(RegistryError::WrongDigest { .. })));
    registry.fail(&path, 1, Reply::new(200, "good and more"));
    assert!(matches!(pull(&client(), &reference, &blob), Err(RegistryError::WrongSize { .. })));
    registry.fail(&path, 99, Reply::new(200, "go"));
    assert!(matches!(pull(&client(), &reference, &blob), Err(RegistryError::Broken { .. })));

    let image = registry.add_image("x:1", b"layer");
    let by_digest = registry.reference(&format!("x@{}", image.digest));
    let other = Reply::new(200, r#"{"schemaVersion":2,"config":{}}"#)
        .header("Content-Type", media_type::OCI_MANIFEST);
    registry.fail(&image.digest.to_string(), 1, other.clone());
    assert!(matches!(client().manifest_raw(&by_digest), Err(RegistryError::WrongDigest { .. })));
    registry.fail("manifests/1", 1, other.header("Docker-Content-Digest", image.digest.to_string()));
    assert!(matches!(client().manifest_raw(&reference), Err(RegistryError::WrongDigest { .. })));
}

#[test]
fn endless_manifests_are_refused() {
    let registry = FakeRegistry::start();
    registry.fail("manifests/1", 1, Reply::new(200, vec![b' '; 5 * 1024 * 1024]));
    let error = client().manifest_raw(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
}

#[test]
fn tokens_are_fetched_kept_and_renewed() {
    let registry = FakeRegistry::start();
    registry.require_tokens(None);
    let image = registry.add_image("x:1", b"layer");
    let (client, reference) = (client(), registry.reference("x:1"));
    let resolved = client.resolve(&reference, &amd64()).unwrap();
    assert_eq!(resolved.digest, image.digest);
    pull(&client, &reference, &resolved.manifest.layers[0]).unwrap();
    assert_eq!(registry.issued(), 1);
    let asked = registry.requests().into_iter().find(|r| r.path() == "/token").unwrap();
    assert!(asked.target.contains("service=fake"), "{}", asked.target);
    assert!(asked.target.contains("scope=repository%3Ax%3Apull"), "{}", asked.target);
    registry.expire_tokens();
    pull(&client, &reference, &resolved.manifest.layers[0]).unwrap();
    assert_eq!(registry.issued(), 2);
}

#[test]
fn logins() {
    let registry = FakeRegistry::start();
    // `me:pass`.
    registry.require_tokens(Some("Basic bWU6cGFzcw=="));
    registry.add_image("x:1", b"layer");
    let reference = registry.reference("x:1");
    client_of(&registry, login()).resolve(&reference, &amd64()).unwrap();
    let error = client().resolve(&reference, &amd64()).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { status: 401, .. }), "{error:?}");
    assert!(error.to_string().contains("incorrect username or password"), "{error}");
    assert!(error.hint().unwrap().contains("login"), "{error}");
    let wrong = Credential::Basic { username: "me".to_owned(), password: "s3cret".to_owned() };
    let error = client_of(&registry, wrong).resolve(&reference, &amd64()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}

#[test]
fn basic_without_tokens() {
    let registry = FakeRegistry::start();
    registry.add_image("x:1", b"layer");
    registry.fault(|request| {
        let known = request.header("authorization") == Some("Basic bWU6cGFzcw==");
        (!known).then(|| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\""))
    });
    let reference = registry.reference("x:1");
    client_of(&registry, login()).resolve(&reference, &amd64()).unwrap();
    let before = registry.requests().len();
    assert!(matches!(client().resolve(&reference, &amd64()), Err(RegistryError::Denied { .. })));
    let wrong = Credential::Basic { username: "me".to_owned(), password: "no".to_owned() };
    assert!(matches!(
        client_of(&registry, wrong).resolve(&reference, &amd64()),
        Err(RegistryError::Denied { .. })
    ));
    assert!(registry.requests().len() - before <= 6);
}

/// Requests that are sent at the same time are all refused before one of them has credentials; each goes on.
#[test]
fn basic_for_two_at_once() {
    const REQUESTS: usize = 2;
    let both = std::sync::Barrier::new(REQUESTS);
    let server = FakeServer::start(move |request| {
        if request.path() == "/v2/" {
            return Reply::new(200, "{}");
        }
        if request.header("authorization").is_some() {
            return Reply::new(200, "");
        }
        both.wait();
        Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\"")
    });
    let credentials = BTreeMap::from([(server.host(), login())]);
    let client = Client::new(Options { net: net(2), credentials, ..Options::default() }).unwrap();
    let reference: Reference = format!("{}/x:1", server.host()).parse().unwrap();
    let digests: Vec<Digest> = (0..REQUESTS).map(|number| Digest::of(&[number as u8])).collect();
    let found = crate::base::parallel::map(&digests, REQUESTS, |digest| client.has_blob(&reference, digest));
    assert!(found.iter().all(|found| matches!(found, Ok(true))), "{found:?}");
}

/// Docker asks at the API's root first, and some registries challenge nowhere else.
#[test]
fn a_challenge_at_the_root_only() {
    let registry = FakeRegistry::start();
    let image = registry.add_image("x:1", b"layer");
    registry.fault(|request| {
        let known = request.header("authorization") == Some("Basic bWU6cGFzcw==");
        let challenge = "Basic realm=\"all of it\"";
        match request.path() {
            _ if known => None,
            "/v2/" => Some(Reply::new(401, "").header("WWW-Authenticate", challenge)),
            _ => Some(Reply::new(401, "")),
        }
    });
    let client = client_of(&registry, login());
    assert_eq!(client.resolve(&registry.reference("x:1"), &amd64()).unwrap().digest, image.digest);
    let roots = registry.requests().iter().filter(|request| request.path() == "/v2/").count();
    client.resolve(&registry.reference("x:1"), &amd64()).unwrap();
    let later = registry.requests().iter().filter(|request| request.path() == "/v2/").count();
    assert_eq!(later, roots, "the root was asked again");
    // Without a login it stays a refusal.
    let error = super::client().resolve(&registry.reference("x:1"), &amd64()).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { status: 401, .. }), "{error:?}");
}

#[test]
fn identity_tokens_are_posted() {
    let registry = FakeRegistry::start();
    registry.require_tokens(None);
    registry.add_image("x:1", b"layer");
    let client = client_of(&registry, Credential::IdentityToken("id".to_owned()));
    client.resolve(&registry.reference("x:1"), &amd64()).unwrap();
    let asked = registry.requests().into_iter().find(|r| r.path() == "/token").unwrap();
    let body = String::from_utf8(asked.body).unwrap();
    assert_eq!(asked.method, "POST");
    assert!(body.contains("grant_type=refresh_token") && body.contains("refresh_token=id"), "{body}");
}

#[test]
fn redirects_do_not_carry_credentials() {
    let registry = FakeRegistry::start();
    registry.require_tokens(Some("Basic bWU6cGFzcw=="));
    let blob = registry.add_blob(b"stored elsewhere");
    let storage = FakeServer::start(|_| Reply::new(200, "stored elsewhere"));
    let to = storage.other_origin("/bucket?X-Amz-Signature=s3cret");
    let path = format!("/v2/x/blobs/{}", blob.digest);
    registry.fault(move |request| {
        let known = request.header("authorization").is_some_and(|value| value.starts_with("Bearer "));
        (known && request.path() == path).then(|| Reply::new(307, "").header("Location", to.clone()))
    });
    let client = client_of(&registry, login());
    assert_eq!(pull(&client, &registry.reference("x"), &blob).unwrap(), b"stored elsewhere");
    let asked = storage.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn foreign_layers_come_from_their_urls() {
    let registry = FakeRegistry::start();
    let storage = FakeServer::start(|_| Reply::new(200, "foreign"));
    let descriptor = Descriptor {
        urls: vec!["ftp://nowhere/x".to_owned(), storage.url("/layer")],
        ..Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(b"foreign"), 7)
    };
    assert_eq!(pull(&client(), &registry.reference("x"), &descriptor).unwrap(), b"foreign");
    let lost = Descriptor { urls: Vec::new(), ..descriptor };
    assert!(matches!(
        pull(&client(), &registry.reference("x"), &lost),
        Err(RegistryError::BlobNotFound { .. })
    ));
}

#[test]
fn a_failing_sink_is_told() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl crate::base::sink::BlobSink for Full {
        fn restart(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let registry = FakeRegistry::start();
    let blob = registry.add_blob(b"x");
    let error = client().blob(&registry.reference("x"), &blob, &mut Full, &|_| ()).unwrap_err();
    assert!(matches!(error, RegistryError::Sink { .. }), "{error:?}");
}

#[test]
fn cancelling_stops_a_retry() {
    let registry = FakeRegistry::start();
    let cancel = CancelToken::new();
    let token = cancel.clone();
    registry.fault(move |request| {
        let hit = request.path().contains("/manifests/");
        if hit {
            token.cancel();
        }
        hit.then(|| Reply::new(429, "").header("Retry-After", "60"))
    });
    let client = Client::new(Options { net: net(5), cancel, ..Options::default() }).unwrap();
    let error = client.manifest_raw(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, RegistryError::Net(NetError::Cancelled)), "{error:?}");
}

#[test]
fn nobody_listening() {
    let registry = FakeRegistry::start();
    let reference = registry.reference("x:1");
    drop(registry);
    // The listener is gone once its thread has noticed.
    let error = (0..100)
        .map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            client().manifest_raw(&reference).unwrap_err()
        })
        .find(|error| error.to_string().contains("/v2/"))
        .unwrap();
    assert!(matches!(error, RegistryError::Net(NetError::Request { .. })), "{error:?}");
    assert!(!error.is_temporary(), "{error:?}");
}
