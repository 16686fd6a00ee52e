//! What is in a cache: a directory's layout, times, compression, steps without layers, forced results.

use super::{STEPS, cache_only, from, machine, to};
use crate::project::{Built, Ended};
use crate::registry::Registry;

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
