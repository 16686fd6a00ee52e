//! Commands that people talk to, on a file system that is thrown away afterwards: `kiln run`, and a shell in the place of
//! a step.
//!
//! Invariants:
//! - nothing that is done in a visited step outlives it: root, bind mounts and cache mounts are written to directories
//!   that go with it;
//! - no lock of a cache mount is held, so that a shell left open keeps no build waiting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::prepare::{Caches, Prepared, prepare};
use super::start;
use crate::image::platform::Platform;
use crate::ops::OpError;
use crate::ops::caches::Claimed;
use crate::ops::guards;
use crate::ops::local::{LocalExecutor, RunDefaults};
use crate::plan::graph::{Guards, MountSource, MountSpec, RunSpec};
use crate::sandbox::emulate;
use crate::sandbox::runner::{Ended, Streams};
use crate::sandbox::spec::{SandboxMount, SandboxSource};
use crate::sandbox::terminal;
use crate::snapshot::overlay::Begun;
use crate::store::records::{FsState, StepResult};
use crate::sys::rootdir::Last;

/// Where this machine's busybox is seen in a step whose image has no shell.
const BUSYBOX: &str = "/dev/pipes/busybox";
/// Name of the script that runs the step's own command again, below `/dev/pipes`.
const STEP: &str = "step";
/// Shells that are looked for, the first one wins.
const SHELLS: [&str; 4] = ["/bin/sh", "/bin/bash", "/bin/ash", "/busybox/sh"];

/// Runs a command on a file system with kiln's own standard streams; what it changes is thrown away (`kiln run`).
///
/// # Errors
/// When the command could not be started; a command that fails is not an error.
pub fn interactive(
    executor: &LocalExecutor<'_>,
    base: &FsState,
    platform: &Platform,
    spec: &RunSpec,
) -> Result<Ended, OpError> {
    let begun = executor.snapshots.begin(&base.layers)?;
    let mut prepared = Prepared::for_platform(executor, platform)?;
    prepared.trust(executor, base)?;
    let guards = Guards::default();
    let ended = start(executor, spec, &guards, base, &begun, &prepared, streams())?;
    tell_limits(executor, spec, &guards, &ended);
    Ok(ended)
}

/// How a command ended is its own business here; that a limit ended it nobody would see from its exit code.
fn tell_limits(executor: &LocalExecutor<'_>, spec: &RunSpec, guards: &Guards, ended: &Ended) {
    if let Some(met) = guards::met(spec, &guards::limits(executor, guards), ended) {
        executor.events.warn(met.to_string());
    }
}

/// A terminal of its own where kiln has one, else what kiln reads from and writes to.
fn streams() -> Streams<'static> {
    if terminal::of_user().is_some() { Streams::Terminal } else { Streams::Inherited }
}

/// What failed attempts left behind, by number of the step. Kept for a shell that is to enter it.
#[derive(Debug, Default)]
pub struct Wrecks(Mutex<BTreeMap<u32, Begun>>);

impl Wrecks {
    /// Keeps what the last attempt of a step wrote.
    pub(super) fn keep(&self, step: u32, begun: Begun) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(step, begun);
    }

    /// What the last attempt of a step wrote.
    pub fn take(&self, step: u32) -> Option<Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&step)
    }
}

/// A step to enter.
#[derive(Debug)]
pub struct Visit<'a> {
    /// What the step runs.
    pub spec: &'a RunSpec,
    /// Its platform.
    pub platform: &'a Platform,
    /// Its limits; no time is up for people.
    pub guards: &'a Guards,
    /// What it stands on.
    pub base: &'a FsState,
    /// Its inputs, by the numbers that mounts name.
    pub inputs: &'a [&'a StepResult],
    /// What a failed attempt has written; nothing when the step is entered as it was before.
    pub upper: Option<Begun>,
}

/// What runs in a visited step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shell {
    /// This command.
    Command(Vec<String>),
    /// This machine's busybox, since the image has no shell.
    Busybox(PathBuf),
}

impl Shell {
    /// The shell of an image, else this machine's static busybox; `None` where there is neither.
    ///
    /// # Errors
    /// When the image's layers cannot be read.
    pub fn find(executor: &LocalExecutor<'_>, base: &FsState) -> Result<Option<Self>, OpError> {
        let view = executor.snapshots.view(&base.layers)?;
        for shell in SHELLS {
            if view.stat(shell.as_bytes(), Last::Follow).ok().flatten().is_some() {
                return Ok(Some(Self::Command(vec![shell.to_owned()])));
            }
        }
        let busybox = executor.defaults.programs.iter().map(|directory| directory.join("busybox"));
        Ok(busybox.filter(|path| emulate::is_static(path)).map(Self::Busybox).next())
    }

    fn args(&self) -> Vec<String> {
        match self {
            Self::Command(args) => args.clone(),
            Self::Busybox(_) => vec![BUSYBOX.to_owned(), "sh".to_owned()],
        }
    }
}

