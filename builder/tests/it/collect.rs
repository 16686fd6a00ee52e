//! du, prune, rmi and reset, and the collection after a build.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::leftovers::unique_seconds;
use crate::processes::{wait_until, with_argument};
use crate::project::{Project, tree};

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn build_named(project: &Project, name: &str) {
    let built = crate::project::Ended::of(&mut project.build_command(["-t", name]));
    built.ok();
}

/// Makes everything in the store look as if it had been used so long ago.
fn age(project: &Project, age: Duration) {
    let then = SystemTime::now() - age;
    for dir in ["snapshots", "blobs/sha256"] {
        for entry in fs::read_dir(project.store().join(dir)).expect("store") {
            let path = entry.expect("entry").path();
            fs::File::open(&path).expect("open").set_modified(then).expect("time");
        }
    }
}

const DAY: Duration = Duration::from_secs(86400);

#[test]
fn du_tells_what_takes_space() {
    let Some(project) = Project::with_base() else { return };
    assert!(json(&project.run(&["du", "--json"]).ok().stdout)["items"].as_array().expect("items").is_empty());
    assert!(!project.store().exists(), "looking makes no store");
    project.write(
        "Buildfile",
        "FROM base\nRUN --mount=type=cache,id=c,target=/c head -c 50000 /dev/zero > /c/f; echo 1 > /f\n",
    );
    build_named(&project, "one");
    project.write("Buildfile", "FROM base\nRUN echo 2 > /f\n");
    build_named(&project, "two");
    let facts = json(&project.run(&["du", "--json"]).ok().stdout);
    assert_eq!(facts["types"]["snapshot"]["count"], 3);
    assert_eq!(facts["types"]["mount"]["count"], 1);
    assert!(facts["types"]["mount"]["size"].as_u64().expect("size") >= 50000);
    assert_eq!(facts["types"]["stray"]["count"], 0);
    let images = facts["images"].as_array().expect("images");
    assert_eq!(images.len(), 2);
    for image in images {
        let number = |key: &str| image[key].as_u64().expect("number");
        assert!(number("shared") > number("unique") && number("unique") > 0, "the base is shared: {image}");
        assert_eq!(number("size"), number("shared") + number("unique"));
    }
    let items = facts["items"].as_array().expect("items");
    let sizes: u64 = items.iter().map(|item| item["size"].as_u64().expect("size")).sum();
    assert_eq!(facts["total"], sizes);
    assert!(items.iter().all(|item| item["inUse"] == false), "nothing runs: {items:?}");
    let text = project.run(&["du", "-v", "--filter", "type=mount"]).ok().stdout;
    assert!(text.contains("c    ") && text.contains("Total: "), "{text}");
    project.run(&["du", "--filter", "colour=red"]).fails(2, &["colour", "type="]);
}

#[test]
fn prune_keeps_images_and_what_they_are_made_of() {
    let Some(project) = Project::with_base() else { return };
    project.write("Buildfile", "FROM base\nRUN echo kept > /f\n");
    build_named(&project, "kept");
    project.write("Buildfile", "FROM base\nRUN echo cached > /g\n");
    project.build(&[]).succeeds();
    let would = json(&project.run(&["prune", "--dry-run", "--json"]).ok().stdout);
    let before = tree(&project.store().join("snapshots"));
    let freed = json(&project.run(&["prune", "--json"]).ok().stdout);
    assert_eq!(would["items"], freed["items"]);
    assert!(freed["freed"].as_u64().expect("freed") > 0);
    assert!(tree(&project.store().join("snapshots")).len() < before.len());
    project.write("Buildfile", "FROM base\nRUN echo kept > /f\n");
    let again = project.build(&[]);
    assert_eq!(again.executed(), Vec::<String>::new(), "{}", again.log());
    assert_eq!(again.image().text("f"), "kept\n");
    project.write("Buildfile", "FROM base\nRUN echo cached > /g\n");
    assert_eq!(project.build(&[]).executed(), ["RUN echo cached > /g"]);
    // The image still works when its layers have to be unpacked anew.
    project.run(&["prune", "--all"]).ok();
    assert!(tree(&project.store().join("snapshots")).is_empty());
    assert_eq!(project.run(&["run", "kept", "cat", "/f"]).ok().stdout, "kept\n");
    assert!(project.run(&["prune", "--all"]).ok().stdout.starts_with("freed "));
}

