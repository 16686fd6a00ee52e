//! Attributes of `--cache-to` and `--cache-from`: form, compression, what becomes of what was there.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::mounts::with_mount;
use super::{APP, STEPS, machine};
use crate::project::skipped;
use crate::registry::{RealRegistry, Registry};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Media types of the layers of all steps in a directory.
fn layer_types(dir: &Path) -> BTreeSet<String> {
    let read = |name: &str| std::fs::read(dir.join(name)).expect("file");
    let index = json(&read("index.json"));
    let mut types = BTreeSet::new();
    for entry in index["manifests"].as_array().expect("manifests") {
        let digest = entry["digest"].as_str().expect("digest").trim_start_matches("sha256:");
        let manifest = json(&read(&format!("blobs/sha256/{digest}")));
        for layer in manifest["layers"].as_array().expect("layers") {
            types.insert(layer["mediaType"].as_str().expect("type").to_owned());
        }
    }
    types
}

fn blobs(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("blobs/sha256")).expect("blobs").count()
}

#[test]
fn a_cache_in_buildkits_older_form_is_read() {
    for (form, kind) in [
        ("image-manifest=true,oci-mediatypes=true", "application/vnd.oci.image.manifest.v1+json"),
        ("image-manifest=false", "application/vnd.oci.image.index.v1+json"),
        ("oci-mediatypes=false", "application/vnd.docker.distribution.manifest.list.v2+json"),
    ] {
        let registry = Registry::start();
        let (Some(one), Some(two)) = (machine(), machine()) else { return };
        let cache = format!("type=registry,ref={}/app/cache", registry.host());
        let first = one.build(&[&format!("--cache-to={cache},mode=max,{form}")]);
        first.succeeds();
        let kinds: BTreeSet<String> =
            registry.content().manifests.values().map(|(kind, _)| kind.clone()).collect();
        assert_eq!(kinds, BTreeSet::from([kind.to_owned()]));
        let second = two.build(&[&format!("--cache-from={cache}")]);
        assert_eq!(second.executed(), Vec::<String>::new(), "{form}: {}", second.log());
        assert_eq!(second.image().digest, first.image().digest);
    }
}

#[test]
fn a_real_registry_takes_every_form() {
    let registry = match RealRegistry::start() {
        Ok(registry) => registry,
        Err(why) => return skipped(&why),
    };
    for (name, form) in [("index", "image-manifest=false"), ("list", "oci-mediatypes=false")] {
        let (Some(one), Some(two)) = (machine(), machine()) else { return };
        for machine in [&one, &two] {
            machine.write("Buildfile", format!("{APP}{}", with_mount("x").replace("FROM base\n", "")));
        }
        let cache = format!("type=registry,ref={}/team/{name}", registry.host());
        one.build(&[&format!("--cache-to={cache},mode=max,mounts=all,{form}")]).succeeds();
        let second = two.build(&[&format!("--cache-from={cache},mounts=all")]);
        assert_eq!(second.executed(), Vec::<String>::new(), "{form}: {}", second.log());
        two.write("Buildfile", with_mount("two"));
        let built = two.build(&[&format!("--cache-from={cache},mounts=all")]);
        assert_eq!(built.image().text("log"), "x\ntwo\n", "{form}: {}", built.log());
    }
}

#[test]
fn layers_have_the_compression_that_was_asked_for() {
    let Some(one) = machine() else { return };
    for (attributes, ending) in [
        ("", "tar+gzip"),
        (",compression=zstd,compression-level=19", "tar+zstd"),
        (",compression=uncompressed", ".tar"),
        // What has been compressed for another cache is compressed again.
        (",compression=gzip,compression-level=1,force-compression=true", "tar+gzip"),
    ] {
        let dir = one.path("cache");
        one.build(&[&format!("--cache-to=type=local,dest={},mode=max{attributes}", dir.display())])
            .succeeds();
        let types = layer_types(&dir);
        assert!(
            types.iter().all(|kind| kind.ends_with(ending)) && types.len() == 1,
            "{attributes}: {types:?}"
        );
        let Some(two) = machine() else { return };
        let built = two.build(&[&format!("--cache-from=type=local,src={}", dir.display())]);
        assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}

#[test]
fn a_directory_that_is_reset_has_what_the_build_uses() {
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let dir = one.path("cache");
    let to = |more: &str| format!("--cache-to=type=local,dest={},mode=max{more}", dir.display());
    one.build(&[&to("")]).succeeds();
    let before = blobs(&dir);
    one.write("Buildfile", APP.replace("> /out", "> /other"));
    one.build(&[&to("")]).succeeds();
    assert!(blobs(&dir) > before);
    // Steps that were cached are kept; only the last one of the first build goes.
    let built = one.build(&[&to(",reset=true")]);
    assert!(built.log().contains("files that this build has no use for were removed"), "{}", built.log());
    assert_eq!(blobs(&dir), before);
    let from = format!("--cache-from=type=local,src={}", dir.display());
    let again = two.build(&[&from]);
    assert_eq!(again.executed(), ["RUN cat /tool /sorted /main > /out"], "{}", again.log());
    two.write("Buildfile", APP.replace("> /out", "> /other"));
    let again = two.build(&[&from]);
    assert_eq!(again.executed(), Vec::<String>::new(), "{}", again.log());
    // Those that nobody had to look at are kept as well: a machine without a store needs them for the next change.
    let Some(three) = machine() else { return };
    three.write("Buildfile", APP.replace("> /out", "> /other"));
    three.build(&[&from, &to(",reset=true")]).succeeds();
    assert_eq!(blobs(&dir), before);
    let Some(four) = machine() else { return };
    four.write("list", "z\n");
    four.write("Buildfile", APP.replace("> /out", "> /other"));
    let built = four.build(&[&from]);
    assert!(
        built.executed().len() < STEPS && !built.executed().contains(&"RUN echo tool > /tool".to_owned()),
        "{}",
        built.log()
    );
}

#[test]
fn names_inside_a_directory_are_told_to_play_no_part() {
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let dir = one.path("cache");
    let built = one.build(&[&format!("--cache-to=type=local,dest={},tag=main", dir.display())]);
    built.succeeds();
    assert!(built.log().contains("`tag` of a cache has no effect"), "{}", built.log());
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let built =
        two.build(&[&format!("--cache-from=type=local,src={},digest={digest},tag=main", dir.display())]);
    assert!(built.log().contains("`digest` of a cache has no effect"), "{}", built.log());
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
}
