//! Running the installed `git`, with nothing of the user's or the system's configuration.
//!
//! Invariants:
//! - the environment is built from nothing: no git config, no hooks, no prompts, no helpers, no `.netrc`;
//! - protocols are allowed by name, for submodules as well;
//! - arguments never pass through a shell's parser; secrets never become arguments;
//! - the whole process group ends when the build is cancelled, and output is bounded.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::GitError;
use crate::base::cancel::CancelToken;

/// Protocols of repositories and their submodules.
pub(super) const PROTOCOLS: &str = "http:https:ssh:git";
/// Most bytes of output; the refs of the largest known repositories take some tens of MiB.
const MAX_OUTPUT_BYTES: u64 = 256 * 1024 * 1024;
/// Most bytes of messages.
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;
/// How often a running `git` is held against the cancel token.
const POLL: Duration = Duration::from_millis(50);
/// What of the caller's environment reaches `git`.
const INHERITED: [&str; 15] = [
    "PATH",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_EXEC_PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// Settings that hold for every call, whatever a repository says.
const CONFIG: [(&str, &str); 14] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.logAllRefUpdates", "false"),
    ("core.autocrlf", "false"),
    ("core.fileMode", "true"),
    ("core.symlinks", "true"),
    ("core.protectNTFS", "true"),
    ("protocol.version", "2"),
    ("init.defaultBranch", "main"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("credential.helper", ""),
    ("submodule.recurse", "false"),
    ("advice.detachedHead", "false"),
];

/// The part of the caller's environment that `git` may see.
#[derive(Debug, Clone, Default)]
pub struct GitEnvironment(BTreeMap<OsString, OsString>);

impl GitEnvironment {
    /// Picks what `git` needs (search path, agent, proxies, certificates) out of all variables.
    pub fn pick(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(variables.into_iter().filter(|(name, _)| INHERITED.iter().any(|known| name == known)).collect())
    }
}

/// How `git` is called.
pub(super) struct Git<'a> {
    pub(super) environment: &'a GitEnvironment,
    pub(super) cancel: &'a CancelToken,
    /// Colon-separated.
    pub(super) protocols: &'a str,
    /// Further settings, which may hold secrets: they go through the environment.
    pub(super) config: Vec<(String, String)>,
}

/// One call.
#[derive(Default)]
pub(super) struct Invocation<'a> {
    pub(super) git_dir: Option<&'a Path>,
    pub(super) work_tree: Option<&'a Path>,
    pub(super) index: Option<&'a Path>,
    /// Run there.
    pub(super) directory: Option<&'a Path>,
    pub(super) input: Vec<u8>,
}

/// What `git` said.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// Bounded.
    pub(super) stderr: String,
}

impl Git<'_> {
    /// Runs `git` with `arguments`; a bad exit status is not an error here.
    pub(super) fn run(&self, call: &Invocation<'_>, arguments: &[&OsStr]) -> Result<Output, GitError> {
        if self.cancel.is_cancelled() {
            return Err(GitError::Cancelled);
        }
        let child = self.command(call, arguments).spawn().map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                GitError::Missing
            } else {
                GitError::Spawn(source)
            }
        })?;
        let output = self.collect(child, &call.input)?;
        // The shell's way of saying that it found no such program.
        if output.status.code() == Some(127) && output.stderr.contains("not found") {
            return Err(GitError::Missing);
        }
        Ok(output)
    }

    fn command(&self, call: &Invocation<'_>, arguments: &[&OsStr]) -> Command {
        // The umask of a child can only be set between fork and exec: by the shell, or by unsafe code.
        let mut command = Command::new("sh");
        command.args(["-c", "umask 022 && exec git \"$@\"", "git"]);
        let path = OsString::from("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
            .env_clear()
            .env("PATH", path)
            .envs(&self.environment.0)
            .env("HOME", "/dev/null")
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS", "")
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oClearAllForwardings=yes")
            .env("GIT_ALLOW_PROTOCOL", self.protocols)
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TEMPLATE_DIR", "")
            .env("GIT_LFS_SKIP_SMUDGE", "1");
        let fixed = CONFIG.iter().map(|(key, value)| (*key, *value));
        let own = self.config.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut count = 0;
        for (key, value) in fixed.chain(own) {
            command
                .env(format!("GIT_CONFIG_KEY_{count}"), key)
                .env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        for (name, value) in
            [("GIT_DIR", call.git_dir), ("GIT_WORK_TREE", call.work_tree), ("GIT_INDEX_FILE", call.index)]
        {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        if let Some(directory) = call.directory {
            command.current_dir(directory);
            // Never look for a repository above: that would be the user's.
            command.env("GIT_CEILING_DIRECTORIES", directory.parent().unwrap_or(directory));
        }
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    fn collect(&self, mut child: Child, input: &[u8]) -> Result<Output, GitError> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (sender, receiver) = mpsc::channel();
        let (mut out, mut messages) = (Vec::new(), Vec::new());
        let (to_out, to_messages) = (&mut out, &mut messages);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Some(mut stdin) = stdin {
                    // It may have ended without reading; its status tells.
                    let _ = stdin.write_all(input);
                }
            });
            let (first, second) = (sender.clone(), sender);
            scope.spawn(move || {
                read_all(stdout, MAX_OUTPUT_BYTES, to_out);
                let _ = first.send(());
            });
            scope.spawn(move || {
                read_all(stderr, MAX_MESSAGE_BYTES, to_messages);
                let _ = second.send(());
            });
            let mut open = 2;
            while open > 0 {
                match receiver.recv_timeout(POLL) {
                    Ok(()) => open -= 1,
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                    Err(mpsc::RecvTimeoutError::Timeout) if self.cancel.is_cancelled() => {
                        end(&mut child);
                        return Err(GitError::Cancelled);
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                }
            }
            child.wait().map_err(GitError::Spawn)
        });
        let stderr = String::from_utf8_lossy(&messages).into_owned();
        Ok(Output { status: result?, stdout: out, stderr })
    }
}

/// Keeps the first `limit` bytes and drains the rest, so that the writer does not hang.
fn read_all(pipe: Option<impl Read>, limit: u64, into: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    // A pipe that breaks has ended; what came before counts.
    let _ = pipe.by_ref().take(limit).read_to_end(into);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_git_needs_is_inherited() {
        let all = [("PATH", "/bin"), ("GIT_DIR", "/evil"), ("HOME", "/home/me"), ("https_proxy", "p")];
        let picked = GitEnvironment::pick(all.map(|(name, value)| (name.into(), value.into())));
        let names: Vec<_> = picked.0.keys().map(|name| name.to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["PATH", "https_proxy"]);
    }

    #[test]
    fn a_missing_git_is_told() {
        let empty = tempfile::tempdir().unwrap();
        let shell = ["/bin/sh", "/usr/bin/sh"].into_iter().find(|path| Path::new(path).exists()).unwrap();
        std::os::unix::fs::symlink(shell, empty.path().join("sh")).unwrap();
        let environment = GitEnvironment::pick([("PATH".into(), empty.path().into())]);
        let cancel = CancelToken::new();
        let git =
            Git { environment: &environment, cancel: &cancel, protocols: PROTOCOLS, config: Vec::new() };
        let found = git.run(&Invocation::default(), &[OsStr::new("version")]);
        assert!(matches!(found, Err(GitError::Missing)), "{:?}", found.map(|output| output.stderr));
    }
}
