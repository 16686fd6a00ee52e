//! Each endpoint of the distribution specification that the client uses, against the reference implementation (Debian's
//! docker-registry), by its access log. Numbers are those of the specification's table of endpoints.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln::base::digest::Digest;
use kiln::image::manifest::{Descriptor, media_type};
use kiln::image::reference::Reference;
use kiln::registry::{BlobOutcome, Client, LoginCheck, Options, PushOptions, RegistryError};

use crate::project::skipped;
use crate::registry::RealRegistry;

/// A registry and a client for it. None, said aloud, where there is no docker-registry.
fn real() -> Option<(RealRegistry, Client)> {
    match RealRegistry::start() {
        Ok(registry) => Some((registry, client())),
        Err(why) => {
            skipped(&why);
            None
        }
    }
}

fn client() -> Client {
    Client::new(Options::default()).expect("client")
}

fn name(host: &str, rest: &str) -> Reference {
    format!("{host}/{rest}").parse().expect("reference")
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER, Digest::of(bytes), bytes.len() as u64)
}

fn push(client: &Client, to: &Reference, bytes: &[u8], options: &PushOptions<'_>) -> BlobOutcome {
    client.push_blob(to, &descriptor(bytes), &bytes.to_vec(), options).expect("pushed")
}

/// Whether the log has a request that begins with `line` and got `status`. It may lag a little.
fn logged(registry: &RealRegistry, line: &str, status: u16) -> bool {
    let wanted = |entry: &String| {
        entry.contains(&format!("\"{line}")) && entry.contains(&format!("HTTP/1.1\" {status} "))
    };
    // Thirty seconds at most, which only a failure takes.
    (0..1500).any(|_| {
        let found = registry.log().iter().any(wanted);
        if !found {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        found
    })
}

/// An image manifest of one layer, pushed with its blobs. Gives the manifest.
fn image(client: &Client, to: &Reference, layer: &[u8]) -> Vec<u8> {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    push(client, to, layer, &PushOptions::default());
    push(client, to, config, &PushOptions::default());
    let layer = descriptor(layer);
    let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(config), config.len() as u64);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
    });
    manifest.to_string().into_bytes()
}

#[test]
fn end_1_support_is_asked_for() {
    let Some((registry, client)) = real() else { return };
    assert_eq!(client.check_login(registry.host()).expect("answer"), LoginCheck::NotAsked);
    assert!(logged(&registry, "GET /v2/ ", 200));
}

#[test]
fn end_2_blobs_are_looked_for_and_read() {
    let Some((registry, client)) = real() else { return };
    let at = name(registry.host(), "x");
    let bytes = b"a blob".to_vec();
    assert!(!client.has_blob(&at, &Digest::of(&bytes)).expect("answer"));
    push(&client, &at, &bytes, &PushOptions::default());
    assert!(client.has_blob(&at, &Digest::of(&bytes)).expect("answer"));
    assert_eq!(client.blob_bytes(&at, &descriptor(&bytes)).expect("blob"), bytes);
    assert!(logged(&registry, "HEAD /v2/x/blobs/sha256:", 404));
    assert!(logged(&registry, "HEAD /v2/x/blobs/sha256:", 200));
    assert!(logged(&registry, "GET /v2/x/blobs/sha256:", 200));
    let missing = client.blob_bytes(&at, &descriptor(b"none")).expect_err("missing");
    assert!(matches!(missing, RegistryError::BlobNotFound { .. }), "{missing:?}");
}

