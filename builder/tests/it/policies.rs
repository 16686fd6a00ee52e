//! Source policies: what a build may take from outside, and what it takes in place of some of it.

use std::fs;

use crate::base;
use crate::project::Project;
use crate::server::{Response, Server};

fn files() -> Server {
    Server::start(|request| match request.path.as_str() {
        "/mirror/f" => Response::new(200, "of the mirror\n"),
        "/Buildfile" => Response::new(200, "FROM scratch\nCOPY f /\n"),
        _ => Response::new(404, "no"),
    })
}

/// Writes the policy of a project.
fn policy(project: &Project, rules: &str) -> String {
    let path = project.path("policy.json");
    fs::write(&path, format!("{{\"rules\": [{rules}]}}")).expect("policy");
    path.display().to_string()
}

fn deny(identifier: &str) -> String {
    format!(r#"{{"action": "DENY", "selector": {{"identifier": "{identifier}"}}}}"#)
}

#[test]
fn a_denied_source_stops_the_build_at_its_line() {
    let server = files();
    let url = format!("http://{}/mirror/f", server.address);
    let project = Project::new().file("f", "mine\n");
    let file = policy(&project, &deny("http://*"));
    project.write("Buildfile", format!("FROM scratch\nADD {url} /\n"));
    let flag = format!("--source-policy-file={file}");
    project.build(&[&flag]).fails(1, &["Buildfile:2:5", "is denied by rule 1", "policy.json"]);
    assert!(server.requests().is_empty());
    // The variable of buildx says the same, an empty one nothing, and the option wins.
    const NAME: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
    project
        .build_with(&[], |command| {
            command.env(NAME, &file);
        })
        .fails(1, &["denied by rule 1"]);
    project
        .build_with(&[], |command| {
            command.env(NAME, "");
        })
        .succeeds();
    let other = project.path("other.json");
    fs::write(&other, "{}").expect("policy");
    let flag = format!("--source-policy-file={}", other.display());
    project
        .build_with(&[&flag], |command| {
            command.env(NAME, &file);
        })
        .succeeds();
    // Directories of the client are sources as well, and so are contexts that are fetched.
    project.write("Buildfile", "FROM scratch\nCOPY f /\n");
    let flag = format!("--source-policy-file={}", policy(&project, &deny("local://context")));
    project.build(&[&flag]).fails(1, &["Buildfile:2", "`local://context` is denied"]);
    let flag = format!("--source-policy-file={}", policy(&project, &deny("git://h.invalid/*")));
    let before = ["build", &flag, "https://h.invalid/r.git"];
    project.run(&before).fails(1, &["`git://h.invalid/r.git` is denied by rule 1"]);
    let flag = format!("--source-policy-file={}", project.path("none.json").display());
    project.run(&["build", &flag, "."]).fails(2, &["none.json", "No such file"]);
}

#[test]
fn downloads_are_moved_and_pinned() {
    let server = files();
    let convert = |digest: &str| {
        format!(
            r#"{{"action": "CONVERT", "selector": {{"identifier": "https://h.invalid/*"}},
                 "updates": {{"identifier": "http://{}/mirror/$1", "attrs": {{"http.checksum": "{digest}"}}}}}}"#,
            server.address
        )
    };
    let digest = base::digest(b"of the mirror\n");
    let project = Project::new().buildfile("FROM scratch\nADD https://h.invalid/f /\n");
    let flag = format!("--source-policy-file={}", policy(&project, &convert(&digest)));
    let built = project.build(&[&flag]);
    assert_eq!(built.image().text("f"), "of the mirror\n");
    let flag =
        format!("--source-policy-file={}", policy(&project, &convert(&format!("sha256:{}", "0".repeat(64)))));
    project.build(&[&flag]).fails(1, &["Buildfile:2", "sha256:0000", &digest]);
}

#[test]
fn images_are_replaced() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM h.invalid/app:1\nRUN echo built\n");
    let rules = format!(
        r#"{{"action": "CONVERT", "selector": {{"identifier": "docker-image://h.invalid/*"}},
             "updates": {{"identifier": "oci-layout://{}"}}}}"#,
        project.path("base").display()
    );
    let flag = format!("--source-policy-file={}", policy(&project, &rules));
    assert!(project.build(&[&flag]).said("built"));
}

#[test]
fn a_buildfile_comes_from_an_address() {
    let server = files();
    let project = Project::new().file("f", "mine\n");
    fs::remove_file(project.context("Buildfile")).ok();
    let url = format!("http://{}/Buildfile", server.address);
    let built = project.build(&["-f", &url]);
    assert_eq!(built.image().text("f"), "mine\n");
    project.build(&["-f", &format!("{url}s")]).fails(1, &["cannot fetch the Buildfile", "404"]);
    let flag = format!("--source-policy-file={}", policy(&project, &deny("http://*")));
    project.build(&["-f", &url, &flag]).fails(1, &["is denied by rule 1"]);
}
