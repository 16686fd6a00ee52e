//! The cache service of GitHub Actions (`type=gha`), played by a server in this process.

use std::process::Command;
use std::sync::Arc;

use super::mounts::with_mount;
use super::{APP, STEPS, machine};
use crate::project::{Built, Ended, Project};
use crate::server::{Response, Server};
use fake_service::{Answer, Asked, FakeService};

#[path = "../../../src/cache/actions/tests/fake_service.rs"]
mod fake_service;

const TOKEN: &str = "the-secret-of-this-job";
const TO: &str = "--cache-to=type=gha,mode=max";
const FROM: &str = "--cache-from=type=gha";

/// The service, and the environment of a job.
struct Job {
    service: Arc<FakeService>,
    server: Server,
}

impl Job {
    fn start() -> Self {
        let service = Arc::new(FakeService::default());
        let shared = service.clone();
        let server = Server::start(move |request| {
            let asked = Asked {
                method: &request.method,
                target: &request.path,
                authorization: request.header("authorization"),
                range: request.header("range"),
                content_range: request.header("content-range"),
                blob_type: request.header("x-ms-blob-type"),
                body: &request.body,
            };
            let answer = shared.answer(&asked);
            Response { headers: answer.headers, cut: answer.cut, ..Response::new(answer.status, answer.body) }
        });
        let port = server.address.rsplit_once(':').expect("port").1;
        service.at(&format!("http://localhost:{port}"));
        service.grant(TOKEN, &["refs/heads/main"]);
        Self { service, server }
    }

    /// The variables that a runner sets.
    fn environment(&self, command: &mut Command) {
        command.env("ACTIONS_RUNTIME_TOKEN", TOKEN).env("ACTIONS_CACHE_SERVICE_V2", "True");
        command.env("ACTIONS_RESULTS_URL", format!("http://{}/", self.server.address));
        command.env("GITHUB_REF", "refs/heads/main");
    }

    fn build(&self, project: &Project, flags: &[&str]) -> Built {
        let flags = [&["--retry-delay=1ms"], flags].concat();
        project.build_with(&flags, |command| self.environment(command))
    }

    fn leaks(&self) -> Vec<String> {
        self.service.leaks.lock().unwrap().clone()
    }
}

#[test]
fn a_second_job_executes_nothing() {
    let job = Job::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let first = job.build(&one, &[TO]);
    assert_eq!(first.executed().len(), STEPS, "{}", first.log());
    assert!(first.log().contains("exporting cache to GitHub Actions (buildkit)"), "{}", first.log());
    let second = job.build(&two, &[FROM, TO]);
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.log());
    assert_eq!(second.image().digest, first.image().digest);
    // What stands below was not even looked at: it is there.
    assert!(second.log().contains("0 of 1 steps were new, 0 layers were sent"), "{}", second.log());
    assert_eq!(job.leaks(), Vec::<String>::new(), "the token went to the storage");
    // Neither is it kept or shown anywhere.
    for project in [&one, &two] {
        let found = Command::new("grep").arg("-rla").arg(TOKEN).arg(project.store()).output().expect("grep");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
    assert!(!first.log().contains(TOKEN) && !second.log().contains(TOKEN));
    // A scope of its own has nothing.
    let Some(three) = machine() else { return };
    let third = job.build(&three, &[&format!("{FROM},scope=other")]);
    assert_eq!(third.executed().len(), STEPS, "{}", third.log());
}

#[test]
fn a_service_of_version_1_serves_as_well() {
    let job = Job::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let attributes = format!("type=gha,version=1,token={TOKEN},url=http://{}", job.server.address);
    let first = one.build(&[&format!("--cache-to={attributes},mode=max")]);
    first.succeeds();
    let second = two.build(&[&format!("--cache-from={attributes}")]);
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.log());
    assert!(job.service.count("GET", "/_apis/artifactcache/cache") > 0);
    assert_eq!(job.service.count("POST", "/twirp/"), 0);
}

#[test]
fn outside_of_a_job_it_is_left_out() {
    let Some(project) = machine() else { return };
    let built = project.build(&[TO, FROM]);
    built.succeeds();
    assert!(built.log().contains("type=gha has no effect: ACTIONS_RUNTIME_TOKEN"), "{}", built.log());
    let mut command = project.build_command([TO]);
    command.env("ACTIONS_RUNTIME_TOKEN", "t").env("ACTIONS_RESULTS_URL", "results");
    Ended::of(&mut command)
        .fails(2, &["environment variable ACTIONS_RESULTS_URL", "not an http or https URL"]);
}

