//! Writing.

use super::*;
use crate::image::manifest::media_type;
use crate::net::fake_server::Reply;

fn large() -> Vec<u8> {
    (0..600_000u32).flat_map(u32::to_le_bytes).collect()
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(bytes), bytes.len() as u64)
}

fn push(
    registry: &FakeRegistry,
    bytes: &[u8],
    options: &PushOptions<'_>,
) -> Result<BlobOutcome, RegistryError> {
    client().push_blob(&registry.reference("x:1"), &descriptor(bytes), &bytes.to_vec(), options)
}

#[test]
fn small_and_large_blobs_and_a_manifest() {
    let registry = FakeRegistry::start();
    for bytes in [b"small".to_vec(), large(), Vec::new()] {
        assert_eq!(push(&registry, &bytes, &PushOptions::default()).unwrap(), BlobOutcome::Uploaded);
        assert!(registry.blob(&Digest::of(&bytes)).unwrap() == bytes);
        assert_eq!(push(&registry, &bytes, &PushOptions::default()).unwrap(), BlobOutcome::Existed);
    }
    let reference = registry.reference("x:1");
    let manifest = br#"{"schemaVersion":2,"config":{"digest":"x","size":1}}"#;
    let digest = client().put_manifest(&reference, media_type::OCI_MANIFEST, manifest).unwrap();
    let raw = client().manifest_raw(&reference).unwrap();
    assert_eq!((raw.digest, raw.media_type.as_str()), (digest, media_type::OCI_MANIFEST));
    assert!(client().has_blob(&reference, &Digest::of(b"small")).unwrap());
    assert!(!client().has_blob(&reference, &Digest::of(b"other")).unwrap());
}

#[test]
fn files_are_pushed() {
    let registry = FakeRegistry::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), large()).unwrap();
    let source = file.path().to_owned();
    for chunk_bytes in [None, Some(1_500_000)] {
        let options = PushOptions { chunk_bytes, ..PushOptions::default() };
        let reference = registry.reference("x:1");
        client().push_blob(&reference, &descriptor(&large()), &source, &options).unwrap();
        assert!(registry.blob(&Digest::of(&large())).unwrap() == large());
    }
}

#[test]
fn blobs_are_mounted() {
    let registry = FakeRegistry::start();
    registry.allow_mount(&Digest::of(b"there"));
    let options = PushOptions { mount_from: vec!["other".to_owned()], ..PushOptions::default() };
    assert_eq!(push(&registry, b"there", &options).unwrap(), BlobOutcome::Mounted);
    assert_eq!(push(&registry, b"nowhere", &options).unwrap(), BlobOutcome::Uploaded);
}

#[test]
fn chunks_and_their_corrections() {
    let registry = FakeRegistry::start();
    let bytes = large();
    let options = PushOptions { chunk_bytes: Some(1_000_000), ..PushOptions::default() };
    assert_eq!(push(&registry, &bytes, &options).unwrap(), BlobOutcome::Uploaded);
    let sizes: Vec<_> =
        registry.requests().iter().filter(|r| r.method == "PATCH").map(|r| r.body.len()).collect();
    assert_eq!(sizes, [1_000_000, 1_000_000, 400_000]);

    // The second chunk is refused once: the registry says how far it got.
    let registry = FakeRegistry::start();
    let mut patches = 0;
    registry.fault(move |request| {
        patches += usize::from(request.method == "PATCH");
        let hit = request.method == "PATCH" && patches == 2;
        hit.then(|| Reply::new(416, ""))
    });
    assert_eq!(push(&registry, &bytes, &options).unwrap(), BlobOutcome::Uploaded);
    assert!(registry.blob(&Digest::of(&bytes)).unwrap() == bytes);
}

#[test]
fn a_token_that_expires_in_between() {
    for bytes in [b"small".to_vec(), large()] {
        let registry = FakeRegistry::start();
        registry.require_tokens(None);
        let client = client();
        let reference = registry.reference("x:1");
        let mut expired = false;
        let host = registry.host();
        registry.fault(move |request| {
            let hit = request.method == "PUT" && !expired;
            expired |= hit;
            let challenge = format!("Bearer realm=\"http://{host}/token\"");
            hit.then(|| Reply::new(401, "").header("WWW-Authenticate", challenge))
        });
        let outcome = client.push_blob(&reference, &descriptor(&bytes), &bytes, &PushOptions::default());
        assert_eq!(outcome.unwrap(), BlobOutcome::Uploaded);
        assert_eq!(registry.issued(), 2);
        let asked = registry.requests().into_iter().find(|r| r.path() == "/token").unwrap();
        assert!(asked.target.contains("pull%2Cpush"), "{}", asked.target);
    }
}

#[test]
fn a_failing_upload_starts_again() {
    let registry = FakeRegistry::start();
    let mut failures = 2;
    registry.fault(move |request| {
        let hit = request.method == "PUT" && failures > 0;
        failures -= usize::from(hit);
        hit.then(|| Reply::new(502, "bad gateway"))
    });
    assert_eq!(push(&registry, &large(), &PushOptions::default()).unwrap(), BlobOutcome::Uploaded);
    assert_eq!(registry.requests().iter().filter(|r| r.method == "POST").count(), 3);
}

#[test]
fn what_cannot_be_sent_in_one_request_is_patched() {
    let registry = FakeRegistry::start();
    registry.fault(|request| {
        let whole =
            request.method == "PUT" && !request.body.is_empty() && request.path().contains("/uploads/");
        whole.then(|| Reply::new(500, "one piece after the other, please"))
    });
    let client = client();
    for (number, bytes) in [large(), b"small".to_vec(), Vec::new()].iter().enumerate() {
        let reference = registry.reference("x:1");
        let outcome = client.push_blob(&reference, &descriptor(bytes), bytes, &PushOptions::default());
        assert_eq!(outcome.unwrap(), BlobOutcome::Uploaded);
        assert!(registry.blob(&Digest::of(bytes)).unwrap() == *bytes);
        // Only the first one had to find out.
        let sessions = registry.requests().iter().filter(|r| r.method == "POST").count();
        assert_eq!(sessions, number + 2);
    }
}

#[test]
fn refusals_are_told_without_the_session() {
    let registry = FakeRegistry::start();
    registry.fault(|request| {
        let body = r#"{"errors":[{"code":"DENIED","message":"quota used up"}]}"#;
        (request.method == "PUT").then(|| Reply::new(403, body))
    });
    let error = push(&registry, b"x", &PushOptions::default()).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { status: 403, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("quota used up") && !text.contains("s3cret"), "{text}");
}

#[test]
fn a_source_that_lies_about_its_size() {
    let registry = FakeRegistry::start();
    for bytes in [b"small".to_vec(), large()] {
        let longer = Descriptor { size: bytes.len() as u64 + 1, ..descriptor(&bytes) };
        let error = client()
            .push_blob(&registry.reference("x:1"), &longer, &bytes, &PushOptions::default())
            .unwrap_err();
        assert!(matches!(error, RegistryError::ShortSource { .. }), "{error:?}");
    }
}

#[test]
fn a_manifest_goes_only_under_its_own_digest() {
    let registry = FakeRegistry::start();
    let reference = registry.reference(&format!("x@{}", Digest::of(b"other")));
    let error = client().put_manifest(&reference, media_type::OCI_MANIFEST, b"{}").unwrap_err();
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error:?}");
    assert!(registry.server().requests().iter().all(|r| r.method != "PUT"));
}
