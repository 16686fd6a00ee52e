//! Two hundred pushes and pulls, each with its own faults.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::faulty_registry::{Fault, FaultyRegistry, mixed};
use crate::base::cancel::CancelToken;
use crate::base::digest::Digest;
use crate::base::parallel;
use crate::image::manifest::media_type;
use crate::image::reference::Reference;
use crate::net::{Net, NetOptions};
use crate::registry::{Client, Options};
use crate::store::Store;
use crate::store::records::{ImageRecord, now};
use crate::transfer::{Inventory, Origin, Place, PushTarget, keep, name_in_store, push};

const RUNS: u64 = 200;
const NAME: &str = "h.example/source:1";

/// An image: its root's media type and digest, its manifests by digest, its blobs.
struct Sample {
    root: (String, Digest),
    documents: BTreeMap<Digest, (String, Vec<u8>)>,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Sample {
    /// One to four layers, some of them empty, some larger than what goes in one piece; sometimes two platforms.
    fn new(seed: u64) -> Self {
        let mut sample = Self {
            root: (String::new(), Digest::of(b"")),
            documents: BTreeMap::new(),
            blobs: BTreeMap::new(),
        };
        let platforms = if seed.is_multiple_of(5) { &["amd64", "arm64"][..] } else { &["amd64"][..] };
        let mut children = Vec::new();
        for architecture in platforms {
            let layers: Vec<_> = (0..1 + mixed(seed, "layers") % 4)
                .map(|number| {
                    let dice = mixed(seed, &format!("layer {number}"));
                    let size = match dice % 8 {
                        0 => 0,
                        1 => 1_100_000 + dice as usize % 100_000,
                        _ => dice as usize % 60_000,
                    };
                    let bytes: Vec<u8> = (0..size).map(|at| (dice as usize + at * at) as u8).collect();
                    sample.blob("application/vnd.oci.image.layer.v1.tar", bytes)
                })
                .collect();
            let config = json!({ "architecture": architecture, "os": "linux", "seed": seed }).to_string();
            let config = sample.blob(media_type::OCI_CONFIG, config.into_bytes());
            let manifest = json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
            });
            let mut child = sample.document(media_type::OCI_MANIFEST, manifest.to_string());
            child["platform"] = json!({ "os": "linux", "architecture": architecture });
            children.push(child);
        }
        if children.len() > 1 {
            let index = json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": children,
            });
            sample.document(media_type::OCI_INDEX, index.to_string());
        }
        sample
    }

    fn blob(&mut self, kind: &str, bytes: Vec<u8>) -> serde_json::Value {
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        self.blobs.insert(digest, bytes);
        json!({ "mediaType": kind, "digest": digest, "size": size })
    }

    fn document(&mut self, kind: &str, text: String) -> serde_json::Value {
        let (digest, size) = (Digest::of(text.as_bytes()), text.len());
        self.documents.insert(digest, (kind.to_owned(), text.into_bytes()));
        self.root = (kind.to_owned(), digest);
        json!({ "mediaType": kind, "digest": digest, "size": size })
    }
}

fn client() -> Client {
    let net = NetOptions { retries: 8, retry_delay: Duration::from_millis(1), ..NetOptions::default() };
    let net = Net::new(net).unwrap();
    Client::new(Options { net, cancel: CancelToken::new(), ..Options::default() }).unwrap()
}

