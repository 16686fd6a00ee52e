//! `kiln login` and `logout`, and credentials on their way to a registry.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::project::{Ended, Project};
use crate::server::{Request, Response, Server};

/// A registry with nothing in it that takes `me` with `s3cret`.
fn locked() -> Server {
    Server::start(|request: &Request| {
        // `bWU6czNjcmV0` is `me:s3cret`.
        if request.header("authorization") == Some("Basic bWU6czNjcmV0") {
            return Response::new(200, "{}");
        }
        Response::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
            .header("www-authenticate", "Basic realm=\"test\"")
    })
}

fn with_stdin(project: &Project, args: &[&str], input: &str) -> Ended {
    use std::io::Write as _;
    let mut command = project.kiln(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kiln starts");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("written");
    Ended::from_output(child.wait_with_output().expect("kiln ends"))
}

#[test]
fn a_login_is_checked_and_kept_for_everybody() {
    let project = Project::new();
    let registry = locked();
    let host = registry.address.as_str();
    let file = project.path(".docker/config.json");
    let wrong = with_stdin(&project, &["login", "-u", "me", "--password-stdin", host], "wrong\n");
    wrong.fails(1, &["does not take this user name and password"]);
    assert!(!file.exists() && !wrong.stderr.contains("wrong\n"));
    let right = with_stdin(&project, &["login", "-u", "me", "--password-stdin", host], "s3cret\n").ok();
    assert!(right.stderr.contains("logged in") && !right.stderr.contains("s3cret"), "{}", right.stderr);
    assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&file).expect("file").contains("bWU6czNjcmV0"));
    // What asks now is answered.
    let name = format!("{host}/x:1");
    let error = project.run(&["inspect", &name]);
    assert!(!error.stderr.contains("refuses"), "{}", error.stderr);
    project.run(&["logout", host]).ok();
    project.run(&["inspect", &name]).fails(1, &["refuses access", "kiln login"]);
    project.run(&["logout", host]).fails(1, &["no login"]);
    let given = project.run(&["inspect", "--creds", "me:s3cret", &name]);
    assert!(!given.stderr.contains("refuses"), "{}", given.stderr);
}

#[test]
fn questions_need_a_terminal() {
    let project = Project::new();
    let registry = locked();
    project.run(&["login", &registry.address]).fails(2, &["--username"]);
    project.run(&["login", "-u", "me", &registry.address]).fails(2, &["--password-stdin"]);
    project.run(&["login", "-u", "me", "-p", "x", "quay.io/team"]).fails(2, &["HOST:PORT"]);
}

#[test]
fn a_helper_keeps_what_it_is_given() {
    let project = Project::new();
    let registry = locked();
    let host = registry.address.as_str();
    let (bin, kept) = (project.path("bin"), project.path("kept"));
    fs::create_dir(&bin).expect("directory");
    let helper = bin.join("docker-credential-kilntest");
    let script = format!(
        "#!/bin/sh\nfile={}\ncase $1 in\nstore) cat > $file;;\nget) cat > /dev/null; [ -e $file ] && cat $file || {{ echo credentials not found in native keychain; exit 1; }};;\nerase) cat > /dev/null; rm $file;;\nesac\n",
        kept.display()
    );
    // Another process writes it: a program that a thread of this one forks meanwhile would hold it open for writing, and
    // then it cannot be executed.
    let written = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .args([helper.as_os_str(), script.as_ref()])
        .status();
    assert!(written.expect("sh").success());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    fs::create_dir(project.path(".docker")).expect("directory");
    let config = project.path(".docker/config.json");
    fs::write(&config, r#"{"credsStore":"kilntest"}"#).expect("config");
    let run = |args: &[&str]| {
        let mut command = project.kiln(args);
        Ended::of(command.env("PATH", &path))
    };
    let told = run(&["login", "-u", "me", "-p", "s3cret", host]).ok().stderr;
    assert!(
        told.contains("docker-credential-kilntest") && told.contains("--password-stdin is safer"),
        "{told}"
    );
    assert!(!fs::read_to_string(&config).expect("config").contains("bWU6"));
    let shown = run(&["inspect", &format!("{host}/x:1")]);
    assert!(!shown.stderr.contains("refuses"), "{}", shown.stderr);
    run(&["logout", host]).ok();
    assert!(!kept.exists());
}

#[test]
fn variables_and_options_name_the_file_of_credentials() {
    let project = Project::new();
    let registry = locked();
    let host = registry.address.as_str();
    let known = format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6czNjcmV0"}}}}}}"#);
    fs::create_dir(project.path("docker")).expect("directory");
    for file in ["docker/config.json", "auth.json"] {
        fs::write(project.path(file), &known).expect("file");
    }
    project.write("Buildfile", format!("FROM {host}/x:1\n"));
    let knows = |flags: &[&str], variable: (&str, &str)| {
        let before = registry.requests().len();
        Ended::of(project.build_command(flags).env(variable.0, variable.1)).fails(1, &["x:1"]);
        let requests = registry.requests();
        requests[before..].iter().any(|request| request.header("authorization") == Some("Basic bWU6czNjcmV0"))
    };
    assert!(!knows(&[], ("DOCKER_CONFIG", "nowhere")));
    assert!(knows(&[], ("DOCKER_CONFIG", "docker")));
    assert!(knows(&[], ("REGISTRY_AUTH_FILE", "auth.json")));
    assert!(knows(&["--authfile=auth.json"], ("DOCKER_CONFIG", "nowhere")));
    let name = format!("{host}/built:1");
    assert!(!knows(&["--push", "-t", &name], ("DOCKER_CONFIG", "nowhere")));
    assert!(knows(&["--push", "-t", &name, "--creds=me:s3cret"], ("DOCKER_CONFIG", "nowhere")));
}
