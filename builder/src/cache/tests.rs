//! What every cache has to do, done with each kind.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::actions::tests::Fake;
use super::artifact::MAX_INLINE_BYTES;
use super::record::{Record, RecordLayer, RecordStep};
use super::*;
use crate::base::digest::DiffId;
use crate::image::manifest::{Descriptor, media_type};
use crate::registry::tests::client;
use crate::registry::tests::fake_registry::FakeRegistry;

const LAYER: &[u8] = b"a layer's blob";

pub(super) fn key(text: &str) -> CacheKey {
    CacheKey(Digest::of(text.as_bytes()))
}

pub(super) fn record(keys: &[&str], epoch: Option<i64>, layers: &[&[u8]]) -> Record {
    let layers = layers.iter().map(|bytes| RecordLayer {
        diff_id: DiffId(Digest::of(b"tar")),
        media_type: media_type::OCI_LAYER_GZIP.to_owned(),
        digest: Digest::of(bytes),
        size_bytes: bytes.len() as u64,
        compressor: "gzip".to_owned(),
    });
    let trail = vec![RecordStep { added_layer: true, created: 7 }];
    Record::new(
        keys.iter().map(|k| key(k)).collect(),
        epoch,
        Vec::new(),
        layers.collect(),
        Digest::of(b"result"),
        trail,
    )
}

pub(super) fn put_record(cache: &dyn Cache, tags: &[Tag], record: &Record, blobs: &[&[u8]]) {
    for (layer, bytes) in record.layers.iter().zip(blobs) {
        cache.put_blob(&layer.descriptor(), &bytes.to_vec()).unwrap();
        assert!(cache.has_blob(&layer.descriptor(), &[]).unwrap());
    }
    put(cache, tags, record, Form::Manifest).unwrap();
    cache.flush().unwrap();
}

fn put_manifest(cache: &dyn Cache, tag: &Tag, bytes: &[u8]) {
    cache.put_manifest(tag, media_type::OCI_MANIFEST, bytes).unwrap();
    cache.flush().unwrap();
}

/// Calls `check` with a way to open the same, empty cache again, for each kind.
fn each(check: impl Fn(&dyn Fn() -> Box<dyn Cache>)) {
    let registry = FakeRegistry::start();
    let reference = registry.reference("me/cache:unused");
    check(&|| Location::Registry(reference.clone()).open(&client()));
    let dir = tempfile::tempdir().unwrap();
    check(&|| Location::Directory(dir.path().join("cache")).open(&client()));
    let actions = Fake::start();
    check(&|| Location::Actions(Box::new(actions.options())).open(&client()));
    let bucket = super::bucket::tests::Fake::start();
    check(&|| Location::Bucket(Box::new(bucket.options())).open(&client()));
}

#[test]
fn what_is_put_is_found_by_each_of_its_keys() {
    each(|open| {
        let writer = open();
        assert!(!writer.has_blob(&Descriptor::new("", Digest::of(LAYER), LAYER.len() as u64), &[]).unwrap());
        let with = record(&["a", "b"], None, &[LAYER]);
        assert!(!writer.has_manifest(&Tag::new(&key("a"), None)).unwrap());
        put_record(&*writer, &[Tag::new(&key("a"), None), Tag::new(&key("b"), None)], &with, &[LAYER]);
        let without = record(&["c"], Some(9), &[]);
        put_record(&*writer, &[Tag::new(&key("c"), Some(9))], &without, &[]);
        let reader = open();
        assert_eq!(find(&*reader, &key("a"), None).unwrap().as_ref(), Some(&with));
        assert_eq!(find(&*reader, &key("b"), None).unwrap().as_ref(), Some(&with));
        assert_eq!(find(&*reader, &key("c"), Some(9)).unwrap().as_ref(), Some(&without));
        assert!(reader.has_manifest(&Tag::new(&key("a"), None)).unwrap());
        assert_eq!(find(&*reader, &key("c"), None).unwrap(), None, "another epoch is another artifact");
        assert_eq!(find(&*reader, &key("d"), None).unwrap(), None);
        let mut bytes = Vec::new();
        reader.blob(&with.layers[0].descriptor(), &mut bytes, &|_| ()).unwrap();
        assert_eq!(bytes, LAYER);
    });
}

#[test]
fn a_later_artifact_takes_the_place_of_an_earlier_one() {
    each(|open| {
        let tag = [Tag::new(&key("a"), None)];
        put_record(&*open(), &tag, &record(&["a"], None, &[]), &[]);
        put_record(&*open(), &tag, &record(&["a"], None, &[LAYER]), &[LAYER]);
        assert_eq!(find(&*open(), &key("a"), None).unwrap().unwrap().layers.len(), 1);
    });
}

