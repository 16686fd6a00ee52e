use super::*;
use crate::base::digest::{CacheKey, ContentDigest, DiffId};
use crate::store::records::{BlobRecord, FsState, ImageRecord, LayerRef, StepResult};

struct World {
    dir: tempfile::TempDir,
    store: Option<Store>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(Store::open(&dir.path().join("s")).unwrap());
        Self { dir, store }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Another process: what this one leased is free, and its token is dead.
    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(Store::open(&self.dir.path().join("s")).unwrap());
    }

    /// A step on `below` with a snapshot of its own.
    fn step(&self, below: &[&str]) -> (String, CacheKey) {
        let name = self.store().fresh_name().unwrap();
        let id = SnapshotId(name.clone());
        fs::create_dir_all(self.store().path(&format!("snapshots/{name}/fs"))).unwrap();
        let key = CacheKey(Digest::of(name.as_bytes()));
        self.store().database().add_snapshot(&id, &ContentDigest(key.0), 10).unwrap();
        let layers = below.iter().copied().chain([name.as_str()]);
        let layers =
            layers.map(|id| LayerRef { snapshot: SnapshotId(id.to_owned()), standalone: false }).collect();
        let result = StepResult::source(FsState { layers, identity: key.0 });
        self.store().database().add_step(&[key], &result, "RUN", 1).unwrap();
        (name, key)
    }

    fn image(&self, name: &str, layer: &Digest) -> Digest {
        let manifest = format!(r#"{{"layers":[{{"digest":"{layer}"}}]}}"#);
        let digest = self.store().put_blob(manifest.as_bytes()).unwrap();
        self.name(name, digest);
        digest
    }

    fn name(&self, name: &str, digest: Digest) {
        let record = ImageRecord {
            name: name.to_owned(),
            media_type: String::new(),
            digest,
            size_bytes: 0,
            created: 0,
        };
        self.store().database().name_image(&record).unwrap();
    }

    fn snapshots(&self) -> usize {
        fs::read_dir(self.store().path("snapshots")).unwrap().count()
    }
}

fn all() -> Policy {
    Policy { scope: Scope::All, ..Policy::default() }
}

#[test]
fn a_step_that_a_process_uses_survives_with_all_that_it_stands_on() {
    let mut world = World::new();
    let (base, _) = world.step(&[]);
    let (_, used) = world.step(&[&base]);
    let (_, unused) = world.step(&[&base]);
    world.reopen();
    let user = Store::open(world.store().root()).unwrap();
    assert!(user.use_step(&used).unwrap().is_some());
    let collected = world.store().prune(&all()).unwrap();
    assert_eq!((collected.items.len(), collected.freed_bytes), (1, 10));
    assert_eq!(world.snapshots(), 2);
    assert!(world.store().use_step(&unused).unwrap().is_none());
    assert!(user.use_step(&used).unwrap().is_some());
    drop(user);
    world.reopen();
    world.store().prune(&all()).unwrap();
    assert_eq!(world.snapshots(), 0);
    assert!(world.store().use_step(&used).unwrap().is_none());
}

#[test]
fn what_got_a_name_after_the_look_is_kept() {
    let mut world = World::new();
    let layer = world.store().put_blob(b"layer").unwrap();
    let image = world.image("a", &layer);
    world.store().database().unname_image("a").unwrap();
    let (snapshot, _) = world.step(&[]);
    world.reopen();
    let store = world.store();
    let usage = store.usage().unwrap();
    assert!(usage.items.iter().all(|item| !item.in_use && item.images.is_empty()));
    let lessees = store.lessees().unwrap();
    let mut held = Held::default();
    usage.items.iter().for_each(|item| held.take(store, &lessees, item).unwrap());
    // By a process that has ended since.
    world.name("b", image);
    let layers = vec![LayerRef { snapshot: SnapshotId(snapshot), standalone: false }];
    let key = CacheKey(Digest::of(b"another"));
    let result = StepResult::source(FsState { layers, identity: key.0 });
    store.database().add_step(&[key], &result, "RUN", 1).unwrap();
    let collected = store.forget_and_remove(&usage, held, None, lessees).unwrap();
    assert!(collected.items.is_empty(), "{collected:?}");
    assert!(store.blob_size(&layer).is_some() && store.blob_size(&image).is_some());
    assert!(store.use_step(&key).unwrap().is_some());
}

