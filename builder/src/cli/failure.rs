//! From typed errors to failures: kind, message, place, hints.

use std::error::Error;

use crate::build::BuildError;
use crate::build::until::UntilError;
use crate::cache::CacheError;
use crate::ops::OpError;
use crate::registry::RegistryError;
use crate::sandbox::runner::SandboxError;
use crate::snapshot::pending::LostLayer;
use crate::store::StoreError;
use crate::transfer::TransferError;
use crate::ui::failure::{Failure, Kind, Place, StepTail};
use crate::ui::progress::Progress;

/// The Buildfile of a failure.
pub(super) struct File<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

pub(super) fn of_store(error: &StoreError) -> Failure {
    if error.is_full_disk() {
        return full_disk(Failure::from_error(Kind::Resources, error));
    }
    let failure = Failure::from_error(Kind::Config, error);
    match error {
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            failure.with_hint("choose a directory of your own with --root DIR or KILN_ROOT")
        }
        // See `of_damage`.
        error if error.is_damaged_database() => failure,
        StoreError::DamagedInUse { .. } => {
            failure.with_hint("a new one is made when they have ended; try again then")
        }
        StoreError::Database { .. } => {
            failure.with_hint("see whether another program uses the file; move it away to start anew")
        }
        _ => failure,
    }
}

