//! `--cache-to` and `--cache-from`: two projects with the same files and stores of their own are two machines.

use std::process::Command;

use crate::base;
use crate::project::{Built, Ended, Project, skipped};
use crate::registry::{RealRegistry, Registry};

/// Two stages; the second takes one file of the first.
const APP: &str = "FROM base AS build\nWORKDIR /src\nCOPY list .\nRUN sort list > sorted\n\
                   FROM base\nRUN echo tool > /tool\nCOPY --from=build /src/sorted /sorted\nCOPY main /main\n\
                   RUN cat /tool /sorted /main > /out\n";
const STEPS: usize = 7;

fn machine() -> Option<Project> {
    Some(Project::with_base()?.file("list", "b\na\n").file("main", "1\n").buildfile(APP))
}

fn to(registry: &Registry, mode: &str) -> String {
    format!("--cache-to=type=registry,ref={}/app/cache,mode={mode}", registry.host())
}

fn from(registry: &Registry) -> String {
    format!("--cache-from={}/app/cache", registry.host())
}

/// Builds without an output.
fn cache_only(project: &Project, flags: &[&str]) -> Built {
    let mut command = project.build_command(flags);
    command.args(["-o", "type=cacheonly"]);
    Built { ended: Ended::of(&mut command), archive: project.path("none") }
}

/// Digests of the blobs of an OCI archive's layers.
fn layers(built: &Built) -> Vec<String> {
    let manifest = built.image().manifest;
    let layers = manifest["layers"].as_array().expect("layers").iter();
    layers.map(|layer| layer["digest"].as_str().expect("digest").to_owned()).collect()
}

#[test]
fn a_second_machine_executes_nothing_and_reads_what_its_output_needs() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let first = one.build(&[&to(&registry, "max")]);
    assert_eq!(first.executed().len(), STEPS, "{}", first.log());
    let before = registry.count();
    let none = cache_only(&two, &[&from(&registry)]);
    none.succeeds();
    assert_eq!(none.executed(), Vec::<String>::new(), "{}", none.log());
    assert_eq!(registry.blobs_read(before), Vec::<String>::new(), "without an output no layer is needed");
    let gets = registry.requests(before).iter().filter(|line| line.contains("/manifests/")).count();
    assert_eq!(gets, 1, "the result's own key answers everything: {:?}", registry.requests(before));
    let before = registry.count();
    let second = two.build(&[&from(&registry)]);
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.log());
    assert_eq!(second.image().digest, first.image().digest);
    // The base comes from its layout; the rest are the layers of the image, each read once.
    let mut own = layers(&second).split_off(1);
    own.sort();
    assert_eq!(registry.blobs_read(before), own);
    // What was fetched is on this machine now.
    let before = registry.count();
    assert_eq!(two.build(&[&from(&registry)]).image().digest, first.image().digest);
    assert_eq!(registry.blobs_read(before), Vec::<String>::new());
}

#[test]
fn an_inline_cache_is_beside_the_image() {
    let registry = Registry::start();
    let image = format!("{}/app:1", registry.host());
    for flags in [&["--cache-to=type=inline"][..], &["--build-arg=BUILDKIT_INLINE_CACHE=1"]] {
        let (Some(one), Some(two)) = (machine(), machine()) else { return };
        let mut push = one.build_command([flags, &["-t", &image, "--push", "--tls-verify=false"]].concat());
        Ended::of(&mut push).ok();
        let second = two.build(&[&format!("--cache-from={image}")]);
        assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.log());
    }
    let Some(lone) = machine() else { return };
    let built = lone.build(&["--cache-to=type=inline"]);
    assert!(built.log().contains("type=inline has no effect: the image is not pushed"), "{}", built.log());
}

