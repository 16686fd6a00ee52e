//! Caches that are damaged, lie, are out of reach or fail in the middle.

use super::{APP, STEPS, from, layers, machine, to};
use crate::base;
use crate::project::Project;
use crate::registry::Registry;

/// Replaces every record in a registry's cache whose layers are `count`, or removes it.
fn change_records(registry: &Registry, count: usize, change: impl Fn(&mut serde_json::Value) -> bool) {
    let mut content = registry.content();
    let tags: Vec<_> =
        content.manifests.keys().filter(|(_, name)| name.starts_with("k1-")).cloned().collect();
    let mut changed = 0;
    for tag in tags {
        let (kind, bytes) = content.manifests[&tag].clone();
        let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("manifest");
        let config = manifest["config"]["digest"].as_str().expect("digest").to_owned();
        let record = &content.blobs[&("app/cache".to_owned(), config)];
        let mut record: serde_json::Value = serde_json::from_slice(record).expect("record");
        if record["layers"].as_array().expect("layers").len() != count {
            continue;
        }
        changed += 1;
        if !change(&mut record) {
            content.manifests.remove(&tag);
            continue;
        }
        for (layer, named) in manifest["layers"]
            .as_array_mut()
            .expect("layers")
            .iter_mut()
            .zip(record["layers"].as_array().expect("layers"))
        {
            layer["digest"] = named["digest"].clone();
            layer["size"] = named["size_bytes"].clone();
        }
        let record = record.to_string().into_bytes();
        let config = manifest["config"].as_object_mut().expect("object");
        config.insert("digest".to_owned(), base::digest(&record).into());
        config.insert("size".to_owned(), record.len().into());
        config.remove("data");
        content.blobs.insert(("app/cache".to_owned(), base::digest(&record)), record);
        content.manifests.insert(tag, (kind, manifest.to_string().into_bytes()));
    }
    assert!(changed > 0, "no record has {count} layers");
}

#[test]
fn a_result_that_is_too_old_is_not_taken() {
    let registry = Registry::start();
    let (Some(one), Some(two), Some(three)) = (machine(), machine(), machine()) else { return };
    one.build(&[&to(&registry, "max")]).succeeds();
    change_records(&registry, 4, |record| {
        record["trail"][3]["created"] = 1_000_000.into();
        true
    });
    let built = two.build(&[&from(&registry), "--cache-ttl", "1h"]);
    assert_eq!(built.executed(), ["RUN cat /tool /sorted /main > /out"], "{}", built.log());
    let built = three.build(&[&from(&registry)]);
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
}

#[test]
fn a_lie_about_what_a_result_is_equal_to_is_not_believed() {
    let (good, evil) = (Registry::start(), Registry::start());
    let (Some(writer), Some(victim)) = (machine(), machine()) else { return };
    let text = |word: &str| format!("FROM base\nRUN echo {word} > /f\nRUN cat /f > /out\n");
    writer.write("Buildfile", text("good"));
    writer.build(&[&to(&good, "max")]).succeeds();
    writer.write("Buildfile", text("evil"));
    writer.build(&[&to(&evil, "max")]).succeeds();
    let identity = std::cell::RefCell::new(serde_json::Value::Null);
    change_records(&good, 1, |record| {
        identity.replace(record["identity"].clone());
        true
    });
    // `echo evil` is said to give what `echo good` gave, and nothing is said about the step on top of it.
    change_records(&evil, 1, |record| {
        record["identity"] = identity.borrow().clone();
        true
    });
    change_records(&evil, 2, |_| false);
    victim.write("Buildfile", text("good"));
    victim.build(&[]).succeeds();
    victim.write("Buildfile", text("evil"));
    let built = victim.build(&[&from(&evil)]);
    assert_eq!(built.executed(), ["RUN cat /f > /out"], "{}", built.log());
    assert_eq!(built.image().text("out"), "evil\n");
    // Nor does what was made on top of it count for the step that it was said to be.
    victim.write("Buildfile", text("good").replace("echo good", "echo  good"));
    let built = victim.build(&[]);
    assert_eq!(built.image().text("out"), "good\n");
}

#[test]
fn a_corrupt_layer_is_refused_and_its_step_runs() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let first = one.build(&[&to(&registry, "max")]);
    // The layer of `RUN echo tool`: other bytes of the same size.
    let tool = layers(&first)[1].clone();
    let damage = |blob: &mut Vec<u8>| *blob.last_mut().expect("bytes") ^= 1;
    damage(registry.content().blobs.get_mut(&("app/cache".to_owned(), tool.clone())).expect("the blob"));
    two.write("Buildfile", APP.replace("> /out", "> /other"));
    let second = two.build(&[&from(&registry), &to(&registry, "max")]);
    let executed = second.executed();
    assert!(executed.contains(&"RUN echo tool > /tool".to_owned()), "{}", second.log());
    assert!(!executed.contains(&"RUN sort list > sorted".to_owned()), "{}", second.log());
    assert!(second.log().contains("refused"), "{}", second.log());
    assert_eq!(second.image().text("other"), "tool\na\nb\n1\n");
}