#[test]
fn prune_takes_the_least_recently_used_until_it_fits() {
    let Some(project) = Project::with_base() else { return };
    let step = |number: u32| format!("FROM base\nRUN head -c 1000000 /dev/urandom > /f{number}\n");
    project.write("Buildfile", step(1));
    project.build(&["--output=type=cacheonly"]).ended.ok();
    age(&project, 10 * DAY);
    project.write("Buildfile", step(2));
    project.build(&["--output=type=cacheonly"]).ended.ok();
    project.run(&["prune", "--filter", "until=30d"]).ok();
    project.run(&["prune", "--keep-storage", "100g"]).ok();
    assert!(project.build(&[]).executed().is_empty(), "nothing was that old, or too much");
    let total = json(&project.run(&["du", "--json"]).ok().stdout)["total"].as_u64().expect("total");
    project.run(&["prune", "--max-used-space", &(total - 500_000).to_string()]).ok();
    assert!(project.build(&[]).executed().is_empty(), "the younger one stays");
    project.write("Buildfile", step(1));
    assert_eq!(project.build(&[]).executed().len(), 1);
}

#[test]
fn what_runs_is_kept() {
    let Some(project) = Project::with_base() else { return };
    project.write("Buildfile", "FROM base\nRUN echo 1 > /f\n");
    build_named(&project, "used");
    let sleep = unique_seconds();
    let script = format!("sleep {sleep}; true");
    let mut run = project.kiln(["run", "used", "sh", "-c", &script]);
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kiln starts");
    assert!(wait_until(Duration::from_secs(120), || !with_argument(&sleep).is_empty()), "it did not start");
    let user = format!("`kiln run` (process {}) uses", child.id());
    project.run(&["rmi", "used"]).fails(1, &["`used:latest`", "running", &user, "--force"]);
    let used = |project: &Project| {
        let facts = json(&project.run(&["du", "--json", "--filter", "inuse"]).ok().stdout);
        let items = facts["items"].as_array().expect("items").iter();
        items.map(|item| item["id"].as_str().expect("id").to_owned()).collect::<Vec<_>>()
    };
    let before = used(&project);
    assert!(before.len() >= 4, "layers, their blobs and the manifest: {before:?}");
    project.run(&["prune", "--all"]).ok();
    assert_eq!(used(&project), before);
    project.run(&["reset"]).fails(2, &["--force"]);
    project.run(&["rmi", "--force", "used"]).ok();
    child.kill().expect("kill");
    child.wait().expect("wait");
    project.run(&["prune", "--all"]).ok();
    assert!(tree(&project.store().join("snapshots")).is_empty());
    assert!(tree(&project.store().join("blobs/sha256")).is_empty());
}

