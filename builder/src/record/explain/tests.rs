use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::base::digest::CacheKey;
use crate::record::listing::{ListedFile, Listing};
use crate::record::{Head, VERSION};

#[derive(Default)]
struct Fake(BTreeMap<Digest, Listing>);

impl ReadListings for Fake {
    fn read(&self, digest: &Digest) -> Option<Listing> {
        self.0.get(digest).cloned()
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// Steps 1 image, 2 COPY, 3 RUN; all ran. Keys are made from what the steps are, as the scheduler does.
struct Build {
    image: &'static str,
    files: &'static str,
    foo: &'static str,
    command: &'static str,
}

const BASE: Build = Build { image: "i", files: "f", foo: "1", command: "make" };

impl Build {
    fn record(&self) -> BuildRecord {
        let run = json!({
            "kind": "run", "args": ["/bin/sh", "-c", self.command], "env": [format!("FOO={}", self.foo)],
            "cwd": "/", "user": "", "mounts": [], "network": "default", "security": "sandbox", "hostname": "h",
            "extra_host_names": [], "ulimits": [], "shm_size_bytes": null, "scripts": [],
        });
        let copy = json!({
            "kind": "copy", "sources": [{"type": "path", "input": 1, "path": "."}], "destination": "/app",
            "chown": null, "chmod": null, "parents": false, "exclude": [], "unpack": "never", "link": false,
        });
        let image = json!({ "kind": "image", "diff_ids": [digest(self.image)] });
        let step = |number: u32, name: &str, inputs: Vec<u32>, spec, key: String| StepRecord {
            number,
            name: name.to_owned(),
            stage: "s".to_owned(),
            counted: number > 1,
            inputs,
            spec,
            key: Some(CacheKey(digest(&key))),
            outcome: StepOutcome::Ran,
            ..StepRecord::default()
        };
        let Self { image: i, files: f, foo, command } = self;
        let mut steps = vec![
            step(1, "[s 1/3] FROM base", vec![], image, i.to_string()),
            step(2, "[s 2/3] COPY . /app", vec![1], copy, format!("{i}{f}")),
            step(3, &format!("[s 3/3] RUN {command}"), vec![2], run, format!("{i}{f}{foo}{command}")),
        ];
        steps[0].image = Some(("base".to_owned(), digest(i)));
        steps[1].outside = Some(digest(f));
        let about = About { file: "B".to_owned(), context: "/c".to_owned(), ..About::default() };
        BuildRecord { head: Head { version: VERSION, about, ..Head::default() }, steps }
    }
}

fn told(mut record: BuildRecord, earlier: &[BuildRecord], listings: &Fake) -> Vec<String> {
    explain(&mut record, earlier, listings);
    record
        .steps
        .iter()
        .filter(|step| step.counted)
        .filter_map(|step| Some(step.miss.as_ref()?.to_string()))
        .collect()
}

#[test]
fn each_cause_is_named() {
    let none = Fake::default();
    let input = "an input ran again: [s 2/3] COPY . /app";
    let before = [BASE.record()];
    let table = [
        (
            Build { foo: "2", ..BASE },
            [
                "the stored result was removed (by prune, gc or repair) or found lost",
                "environment FOO was \"1\", is \"2\"",
            ],
        ),
        (Build { files: "g", ..BASE }, ["files changed", input]),
        (
            Build { command: "make all", ..BASE },
            [
                "the stored result was removed (by prune, gc or repair) or found lost",
                "command was \"make\", is \"make all\"",
            ],
        ),
        (Build { image: "j", ..BASE }, ["base image base: digest", input]),
    ];
    for (build, expected) in table {
        let told = told(build.record(), &before, &none);
        assert_eq!(told.len(), 2);
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told}, but {expected} was expected");
        }
    }
    assert_eq!(told(BASE.record(), &[], &none), ["first build of this step"; 2]);
}

#[test]
fn a_changed_file_is_named_by_listings() {
    let file =
        |content: &str| ListedFile { kind: 'f', mode: 0o644, owner: (0, 0), content: content.to_owned() };
    let listing = |content| Listing::from([(b"src/main.rs".to_vec(), file(content))]);
    let listings = Fake(BTreeMap::from([(digest("f"), listing("aa")), (digest("g"), listing("bb"))]));
    let told = told(Build { files: "g", ..BASE }.record(), &[BASE.record()], &listings);
    assert_eq!(told[0], "src/main.rs changed (sha256 aa→bb)");
}

