//! From a commit in the mirror to files.
//!
//! Invariants: two ways, equal results: an export through a temporary index (the usual one), and a repository of its
//! own where `.git` is kept or submodules have to be fetched. What a kept `.git` holds does not depend on when or
//! where it was made.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::command::Invocation;
use super::mirror::{Mirror, Repository, parent, resolve_commit, words};
use super::reference::{GitRef, Mtime};
use super::{Checkout, CheckoutOptions, GitError, Resolved, io_error};

/// Lays out the files of `reference` in `dest`, which is made if need be and should be empty.
pub fn checkout(reference: &GitRef, options: &CheckoutOptions, dest: &Path) -> Result<Checkout, GitError> {
    let resolved = resolve_commit(reference, options)?;
    let repository = Repository::new(reference, options)?;
    let mirror = repository.mirror(&resolved.commit)?;
    repository.fetch(&mirror, &resolved)?;
    let commit_time = repository.commit_time(&mirror, &resolved.commit)?;

    fs::create_dir_all(dest).map_err(io_error("create", dest))?;
    fs::set_permissions(dest, fs::Permissions::from_mode(0o755))
        .map_err(io_error("change the mode of", dest))?;
    let work = tempfile::Builder::new()
        .prefix(".kiln-git-")
        .tempdir_in(parent(dest))
        .map_err(io_error("create a folder in", parent(dest)))?;
    let tree = work.path().join("tree");

    let subdir = subdir(reference);
    let keep = options.keep_git_dir && subdir.as_os_str().is_empty();
    let submodules =
        reference.submodules != Some(false) && repository.has(&mirror, &resolved.commit, ".gitmodules")?;
    if keep || submodules {
        repository.clone_into(&mirror, &resolved, &tree, submodules)?;
        if keep {
            repository.settle(&resolved.commit, &tree)?;
        } else {
            remove_git_entries(&tree)?;
        }
    } else {
        repository.export(&mirror, &resolved.commit, &tree, &subdir, work.path())?;
    }
    let wanted = enter(&tree, &subdir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => GitError::SubdirNotFound {
            url: reference.shown(),
            subdir: reference.subdir.clone().unwrap_or_default(),
            commit: resolved.commit.clone(),
        },
        _ => GitError::Io { action: "open", path: tree.join(&subdir), source },
    })?;
    move_entries(&wanted, dest)?;
    if reference.mtime == Some(Mtime::Commit) {
        set_times(dest, commit_time)?;
    }
    Ok(Checkout { commit: resolved.commit, commit_time })
}

/// The wanted folder, relative and without `..`: like every source path it cannot leave its root.
fn subdir(reference: &GitRef) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in Path::new(reference.subdir.as_deref().unwrap_or_default()).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// Follows `path` down from `root` through directories only.
fn enter(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut place = root.to_owned();
    for component in path.components() {
        place.push(component);
        if !fs::symlink_metadata(&place)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
    }
    Ok(place)
}

/// The remote without secrets, which the image would keep: any password, and the user of http URLs, which is often a
/// token. The user of an ssh URL is part of the address.
fn origin(remote: &str) -> String {
    let Ok(mut url) = reqwest::Url::parse(remote) else { return remote.to_owned() };
    // Both fail only for URLs without a host, which have no credentials either.
    let _ = url.set_password(None);
    if matches!(url.scheme(), "http" | "https") {
        let _ = url.set_username("");
    }
    url.into()
}

fn move_entries(from: &Path, to: &Path) -> Result<(), GitError> {
    for entry in fs::read_dir(from).map_err(io_error("read", from))? {
        let entry = entry.map_err(io_error("read", from))?;
        let target = to.join(entry.file_name());
        fs::rename(entry.path(), &target).map_err(io_error("create", &target))?;
    }
    Ok(())
}