#[test]
fn names_and_ids_of_images_are_removed() {
    let Some(project) = Project::with_base() else { return };
    project.write("Buildfile", "FROM base\nRUN echo 1 > /f\n");
    build_named(&project, "a");
    build_named(&project, "b:2");
    let id =
        json(&project.run(&["images", "--json"]).ok().stdout)[0]["digest"].as_str().expect("id").to_owned();
    project.run(&["rmi", &id[..19]]).fails(1, &["a:latest", "b:2", "--force"]);
    project.run(&["rmi", "c"]).fails(1, &["no image `c`", "kiln images"]);
    // What can be removed is, whatever comes before it.
    for name in ["x", "y"] {
        project.run(&["tag", "b:2", name]).ok();
    }
    project.run(&["rmi", "x", "nosuch", "y", "nor-this"]).fails(
        1,
        &[
            "removed the name x:latest",
            "no image `nosuch`",
            "removed the name y:latest",
            "no image `nor-this`",
        ],
    );
    let removed = project.run(&["rmi", "a"]).ok();
    assert!(removed.stderr.contains("removed the name a:latest: 0B freed"), "{}", removed.stderr);
    assert!(project.run(&["run", "b:2", "cat", "/f"]).ok().stdout == "1\n");
    project.run(&["rmi", &id]).ok();
    assert_eq!(project.run(&["images", "-q"]).ok().stdout.trim(), "");
    let index = fs::read_to_string(project.store().join("index.json")).expect("index");
    assert_eq!(json(&index)["manifests"].as_array().map(Vec::len), Some(0));
    let manifest = project.store().join("blobs/sha256").join(id.trim_start_matches("sha256:"));
    assert!(!manifest.exists());
}

#[test]
fn a_build_collects_what_is_old() {
    let Some(project) = Project::with_base() else { return };
    project.write("Buildfile", "FROM base\nRUN echo old > /f\n");
    project.build(&[]).succeeds();
    age(&project, 40 * DAY);
    let stamp = project.store().join("collected");
    let due = || fs::File::open(&stamp).expect("stamp").set_modified(SystemTime::now() - DAY).expect("time");
    due();
    project.write("Buildfile", "FROM base\nRUN echo new > /f\n");
    let off = project.build_with(&[], |command| {
        command.env("KILN_GC", "off");
    });
    assert!(!off.log().contains("freed"), "{}", off.log());
    due();
    assert!(!project.build(&[]).log().contains("freed"), "a build that runs nothing collects nothing");
    project.write("Buildfile", "FROM base\nRUN echo newest > /f\n");
    let collecting = project.build(&[]);
    assert!(collecting.log().contains("freed"), "{}", collecting.log());
    for (command, executed) in [("new", 0), ("newest", 0), ("old", 1)] {
        project.write("Buildfile", format!("FROM base\nRUN echo {command} > /f\n"));
        assert_eq!(project.build(&[]).executed().len(), executed, "{command}");
    }
    let info = project.run(&["info"]).ok().stdout;
    assert!(info.contains("unused for 30 days") && info.contains("snapshots"), "{info}");
}

#[test]
fn reset_removes_the_store_and_only_that() {
    let Some(project) = Project::with_base() else { return };
    // Files that only root, or root of a namespace, may remove.
    project.write(
        "Buildfile",
        "FROM base\nRUN mkdir -p /d/e && touch /d/e/f && chown -R 1000 /d && chmod 500 /d/e\n",
    );
    project.build(&[]).succeeds();
    project.run(&["reset"]).fails(2, &["--force"]);
    assert!(project.store().join("kiln.db").exists());
    project.run(&["reset", "--force"]).ok();
    assert!(!project.store().exists());
    project.run(&["reset", "--force"]).ok();
    fs::create_dir_all(project.store().join("snapshots")).expect("directory");
    project.run(&["reset", "--force"]).fails(1, &["not a store"]);
    assert!(project.store().join("snapshots").exists());
}

#[test]
fn du_shows_what_the_store_keeps_for_itself() {
    let Some(project) = Project::with_base() else { return };
    project.write("Buildfile", "FROM base\nRUN echo 1 > /f\n");
    build_named(&project, "a");
    let facts = json(&project.run(&["du", "--json"]).ok().stdout);
    let own = |pointer: &str| facts["own"].pointer(pointer).and_then(Value::as_u64).expect("a number");
    assert_eq!(own("/records/count"), 1);
    assert!(own("/records/size") > 0 && own("/database/size") > 0);
    let table = project.run(&["du"]).ok().stdout;
    for row in ["build records", "database", "reserve for a full disk", "of kiln's own"] {
        assert!(table.contains(row), "{table}");
    }
    assert!(!project.run(&["du", "--filter", "type=blob"]).ok().stdout.contains("build records"));
}