#[test]
fn a_changed_last_step_reads_the_layers_below_it() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let first = one.build(&[&to(&registry, "max")]);
    first.succeeds();
    two.write("Buildfile", APP.replace("> /out", "> /other"));
    let before = registry.count();
    let second = two.build(&[&from(&registry)]);
    assert_eq!(second.executed(), ["RUN cat /tool /sorted /main > /other"], "{}", second.log());
    assert_eq!(second.image().text("other"), "tool\na\nb\n1\n");
    let mut below = layers(&first)[1..4].to_vec();
    below.sort();
    assert_eq!(registry.blobs_read(before), below, "neither the old last layer nor the other stage's");
    // The layers that were used are stored under their steps now: without the cache nothing else runs.
    let third = two.build(&[]);
    assert_eq!(third.executed(), Vec::<String>::new(), "{}", third.log());
    two.write("Buildfile", APP.replace("> /out", "> /third"));
    let third = two.build(&[]);
    assert_eq!(third.executed(), ["RUN cat /tool /sorted /main > /third"], "{}", third.log());
}

#[test]
fn after_a_miss_all_other_keys_are_asked_for_at_once() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.build(&[&to(&registry, "max")]).succeeds();
    two.write("Buildfile", APP.replace("> /out", "> /other"));
    let before = registry.count();
    registry.slow_down(200);
    let built = cache_only(&two, &[&from(&registry)]);
    assert_eq!(built.executed(), ["RUN cat /tool /sorted /main > /other"], "{}", built.log());
    let asked = registry.requests(before).iter().filter(|line| line.contains("/manifests/k1-")).count();
    // Every definition key, and the content key of the step that ran.
    assert_eq!(asked, STEPS + 1, "{:?}", registry.requests(before));
    assert!(registry.most_at_once() >= 4, "at most {} at a time", registry.most_at_once());
}

#[test]
fn a_build_that_is_killed_while_it_fetches_does_no_harm() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let first = one.build(&[&to(&registry, "max")]);
    two.write("Buildfile", APP.replace("> /out", "> /other"));
    registry.slow_down(150);
    for blobs in 1..=3 {
        let before = registry.count();
        let mut command = two.build_command([from(&registry).as_str(), "-o", "type=cacheonly"]);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("kiln starts");
        // Requests are counted when they are answered: the first blob has come, others are on their way.
        let ended = || registry.blobs_read(before).len() >= blobs;
        for _ in 0..2000 {
            if ended() || child.try_wait().expect("kiln").is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // Of a build that has just ended nothing is left to kill.
        let _ = child.kill();
        child.wait().expect("kiln");
    }
    registry.slow_down(0);
    let built = two.build(&[&from(&registry)]);
    built.succeeds();
    assert_eq!(built.image().text("other"), "tool\na\nb\n1\n");
    two.write("Buildfile", APP);
    assert_eq!(two.build(&[&from(&registry)]).image().digest, first.image().digest);
}

#[test]
fn what_one_machine_found_the_same_stays_cached_on_the_other() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.build(&[&to(&registry, "max")]).succeeds();
    two.write("list", "a\nb\n");
    let second = two.build(&[&from(&registry)]);
    assert_eq!(second.executed(), ["COPY list .", "RUN sort list > sorted"], "{}", second.log());
}

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
fn a_push_to_the_registry_of_the_cache_reads_nothing() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    registry.add("lib/base", "1", &base::busybox().expect("busybox"));
    let text = APP.replace("FROM base", &format!("FROM {}/lib/base:1", registry.host()));
    for machine in [&one, &two] {
        machine.write("Buildfile", &text);
    }
    let first = one.build(&[&to(&registry, "min")]);
    first.succeeds();
    let name = format!("{}/app/image:1", registry.host());
    // An older image of that name, pulled once.
    registry.add("app/image", "1", &base::busybox().expect("busybox"));
    two.run(&["run", &name, "true"]).ok();
    let before = registry.count();
    let mut command = two.build_command([from(&registry).as_str(), "-t", &name, "--push"]);
    Ended::of(&mut command).ok();
    let config = first.image().manifest["config"]["digest"].as_str().expect("digest").to_owned();
    let read: Vec<String> = registry.blobs_read(before).into_iter().collect();
    assert!(read.iter().all(|digest| !layers(&first).contains(digest)), "layers were read: {read:?}");
    let content = registry.content();
    let (_, manifest) = &content.manifests[&("app/image".to_owned(), "1".to_owned())];
    let manifest: serde_json::Value = serde_json::from_slice(manifest).expect("manifest");
    assert_eq!(manifest["config"]["digest"], config.as_str(), "the same image");
    drop(content);
    // An image whose layers are elsewhere is not listed, and an older one of that name does not stand for it.
    assert!(!two.run(&["images"]).ok().stdout.contains("app/image"));
    let run = two.run(&["run", &name, "cat", "/out"]).ok();
    assert_eq!(run.stdout, "tool\na\nb\n1\n");
}

