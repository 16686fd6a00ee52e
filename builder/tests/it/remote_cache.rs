//! `--cache-to` and `--cache-from`: two projects with the same files and stores of their own are two machines.

mod actions;
mod attributes;
mod bucket;
mod contents;
mod mounts;
mod trust;

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
