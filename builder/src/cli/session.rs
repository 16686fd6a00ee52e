//! What a command that executes things starts with: privileges, the store, signals.
//!
//! Invariants: everything here happens while the process has one thread, in this order: signals are blocked, the user
//! namespace is entered, then threads may start.

use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

use crate::base::cancel::CancelToken;
use crate::sandbox::terminal;
use crate::store::{Store, StoreError};
use crate::sys::userns::{self, EnterError, Entered, IdMap, NoSubordinateIds};
use crate::sys::{process, signals};
use crate::ui::failure::{EXIT_INTERRUPTED, Failure, Kind};
use crate::ui::progress::Progress;

/// How this process may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privilege {
    /// Root of the machine: commands get shifted ids.
    Root,
    /// Root of a user namespace that somebody else made.
    Inside,
    /// An ordinary user with subordinate ids.
    Subordinate,
    /// An ordinary user with nothing but the own id.
    Single(NoSubordinateIds),
}

impl Privilege {
    /// One line for `kiln info`.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Root => {
                "root; commands run with ids that belong to nobody on this machine (idmapped layers)"
            }
            Self::Inside => "inside a user namespace; commands run in one of their own within it",
            Self::Subordinate => "rootless; commands run with subordinate ids (newuidmap, newgidmap)",
            Self::Single(_) => "rootless with a single id; files of other owners cannot be made",
        }
    }

    /// Why this mode and not another, and what a better one takes; for `kiln info`.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Root => {
                let map = IdMap::for_root();
                let first = map.uids.first().map_or(0, |extent| extent.outside);
                format!(
                    "kiln is root of this machine; ids of commands begin at {first} (root's line in /etc/subuid and \
                     /etc/subgid chooses others)"
                )
            }
            Self::Inside => {
                "kiln is root of a user namespace that somebody else made; the best that can be had here"
                    .to_owned()
            }
            Self::Subordinate => {
                "kiln is an ordinary user with a range in /etc/subuid and /etc/subgid".to_owned()
            }
            Self::Single(NoSubordinateIds::NoRange) => {
                let advice = match userns::free_range() {
                    Some(first) => {
                        let range = format!("{first}-{}", first + 65_535);
                        format!("usermod --add-subuids {range} --add-subgids {range} USER")
                    }
                    None => "give this user 65536 ids in /etc/subuid and /etc/subgid".to_owned(),
                };
                format!("this user has no range of ids; as root: {advice}")
            }
            Self::Single(NoSubordinateIds::NoHelper) => {
                "newuidmap and newgidmap are missing or refuse (package uidmap, set-user-id root)".to_owned()
            }
        }
    }
}

/// Where the store is: `--root`, `KILN_ROOT`, or the default for this user.
pub(super) fn store_root(flag: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = if let Some(root) = flag.or_else(|| variable("KILN_ROOT")) {
        root
    } else if rustix::process::geteuid().is_root() && is_initial_namespace() {
        PathBuf::from("/var/lib/kiln")
    } else if let Some(data) = variable("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        data.join("kiln")
    } else if let Some(home) = variable("HOME") {
        home.join(".local/share/kiln")
    } else {
        return Err(Failure::new(Kind::Config, "cannot tell where to keep images: HOME is not set")
            .with_hint("use --root DIR or set KILN_ROOT"));
    };
    std::path::absolute(&root).map_err(|e| Failure::from_error(Kind::Config, &e))
}

/// Whether ids here are the machine's own.
fn is_initial_namespace() -> bool {
    // Where there is no /proc the question does not arise: nothing would work.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The directories of PATH.
pub(super) fn program_directories() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .filter(|dir| dir.is_absolute())
        .collect()
}

/// Opens the store.
pub(super) fn open_store(root: &Path) -> Result<Store, Failure> {
    told(root, Store::open(root))
}

/// Tells when the database was made anew.
pub(super) fn told(root: &Path, opened: Result<Store, StoreError>) -> Result<Store, Failure> {
    let store = opened.map_err(|error| super::failure::of_store(&error))?;
    if store.was_recovered() {
        crate::ui::print::talk(format!(
            "warning: the database of the store {} was damaged or gone; a new one was made: images are kept, cached \
             steps run again, cache mounts begin empty",
            root.display()
        ));
    }
    Ok(store)
}

