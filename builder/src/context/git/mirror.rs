//! What a reference stands for, and the bare mirror that its commit is fetched into.
//!
//! Invariants: a mirror only ever gains objects, and each fetched commit is held by a ref of its own
//! (`refs/kiln/COMMIT`); a mirror that was half made is completed by the next use.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{Git, Invocation, Output};
use super::reference::{GitRef, is_full_commit, is_hex};
use super::{CheckoutOptions, GitError, Resolved, io_error};
use crate::base::digest::Digest;

/// Shortest text that is tried as the beginning of a commit.
const MIN_ABBREVIATION: usize = 7;
/// Longest piece of git's own words in a message.
const MAX_DETAIL_CHARS: usize = 300;
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Finds out what `reference` stands for, without fetching content where the remote can simply be asked.
pub fn resolve_commit(reference: &GitRef, options: &CheckoutOptions) -> Result<Resolved, GitError> {
    let repository = Repository::new(reference, options)?;
    let resolved = repository.resolve()?;
    if let Some(expected) = reference.checksum_with(options.checksum.as_deref())? {
        let fits = |object: &String| object.starts_with(&expected);
        if !fits(&resolved.commit) && !resolved.tag_object.as_ref().is_some_and(fits) {
            return Err(GitError::Checksum { url: reference.shown(), expected, actual: resolved.commit });
        }
    }
    Ok(resolved)
}

/// A remote, and how to talk to it.
pub(super) struct Repository<'a> {
    pub(super) reference: &'a GitRef,
    pub(super) options: &'a CheckoutOptions,
    pub(super) git: Git<'a>,
}

/// A mirror under lock.
pub(super) struct Mirror {
    pub(super) path: PathBuf,
    _lock: File,
}

impl<'a> Repository<'a> {
    pub(super) fn new(reference: &'a GitRef, options: &'a CheckoutOptions) -> Result<Self, GitError> {
        let mut config = Vec::new();
        if let Some(authorization) = &options.authorization {
            let refused = || GitError::Authorization(reference.shown());
            let url = reqwest::Url::parse(&reference.remote).map_err(|_| refused())?;
            if !matches!(url.scheme(), "http" | "https") || authorization.chars().any(char::is_control) {
                return Err(refused());
            }
            let origin = url.origin().ascii_serialization();
            config.push((format!("http.{origin}/.extraheader"), format!("Authorization: {authorization}")));
        }
        let git = Git {
            environment: &options.environment,
            cancel: &options.cancel,
            protocols: &options.protocols,
            config,
        };
        Ok(Self { reference, options, git })
    }

    fn resolve(&self) -> Result<Resolved, GitError> {
        let plain =
            |commit: &str| Resolved { commit: commit.to_ascii_lowercase(), tag_object: None, ref_name: None };
        let reference = self.reference;
        if let (Some(true), Some(commit)) = (reference.fetch_by_commit, &reference.checksum)
            && is_full_commit(commit)
        {
            return Ok(plain(commit));
        }
        match &reference.reference {
            Some(name) if is_full_commit(name) => Ok(plain(name)),
            Some(name) => match self.ask(&candidates(name))? {
                Some(resolved) => Ok(resolved),
                None if name.len() >= MIN_ABBREVIATION && is_hex(name) => Ok(plain(&self.expand(name)?)),
                None => Err(self.not_found()),
            },
            None => self.ask(&["HEAD".to_owned()])?.ok_or_else(|| GitError::Empty { url: reference.shown() }),
        }
    }

    /// Asks the remote for the first of `names` that it has.
    fn ask(&self, names: &[String]) -> Result<Option<Resolved>, GitError> {
        let peeled: Vec<String> = names.iter().map(|name| format!("{name}^{{}}")).collect();
        let mut arguments = vec!["ls-remote", "--quiet", "--", &self.reference.remote];
        arguments.extend(names.iter().chain(&peeled).map(String::as_str));
        let output = self.checked("read", &Invocation::default(), &arguments)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let found = |name: &str| {
            text.lines().filter_map(|line| line.split_once('\t')).find_map(|(object, found)| {
                (found == name && is_full_commit(object)).then(|| object.to_owned())
            })
        };
        Ok(names.iter().zip(&peeled).find_map(|(name, peeled)| {
            let object = found(name)?;
            let ref_name = Some(name.clone()).filter(|name| name != "HEAD");
            Some(match found(peeled) {
                Some(commit) => Resolved { commit, tag_object: Some(object), ref_name },
                None => Resolved { commit: object, tag_object: None, ref_name },
            })
        }))
    }

    /// The commit that begins with `prefix`: only a full fetch can tell.
    fn expand(&self, prefix: &str) -> Result<String, GitError> {
        let head = self.ask(&["HEAD".to_owned()])?.ok_or_else(|| self.not_found())?;
        let mirror = self.mirror(&head.commit)?;
        if let Some(commit) = self.commit_of(&mirror, prefix)? {
            return Ok(commit);
        }
        self.fetch_all(&mirror)?;
        self.commit_of(&mirror, prefix)?.ok_or_else(|| self.not_found())
    }