#[test]
fn a_mode_says_how_much_is_written() {
    let (min, max) = (Registry::start(), Registry::start());
    let Some(one) = machine() else { return };
    one.build(&[&to(&min, "min"), &to(&max, "max")]).succeeds();
    // A step has a tag for its definition and one for its content.
    assert_eq!((min.tags("app/cache").len(), max.tags("app/cache").len()), (2 * 4, 2 * STEPS));
    let Some(two) = machine() else { return };
    let built = two.build(&[&from(&min)]);
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
    // Steps that nobody has to look at are written as well.
    let later = Registry::start();
    let again = one.build(&[&to(&later, "max")]);
    assert_eq!(again.executed(), Vec::<String>::new(), "{}", again.log());
    assert_eq!(later.tags("app/cache").len(), STEPS);
    assert!(again.log().contains("7 of 7 steps were new"), "{}", again.log());
    let again = one.build(&[&to(&later, "max")]);
    assert!(again.log().contains("0 of 7 steps were new, 0 layers were sent"), "{}", again.log());
}

#[test]
fn a_cache_is_copied_into_another_one() {
    let (old, new) = (Registry::start(), Registry::start());
    let (Some(one), Some(two), Some(three)) = (machine(), machine(), machine()) else { return };
    let first = one.build(&[&to(&old, "min")]);
    let copied = cache_only(&two, &[&from(&old), &to(&new, "min")]);
    assert_eq!(copied.executed(), Vec::<String>::new(), "{}", copied.log());
    let third = three.build(&[&from(&new)]);
    assert_eq!(third.executed(), Vec::<String>::new(), "{}", third.log());
    assert_eq!(third.image().digest, first.image().digest);
}

#[test]
fn exports_at_the_same_time_lose_nothing() {
    let registry = Registry::start();
    let texts: Vec<String> =
        (0..4).map(|n| format!("FROM base\nRUN echo all > /all\nRUN echo {n} > /own\n")).collect();
    let mut machines = Vec::new();
    for text in &texts {
        let Some(project) = Project::with_base() else { return };
        machines.push(project.buildfile(text));
    }
    let start = |project: &Project| {
        let mut command = project.build_command([to(&registry, "max").as_str(), "-o", "type=cacheonly"]);
        command.stderr(std::process::Stdio::piped()).spawn().expect("kiln starts")
    };
    let children: Vec<_> = machines.iter().map(start).collect();
    for child in children {
        Ended::from_output(child.wait_with_output().expect("kiln ends")).ok();
    }
    for text in &texts {
        let Some(fresh) = Project::with_base() else { return };
        let built = fresh.buildfile(text).build(&[&from(&registry)]);
        assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
    }
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

#[test]
fn a_directory_is_a_cache_and_a_layout() {
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let dir = one.path("cache");
    let first = one.build(&[&format!("--cache-to=type=local,dest={},mode=max", dir.display())]);
    first.succeeds();
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("index.json")).expect("index")).expect("json");
    assert_eq!(index["manifests"].as_array().expect("manifests").len(), 2 * STEPS);
    let from = format!("--cache-from=type=local,src={}", dir.display());
    let second = two.build(&[&from]);
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.log());
    assert_eq!(second.image().digest, first.image().digest);
    let missing = two.build(&["--cache-from=type=local,src=nowhere"]);
    missing.succeeds();
    two.write("main", "2\n");
    let missing = two.build(&["--cache-from=type=local,src=nowhere"]);
    assert!(missing.log().contains("`nowhere` is not there"), "{}", missing.log());
}