/// A store that is there, opened with the rights over its files, for a command that may end anywhere. `None` where
/// there is no store: looking must not make one. Call before any thread exists.
pub(super) fn present_store(root: Option<PathBuf>) -> Result<Option<Store>, Failure> {
    let root = store_root(root)?;
    if !root.join("kiln.db").exists() {
        return Ok(None);
    }
    enter()?;
    end_on_signals();
    told(&root, Store::open_to_make_room(&root)).map(Some)
}

/// Takes the privileges that building needs. Call before any thread exists.
pub(super) fn enter() -> Result<Privilege, Failure> {
    signals::block_termination().map_err(|e| Failure::from_error(Kind::Internal, &e))?;
    // What a command sees of directories that kiln makes (mount points, contexts) must not depend on the caller's
    // umask; the store as a whole is private.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // A build without the raise works as long as it has few layers; the limit's own error tells the rest.
    let _ = process::raise_open_files();
    let capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID));
    if capable && rustix::process::geteuid().is_root() {
        if is_initial_namespace() {
            return Ok(Privilege::Root);
        }
        userns::enter_mount_namespace().map_err(|e| Failure::from_error(Kind::Sandbox, &e))?;
        return Ok(Privilege::Inside);
    }
    match userns::enter() {
        Ok(Entered::SubordinateIds) => Ok(Privilege::Subordinate),
        Ok(Entered::SingleId(why)) => Ok(Privilege::Single(why)),
        Err(error) => Err(refused(&error)),
    }
}

/// Whether commands can be run in this mode, by trying. Call before any thread exists.
pub(super) fn try_out(privilege: Privilege) -> Result<(), Failure> {
    let map = idmap(privilege, false).map_or_else(IdMap::of_current_namespace, Ok);
    let tried = map.map_err(EnterError::Map).and_then(|map| userns::try_namespaces(&map));
    tried.map_err(|error| refused(&error))
}

/// What podman needs to know that this process, in a user namespace with the user's subordinate ids, is the user: its
/// own re-execution sets the same. Ask before [`enter`].
pub(super) fn engine_variables() -> Vec<(String, String)> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("_CONTAINERS_USERNS_CONFIGURED", "done".to_owned()),
        pair("_CONTAINERS_ROOTLESS_UID", uid.as_raw().to_string()),
        pair("_CONTAINERS_ROOTLESS_GID", gid.as_raw().to_string()),
    ]
}

fn refused(error: &EnterError) -> Failure {
    let failure = Failure::from_error(Kind::Sandbox, error);
    let knobs = [
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "sysctl user.max_user_namespaces=15000, in the container as well if this is one",
        ),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for kiln that allows userns",
        ),
    ];
    let blocking = knobs
        .iter()
        .find(|(path, value, _)| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == *value));
    match blocking {
        Some((path, value, remedy)) => failure.with_hint(format!("`{path}` is {value}; as root: {remedy}")),
        None => failure.with_hint(
            "inside a container, allow user namespaces (docker run --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined), or run kiln as root",
        ),
    }
}

/// What to say once when there is only one id.
pub(super) fn single_id_notice() -> &'static str {
    "no subordinate ids: commands have one user only, so steps that become another (apt, USER) fail; install \
     newuidmap (package uidmap) and add a line for this user to /etc/subuid and /etc/subgid"
}

/// What to say where `--userns=host` was asked for and there is nothing to give.
pub(super) fn host_ids_notice(privilege: Privilege, host_ids: bool) -> Option<&'static str> {
    (host_ids && privilege != Privilege::Root).then_some(
        "--userns=host has no effect: only root of the machine has ids of the host to give to commands",
    )
}

/// The id map that the sandboxes of this process need.
pub(super) fn idmap(privilege: Privilege, host_ids: bool) -> Option<IdMap> {
    (privilege == Privilege::Root && !host_ids).then(IdMap::for_root)
}

/// Starts the thread that turns the first signal into a cancelled build, telling so through `progress`, and the second
/// into the end.
pub(super) fn watch_signals(cancel: CancelToken, progress: Progress) {
    let watch = move || {
        let mut stopping = false;
        while signals::wait_termination().is_ok() {
            if stopping {
                terminal::restore();
                std::process::exit(i32::from(EXIT_INTERRUPTED));
            }
            stopping = true;
            cancel.cancel();
            progress.say("stopping; once more to end at once");
        }
    };
    // Without the thread signals stay blocked and only SIGKILL helps, which leaves nothing behind either.
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(watch);
}

/// Ends the process at the first signal: for commands that may stop anywhere.
pub(super) fn end_on_signals() {
    let watch = || {
        if signals::wait_termination().is_ok() {
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
    };
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(watch);
}