#[test]
fn every_form_is_found() {
    each(|open| {
        for (name, form, kind) in [
            ("manifest", Form::Manifest, media_type::OCI_MANIFEST),
            ("index", Form::Index, media_type::OCI_INDEX),
            ("list", Form::DockerList, media_type::DOCKER_INDEX),
        ] {
            let (with, without) = (record(&[name], None, &[LAYER]), record(&[name], Some(1), &[]));
            let (tag, other) = (Tag::new(&key(name), None), Tag::new(&key(name), Some(1)));
            let writer = open();
            writer.put_blob(&with.layers[0].descriptor(), &LAYER.to_vec()).unwrap();
            put(&*writer, std::slice::from_ref(&tag), &with, form).unwrap();
            put(&*writer, std::slice::from_ref(&other), &without, form).unwrap();
            writer.flush().unwrap();
            assert_eq!(find(&*open(), &key(name), None).unwrap(), Some(with), "{name}");
            assert_eq!(find(&*open(), &key(name), Some(1)).unwrap(), Some(without), "{name}");
            assert!(open().has_manifest(&tag).unwrap());
            let manifest: serde_json::Value =
                serde_json::from_slice(&open().manifest(&tag).unwrap().unwrap()).unwrap();
            assert_eq!(manifest["mediaType"], kind);
            let docker = manifest.to_string().contains(media_type::DOCKER_LAYER_GZIP);
            assert_eq!((docker, manifest["manifests"].is_array()), (name == "list", name != "manifest"));
        }
    });
}

#[test]
fn an_index_that_is_no_step_is_refused() {
    each(|open| {
        for text in [
            r#"{"schemaVersion":2,"manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:0","size":1}]}"#,
            r#"{"schemaVersion":2,"manifests":7}"#,
        ] {
            let tag = Tag::new(&key("a"), None);
            let cache = open();
            cache.put_manifest(&tag, media_type::OCI_INDEX, text.as_bytes()).unwrap();
            cache.flush().unwrap();
            let error = find(&*open(), &key("a"), None).unwrap_err();
            assert!(error.is_about_one_step(), "{text}: {error}");
        }
    });
}

#[test]
fn what_is_not_kept_goes_from_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let open = || DirectoryCache::new(&path);
    let tag = |name: &str| Tag::new(&key(name), None);
    for (name, blobs) in [("a", &[LAYER, b"of a"][..]), ("b", &[LAYER, b"of b"]), ("c", &[b"of c"])] {
        // A step has two keys, one of which a build need not know.
        let record = record(&[name, &format!("{name}2")], None, blobs);
        put_record(&open(), &[tag(name), tag(&format!("{name}2"))], &record, blobs);
    }
    std::fs::write(path.join("blobs/sha256/.kiln-temporary"), "").unwrap();
    std::fs::write(path.join("blobs/sha256/other"), "").unwrap();
    let removed = open().keep_only(&[tag("a"), tag("x")].into()).unwrap();
    // Of each a manifest, a record and a layer.
    assert_eq!(removed, 6);
    let there = |name: &str| find(&open(), &key(name), None).unwrap();
    assert!(there("a").is_some() && there("a2").is_some() && there("b").is_none() && there("c2").is_none());
    for layer in there("a").unwrap().layers {
        open().blob(&layer.descriptor(), &mut Vec::new(), &|_| ()).unwrap();
    }
    let mut left: Vec<_> =
        std::fs::read_dir(path.join("blobs/sha256")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left.len(), 6, "{left:?}");
}

#[test]
fn a_large_record_is_a_blob_of_its_own() {
    each(|open| {
        let mut large = record(&["a"], None, &[]);
        large.trail = vec![large.trail[0]; record::MAX_TRAIL];
        assert!(large.to_bytes().len() > MAX_INLINE_BYTES);
        put_record(&*open(), &[Tag::new(&key("a"), None)], &large, &[]);
        assert_eq!(find(&*open(), &key("a"), None).unwrap(), Some(large));
    });
}

#[test]
fn a_record_under_the_tag_of_another_key_is_refused() {
    each(|open| {
        put_record(&*open(), &[Tag::new(&key("a"), None)], &record(&["b"], None, &[]), &[]);
        put_record(&*open(), &[Tag::new(&key("c"), None)], &record(&["c"], Some(5), &[]), &[]);
        for other in ["a", "c"] {
            let error = find(&*open(), &key(other), None).unwrap_err();
            assert!(error.is_about_one_step(), "{error}");
            assert!(error.to_string().contains("belongs to another step"), "{error}");
        }
    });
}

#[test]
fn manifests_that_are_no_steps_are_refused() {
    each(|open| {
        let tag = Tag::new(&key("a"), None);
        put_record(&*open(), std::slice::from_ref(&tag), &record(&["a"], None, &[LAYER]), &[LAYER]);
        let good = String::from_utf8(open().manifest(&tag).unwrap().unwrap()).unwrap();
        let blob = Digest::of(LAYER).to_string();
        let empty = Digest::of(b"other").to_string();
        for (old, new) in [
            (MEDIA_TYPE, media_type::OCI_CONFIG),
            (blob.as_str(), empty.as_str()),
            ("\"layers\": [", "\"layers\": [{\"mediaType\":\"x\",\"digest\":\"sha256:0\",\"size\":1},"),
        ] {
            put_manifest(&*open(), &tag, good.replace(old, new).as_bytes());
            let error = find(&*open(), &key("a"), None).unwrap_err();
            assert!(error.is_about_one_step(), "{old}: {error:?}");
        }
        // Content inside the manifest counts only with the right digest; else the blob is asked for.
        let data = good.split("\"data\": \"").nth(1).unwrap().split('"').next().unwrap();
        let forged = good.replace(data, &BASE64.encode("{}"));
        put_manifest(&*open(), &tag, forged.as_bytes());
        if open().carries_configs() {
            assert!(find(&*open(), &key("a"), None).unwrap_err().is_about_one_step());
        } else {
            assert_eq!(find(&*open(), &key("a"), None).unwrap(), Some(record(&["a"], None, &[LAYER])));
        }
    });
}