#[test]
fn images_keep_their_blobs_and_unpacked_layers_theirs() {
    let mut world = World::new();
    let blobs = [&b"kept"[..], b"original", b"cache"].map(|bytes| world.store().put_blob(bytes).unwrap());
    world.image("a", &blobs[0]);
    let (snapshot, key) = world.step(&[]);
    let diff_id = DiffId(Digest::of(b"diff"));
    let database = world.store().database();
    database.add_image_layer(&SnapshotId(snapshot), &diff_id).unwrap();
    let record = |digest| BlobRecord { media_type: String::new(), digest, size_bytes: 1 };
    database.add_blob(&diff_id, "original", &record(blobs[1])).unwrap();
    database.add_blob(&diff_id, "gzip", &record(blobs[2])).unwrap();
    world.reopen();
    let user = Store::open(world.store().root()).unwrap();
    user.use_step(&key).unwrap().unwrap();
    world.store().prune(&all()).unwrap();
    let there = |world: &World| blobs.map(|digest| world.store().stat_blob(&digest).is_some());
    assert_eq!(there(&world), [true, true, false]);
    assert!(database_has(&world, &diff_id, "original") && !database_has(&world, &diff_id, "gzip"));
    drop(user);
    world.store().prune(&all()).unwrap();
    assert_eq!(there(&world), [true, false, false]);
    assert!(!database_has(&world, &diff_id, "original"), "its row goes with it");
}

fn database_has(world: &World, diff_id: &DiffId, compressor: &str) -> bool {
    world.store().database().blob(diff_id, compressor).unwrap().is_some()
}

#[test]
fn strays_of_the_dead_go_and_those_of_the_living_stay() {
    let mut world = World::new();
    fs::create_dir_all(world.store().path("snapshots/lost/fs/x")).unwrap();
    fs::create_dir_all(world.store().path("mounts/lost")).unwrap();
    fs::write(world.store().path("mounts/lost.lock"), "").unwrap();
    let living = Store::open(world.store().root()).unwrap();
    let begun = living.fresh_name().unwrap();
    fs::create_dir_all(living.path(&format!("snapshots/{begun}"))).unwrap();
    world.reopen();
    let would = world.store().would_prune(&Policy::default()).unwrap();
    assert_eq!(world.snapshots(), 2, "a dry run removes nothing");
    let collected = world.store().prune(&Policy::default()).unwrap();
    assert_eq!(collected.items, would.items);
    assert_eq!(collected.items.len(), 3);
    assert_eq!(fs::read_dir(world.store().path("mounts")).unwrap().count(), 0);
    assert!(living.path(&format!("snapshots/{begun}")).exists());
}

#[test]
fn a_collection_by_itself_is_rare_and_takes_what_is_old() {
    let mut world = World::new();
    let (old, old_key) = world.step(&[]);
    let (_, new_key) = world.step(&[]);
    world.reopen();
    let automatic = Automatic::default();
    assert!(world.store().collect_automatically(&automatic).unwrap().is_none(), "a new store");
    assert!(world.store().collect_automatically(&automatic).unwrap().is_none(), "just now");
    let back = |path: PathBuf, age: Duration| {
        File::open(path).unwrap().set_modified(std::time::SystemTime::now() - age).unwrap();
    };
    let stamp = world.store().path(STAMP);
    back(stamp.clone(), Automatic::EVERY + Duration::from_secs(5));
    back(world.store().path(&format!("snapshots/{old}")), Automatic::UNUSED_FOR + Duration::from_secs(5));
    let collected = world.store().collect_automatically(&automatic).unwrap().unwrap();
    assert_eq!(collected.items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), [old]);
    assert!(world.store().use_step(&old_key).unwrap().is_none());
    assert!(world.store().use_step(&new_key).unwrap().is_some());
    assert!(world.store().collect_automatically(&automatic).unwrap().is_none());
    // What the process itself uses stays, however little may be kept.
    back(stamp, Automatic::EVERY + Duration::from_secs(5));
    let limits = Limits { max_used_bytes: Some(0), min_free_bytes: Some(0), reserved_bytes: Some(0) };
    let nothing = Automatic { unused_for: Some(Duration::ZERO), limits };
    assert!(world.store().collect_automatically(&nothing).unwrap().unwrap().items.is_empty());
    assert!(world.store().use_step(&new_key).unwrap().is_some());
}