#[test]
fn an_epoch_has_artifacts_of_its_own() {
    let registry = Registry::start();
    let (Some(one), Some(two), Some(three)) = (machine(), machine(), machine()) else { return };
    let epoch = ["--source-date-epoch", "1000000000"];
    let first = one.build(&[epoch[0], epoch[1], &to(&registry, "max")]);
    let second = two.build(&[epoch[0], epoch[1], &from(&registry)]);
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.log());
    assert_eq!(second.image().digest, first.image().digest);
    // A layer whose times were cut must not get into an image of another epoch.
    let third = three.build(&["--source-date-epoch", "1500000000", &from(&registry)]);
    assert_eq!(third.executed().len(), STEPS, "{}", third.log());
    // A fetched layer is written anew for another epoch.
    let plain = Registry::start();
    let (Some(four), Some(five)) = (machine(), machine()) else { return };
    let copy = "FROM base\nCOPY main /main\n";
    four.write("Buildfile", copy);
    five.write("Buildfile", copy);
    four.build(&[&to(&plain, "max")]).succeeds();
    let files = five.build_command([from(&plain).as_str(), "-o", "rootfs"]).output().expect("kiln starts");
    Ended::from_output(files).ok();
    let cut = five.build(&[epoch[0], epoch[1]]);
    assert_eq!(cut.executed(), Vec::<String>::new(), "{}", cut.log());
    assert_eq!(cut.image().entry("main").mtime, 1_000_000_000);
}

#[test]
fn linked_copies_and_steps_without_a_layer_travel() {
    let registry = Registry::start();
    let text = "FROM base\nRUN true\nCOPY --link main /main\nRUN cat /main > /out\nRUN true\n";
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.write("Buildfile", text);
    two.write("Buildfile", text);
    let first = one.build(&[&to(&registry, "max")]);
    let second = two.build(&[&from(&registry)]);
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.log());
    assert_eq!(second.image().digest, first.image().digest);
    // Another base below the same linked copy.
    two.write("Buildfile", text.replace("FROM base\n", "FROM base\nRUN echo x > /x\n"));
    let third = two.build(&[&from(&registry)]);
    assert!(!third.executed().contains(&"COPY main /main".to_owned()), "{}", third.log());
    assert_eq!(third.image().text("out"), "1\n");
}

#[test]
fn another_compression_makes_other_blobs_of_fetched_layers() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.build(&[&to(&registry, "min")]).succeeds();
    let path = two.path("zstd.tar");
    let mut command = two.build_command([from(&registry)]);
    command.arg("-o").arg(format!("type=oci,compression=zstd,dest={}", path.display()));
    let built = Built { ended: Ended::of(&mut command), archive: path };
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
    let manifest = built.image().manifest;
    let kinds: Vec<_> = manifest["layers"].as_array().expect("layers")[1..]
        .iter()
        .map(|layer| layer["mediaType"].as_str().expect("type").rsplit('+').next().expect("end").to_owned())
        .collect();
    assert_eq!(kinds, ["zstd"; 4]);
    assert_eq!(built.image().text("out"), "tool\na\nb\n1\n");
}