#[test]
fn a_cache_mount_is_found_by_its_id_and_the_last_one_wins() {
    each(|open| {
        put_record(&*open(), &[Tag::new(&key("b"), None)], &record(&["b"], None, &[]), &[]);
        assert_eq!(mount::find(&*open(), "npm").unwrap(), None);
        for bytes in [&b"first"[..], b"second"] {
            let archive = mount::descriptor(Digest::of(bytes), bytes.len() as u64);
            open().put_blob(&archive, &bytes.to_vec()).unwrap();
            let cache = open();
            mount::put(&*cache, "npm", &archive, Form::Manifest).unwrap();
            cache.flush().unwrap();
            assert_eq!(mount::find(&*open(), "npm").unwrap(), Some(archive));
        }
        let other = open().manifest(&mount::tag("npm")).unwrap().unwrap();
        put_manifest(&*open(), &mount::tag("go"), &other);
        let error = mount::find(&*open(), "go").unwrap_err();
        assert!(error.to_string().contains("another cache mount"), "{error}");
        // A step is no mount, and the other way round.
        put_manifest(&*open(), &Tag::new(&key("a"), None), &other);
        assert!(find(&*open(), &key("a"), None).unwrap_err().is_about_one_step());
    });
}

#[test]
fn a_blob_with_other_bytes_is_refused() {
    each(|open| {
        let wrong = Descriptor::new(media_type::OCI_LAYER, Digest::of(b"promised"), 8);
        assert!(open().put_blob(&wrong, &b"given!!!".to_vec()).is_err());
        assert!(!open().has_blob(&wrong, &[]).unwrap());
    });
}

#[test]
fn a_damaged_directory_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let open = || DirectoryCache::new(&path);
    let missing = find(&open(), &key("a"), None).unwrap_err();
    assert!(matches!(missing, CacheError::NoDirectory { .. }), "{missing}");
    let record = record(&["a"], None, &[LAYER]);
    put_record(&open(), &[Tag::new(&key("a"), None)], &record, &[LAYER]);
    let blob = path.join(DirectoryCache::blob_name(&Digest::of(LAYER)));
    let read = |bytes: &[u8]| {
        std::fs::remove_file(&blob).unwrap();
        std::fs::write(&blob, bytes).unwrap();
        open().blob(&record.layers[0].descriptor(), &mut Vec::new(), &|_| ())
    };
    for bytes in [&b"A layer's blob"[..], b"a layer", b"a layer's blob and more"] {
        assert!(read(bytes).unwrap_err().is_about_one_step());
    }
    read(LAYER).unwrap();
    std::fs::remove_file(&blob).unwrap();
    assert!(open().blob(&record.layers[0].descriptor(), &mut Vec::new(), &|_| ()).is_err());
    std::fs::write(path.join("index.json"), "{").unwrap();
    assert!(matches!(find(&open(), &key("a"), None), Err(CacheError::Index { .. })));
}

#[test]
fn many_writers_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let names: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    crate::base::parallel::map(&names, 8, |name| {
        // One for each writer, as in different processes.
        let cache = DirectoryCache::new(&path);
        put(&cache, &[Tag::new(&key(name), None)], &record(&[name], None, &[]), Form::Manifest).unwrap();
    });
    let cache = DirectoryCache::new(&path);
    for name in &names {
        assert!(find(&cache, &key(name), None).unwrap().is_some(), "{name} is lost");
    }
}

#[test]
fn a_registry_that_wants_a_login_gets_it_for_reading_and_writing() {
    let registry = FakeRegistry::start();
    registry.require_tokens(None);
    let open = || Location::Registry(registry.reference("me/cache:x")).open(&client());
    put_record(&*open(), &[Tag::new(&key("a"), None)], &record(&["a"], None, &[LAYER]), &[LAYER]);
    let reader = open();
    assert!(find(&*reader, &key("a"), None).unwrap().is_some());
    registry.expire_tokens();
    assert_eq!(find(&*reader, &key("b"), None).unwrap(), None);
}

#[test]
fn a_registry_out_of_reach_is_not_a_bad_step() {
    let registry = FakeRegistry::start();
    registry.fault(|_| Some(crate::net::fake_server::Reply::new(403, "")));
    let cache = Location::Registry(registry.reference("me/cache:x")).open(&client());
    assert!(!find(&*cache, &key("a"), None).unwrap_err().is_about_one_step());
}