#[test]
fn a_service_that_refuses_costs_the_cache_and_not_the_build() {
    let job = Job::start();
    let Some(project) = machine() else { return };
    job.service.grant("another", &["refs/heads/main"]);
    let bad = |kind: &str| format!("--cache-{kind}=type=gha,token=too-old-by-now");
    let built = job.build(&project, &[&bad("from")]);
    built.succeeds();
    let part = "cache `GitHub Actions (buildkit)` is left out";
    assert!(built.log().contains(part) && built.log().contains("refuses the token (401)"), "{}", built.log());
    assert!(!built.log().contains("too-old-by-now"), "{}", built.log());
    let built = job.build(&project, &[&format!("{},ignore-error=true", bad("to"))]);
    built.succeeds();
    assert!(built.log().contains("the build goes on without it"), "{}", built.log());
    let built = job.build(&project, &[&bad("to")]);
    assert_ne!(built.ended.code, Some(0));
    assert!(built.log().contains("ACTIONS_RUNTIME_TOKEN of this run"), "{}", built.log());
}

#[test]
fn what_the_service_has_lost_or_changed_is_built() {
    let job = Job::start();
    let Some(one) = machine() else { return };
    let first = job.build(&one, &[TO]);
    first.succeeds();
    let change = |how: &dyn Fn(&mut fake_service::Entry)| {
        let mut entries = job.service.entries.lock().unwrap();
        entries.iter_mut().filter(|entry| entry.key.starts_with("kiln-blob")).for_each(how);
    };
    let good = job.service.entries.lock().unwrap().clone();
    for (what, how) in [
        (
            "other bytes",
            &(|entry: &mut fake_service::Entry| entry.data[0] ^= 1) as &dyn Fn(&mut fake_service::Entry),
        ),
        ("fewer bytes", &|entry| entry.data.truncate(5)),
        ("nothing", &|entry| entry.finished = false),
    ] {
        change(how);
        let Some(two) = machine() else { return };
        let built = job.build(&two, &["--retry=1", FROM]);
        built.succeeds();
        assert_eq!(built.executed().len(), STEPS, "{what}: {}", built.log());
        assert_eq!(built.image().text("out"), "tool\na\nb\n1\n");
        job.service.entries.lock().unwrap().clone_from(&good);
    }
}

#[test]
fn an_upload_that_fails_half_way_is_seen_by_nobody() {
    let job = Job::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    let sent = std::sync::atomic::AtomicUsize::new(0);
    job.service.fault(move |asked, answer| {
        let put = asked.method == "PUT" && asked.target.starts_with("/storage/");
        match put && sent.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= 2 {
            true => Answer::new(500, ""),
            false => answer,
        }
    });
    let built = job.build(&one, &["--retry=1", TO]);
    assert_ne!(built.ended.code, Some(0));
    assert!(
        built.log().contains("cannot send an entry") && !built.log().contains("c2lnbmVk"),
        "{}",
        built.log()
    );
    assert_eq!(job.service.keys("kiln-index"), Vec::<String>::new());
    job.service.healthy();
    // The next one sends what is missing.
    job.build(&one, &[TO]).succeeds();
    let built = job.build(&two, &[FROM]);
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
}

#[test]
fn branches_read_what_main_has_and_keep_their_own() {
    let job = Job::start();
    let (Some(main), Some(topic), Some(other)) = (machine(), machine(), machine()) else { return };
    job.build(&main, &[TO]).succeeds();
    job.service.grant("of-a-branch", &["refs/heads/topic", "refs/heads/main"]);
    topic.write("Buildfile", APP.replace("> /out", "> /topic"));
    let on_branch = |command: &mut Command| {
        job.environment(command);
        command.env("ACTIONS_RUNTIME_TOKEN", "of-a-branch").env("GITHUB_REF", "refs/heads/topic");
        command.env("GITHUB_BASE_REF", "main");
    };
    let built = topic.build_with(&[FROM, TO], on_branch);
    assert_eq!(built.executed(), ["RUN cat /tool /sorted /main > /topic"], "{}", built.log());
    assert!(built.log().contains("1 of 7 steps were new, 1 layers were sent"), "{}", built.log());
    other.write("Buildfile", APP.replace("> /out", "> /topic"));
    let built = cache_only_with(&job, &other);
    assert_eq!(built.executed().len(), 1, "main does not see what a branch has: {}", built.log());
}

fn cache_only_with(job: &Job, project: &Project) -> Built {
    let mut command = project.build_command([FROM, "-o", "type=cacheonly"]);
    job.environment(&mut command);
    Built { ended: Ended::of(&mut command), archive: project.path("none") }
}

#[test]
fn cache_mounts_travel_with_it() {
    let job = Job::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.write("Buildfile", with_mount("one"));
    job.build(&one, &["--cache-to=type=gha,mounts=all"]).succeeds();
    two.write("Buildfile", with_mount("two"));
    let built = job.build(&two, &["--cache-from=type=gha,mounts=all", "--cache-to=type=gha,mounts=all"]);
    assert_eq!(built.image().text("log"), "one\ntwo\n", "{}", built.log());
    let Some(three) = machine() else { return };
    three.write("Buildfile", with_mount("three"));
    let built = job.build(&three, &["--cache-from=type=gha,mounts=all"]);
    assert_eq!(built.image().text("log"), "one\ntwo\nthree\n", "the last writer wins: {}", built.log());
}