/// What the command line has to give for a step to be as it was, and did not: one line each.
pub fn missing(spec: &RunSpec, defaults: &RunDefaults) -> Vec<String> {
    let mut lines = Vec::new();
    for mount in &spec.mounts {
        match &mount.source {
            MountSource::Secret { id, .. } if !defaults.secrets.contains_key(id) => lines.push(format!(
                "secret `{id}` is not there: secrets are not recorded; give it with --secret id={id},src=FILE"
            )),
            MountSource::Ssh { id, .. } if !defaults.agents.contains_key(id) => lines.push(format!(
                "the ssh agent `{id}` is not there: agents are not recorded; give it with --ssh {id}"
            )),
            _ => {}
        }
    }
    for name in &spec.extra_host_names {
        if !defaults.hosts.iter().any(|host| host.name == *name) {
            lines.push(format!("`{name}` has no address: give it with --add-host {name}:IP"));
        }
    }
    for device in &spec.privileges.devices {
        if !defaults.devices.iter().any(|(_, inside)| inside == device) {
            lines.push(format!("`{device}` is not there: give it with --device"));
        }
    }
    if let (Some(profile), None) = (&spec.privileges.seccomp, &defaults.seccomp)
        && profile != "unconfined"
    {
        lines.push(
            "the seccomp profile is docker's default: give the step's own with --security-opt seccomp=FILE"
                .to_owned(),
        );
    }
    lines.sort();
    lines.dedup();
    lines
}

/// Runs a shell in the place of a step's command, on what the step stands on.
///
/// `term` is the value of `TERM` for a shell with a terminal.
///
/// # Errors
/// When the shell could not be started; how it ends is not an error.
pub fn visit(
    executor: &LocalExecutor<'_>,
    visit: Visit<'_>,
    shell: &Shell,
    term: Option<&str>,
) -> Result<Ended, OpError> {
    let Visit { spec, platform, guards, base, inputs, upper } = visit;
    let begun = match upper {
        Some(upper) => {
            executor.snapshots.begin_again(&upper)?;
            upper
        }
        None => executor.snapshots.begin(&base.layers)?,
    };
    let mut spec = spec.clone();
    let streams = streams();
    if let (Streams::Terminal, Some(term)) = (&streams, term)
        && !spec.env.iter().any(|pair| pair.starts_with("TERM="))
    {
        spec.env.push(format!("TERM={term}"));
    }
    if spec.privileges.seccomp.as_deref().is_some_and(|profile| profile != "unconfined")
        && executor.defaults.seccomp.is_none()
    {
        // Less than the step may have had, never more.
        spec.privileges.seccomp = None;
    }
    if !spec.args.is_empty() && !spec.scripts.iter().any(|(name, _)| name == STEP) {
        spec.scripts.push((STEP.to_owned(), again(&spec.args, shell)));
    }
    spec.args = shell.args();
    let claimed = caches(executor, &mut spec.mounts)?;
    for mount in &mut spec.mounts {
        if let MountSource::Secret { required, .. } | MountSource::Ssh { required, .. } = &mut mount.source {
            *required = false;
        }
    }
    let caches = Caches { claimed, throwaway: true };
    let mut prepared = prepare(executor, platform, &spec, inputs, base, caches)?;
    if let Shell::Busybox(path) = shell {
        prepared.mounts.push(busybox(path));
    }
    let guards = Guards { timeout: None, ..guards.clone() };
    let ended = start(executor, &spec, &guards, base, &begun, &prepared, streams)?;
    tell_limits(executor, &spec, &guards, &ended);
    Ok(ended)
}

fn busybox(path: &Path) -> SandboxMount {
    let source = SandboxSource::HostFile { path: path.display().to_string() };
    SandboxMount { target: BUSYBOX.to_owned(), source, read_only: true }
}

/// The directories of cache mounts that are there. One that is gone is an empty directory for the time of the visit.
fn caches(executor: &LocalExecutor<'_>, mounts: &mut [MountSpec]) -> Result<Claimed, OpError> {
    let mut claimed = Claimed::default();
    for mount in mounts {
        let MountSource::Cache { id, .. } = &mount.source else { continue };
        match executor.store.use_cache_mount(id)? {
            Some(directory) => {
                claimed.directories.insert(id.clone(), directory);
            }
            None => mount.source = MountSource::Tmpfs { size_bytes: None },
        }
    }
    Ok(claimed)
}

/// A script that runs a command.
fn again(args: &[String], shell: &Shell) -> String {
    let interpreter = match shell {
        Shell::Busybox(_) => format!("{BUSYBOX} sh"),
        Shell::Command(args) => match &args[..] {
            [shell] => shell.clone(),
            _ => "/bin/sh".to_owned(),
        },
    };
    let words: Vec<String> = args.iter().map(|word| quoted(word)).collect();
    format!("#!{interpreter}\nexec {} \"$@\"\n", words.join(" "))
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("make"), "make");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        let shell = Shell::Command(vec!["/bin/sh".to_owned()]);
        let args = ["/bin/sh", "-c", "echo \"$HOME\""].map(str::to_owned);
        assert_eq!(again(&args, &shell), "#!/bin/sh\nexec /bin/sh -c 'echo \"$HOME\"' \"$@\"\n");
    }

    #[test]
    fn what_has_to_be_given_again_is_told() {
        let secret = MountSource::Secret {
            id: "token".to_owned(),
            env: None,
            required: true,
            mode: 0o400,
            uid: 0,
            gid: 0,
            cache_key: false,
        };
        let spec = RunSpec {
            mounts: vec![MountSpec { target: "/t".to_owned(), source: secret, read_only: true }],
            extra_host_names: vec!["db".to_owned()],
            ..RunSpec::default()
        };
        let lines = missing(&spec, &RunDefaults::default());
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("--add-host db:IP") && lines[1].contains("--secret id=token"), "{lines:?}");
        let mut given = RunDefaults::default();
        given.secrets.insert("token".to_owned(), crate::ops::SecretSource::Value(b"x".to_vec()));
        assert_eq!(missing(&spec, &given).len(), 1);
    }
}