#[test]
fn what_the_user_asked_for_comes_first() {
    let mut record = Build { foo: "2", ..BASE }.record();
    record.steps[1].refused = Some(Refused::NoCache);
    record.steps[2].refused = Some(Refused::Expired(60));
    let told = told(record, &[BASE.record()], &Fake::default());
    assert_eq!(told, ["--no-cache", "the stored result is 60 s old, --cache-ttl allows less"]);
}

#[test]
fn the_newest_record_of_the_same_step_is_compared() {
    let earlier = [Build { foo: "2", ..BASE }.record(), Build { foo: "3", ..BASE }.record()];
    let told = told(BASE.record(), &earlier, &Fake::default());
    assert_eq!(told[1], "environment FOO was \"2\", is \"1\"");
}

#[test]
fn steps_without_a_result_and_other_projects_do_not_count() {
    let mut failed = BASE.record();
    failed.steps[2].outcome = StepOutcome::Failed;
    let same = told(BASE.record(), std::slice::from_ref(&failed), &Fake::default());
    assert_eq!(same[1], "it has not succeeded before");
    let mut other = Build { foo: "2", ..BASE }.record();
    other.head.about.context = "/elsewhere".to_owned();
    let mixed = told(BASE.record(), &[other.clone(), failed], &Fake::default());
    assert_eq!(mixed[1], "it has not succeeded before", "the record of the same project is compared");
    let first = told(BASE.record(), &[other], &Fake::default());
    assert_eq!(first, ["first build of this step"; 2], "there is none of the same project");
}

#[test]
fn the_record_with_the_fewest_differences_is_compared() {
    // The newest has another shell as well; the one before differs only in what the last build has changed.
    let with = |hosts: &[&str], flag: &str, key: &str| {
        let mut record = BASE.record();
        record.steps[2].spec["args"][1] = json!(flag);
        record.steps[2].spec["extra_host_names"] = json!(hosts);
        record.steps[2].key = Some(CacheKey(digest(key)));
        record
    };
    let earlier = [with(&[], "-ec", "newest"), with(&[], "-c", "older"), with(&[], "-xc", "oldest")];
    let told = told(with(&["db"], "-c", "now"), &earlier, &Fake::default());
    assert_eq!(told[1], "names of --add-host was \"\", is \"db\"");
}

#[test]
fn an_input_that_is_another_one_is_named() {
    // COPY and RUN have changed places.
    let was = BASE.record();
    let mut is = BASE.record();
    is.steps.swap(1, 2);
    for (at, (name, inputs)) in [("[s 2/3] RUN make", 1), ("[s 3/3] COPY . /app", 2)].iter().enumerate() {
        let step = &mut is.steps[at + 1];
        (step.number, step.name, step.inputs) = (at as u32 + 2, (*name).to_owned(), vec![*inputs]);
        step.key = Some(CacheKey(digest(name)));
    }
    let names = told(is, &[was], &Fake::default());
    assert_eq!(
        names,
        [
            "input was [s 2/3] COPY . /app, is the base image base",
            "input was the base image base, is [s 2/3] RUN make"
        ]
    );
}

#[test]
fn a_new_step_before_an_old_one_is_new() {
    let mut record = BASE.record();
    let mut added = record.steps[2].clone();
    added.spec["args"][2] = json!("touch");
    added.name = "[s 3/4] RUN touch".to_owned();
    added.key = Some(CacheKey(digest("new")));
    record.steps[2].number = 4;
    record.steps[2].inputs = vec![3];
    record.steps[2].key = Some(CacheKey(digest("moved")));
    record.steps.insert(2, added);
    let told = told(record, &[BASE.record()], &Fake::default());
    assert_eq!(told[1], "first build of this step");
    assert_eq!(told[2], "input was [s 2/3] COPY . /app, is [s 3/4] RUN touch");
}

