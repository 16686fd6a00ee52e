//! Git repositories as sources of ADD, as contexts and as named contexts: over HTTP, from a server in this process that
//! knows nothing of git (files of a bare repository).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::image::Image;
use crate::project::{Ended, Project, skipped};
use crate::server::{Response, Server};

/// A project, and a server with the repositories `r.git` and `sub.git`; `r.git` has `sub.git` as a submodule since its
/// second commit.
struct Fixture {
    project: Project,
    server: Server,
    /// The first commit.
    first: String,
}

impl Fixture {
    /// None, said aloud, where there is no git.
    fn new() -> Option<Self> {
        if Command::new("git").arg("--version").stdout(Stdio::null()).status().is_err() {
            skipped("no git");
            return None;
        }
        let project = Project::new();
        let root = project.path("served");
        std::fs::create_dir(&root).expect("directory");
        let below = root.clone();
        let server = Server::start(move |request| {
            let path = request.path.split('?').next().unwrap_or_default().trim_start_matches('/');
            let inside = !path.split('/').any(|part| part == "..");
            match std::fs::read(below.join(path)) {
                Ok(bytes) if inside => Response::new(200, bytes),
                _ => Response::new(404, "not here"),
            }
        });
        let mut fixture = Self { project, server, first: String::new() };
        fixture.commit("sub", "lib", "of the submodule");
        fixture.publish("sub");
        fixture.commit("r", "f", "one");
        fixture.commit("r", "dir/g", "in a directory");
        fixture.git("r", &["tag", "v1"]);
        fixture.first = fixture.git("r", &["rev-parse", "v1"]);
        let sub = format!("http://{}/sub.git", fixture.server.address);
        fixture.git("r", &["submodule", "--quiet", "add", &sub, "mod"]);
        fixture.commit("r", "f", "two");
        fixture.git("r", &["branch", "side"]);
        fixture.git("r", &["tag", "-a", "-m", "signed by nobody", "noted"]);
        fixture.commit("r", "f", "three");
        fixture.publish("r");
        Some(fixture)
    }

    fn source(&self, repository: &str) -> PathBuf {
        self.project.path(&format!("source-{repository}"))
    }

    fn git(&self, repository: &str, words: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example", "-c", "init.defaultBranch=main"]);
        command.args(words).current_dir(self.source(repository)).stdin(Stdio::null());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let output = command.output().expect("git");
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn commit(&self, repository: &str, file: &str, content: &str) {
        let path = self.source(repository).join(file);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        if !self.source(repository).join(".git").exists() {
            self.git(repository, &["init", "--quiet"]);
        }
        std::fs::write(path, content).expect("file");
        self.git(repository, &["add", "."]);
        self.git(repository, &["commit", "--quiet", "-m", content]);
    }

    /// A bare copy with what clients without a server of git's need.
    fn publish(&self, repository: &str) {
        let bare = self.project.path("served").join(format!("{repository}.git")).display().to_string();
        self.git(repository, &["clone", "--quiet", "--bare", ".", &bare]);
        self.git(repository, &["--git-dir", &bare, "update-server-info"]);
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}/r.git{rest}", self.server.address)
    }

    fn add(&self, flags: &str, rest: &str) -> crate::project::Built {
        self.project.write("Buildfile", format!("FROM scratch\nADD {flags} {} /g/\n", self.url(rest)));
        self.project.build(&[])
    }
}

#[test]
fn every_form_of_a_ref() {
    let Some(fixture) = Fixture::new() else { return };
    let first = fixture.first.clone();
    let forms = [
        (String::new(), "three"),
        ("#main".to_owned(), "three"),
        ("#side".to_owned(), "two"),
        ("#refs/heads/side".to_owned(), "two"),
        ("#noted".to_owned(), "two"),
        ("#v1".to_owned(), "one"),
        ("#refs/tags/v1".to_owned(), "one"),
        (format!("#{first}"), "one"),
        (format!("#{}", &first[..10]), "one"),
        ("?ref=v1".to_owned(), "one"),
        ("?tag=v1".to_owned(), "one"),
        ("?branch=side".to_owned(), "two"),
        (format!("?commit={first}"), "one"),
    ];
    for (form, content) in forms {
        let image = fixture.add("", &form).image();
        assert_eq!(image.text("g/f"), content, "{form}");
        assert!(!image.has("g/.git"), "{form}");
        assert_eq!(image.has("g/mod/lib"), content != "one", "{form}");
        let entry = image.entry("g/f");
        assert_eq!((entry.mode, entry.uid, entry.gid), (0o644, 0, 0), "{form}");
    }
    for form in ["#v1:dir", "#:dir", "?ref=v1&subdir=dir"] {
        let image = fixture.add("", form).image();
        assert_eq!(image.text("g/g"), "in a directory", "{form}");
        assert!(!image.has("g/f"), "{form}");
    }
    fixture.add("", "#nowhere").fails(1, &["no branch, tag or commit `nowhere`"]);
    fixture.add("", "#v1:missing").fails(1, &["missing"]);
}

#[test]
fn checksums_are_commits() {
    let Some(fixture) = Fixture::new() else { return };
    let first = fixture.first.clone();
    assert_eq!(fixture.add(&format!("--checksum={first}"), "#v1").image().text("g/f"), "one");
    fixture.add(&format!("--checksum={first}"), "#main").fails(1, &["Buildfile:2", &first]);
}

#[test]
fn submodules_and_the_repository_itself_stay_when_asked() {
    let Some(fixture) = Fixture::new() else { return };
    let without = fixture.add("", "?submodules=false").image();
    assert!(without.has("g/mod") && !without.has("g/mod/lib"));
    let with = fixture.add("", "").image();
    assert_eq!(with.text("g/mod/lib"), "of the submodule");
    assert!(!with.has("g/mod/.git") && !with.has("g/.git"));
    // The same bytes for everybody who asks.
    fixture.add("--keep-git-dir", "#v1").succeeds();
    let kept = ["--no-cache", "--source-date-epoch=1500000000"];
    let (one, two) = (fixture.project.build(&kept).image(), fixture.project.build(&kept).image());
    assert!(one.has("g/.git/HEAD"));
    assert_eq!(one.digest, two.digest);
}

#[test]
fn a_repository_is_a_context_and_a_named_context() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.commit("r", "Buildfile", "FROM scratch\nCOPY f mod /ctx/\n");
    fixture.commit("r", "dir/Buildfile", "FROM scratch\nCOPY --from=named f /named\nCOPY g /ctx/\n");
    std::fs::remove_dir_all(fixture.project.path("served/r.git")).expect("removed");
    fixture.publish("r");
    let build = |rest: &str, archive: &str, more: &[&str]| {
        let mut command = fixture.project.kiln(["build", "--progress=plain"]);
        command.args(more).args(["-o", &format!("type=oci,dest={archive}"), &fixture.url(rest)]);
        Ended::of(&mut command).ok();
        Image::read_archive(&fixture.project.path(archive))
    };
    let whole = build("", "whole.tar", &[]);
    assert_eq!([whole.text("ctx/f"), whole.text("ctx/lib")], ["three", "of the submodule"]);
    let named = format!("named={}", fixture.url("#v1"));
    let below = build("#main:dir", "below.tar", &["--build-context", &named]);
    assert_eq!([below.text("named"), below.text("ctx/g")], ["one", "in a directory"]);
}
