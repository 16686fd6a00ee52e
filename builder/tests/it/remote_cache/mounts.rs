//! Cache mounts that travel with a cache.

use super::{machine, to};
use crate::registry::Registry;

/// A step that adds a line to a cache mount and shows all of it.
pub(super) fn with_mount(word: &str) -> String {
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
