//! A cache in a bucket (`type=s3`), played by a server in this process. Signatures are verified in the tests of the client.

use std::process::Command;
use std::sync::Arc;

use super::mounts::with_mount;
use super::{APP, STEPS, machine};
use crate::project::{Built, Project};
use crate::server::{Response, Server};
use fake_bucket::{Answer, Asked, FakeBucket};

#[path = "../../../src/cache/bucket/tests/fake_bucket.rs"]
mod fake_bucket;

const SECRET: &str = "the-secret-key-of-the-bucket";

struct Store {
    bucket: Arc<FakeBucket>,
    server: Server,
}

impl Store {
    fn start() -> Self {
        let bucket = Arc::new(FakeBucket::default());
        let shared = bucket.clone();
        let server = Server::start(move |request| {
            let asked = Asked {
                method: &request.method,
                target: &request.path,
                headers: &request.headers,
                body: &request.body,
            };
            let known = asked.header("authorization").is_some_and(|value| {
                value.starts_with("AWS4-HMAC-SHA256 Credential=the-id/")
                    && value.contains("/eu-west-1/s3/aws4_request")
            });
            let answer = if known { shared.answer(&asked) } else { Answer::error(403, "AccessDenied") };
            Response { headers: answer.headers, cut: answer.cut, ..Response::new(answer.status, answer.body) }
        });
        Self { bucket, server }
    }

    fn flag(&self, direction: &str, more: &str) -> String {
        let at = format!("endpoint_url=http://{},use_path_style=true", self.server.address);
        format!("--cache-{direction}=type=s3,bucket=ours,{at}{more}")
    }

    fn build(project: &Project, flags: &[&str]) -> Built {
        project.build_with(&[&["--retry-delay=1ms"], flags].concat(), |command: &mut Command| {
            command.env("AWS_REGION", "eu-west-1").env("AWS_ACCESS_KEY_ID", "the-id");
            command.env("AWS_SECRET_ACCESS_KEY", SECRET);
        })
    }
}

#[test]
fn a_second_machine_executes_nothing() {
    let store = Store::start();
    let (Some(one), Some(two), Some(three)) = (machine(), machine(), machine()) else { return };
    let first = Store::build(&one, &[&store.flag("to", ",mode=max,name=main;topic")]);
    assert_eq!(first.executed().len(), STEPS, "{}", first.log());
    for (machine, name) in [(&two, "main"), (&three, "other;topic")] {
        let built = Store::build(machine, &[&store.flag("from", &format!(",name={name}"))]);
        assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
        assert_eq!(built.image().digest, first.image().digest);
    }
    let sent = store.bucket.count("PUT");
    let again = Store::build(&one, &[&store.flag("to", ",mode=max,name=main;topic")]);
    assert!(again.log().contains("0 of 7 steps were new, 0 layers were sent"), "{}", again.log());
    assert_eq!(store.bucket.count("PUT"), sent);
    let found = Command::new("grep").arg("-rla").arg(SECRET).arg(one.store()).output().expect("grep");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[test]
fn cache_mounts_travel_with_it() {
    let store = Store::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    one.write("Buildfile", with_mount("one"));
    Store::build(&one, &[&store.flag("to", ",mounts=all")]).succeeds();
    two.write("Buildfile", with_mount("two"));
    let built = Store::build(&two, &[&store.flag("from", ",mounts=all")]);
    assert_eq!(built.image().text("log"), "one\ntwo\n", "{}", built.log());
}

#[test]
fn a_bucket_that_fails_costs_the_cache_and_not_the_build() {
    let store = Store::start();
    let (Some(one), Some(two)) = (machine(), machine()) else { return };
    Store::build(&one, &[&store.flag("to", ",mode=max")]).succeeds();
    // What is there is not what it should be.
    for (name, object) in &mut *store.bucket.objects.lock().unwrap() {
        if name.contains("/blobs/") {
            object[0] ^= 1;
        }
    }
    let built = Store::build(&two, &["--retry=0", &store.flag("from", "")]);
    built.succeeds();
    assert_eq!(built.executed().len(), STEPS, "{}", built.log());
    store.bucket.fault(|_, _| Answer::error(403, "AccessDenied"));
    two.write("Buildfile", APP.replace("> /out", "> /other"));
    let built = Store::build(&two, &[&store.flag("from", ""), &store.flag("to", ",ignore-error=true")]);
    built.succeeds();
    assert!(built.log().contains("cache `s3 ours (buildkit)` is left out"), "{}", built.log());
    assert!(built.log().contains("the build goes on without it"), "{}", built.log());
    let built = Store::build(&two, &[&store.flag("to", "")]);
    built.ended.fails(1, &["refuses the keys (403)", "check AWS_ACCESS_KEY_ID", "ignore-error=true"]);
}

#[test]
fn keys_are_asked_for() {
    let Some(project) = machine() else { return };
    let built = project.build(&["--cache-to=type=s3,bucket=b,region=r"]);
    built.ended.fails(2, &["type=s3 needs `access_key_id` or AWS_ACCESS_KEY_ID"]);
}
