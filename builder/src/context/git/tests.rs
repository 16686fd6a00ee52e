//! Checkouts from repositories on this machine.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use super::*;

/// A repository that tests commit to, and a cache.
struct Fixture {
    root: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(fixture.source()).unwrap();
        fixture.git(&["init", "-q", "-b", "main"]);
        fixture
    }

    fn source(&self) -> PathBuf {
        self.root.path().join("repo.git")
    }

    fn git_in(&self, directory: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"])
            .args(arguments)
            .current_dir(directory)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_AUTHOR_DATE", "1700000000 +0000")
            .env("GIT_COMMITTER_DATE", "1700000001 +0000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn git(&self, arguments: &[&str]) -> String {
        self.git_in(&self.source(), arguments)
    }

    /// Writes files and commits them.
    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            let path = self.source().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "c"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn reference(&self, reference: Option<&str>, subdir: Option<&str>) -> GitRef {
        GitRef {
            remote: format!("file://{}", self.source().display()),
            short_name: "repo".to_owned(),
            reference: reference.map(str::to_owned),
            subdir: subdir.map(str::to_owned),
            ..GitRef::default()
        }
    }

    fn options(&self) -> CheckoutOptions {
        let environment = GitEnvironment::pick(std::env::vars_os());
        let mut options = CheckoutOptions::new(self.root.path().join("cache"), environment);
        options.protocols = "file".to_owned();
        options
    }

    fn check_out(
        &self,
        name: &str,
        reference: &GitRef,
        options: &CheckoutOptions,
    ) -> Result<(Checkout, PathBuf), GitError> {
        let dest = self.root.path().join("out").join(name);
        checkout(reference, options, &dest).map(|checkout| (checkout, dest))
    }
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: PathBuf) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn default_branch_tag_branch_and_commits() {
    let fixture = Fixture::new();
    let first = fixture.commit(&[("v", "one\n")]);
    fixture.git(&["tag", "light"]);
    fixture.git(&["tag", "-a", "-m", "m", "annotated"]);
    fixture.git(&["checkout", "-q", "-b", "side"]);
    let side = fixture.commit(&[("v", "side\n")]);
    fixture.git(&["checkout", "-q", "main"]);
    let second = fixture.commit(&[("v", "two\n")]);
    let options = fixture.options();
    for (index, (reference, commit, content)) in [
        (None, &second, "two\n"),
        (Some("main"), &second, "two\n"),
        (Some("light"), &first, "one\n"),
        (Some("annotated"), &first, "one\n"),
        (Some("refs/tags/annotated"), &first, "one\n"),
        (Some("side"), &side, "side\n"),
        (Some("heads/side"), &side, "side\n"),
        (Some(first.as_str()), &first, "one\n"),
        (Some(&side[..8]), &side, "side\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let reference = fixture.reference(reference, None);
        let (found, dest) = fixture.check_out(&index.to_string(), &reference, &options).unwrap();
        assert_eq!((&found.commit, found.commit_time), (commit, 1_700_000_001), "{reference:?}");
        assert_eq!(fs::read_to_string(dest.join("v")).unwrap(), content, "{reference:?}");
        assert_eq!(names(&dest), ["v"]);
        assert_eq!(resolve_commit(&reference, &options).unwrap().commit, *commit);
    }
    // Nothing temporary stays behind.
    assert!(names(&fixture.root.path().join("out")).iter().all(|name| !name.starts_with('.')));
}

#[test]
fn modes_and_links() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.source().join("bin")).unwrap();
    fs::write(fixture.source().join("bin/tool"), "#!").unwrap();
    fs::set_permissions(fixture.source().join("bin/tool"), fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink("README", fixture.source().join("link")).unwrap();
    fixture.commit(&[("README", "r")]);
    let (_, dest) = fixture.check_out("a", &fixture.reference(None, None), &fixture.options()).unwrap();
    assert_eq!(names(&dest), ["README", "bin", "link"]);
    assert_eq!(mode(dest.join("README")), 0o644);
    assert_eq!(mode(dest.join("bin")), 0o755);
    assert_eq!(mode(dest.join("bin/tool")), 0o755);
    assert_eq!(mode(dest.clone()), 0o755);
    assert_eq!(fs::read_link(dest.join("link")).unwrap(), Path::new("README"));
}

#[test]
fn folders() {
    let fixture = Fixture::new();
    std::os::unix::fs::symlink("/etc", fixture.source().join("escape")).unwrap();
    fixture.commit(&[
        ("a/b/f", "f\n"),
        ("a/other", "o"),
        ("top", "t"),
        (".gitattributes", "*.txt text eol=crlf\n"),
        ("a/b/x.txt", "x\n"),
    ]);
    let options = fixture.options();
    for (index, subdir) in ["a/b", "/a/b/", "../a/./b"].into_iter().enumerate() {
        let reference = fixture.reference(Some("main"), Some(subdir));
        let (_, dest) = fixture.check_out(&index.to_string(), &reference, &options).unwrap();
        assert_eq!(names(&dest), ["f", "x.txt"], "{subdir}");
        // Attributes of the upper folders hold.
        assert_eq!(fs::read(dest.join("x.txt")).unwrap(), b"x\r\n");
    }
    for subdir in ["no-such-folder", "top", "escape", "a/b*"] {
        let error = fixture.check_out("x", &fixture.reference(None, Some(subdir)), &options).unwrap_err();
        assert!(matches!(error, GitError::SubdirNotFound { .. }), "{subdir}: {error:?}");
        assert!(error.to_string().contains(subdir) && error.to_string().contains("repo.git"), "{error}");
    }
}