#[test]
fn files_of_a_cached_result_are_brought() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.build(&[&to(&registry, "min")]).succeeds();
    let mut command = two.build_command([from(&registry).as_str(), "-o", "rootfs"]);
    let built = Built { ended: Ended::of(&mut command), archive: two.path("none") };
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
    assert_eq!(std::fs::read_to_string(two.path("rootfs/out")).expect("out"), "tool\na\nb\n1\n");
}

#[test]
fn a_forced_build_replaces_what_is_there() {
    let registry = Registry::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let text = "FROM base\nRUN cat /proc/sys/kernel/random/uuid > /random\n";
    one.write("Buildfile", text);
    two.write("Buildfile", text);
    let first = one.build(&[&to(&registry, "max")]).image().text("random");
    let forced = one.build(&["--no-cache", &to(&registry, "max")]).image().text("random");
    assert_ne!(first, forced);
    assert_eq!(two.build(&[&from(&registry)]).image().text("random"), forced);
}

/// A step that adds a line to a cache mount and shows all of it.
fn with_mount(word: &str) -> String {
    format!("FROM base\nRUN --mount=type=cache,id=things,target=/c echo {word} >> /c/log && cp /c/log /log\n")
}

#[test]
fn cache_mounts_travel_when_asked_to() {
    let registry = Registry::start();
    let (Some(one), Some(two), Some(three)) = (machine(), machine(), machine()) else { return };
    one.write("Buildfile", with_mount("one"));
    let built = one.build(&[&format!("{},mounts=all", to(&registry, "max"))]);
    assert_eq!(built.image().text("log"), "one\n");
    assert!(built.log().contains("1 cache mounts were sent"), "{}", built.log());
    let take = |which: &str| format!("--cache-from=type=registry,ref={}/app/cache{which}", registry.host());
    two.write("Buildfile", with_mount("two"));
    let built = two.build(&[&take(",mounts=things"), &format!("{},mounts=things", to(&registry, "max"))]);
    assert_eq!(built.image().text("log"), "one\ntwo\n", "{}", built.log());
    // What is here stays as it is, and nobody gets what was not asked for.
    two.write("Buildfile", with_mount("three"));
    assert_eq!(two.build(&[&take(",mounts=all")]).image().text("log"), "one\ntwo\nthree\n");
    three.write("Buildfile", with_mount("other"));
    assert_eq!(three.build(&[&take(",mounts=elsewhere")]).image().text("log"), "other\n");
    // The last writer wins; a build that runs nothing writes nothing.
    let Some(four) = machine() else { return };
    four.write("Buildfile", with_mount("four"));
    assert_eq!(four.build(&[&take(",mounts=all")]).image().text("log"), "one\ntwo\nfour\n");
    let before = registry.count();
    four.build(&[&format!("{},mounts=all", to(&registry, "max"))]).succeeds();
    let sent = |line: &&String| line.starts_with("PUT") && line.contains("/manifests/m1-");
    let requests = registry.requests(before);
    assert_eq!(requests.iter().filter(sent).count(), 0, "{requests:?}");
}

