use super::*;
use crate::base::digest::{CacheKey, ContentDigest};
use crate::store::records::{BlobRecord, DownloadRecord, FsState, ImageRecord, StepResult};

struct World {
    dir: tempfile::TempDir,
    store: Store,
    snapshot: SnapshotId,
    key: CacheKey,
    layer: Digest,
    manifest: Digest,
}

/// A store with everything in it once: an image's layer with a step on it, an image, a mount, a download.
fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    let database = store.database();
    let snapshot = SnapshotId(store.fresh_name().unwrap());
    fs::create_dir_all(store.path(&format!("snapshots/{}/fs", snapshot.0))).unwrap();
    let layer = store.put_blob(b"layer").unwrap();
    let diff_id = DiffId(layer);
    database.add_snapshot(&snapshot, &ContentDigest(layer), 5).unwrap();
    database.add_image_layer(&snapshot, &diff_id).unwrap();
    database.claim_chain(&layer, &snapshot).unwrap();
    database.claim_result(&layer, &snapshot).unwrap();
    let record = BlobRecord { media_type: String::new(), digest: layer, size_bytes: 5 };
    database.add_blob(&diff_id, "original", &record).unwrap();
    let key = CacheKey(Digest::of(b"key"));
    let layers = vec![LayerRef { snapshot: snapshot.clone(), standalone: false }];
    database.add_step(&[key], &StepResult::source(FsState { layers, identity: layer }), "RUN", 1).unwrap();
    let manifest = store.put_blob(format!(r#"{{"layers":[{{"digest":"{layer}"}}]}}"#).as_bytes()).unwrap();
    let media_type = String::new();
    let image = ImageRecord { name: "i".to_owned(), media_type, digest: manifest, size_bytes: 1, created: 1 };
    database.name_image(&image).unwrap();
    store.write_index().unwrap();
    fs::create_dir(store.path("mounts/m")).unwrap();
    database.claim_cache_mount("m", "mounts/m", false).unwrap();
    let body = store.put_blob(b"body").unwrap();
    let download = DownloadRecord {
        digest: body,
        size_bytes: 4,
        file_name: String::new(),
        etag: None,
        last_modified: None,
    };
    database.set_download("url", &download).unwrap();
    World { dir, store, snapshot, key, layer, manifest }
}

/// Applies `harm`, checks that it is found as `expected`, and that repairs leave nothing to find.
#[track_caller]
fn harmed(harm: impl FnOnce(&World), expected: impl Fn(&World, &Finding) -> bool) -> World {
    let mut world = world();
    assert!(world.store.check_records().unwrap().is_empty());
    harm(&world);
    // What this process leased and began is not its own any more.
    let root = world.dir.path().join("s");
    world.store = Store::open(&root).unwrap();
    let all = |store: &Store| {
        let mut found = store.check_records().unwrap();
        found.extend(store.all_blobs().unwrap().iter().filter_map(|digest| store.check_blob(digest)));
        found
    };
    let found = all(&world.store);
    assert!(found.iter().any(|finding| expected(&world, finding)), "{found:?}");
    for _ in 0..5 {
        for finding in all(&world.store) {
            assert!(world.store.repair(&finding).unwrap(), "{finding}");
        }
    }
    let left = all(&world.store);
    assert!(left.is_empty(), "{left:?}");
    world
}

#[test]
fn a_flipped_byte() {
    let world = harmed(
        |world| {
            let path = world.store.blob_path(&world.layer);
            fs::remove_file(&path).unwrap();
            fs::write(&path, b"lAyer").unwrap();
        },
        |world, found| matches!(found, Finding::DamagedBlob { digest, .. } if *digest == world.layer),
    );
    assert!(world.store.stat_blob(&world.layer).is_none());
    assert!(world.store.use_step(&world.key).unwrap().is_none(), "what stood on it runs again");
    assert!(world.store.database().images().unwrap().is_empty(), "an image without a layer is none");
}

#[test]
fn a_lost_blob_and_a_cut_one() {
    for (cut, name) in [(None, "lost"), (Some(&b"lay"[..]), "cut")] {
        let world = harmed(
            |world| {
                let path = world.store.blob_path(&world.layer);
                fs::remove_file(&path).unwrap();
                if let Some(bytes) = cut {
                    fs::write(&path, bytes).unwrap();
                }
            },
            |world, found| match found {
                Finding::LostBlob { digest, table: "blobs" } => *digest == world.layer && name == "lost",
                Finding::BlobSize { digest, actual_bytes: 3, .. } => *digest == world.layer && name == "cut",
                _ => false,
            },
        );
        assert!(world.store.use_step(&world.key).unwrap().is_none());
    }
}

#[test]
fn a_lost_snapshot() {
    let world = harmed(
        |world| fs::remove_dir_all(world.store.path(&format!("snapshots/{}", world.snapshot.0))).unwrap(),
        |world, found| matches!(found, Finding::LostSnapshot { id } if *id == world.snapshot),
    );
    assert!(world.store.use_step(&world.key).unwrap().is_none());
    assert!(world.store.database().images().unwrap().len() == 1, "the image has all its blobs");
}

#[test]
fn rows_of_nothing() {
    harmed(
        |world| {
            let id = SnapshotId("unknown".to_owned());
            world.store.database().claim_chain(&Digest::of(b"c"), &id).unwrap();
        },
        |_, found| matches!(found, Finding::UnknownSnapshot { table: "chains", .. }),
    );
    harmed(
        |world| fs::remove_dir(world.store.path("mounts/m")).unwrap(),
        |_, found| matches!(found, Finding::LostMount { id, .. } if id == "m"),
    );
    harmed(
        |world| fs::remove_file(world.store.blob_path(&world.manifest)).unwrap(),
        |_, found| matches!(found, Finding::BrokenImage { name, .. } if name == "i"),
    );
}

#[test]
fn data_of_nothing_and_a_wrong_index() {
    let world = harmed(
        |world| {
            fs::create_dir_all(world.store.path("snapshots/lost/fs")).unwrap();
            fs::write(world.store.path("blobs/sha256/no-digest"), "x").unwrap();
        },
        |_, found| matches!(found, Finding::Stray { path } if path == "snapshots/lost"),
    );
    assert!(!world.store.path("snapshots/lost").exists());
    harmed(
        |world| fs::write(world.store.path("index.json"), "").unwrap(),
        |_, found| matches!(found, Finding::Index),
    );
}