#[test]
fn end_2_a_cut_blob_goes_on_with_a_range() {
    let Some((registry, _)) = real() else { return };
    let bytes: Vec<u8> =
        (0..2_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    push(&client(), &name(registry.host(), "x"), &bytes, &PushOptions::default());
    let host = cutting(registry.host().to_owned(), bytes.len() / 2);
    let mut got = Vec::new();
    client().blob(&name(&host, "x"), &descriptor(&bytes), &mut got, &|_| ()).expect("pulled");
    assert!(got == bytes);
    assert!(logged(&registry, "GET /v2/x/blobs/sha256:", 206));
}

/// A way to a registry that breaks once, after so many bytes of one connection's answers.
fn cutting(to: String, after_bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    let address = listener.local_addr().expect("address").to_string();
    let cut = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&to) else { return };
            let (mut near_in, mut far_out) =
                (near.try_clone().expect("socket"), far.try_clone().expect("socket"));
            std::thread::spawn(move || drop(std::io::copy(&mut near_in, &mut far_out)));
            let cut = Arc::clone(&cut);
            std::thread::spawn(move || {
                let (mut far, mut near) = (far, near);
                let (mut buffer, mut passed) = (vec![0; 16 * 1024], 0);
                while let Ok(count) = far.read(&mut buffer) {
                    if count == 0 || near.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                    passed += count;
                    if passed > after_bytes && !cut.swap(true, Ordering::SeqCst) {
                        break;
                    }
                }
                let _ = near.shutdown(std::net::Shutdown::Both);
                let _ = far.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn end_3_and_7_manifests_are_written_looked_for_and_read() {
    let Some((registry, client)) = real() else { return };
    let tagged = name(registry.host(), "x:1");
    let manifest = image(&client, &tagged, b"layer");
    let digest = client.put_manifest(&tagged, media_type::OCI_MANIFEST, &manifest).expect("put");
    let head = client.head_manifest(&tagged).expect("answer").expect("there");
    assert_eq!((head.digest, head.size), (digest, Some(manifest.len() as u64)));
    assert_eq!(client.manifest_raw(&tagged).expect("manifest").bytes, manifest);
    let by_digest = Reference { tag: None, digest: Some(digest), ..tagged.clone() };
    assert_eq!(client.manifest_raw(&by_digest).expect("manifest").media_type, media_type::OCI_MANIFEST);
    assert_eq!(client.head_manifest(&name(registry.host(), "x:2")).expect("answer"), None);
    for (line, status) in [
        ("PUT /v2/x/manifests/1 ", 201),
        ("HEAD /v2/x/manifests/1 ", 200),
        ("GET /v2/x/manifests/sha256:", 200),
        ("HEAD /v2/x/manifests/2 ", 404),
    ] {
        assert!(logged(&registry, line, status), "{line}");
    }
    let missing = client.manifest_raw(&name(registry.host(), "none:1")).expect_err("missing");
    assert!(matches!(missing, RegistryError::NotFound { .. }), "{missing:?}");
}

#[test]
fn end_7_a_manifest_without_its_blobs_is_told_as_that() {
    let Some((registry, client)) = real() else { return };
    let manifest = image(&client, &name(registry.host(), "x:1"), b"layer");
    // The other repository has none of them.
    let error = client
        .put_manifest(&name(registry.host(), "y:1"), media_type::OCI_MANIFEST, &manifest)
        .expect_err("incomplete");
    assert!(matches!(error, RegistryError::Incomplete { .. }), "{error:?}");
}

#[test]
fn end_4_and_6_blobs_are_sent_in_one_piece() {
    let Some((registry, client)) = real() else { return };
    let at = name(registry.host(), "x");
    let large: Vec<u8> = (0..600_000u32).flat_map(u32::to_le_bytes).collect();
    for bytes in [Vec::new(), b"small".to_vec(), large] {
        assert_eq!(push(&client, &at, &bytes, &PushOptions::default()), BlobOutcome::Uploaded);
        assert_eq!(push(&client, &at, &bytes, &PushOptions::default()), BlobOutcome::Existed);
        let again = PushOptions { resend: true, ..PushOptions::default() };
        assert_eq!(push(&client, &at, &bytes, &again), BlobOutcome::Uploaded);
    }
    assert!(logged(&registry, "POST /v2/x/blobs/uploads/ ", 202));
    assert!(logged(&registry, "PUT /v2/x/blobs/uploads/", 201));
}

#[test]
fn end_5_blobs_are_sent_in_chunks() {
    let Some((registry, client)) = real() else { return };
    let bytes: Vec<u8> = (0..600_000u32).flat_map(u32::to_le_bytes).collect();
    let options = PushOptions { chunk_bytes: Some(1_000_000), ..PushOptions::default() };
    let at = name(registry.host(), "x");
    assert_eq!(push(&client, &at, &bytes, &options), BlobOutcome::Uploaded);
    assert!(logged(&registry, "PATCH /v2/x/blobs/uploads/", 202));
    let mut got = Vec::new();
    client.blob(&at, &descriptor(&bytes), &mut got, &|_| ()).expect("pulled");
    assert!(got == bytes);
}

#[test]
fn end_11_blobs_are_mounted() {
    let Some((registry, client)) = real() else { return };
    push(&client, &name(registry.host(), "x"), b"shared", &PushOptions::default());
    let options = PushOptions { mount_from: vec!["x".to_owned()], ..PushOptions::default() };
    let at = name(registry.host(), "y");
    assert_eq!(push(&client, &at, b"shared", &options), BlobOutcome::Mounted);
    assert!(logged(&registry, "POST /v2/y/blobs/uploads/?mount=", 201));
    // What cannot be mounted is sent, in the session that the registry opens for it.
    assert_eq!(push(&client, &at, b"new", &options), BlobOutcome::Uploaded);
    let opened = registry.log().iter().filter(|line| line.contains("\"POST /v2/y/blobs/uploads/ ")).count();
    assert_eq!(opened, 0, "a second session was opened");
}