/// Removes `.git` wherever it is: git tracks nothing of that name, so these are its own, of submodules too.
fn remove_git_entries(tree: &Path) -> Result<(), GitError> {
    let mut walk = walkdir::WalkDir::new(tree).follow_links(false).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| GitError::Io {
            action: "read",
            path: tree.to_owned(),
            source: error.into(),
        })?;
        if entry.file_name() != ".git" {
            continue;
        }
        let path = entry.path();
        if entry.file_type().is_dir() {
            walk.skip_current_dir();
            fs::remove_dir_all(path).map_err(io_error("remove", path))?;
        } else {
            fs::remove_file(path).map_err(io_error("remove", path))?;
        }
    }
    Ok(())
}

fn set_times(dest: &Path, seconds: i64) -> Result<(), GitError> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    for entry in walkdir::WalkDir::new(dest).follow_links(false).contents_first(true) {
        let entry = entry.map_err(|error| GitError::Io {
            action: "read",
            path: dest.to_owned(),
            source: error.into(),
        })?;
        rustix::fs::utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| io_error("change the times of", entry.path())(error.into()))?;
    }
    Ok(())
}

impl Repository<'_> {
    fn commit_time(&self, mirror: &Mirror, commit: &str) -> Result<i64, GitError> {
        let arguments =
            ["show", "--no-patch", "--no-show-signature", "--format=%ct", "--end-of-options", commit];
        let output = self.checked("read", &mirror.call(), &arguments)?;
        String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| GitError::Command {
            action: "read the commit time of",
            url: self.reference.shown(),
            detail: "git gave no number".to_owned(),
        })
    }

    fn has(&self, mirror: &Mirror, commit: &str, path: &str) -> Result<bool, GitError> {
        let object = format!("{commit}:{path}");
        let arguments = ["cat-file", "-e", &object];
        Ok(self.git.run(&mirror.call(), &super::mirror::words(&arguments))?.status.success())
    }

    /// Writes the files of a commit through an index of its own. The whole tree is in that index, so that attributes
    /// of upper folders hold, but only what lies in `subdir` is written.
    fn export(
        &self,
        mirror: &Mirror,
        commit: &str,
        tree: &Path,
        subdir: &Path,
        work: &Path,
    ) -> Result<(), GitError> {
        fs::create_dir(tree).map_err(io_error("create", tree))?;
        fs::set_permissions(tree, fs::Permissions::from_mode(0o755))
            .map_err(io_error("change the mode of", tree))?;
        let index = work.join("index");
        let call = |input| Invocation {
            git_dir: Some(&mirror.path),
            work_tree: Some(tree),
            index: Some(&index),
            directory: Some(tree),
            input,
        };
        self.checked("check out", &call(Vec::new()), &["read-tree", commit])?;
        if subdir.as_os_str().is_empty() {
            self.checked("check out", &call(Vec::new()), &["checkout-index", "--all", "--force", "--quiet"])?;
            return Ok(());
        }
        let pattern = format!(":(top,literal){}/", subdir.to_string_lossy());
        let list = self.checked("check out", &call(Vec::new()), &["ls-files", "-z", "--", &pattern])?.stdout;
        self.checked("check out", &call(list), &["checkout-index", "--force", "--quiet", "-z", "--stdin"])?;
        Ok(())
    }

    /// Makes a repository with one commit in it, and its files.
    fn clone_into(
        &self,
        mirror: &Mirror,
        resolved: &Resolved,
        tree: &Path,
        submodules: bool,
    ) -> Result<(), GitError> {
        let commit = resolved.commit.as_str();
        let object_format = format!("--object-format={}", if commit.len() == 64 { "sha256" } else { "sha1" });
        let shown = tree.to_string_lossy();
        let arguments = ["init", "--quiet", "--template=", &object_format, "--", &shown];
        self.checked("check out", &Invocation::default(), &arguments)?;
        let call = || Invocation { directory: Some(tree), ..Invocation::default() };
        let origin = origin(&self.reference.remote);
        self.checked("check out", &call(), &["remote", "add", "--", "origin", &origin])?;

        let target = match resolved.ref_name.as_deref() {
            Some(name) if name.starts_with("refs/tags/") => name.to_owned(),
            Some(name) => match name.strip_prefix("refs/heads/") {
                Some(branch) => format!("refs/remotes/origin/{branch}"),
                None => format!("refs/kiln/{commit}"),
            },
            None => format!("refs/kiln/{commit}"),
        };
        // A tag's own object travels along when the mirror has it under the name of the commit.
        let held = format!("refs/kiln/{commit}");
        let known = self.git.run(&mirror.call(), &words(&["show-ref", "--verify", "--quiet", &held]))?;
        let source = if known.status.success() { held.as_str() } else { commit };
        let refspec = format!("+{source}:{target}");
        let path = mirror.path.to_string_lossy();
        let local = Repository { git: self.local_git(), ..*self };
        let fetch =
            ["fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head", "--", &path, &refspec];
        local.checked("check out", &call(), &fetch)?;
        self.checked("check out", &call(), &["checkout", "--quiet", "--force", "--detach", commit])?;
        if submodules {
            self.submodules(tree)?;
        }
        Ok(())
    }

    /// Fetches submodules: no more than the commits that are needed, where the servers can do that.
    fn submodules(&self, tree: &Path) -> Result<(), GitError> {
        let call = || Invocation { directory: Some(tree), ..Invocation::default() };
        let update = ["submodule", "--quiet", "update", "--init", "--recursive", "--force"];
        let shallow = [&update[..], &["--depth=1"]].concat();
        if self.git.run(&call(), &words(&shallow))?.status.success() {
            return Ok(());
        }
        // Files behind a plain HTTP server have no shallow clones, and some servers send no commit that no branch ends in.
        self.checked("check out", &call(), &["submodule", "--quiet", "deinit", "--all", "--force"])?;
        let clones = tree.join(".git/modules");
        match fs::remove_dir_all(&clones) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &clones)(source));
            }
            _ => {}
        }
        self.checked("fetch the submodules of", &call(), &update).map(drop)
    }

    /// For the mirror, which is a path on this machine.
    fn local_git(&self) -> super::command::Git<'_> {
        super::command::Git {
            environment: self.git.environment,
            cancel: self.git.cancel,
            protocols: "file",
            config: vec![("uploadpack.allowAnySHA1InWant".to_owned(), "true".to_owned())],
        }
    }

    /// Takes out of a kept `.git` what differs from one run to the next.
    fn settle(&self, commit: &str, tree: &Path) -> Result<(), GitError> {
        let git_dir = tree.join(".git");
        for name in ["FETCH_HEAD", "ORIG_HEAD", "index", "description"] {
            let path = git_dir.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(source));
                }
                _ => {}
            }
        }
        for name in ["logs", "hooks", "branches"] {
            let path = git_dir.join(name);
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(source));
                }
                _ => {}
            }
        }
        // An index without inode numbers and times of this machine.
        let call = Invocation { directory: Some(tree), ..Invocation::default() };
        self.checked("check out", &call, &["read-tree", commit])?;
        Ok(())
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn origins_have_no_secrets() {
        for (remote, expected) in [
            ("https://token:x@h/r.git", "https://h/r.git"),
            ("ssh://git:pw@h/r.git", "ssh://git@h/r.git"),
            ("git@h:r.git", "git@h:r.git"),
        ] {
            assert_eq!(origin(remote), expected);
        }
    }

    #[test]
    fn folders_stay_inside() {
        for (text, expected) in [("../../a", "a"), ("/a/../b/", "b"), ("./", ""), ("a/./b", "a/b")] {
            let reference = GitRef { subdir: Some(text.to_owned()), ..GitRef::default() };
            assert_eq!(subdir(&reference), Path::new(expected), "{text}");
        }
    }
}