/// A failure of a command that only handles the store and files.
pub(super) fn of_other(error: &(dyn Error + 'static)) -> Failure {
    if is_full_disk(error) {
        return full_disk(Failure::from_error(Kind::Resources, error));
    }
    Failure::from_error(Kind::User, error)
}

/// A failure of moving an image.
pub(super) fn of_transfer(error: &TransferError) -> Failure {
    if error.is_cancelled() {
        return Failure::new(Kind::Interrupted, "stopped; what was complete is kept");
    }
    if is_full_disk(error) {
        return full_disk(Failure::from_error(Kind::Resources, error));
    }
    if let TransferError::Store(error) = error {
        return of_store(error);
    }
    let failure = Failure::from_error(kind_of_transfer(error), error);
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// A failure of a registry that was asked directly.
pub(super) fn of_registry(error: &RegistryError) -> Failure {
    if error.is_cancelled() {
        return Failure::new(Kind::Interrupted, "stopped");
    }
    let failure = Failure::from_error(Kind::Network, error);
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn kind_of_transfer(error: &TransferError) -> Kind {
    match error {
        TransferError::Registry(_) => Kind::Network,
        TransferError::Store(_) => Kind::Config,
        _ => Kind::User,
    }
}

const NEW_DATABASE: &str =
    "`kiln fsck --repair` makes a new database: images are kept, cached steps run again";

/// Says what helps when the command met damage in the store's database, which may have been told in many ways by then.
pub(super) fn of_damage(failure: Failure) -> Failure {
    if crate::store::met_damage() { failure.with_hint(NEW_DATABASE) } else { failure }
}

fn full_disk(failure: Failure) -> Failure {
    failure.with_hint(
        "free some space (`kiln prune`), or keep the store elsewhere with --root DIR; nothing of the store is damaged",
    )
}

/// Whether the disk was full, anywhere in the chain of causes.
fn is_full_disk(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| (*e).source()).any(|cause| {
        cause.downcast_ref::<StoreError>().is_some_and(StoreError::is_full_disk)
            // A transparent error shows its source's source, so the store's own error may be missing from the chain.
            || cause.downcast_ref::<rusqlite::Error>().is_some_and(crate::store::is_full_disk)
            || cause.downcast_ref::<std::io::Error>().is_some_and(|e| {
                matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            })
    })
}

/// How a step is entered that failed.
pub(super) const ENTER: &str =
    "`kiln debug` opens a shell in its place, as it was before; `kiln log` has all that was written";

/// Whether the command itself failed, or could not be started.
fn is_of_command(error: &OpError) -> bool {
    let is_user_error = matches!(error, OpError::Sandbox(SandboxError::Setup(failure)) if failure.user_error);
    error.is_of_command() || is_user_error
}

/// A failed build.
pub(super) fn of_build(error: &BuildError, file: &File<'_>, progress: &Progress) -> Failure {
    if matches!(error, BuildError::Cancelled) {
        return Failure::new(Kind::Interrupted, "the build was stopped; finished steps are kept");
    }
    let kind = kind(error);
    let mut failure = Failure::from_error(kind, error);
    // `Step` shows its source as its own message.
    if let BuildError::Step { step, source } = error {
        failure = Failure::from_error(kind, source.as_ref());
        failure.snippet =
            step.span.map(|span| Place { file: file.name.to_owned(), text: file.text.to_owned(), span });
        if source.is_of_command() {
            let lines = progress.tail(step.number);
            failure.step_tail = Some(StepTail { name: step.name.clone(), lines });
        }
        failure.seen =
            step.run.as_ref().map(|(spec, platform)| super::debug::seen(spec, &platform.to_string()));
        if let Some(hint) = hint(source) {
            failure = failure.with_hint(hint);
        }
        if step.run.is_some() && is_of_command(source) {
            failure = failure.with_hint(ENTER);
        }
    }
    if let BuildError::Resolve(error) = error
        && let Some(hint) = &error.hint
    {
        failure = failure.with_hint(hint.clone());
    }
    if let BuildError::Until(UntilError::NoStage { stages, .. }) = error
        && !stages.is_empty()
    {
        failure = failure.with_hint(format!("stages with steps of this build: {}", stages.join(", ")));
    }
    if let BuildError::Until(UntilError::NoLine { .. }) = error {
        failure = failure.with_hint("--target chooses the stage; stages that it does not need are not built");
    }
    if let BuildError::Registry(error) = error
        && let Some(hint) = error.hint()
    {
        failure = failure.with_hint(hint);
    }
    if let BuildError::Transfer(error) = error
        && let Some(hint) = error.hint()
    {
        failure = failure.with_hint(hint);
    }
    if let BuildError::CacheExport { source, .. } = error {
        if let Some(hint) = source.hint() {
            failure = failure.with_hint(hint);
        }
        failure =
            failure.with_hint("the image itself is done; with ignore-error=true this is a warning only");
    }
    failure.causes.dedup();
    let message = failure.message.clone();
    failure.causes.retain(|cause| *cause != message);
    if kind == Kind::Resources { full_disk(failure) } else { failure }
}

fn kind(error: &BuildError) -> Kind {
    if is_full_disk(error) {
        return Kind::Resources;
    }
    if LostLayer::among(error).is_some() {
        return Kind::Network;
    }
    match error {
        BuildError::Registry(_) => Kind::Network,
        BuildError::Transfer(error) => kind_of_transfer(error),
        BuildError::CacheExport { source, .. }
            if matches!(
                **source,
                CacheError::Registry(_) | CacheError::Actions(_) | CacheError::Bucket(_)
            ) =>
        {
            Kind::Network
        }
        BuildError::Step { source, .. } => match &**source {
            OpError::Registry(_) | OpError::Http(_) => Kind::Network,
            OpError::Sandbox(SandboxError::Setup(failure)) if failure.user_error => Kind::User,
            OpError::Sandbox(_) => Kind::Sandbox,
            OpError::Store(_) | OpError::Snapshot(_) => Kind::Config,
            _ => Kind::User,
        },
        BuildError::Store(_) | BuildError::Snapshot(_) | BuildError::Dns(_) => Kind::Config,
        _ => Kind::User,
    }
}

fn hint(error: &OpError) -> Option<String> {
    Some(match error {
        OpError::Sandbox(SandboxError::NoNetwork(_)) => {
            "install passt or slirp4netns, or do without: --network=none, or --network=host with --allow network.host"
                .to_owned()
        }
        OpError::LargeVariable { .. } => "take it as a file: leave `env` out of the mount".to_owned(),
        OpError::MissingAgent { id } => format!("give one with --ssh {id}, --ssh {id}=SOCKET or --ssh {id}=KEY"),
        OpError::MissingSecret { id } => format!("give it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE"),
        OpError::OutOfMemory { .. } => {
            "raise the limit (--memory of the command line or of the RUN), or have the command use less, e.g. with \
             fewer jobs at a time"
                .to_owned()
        }
        OpError::TooManyProcesses { .. } => "raise --pids-limit".to_owned(),
        OpError::TimedOut { .. } => {
            "raise the RUN's --timeout; its last output above tells where it stood".to_owned()
        }
        OpError::Sandbox(SandboxError::Prepare(_)) => {
            "keep the store on a file system with idmapped mounts (ext4, xfs, btrfs) with --root DIR, or run kiln as an \
             ordinary user"
                .to_owned()
        }
        // The kernel gives a new /proc only to who sees all of the old one.
        OpError::Sandbox(SandboxError::Setup(failure)) if failure.step == "mount /proc" => {
            "the container around kiln hides parts of /proc; have it shown: podman run --security-opt unmask=ALL, docker \
             run --security-opt systempaths=unconfined, procMount: Unmasked of Kubernetes"
                .to_owned()
        }
        OpError::Sandbox(SandboxError::Setup(failure)) if !failure.user_error => {
            "`kiln info` tells what this machine offers".to_owned()
        }
        OpError::ForeignPlatform { .. } => {
            "install qemu-user-static (Debian and Ubuntu: apt-get install qemu-user-static; Fedora: dnf install \
             qemu-user-static), or build for this machine's platform with `FROM --platform=$BUILDPLATFORM`"
                .to_owned()
        }
        OpError::NoLayer { .. } => {
            "build or pull the image again; `kiln fsck --repair` removes images that lack something".to_owned()
        }
        OpError::Copy(error) => error.hint()?,
        OpError::Registry(error) => error.hint()?,
        _ => return None,
    })
}