/// Pushes an image of a store. What the registry has then is right, or there is no tag.
fn pushed(registry: &FaultyRegistry, sample: &Sample, store: &Store) -> Result<(), String> {
    for bytes in sample.blobs.values().chain(sample.documents.values().map(|(_, bytes)| bytes)) {
        store.put_blob(bytes).unwrap();
    }
    let (media_type, digest) = sample.root.clone();
    let record = ImageRecord { name: NAME.to_owned(), media_type, digest, size_bytes: 0, created: now() };
    name_in_store(store, [record].into_iter()).unwrap();
    let origin = Origin::in_store(store, NAME).unwrap();
    let inventory = Inventory::read(&*origin.content, &origin.root, None).unwrap();
    let reference: Reference = format!("{}/x:1", registry.host()).parse().unwrap();
    let target = PushTarget { client: &client(), reference: &reference, by_digest: false };
    let result = push(&*origin.content, &inventory, target, &|_, _| ());
    let content = registry.content();
    for (digest, bytes) in &sample.blobs {
        assert!(content.blobs.get(digest).is_none_or(|stored| stored == bytes), "{digest} is another blob");
    }
    match &result {
        Ok(pushed) => {
            assert_eq!(pushed.digest, sample.root.1);
            assert_eq!(content.manifests["1"].1, sample.documents[&digest].1);
            for (digest, (kind, bytes)) in &sample.documents {
                assert_eq!(content.manifests[&digest.to_string()], (kind.clone(), bytes.clone()));
            }
            assert!(sample.blobs.keys().all(|digest| content.blobs.contains_key(digest)));
        }
        Err(_) => assert!(!content.manifests.contains_key("1"), "a failed push left a tag"),
    }
    result.map(drop).map_err(|error| crate::base::causes::one_line(&error))
}

/// Pulls an image. What the store has then is right, or there is no image.
fn pulled(registry: &FaultyRegistry, sample: &Sample, store: &Store) -> Result<(), String> {
    {
        let mut content = registry.content();
        content.blobs.clone_from(&sample.blobs);
        for (digest, document) in &sample.documents {
            content.manifests.insert(digest.to_string(), document.clone());
        }
        content.manifests.insert("1".to_owned(), sample.documents[&sample.root.1].clone());
    }
    let reference: Reference = format!("{}/x:1", registry.host()).parse().unwrap();
    let result = Origin::open(&Place::Registry(reference.clone()), None, &client()).and_then(|origin| {
        let inventory = Inventory::read(&*origin.content, &origin.root, None)?;
        keep(&*origin.content, &inventory, store, &[reference], &|_, _| ())
    });
    let images = store.database().images().unwrap();
    match &result {
        Ok(()) => {
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].digest, sample.root.1);
            for (digest, bytes) in &sample.blobs {
                assert!(store.read_blob(digest, 1 << 30).unwrap() == *bytes);
            }
            assert!(sample.documents.keys().all(|digest| store.read_blob(digest, 1 << 20).is_ok()));
        }
        Err(_) => assert!(images.is_empty(), "a failed pull left an image"),
    }
    // Whatever happened, what has a name in the store is what its name says.
    for digest in sample.blobs.keys().filter(|digest| store.stat_blob(digest).is_some()) {
        store.read_blob(digest, 1 << 30).unwrap();
    }
    result.map_err(|error| crate::base::causes::one_line(&error))
}

#[test]
fn pushes_and_pulls_end_right_or_with_a_clear_error() {
    let seeds: Vec<u64> = (0..RUNS).collect();
    let seen = Mutex::new(BTreeMap::<Fault, usize>::new());
    let failures = parallel::map(&seeds, 4, |seed| {
        let (registry, sample) = (FaultyRegistry::start(*seed), Sample::new(*seed));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let result = match seed % 2 {
            0 => pushed(&registry, &sample, &store),
            _ => pulled(&registry, &sample, &store),
        };
        let content = registry.content();
        assert!(content.leaks.is_empty(), "seed {seed}: credentials went to {:?}", content.leaks);
        let fatal = content.faults.keys().any(|fault| fault.is_fatal());
        if let Err(message) = &result {
            assert!(fatal, "seed {seed} failed without need: {message}\nfaults: {:?}", content.faults);
            assert!(
                message.contains("sent content with digest") || message.contains("bytes instead of"),
                "seed {seed}: {message}"
            );
        }
        let mut seen = seen.lock().unwrap();
        for (fault, count) in &content.faults {
            *seen.entry(*fault).or_default() += count;
        }
        usize::from(result.is_err())
    });
    let failed: usize = failures.iter().sum();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 13, "not every fault happened: {seen:?}");
    assert!(seen.values().sum::<usize>() > 500, "hardly anything went wrong: {seen:?}");
    assert!(failed > 0 && failed < 100, "{failed} failed");
}