#[test]
fn a_corrupt_layer_is_noticed_by_the_output_too() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let first = one.build(&[&to(&registry, "max")]);
    let last = layers(&first)[4].clone();
    registry.content().blobs.remove(&("app/cache".to_owned(), last));
    let second = two.build(&[&from(&registry)]);
    assert_eq!(second.executed(), ["RUN cat /tool /sorted /main > /out"], "{}", second.log());
    assert_eq!(second.image().text("out"), "tool\na\nb\n1\n");
}

#[test]
fn a_layer_that_is_not_what_its_record_says_is_refused() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.build(&[&to(&registry, "max")]).succeeds();
    // The records of the last step name the blob of another layer, with a digest that is right for it.
    change_records(&registry, 4, |record| {
        let (from, layers) = (record["layers"][0].clone(), record["layers"].as_array_mut().expect("layers"));
        for key in ["digest", "size_bytes", "media_type"] {
            layers[3][key] = from[key].clone();
        }
        true
    });
    let second = two.build(&[&from(&registry)]);
    assert_eq!(second.executed(), ["RUN cat /tool /sorted /main > /out"], "{}", second.log());
    assert!(second.log().contains("was promised for it"), "{}", second.log());
    assert_eq!(second.image().text("out"), "tool\na\nb\n1\n");
}

#[test]
fn a_malformed_record_is_refused_and_replaced() {
    let registry = Registry::start();
    let (Some(one), Some(two), Some(three)) = (machine(), machine(), machine()) else { return };
    one.build(&[&to(&registry, "max")]).succeeds();
    for ((_, name), (_, bytes)) in &mut registry.content().manifests {
        if name.starts_with("k1-") {
            *bytes = br#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}}"#.to_vec();
        }
    }
    let second = two.build(&[&from(&registry), &to(&registry, "max")]);
    assert_eq!(second.executed().len(), STEPS, "{}", second.log());
    assert!(second.log().contains("a cached step is refused"), "{}", second.log());
    let third = three.build(&[&from(&registry)]);
    assert_eq!(third.executed(), Vec::<String>::new(), "{}", third.log());
}

#[test]
fn a_cache_out_of_reach_is_a_warning() {
    let registry = Registry::start();
    registry.content().broken.insert("/app/cache/".to_owned(), 403);
    let Some(one) = machine() else { return };
    let built = one.build(&[&from(&registry)]);
    assert_eq!(built.executed().len(), STEPS, "{}", built.log());
    let warnings = built.log().lines().filter(|line| line.contains("is left out")).count();
    assert_eq!(warnings, 1, "{}", built.log());
    let ignored = one.build(&[&format!("{},ignore-error=true", to(&registry, "max"))]);
    ignored.succeeds();
    assert!(ignored.log().contains("cannot export the cache"), "{}", ignored.log());
    let failed = one.build(&[&to(&registry, "max")]);
    failed.ended.fails(1, &["cannot export the cache", "ignore-error=true"]);
    assert!(failed.archive.exists(), "the image was done");
}

#[test]
fn a_registry_that_fails_in_the_middle_is_left_out() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.build(&[&to(&registry, "max")]).succeeds();
    registry.content().broken.insert("/app/cache/blobs/".to_owned(), 403);
    let built = two.build(&[&from(&registry)]);
    assert_eq!(built.executed().len(), STEPS, "{}", built.log());
    assert_eq!(built.log().matches("is left out").count(), 1, "{}", built.log());
    assert_eq!(built.image().text("out"), "tool\na\nb\n1\n");
}

#[test]
fn caches_are_asked_in_order_and_stand_in_for_one_another() {
    let (empty, broken, full) = (Registry::start(), Registry::start(), Registry::start());
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let first = one.build(&[&to(&broken, "max"), &to(&full, "max")]);
    let last = layers(&first)[4].clone();
    broken.content().blobs.remove(&("app/cache".to_owned(), last.clone()));
    let built = two.build(&[&from(&empty), &from(&broken), &from(&full)]);
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
    assert_eq!(built.image().digest, first.image().digest);
    assert!(full.blobs_read(0).contains(&last), "the last cache had what the one before has lost");
}

#[test]
fn a_registry_that_is_not_there_is_a_warning() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo ran\n");
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
    let built = project.build(&[&format!("--cache-from=127.0.0.1:{port}/cache")]);
    assert!(built.said("ran"), "{}", built.log());
    assert!(built.log().contains("is left out"), "{}", built.log());
}