#[test]
fn the_git_folder_is_kept_and_always_the_same() {
    let fixture = Fixture::new();
    fixture.commit(&[("f", "one")]);
    let commit = fixture.commit(&[("f", "two")]);
    fixture.git(&["tag", "-a", "-m", "m", "v2"]);
    let options = CheckoutOptions { keep_git_dir: true, ..fixture.options() };
    let reference = fixture.reference(Some("v2"), None);
    let (_, dest) = fixture.check_out("a", &reference, &options).unwrap();
    assert_eq!(names(&dest), [".git", "f"]);
    assert_eq!(fs::read_to_string(dest.join(".git/HEAD")).unwrap().trim(), commit);
    assert_eq!(fixture.git_in(&dest, &["status", "--porcelain"]), "");
    assert_eq!(fixture.git_in(&dest, &["describe", "--tags"]), "v2");
    let (_, again) = fixture.check_out("b", &reference, &options).unwrap();
    for name in ["config", "HEAD", "shallow", "packed-refs", "index"] {
        let read = |dest: &Path| fs::read(dest.join(".git").join(name)).ok();
        // `status` above refreshed the first index.
        if name != "index" {
            assert_eq!(read(&dest), read(&again), "{name}");
        }
    }
    assert!(!dest.join(".git/hooks").exists() && !dest.join(".git/logs").exists());
}

#[test]
fn submodules() {
    let inner = Fixture::new();
    inner.commit(&[("lib", "lib")]);
    let fixture = Fixture::new();
    fixture.git(&["submodule", "--quiet", "add", &format!("file://{}", inner.source().display()), "sub"]);
    fixture.commit(&[("f", "f")]);
    let (_, dest) = fixture.check_out("a", &fixture.reference(None, None), &fixture.options()).unwrap();
    assert_eq!(names(&dest), [".gitmodules", "f", "sub"]);
    assert_eq!(names(&dest.join("sub")), ["lib"]);
    let without = GitRef { submodules: Some(false), ..fixture.reference(None, None) };
    let (_, dest) = fixture.check_out("b", &without, &fixture.options()).unwrap();
    assert_eq!(names(&dest.join("sub")), Vec::<String>::new());
    // Protocols are allowed for submodules as for the repository.
    let refused = CheckoutOptions { protocols: "https".to_owned(), ..fixture.options() };
    assert!(fixture.check_out("c", &fixture.reference(None, None), &refused).is_err());
}

#[test]
fn what_is_missing_is_named() {
    let fixture = Fixture::new();
    let options = fixture.options();
    let empty = fixture.check_out("a", &fixture.reference(None, None), &options).unwrap_err();
    assert!(matches!(empty, GitError::Empty { .. }), "{empty:?}");
    let commit = fixture.commit(&[("f", "f")]);
    for reference in ["nope", &"0".repeat(40), "abcdef123"] {
        let error = fixture.check_out("a", &fixture.reference(Some(reference), None), &options).unwrap_err();
        assert!(matches!(error, GitError::RefNotFound { .. }), "{reference}: {error:?}");
        assert!(error.to_string().contains(reference), "{error}");
    }
    let lost = GitRef { remote: "file:///nonexistent/r.git".to_owned(), ..fixture.reference(None, None) };
    let error = fixture.check_out("a", &lost, &options).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/r.git"), "{error}");

    let checked =
        |checksum: &str| CheckoutOptions { checksum: Some(checksum.to_owned()), ..fixture.options() };
    fixture.check_out("good", &fixture.reference(None, None), &checked(&commit[..10])).unwrap();
    let error = fixture.check_out("bad", &fixture.reference(None, None), &checked("0000000")).unwrap_err();
    assert!(matches!(error, GitError::Checksum { .. }), "{error:?}");
}

#[test]
fn the_mirror_saves_fetching() {
    let fixture = Fixture::new();
    let commit = fixture.commit(&[("f", "f")]);
    let (reference, options) = (fixture.reference(Some(&commit), None), fixture.options());
    fixture.check_out("a", &reference, &options).unwrap();
    // The commit is all there, so the repository is not even asked.
    fs::rename(fixture.source(), fixture.root.path().join("gone")).unwrap();
    let (_, dest) = fixture.check_out("b", &reference, &options).unwrap();
    assert_eq!(names(&dest), ["f"]);
}

#[test]
fn nothing_of_the_user_is_used_and_times_can_be_the_commits() {
    let fixture = Fixture::new();
    fixture.commit(&[("d/f", "f")]);
    fixture.git(&["config", "core.hooksPath", "/nonexistent"]);
    let reference = GitRef { mtime: Some(Mtime::Commit), ..fixture.reference(None, None) };
    let (_, dest) = fixture.check_out("a", &reference, &fixture.options()).unwrap();
    for path in ["d", "d/f"] {
        assert_eq!(fs::symlink_metadata(dest.join(path)).unwrap().mtime(), 1_700_000_001, "{path}");
    }
    let cancelled = fixture.options();
    cancelled.cancel.cancel();
    assert!(matches!(fixture.check_out("b", &reference, &cancelled), Err(GitError::Cancelled)));
}