    /// The mirror, made when it is not there yet, locked. `commit` tells the kind of repository.
    pub(super) fn mirror(&self, commit: &str) -> Result<Mirror, GitError> {
        let cache = &self.options.cache_dir;
        std::fs::create_dir_all(cache).map_err(io_error("create", cache))?;
        let format = if commit.len() == 64 { "sha256" } else { "sha1" };
        let name = Digest::of(self.reference.remote.as_bytes()).hex();
        let lock_path = cache.join(format!("{name}.{format}.lock"));
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io_error("open", &lock_path))?;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if self.options.cancel.is_cancelled() => {
                    return Err(GitError::Cancelled);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
                Err(TryLockError::Error(source)) => return Err(io_error("lock", &lock_path)(source)),
            }
        }
        // Tells when the mirror was last used. One that seems older than it is costs another fetch.
        let _ = lock.set_modified(std::time::SystemTime::now());
        let path = cache.join(format!("{name}.{format}.git"));
        if !path.join("HEAD").exists() {
            let object_format = format!("--object-format={format}");
            let shown = path.to_string_lossy();
            let arguments = ["init", "--quiet", "--bare", "--template=", &object_format, "--", &shown];
            self.checked("set up a mirror of", &Invocation::default(), &arguments)?;
        }
        Ok(Mirror { path, _lock: lock })
    }

    /// Makes sure that the mirror has the commit.
    pub(super) fn fetch(&self, mirror: &Mirror, resolved: &Resolved) -> Result<(), GitError> {
        let commit = resolved.commit.as_str();
        if self.commit_of(mirror, commit)?.is_some() {
            return Ok(());
        }
        let wanted = resolved.ref_name.as_deref().unwrap_or(commit);
        for wanted in [wanted, commit] {
            let refspec = format!("+{wanted}:refs/kiln/{commit}");
            let output = self.git.run(
                &mirror.call(),
                &words(&[
                    "fetch",
                    "--quiet",
                    "--no-tags",
                    "--depth=1",
                    "--no-write-fetch-head",
                    "--no-recurse-submodules",
                    "--",
                    &self.reference.remote,
                    &refspec,
                ]),
            )?;
            if output.status.success() && self.commit_of(mirror, commit)?.is_some() {
                return Ok(());
            }
            // A ref that moved meanwhile, or a server that only gives out what it advertises.
            if wanted == commit {
                break;
            }
        }
        self.fetch_all(mirror)?;
        self.commit_of(mirror, commit)?.map(|_| ()).ok_or_else(|| self.not_found())
    }

    fn fetch_all(&self, mirror: &Mirror) -> Result<(), GitError> {
        let mut arguments =
            vec!["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"];
        if mirror.path.join("shallow").exists() {
            arguments.push("--unshallow");
        }
        arguments.extend([
            "--",
            &self.reference.remote,
            "+refs/heads/*:refs/kiln-all/heads/*",
            "+refs/tags/*:refs/kiln-all/tags/*",
        ]);
        self.checked("fetch", &mirror.call(), &arguments).map(|_| ())
    }

    /// The full name of a commit that the mirror has.
    fn commit_of(&self, mirror: &Mirror, name: &str) -> Result<Option<String>, GitError> {
        let revision = format!("{name}^{{commit}}");
        let output = self.git.run(
            &mirror.call(),
            &words(&["rev-parse", "--quiet", "--verify", "--end-of-options", &revision]),
        )?;
        let text = String::from_utf8_lossy(&output.stdout);
        let commit = text.lines().map(str::trim).find(|line| is_full_commit(line));
        Ok(commit.filter(|_| output.status.success()).map(str::to_owned))
    }

    /// Runs `git`, and makes a bad status an error.
    pub(super) fn checked(
        &self,
        action: &'static str,
        call: &Invocation<'_>,
        arguments: &[&str],
    ) -> Result<Output, GitError> {
        let output = self.git.run(call, &words(arguments))?;
        if output.status.success() {
            return Ok(output);
        }
        let url = self.reference.shown();
        let detail = self.detail(&output.stderr);
        let refused = [
            "terminal prompts disabled",
            "could not read Username",
            "Authentication failed",
            "Permission denied",
            "access rights",
            "returned error: 401",
            "returned error: 403",
            "returned error: 404",
            "not found",
        ];
        if action != "check out" && refused.iter().any(|sign| output.stderr.contains(sign)) {
            return Err(GitError::Denied { url, detail });
        }
        Err(GitError::Command { action, url, detail })
    }

    /// Git's words on one line, without what the URL may hold.
    fn detail(&self, stderr: &str) -> String {
        let clean = stderr.replace(&self.reference.remote, &self.reference.shown());
        let telling = |line: &&str| {
            line.starts_with("fatal:") || line.starts_with("error:") || line.starts_with("remote:")
        };
        let lines: Vec<&str> = clean.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut chosen: Vec<&str> = lines.iter().copied().filter(telling).collect();
        if chosen.is_empty() {
            chosen = lines;
        }
        let line: String =
            chosen.join("; ").chars().filter(|c| !c.is_control()).take(MAX_DETAIL_CHARS).collect();
        if line.is_empty() { "git gave no reason".to_owned() } else { line }
    }

    fn not_found(&self) -> GitError {
        let reference = self.reference.reference.clone().or_else(|| self.reference.checksum.clone());
        GitError::RefNotFound { url: self.reference.shown(), reference: reference.unwrap_or_default() }
    }
}

impl Mirror {
    pub(super) fn call(&self) -> Invocation<'_> {
        Invocation { git_dir: Some(&self.path), ..Invocation::default() }
    }
}

pub(super) fn words<'a>(arguments: &'a [&'a str]) -> Vec<&'a OsStr> {
    arguments.iter().map(OsStr::new).collect()
}

/// Full names that `name` may stand for, best first: a branch wins over a tag, as `git checkout` has it.
fn candidates(name: &str) -> Vec<String> {
    if name.starts_with("refs/") || name == "HEAD" {
        return vec![name.to_owned()];
    }
    ["refs/heads/", "refs/tags/", "refs/"].map(|prefix| format!("{prefix}{name}")).to_vec()
}

/// The parent folder for temporary files beside `path`.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}