#[test]
fn a_corrupt_cache_mount_is_an_empty_one() {
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.write("Buildfile", with_mount("one"));
    let dir = one.path("cache");
    one.build(&[&format!("--cache-to=type=local,dest={},mounts=all", dir.display())]).succeeds();
    let index = std::fs::read(dir.join("index.json")).expect("index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("json");
    let blob = |digest: &serde_json::Value| {
        dir.join("blobs/sha256").join(digest.as_str().expect("digest").trim_start_matches("sha256:"))
    };
    let entry = index["manifests"].as_array().expect("manifests").iter().find(|entry| {
        entry["annotations"]["org.opencontainers.image.ref.name"]
            .as_str()
            .is_some_and(|n| n.starts_with("m1-"))
    });
    let manifest = std::fs::read(blob(&entry.expect("the mount")["digest"])).expect("manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("json");
    let path = blob(&manifest["layers"][0]["digest"]);
    let mut bytes = std::fs::read(&path).expect("archive");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, bytes).expect("damaged");
    two.write("Buildfile", with_mount("two"));
    let built = two.build(&[&format!("--cache-from=type=local,src={},mounts=all", dir.display())]);
    assert_eq!(built.image().text("log"), "two\n", "{}", built.log());
    assert!(built.log().contains("`things` cannot be had"), "{}", built.log());
}

#[test]
fn two_machines_share_a_real_registry() {
    let registry = match RealRegistry::start() {
        Ok(registry) => registry,
        Err(why) => return skipped(&why),
    };
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let cache = format!("{}/team/app", registry.host());
    let first = one.build(&[&format!("--cache-to=type=registry,ref={cache},mode=max")]);
    first.succeeds();
    let before = registry.log().len();
    let name = format!("{}/team/image:1", registry.host());
    let mut command = two.build_command([format!("--cache-from={cache}").as_str(), "-t", &name, "--push"]);
    let pushed = Built { ended: Ended::of(&mut command), archive: two.path("none") };
    assert_eq!(pushed.executed(), Vec::<String>::new(), "{}", pushed.log());
    let own: Vec<String> = layers(&first).split_off(1);
    let log = registry.log().split_off(before);
    let read = log.iter().filter(|line| line.contains("\"GET ") && line.contains("/blobs/"));
    let read: Vec<_> = read.filter(|line| own.iter().any(|digest| line.contains(digest.as_str()))).collect();
    assert!(read.is_empty(), "the registry has the layers already: {read:?}");
    // Somebody who has nothing of this gets the whole image.
    let Some(third) = Project::with_base() else { return };
    let out = third.run(&["run", &name, "cat", "/out"]).ok();
    assert_eq!(out.stdout, "tool\na\nb\n1\n");
    let second = two.build(&[&format!("--cache-from={cache}")]);
    assert_eq!(second.image().digest, first.image().digest);
    if Command::new("skopeo").arg("--version").output().is_err() {
        skipped("skopeo is not installed: the cache's artifacts were not read by another tool");
    }
}

#[test]
fn a_cache_that_is_written_anew_each_time_keeps_all_steps() {
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let dir = one.path("cache");
    let artifacts = |dir: &std::path::Path| {
        let index = std::fs::read(dir.join("index.json")).expect("index.json");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        index["manifests"].as_array().expect("manifests").len()
    };
    one.build(&[&format!("--cache-to=type=local,dest={},mode=max", dir.display())]).succeeds();
    let count = artifacts(&dir);
    assert!(count >= STEPS, "{count}");
    // Only the result is looked at by the build itself.
    let next = one.path("cache-new");
    let flags = [
        format!("--cache-from=type=local,src={}", dir.display()),
        format!("--cache-to=type=local,dest={},mode=max", next.display()),
    ];
    let built = cache_only(&two, &[&flags[0], &flags[1]]);
    built.succeeds();
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
    assert_eq!(artifacts(&next), count, "with their content keys");
    std::fs::remove_dir_all(&dir).expect("remove");
    // A third machine runs what depends on a changed file only.
    let Some(three) = machine() else { return };
    three.write("main", "2\n");
    let built = cache_only(&three, &[&format!("--cache-from=type=local,src={}", next.display())]);
    assert_eq!(built.executed().len(), 2, "{}", built.log());
}

#[test]
fn a_blob_of_several_steps_is_sent_once() {
    let registry = Registry::start();
    let steps: String = (0..12).map(|number| format!("RUN true {number}\n")).collect();
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(&format!("FROM base\n{steps}"));
    // All of them look for the blob that stands for no layers before any has sent it.
    registry.slow_down(100);
    cache_only(&project, &[&to(&registry, "max")]).succeeds();
    let empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let requests = registry.requests(0);
    let sent = requests.iter().filter(|line| line.starts_with("PUT") && line.contains(empty)).count();
    assert_eq!(sent, 1, "{requests:?}");
}