#[test]
fn equal_content_above_is_an_early_cutoff() {
    let mut record = Build { files: "g", ..BASE }.record();
    record.steps[2].outcome = StepOutcome::Cached;
    record.steps[2].by_content = true;
    explain(&mut record, &[BASE.record()], &Fake::default());
    assert!(record.steps[1].cut && record.steps[2].miss.is_none());
    let mut last = record.steps[2].clone();
    record.steps[2].by_content = false;
    explain(&mut record, &[BASE.record()], &Fake::default());
    assert!(!record.steps[1].cut);
    // What is below what stayed cached ran for a reason of its own.
    record.steps[2].by_content = true;
    (last.number, last.inputs, last.by_content, last.outcome) = (4, vec![3], false, StepOutcome::Ran);
    record.steps.push(last);
    explain(&mut record, &[BASE.record()], &Fake::default());
    assert!(!record.steps[1].cut);
}

#[test]
fn by_content_the_right_input_is_blamed() {
    // COPY --from=1 onto 2: the base ran again with the same content, the other stage with another.
    let with = |record: &mut BuildRecord, other: &str| {
        record.steps[1].inputs = vec![1, 1];
        record.steps[1].contents = vec![digest("same"), digest(other)];
        record.steps[1].outside = None;
    };
    let (mut was, mut is) = (Build { image: "j", ..BASE }.record(), BASE.record());
    with(&mut was, "a");
    with(&mut is, "b");
    let file =
        |content: &str| ListedFile { kind: 'f', mode: 0o644, owner: (0, 0), content: content.to_owned() };
    let listing = |content| Listing::from([(b"out".to_vec(), file(content))]);
    let listings = Fake(BTreeMap::from([(digest("a"), listing("1")), (digest("b"), listing("2"))]));
    is.steps[0].spec = was.steps[0].spec.clone();
    assert_eq!(told(is.clone(), std::slice::from_ref(&was), &listings)[0], "out changed (sha256 1→2)");
    // A build that found the step stored did not look; an older one with the same key did.
    let mut looked = was.clone();
    was.steps[1].contents.clear();
    looked.head.about.context = "/elsewhere".to_owned();
    assert_eq!(told(is, &[was, looked], &listings)[0], "out changed (sha256 1→2)");
}

#[test]
fn specs_that_cannot_be_read_are_told_without_detail() {
    let mut record = BASE.record();
    record.steps[2].spec = json!({ "kind": "run", "args": 7 });
    record.steps[2].key = Some(CacheKey(digest("x")));
    assert_eq!(told(record, &[BASE.record()], &Fake::default())[1], "the step itself changed");
}

proptest::proptest! {
    #[test]
    fn damaged_records_that_can_still_be_read_never_panic(
        at in proptest::collection::vec((0usize..4000, proptest::prelude::any::<u8>()), 1..6),
        numbers in proptest::collection::vec(0u32..6, 4),
    ) {
        let mut text = serde_json::to_vec(&BASE.record()).unwrap();
        for (place, byte) in at {
            let length = text.len();
            text[place % length] = byte;
        }
        let mut damaged: BuildRecord = serde_json::from_slice(&text).unwrap_or_else(|_| BASE.record());
        // Numbers and inputs that mean nothing, or go round in circles.
        for (step, number) in damaged.steps.iter_mut().zip(&numbers) {
            step.inputs.push(*number);
            step.number = number ^ 1;
        }
        let mut record = Build { files: "g", ..BASE }.record();
        explain(&mut record, std::slice::from_ref(&damaged), &Fake::default());
        let other = record.clone();
        explain(&mut damaged, &[other], &Fake::default());
    }
}

#[test]
fn an_input_that_gives_something_else_each_time_is_to_blame() {
    let build = |content: &str| {
        let mut record = BASE.record();
        record.steps[2].contents = vec![digest(content)];
        record
    };
    let told_of = |mut record: BuildRecord| {
        record.steps[1].refused = Some(Refused::Expired(60));
        told(record, &[build("before")], &Fake::default())[1].clone()
    };
    assert_eq!(told_of(build("after")), "an input ran again: [s 2/3] COPY . /app");
    assert!(told_of(build("before")).starts_with("the stored result was removed"));
    // It may have run in a build between.
    let mut record = build("after");
    record.steps[1].outcome = StepOutcome::Cached;
    let told = told(record, &[build("before")], &Fake::default());
    assert_eq!(told, ["an input ran again: [s 2/3] COPY . /app"]);
}
