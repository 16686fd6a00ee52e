//! `kiln unshare`: a command with the rights that kiln has over its store, beside images that are mounted for it.
//!
//! Invariants: mounts are in a mount namespace of this process, so nothing is left of them however it ends; they are
//! read-only, and their layers stay in the store as long as this process lives.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use super::access::Access;
use super::args::unshare::UnshareArgs;
use super::failure::{self, File};
use super::session::{self, Privilege};
use crate::base::cancel::CancelToken;
use crate::build::{self, Environment};
use crate::context::git::GitEnvironment;
use crate::sandbox::runner::Sandboxes;
use crate::snapshot::overlay::Snapshots;
use crate::store::Store;
use crate::sys::mount::{self, Attributes};
use crate::sys::rootdir::RootDir;
use crate::sys::{signals, userns};
use crate::ui::failure::{Failure, Kind};
use crate::ui::progress::{Mode, Progress, Target};

/// Runs the command and gives its exit status.
pub(super) fn unshare(root: Option<PathBuf>, args: &UnshareArgs) -> Result<u8, Failure> {
    let root = session::store_root(root)?;
    let privilege = session::enter()?;
    let sandbox = |e: std::io::Error| Failure::from_error(Kind::Sandbox, &e);
    if privilege == Privilege::Root {
        userns::enter_mount_namespace().map_err(sandbox)?;
    }
    // What is mounted here must not appear in the namespace that this one was copied from.
    let private = Attributes { private: true, recursive: true, ..Attributes::default() };
    let top = RootDir::open(Path::new("/")).map_err(|e| Failure::from_error(Kind::Sandbox, &e))?;
    mount::set_attributes(top.as_fd(), private).map_err(sandbox)?;
    let store = if args.mounts.is_empty() { None } else { Some(session::open_store(&root)?) };
    let places = tempfile::Builder::new()
        .prefix("kiln-unshare-")
        .tempdir()
        .map_err(|e| Failure::from_error(Kind::User, &e))?;
    let mut command = command(&args.command);
    command.env("KILN_ROOT", &root);
    if let Some(store) = &store {
        for (variable, directory) in mounted(store, privilege, args, places.path())? {
            command.env(variable, directory);
        }
    }
    let status = run(&mut command);
    for (number, _) in args.mounts.iter().enumerate() {
        // Only so that the directories can go; the mounts end with the process in any case.
        let _ = rustix::mount::unmount(
            places.path().join(number.to_string()),
            rustix::mount::UnmountFlags::DETACH,
        );
    }
    let status = status.map_err(|e| {
        let name = command.get_program().display().to_string();
        Failure { causes: vec![e.to_string()], ..Failure::new(Kind::User, format!("cannot start `{name}`")) }
    })?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

fn command(words: &[OsString]) -> Command {
    let shell = || std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "sh".into());
    let mut words = words.iter();
    let mut command = Command::new(words.next().cloned().unwrap_or_else(shell));
    command.args(words);
    command
}

/// Mounts the images. Gives variables with the directories.
fn mounted(
    store: &Store,
    privilege: Privilege,
    args: &UnshareArgs,
    places: &Path,
) -> Result<Vec<(String, PathBuf)>, Failure> {
    let cancel = CancelToken::new();
    let progress = Progress::new(Mode::None, Target::Stderr);
    let access = Access::new(&args.access, &BTreeSet::new(), BTreeSet::new())?;
    let net = access.net()?;
    let registry = access.client(&net, &cancel, progress.sink())?;
    let git = GitEnvironment::pick(std::iter::empty());
    let sandboxes = Sandboxes::new(store.root(), session::idmap(privilege, false));
    let environment = Environment { store, sandboxes: &sandboxes, net: &net, registry: &registry, git: &git };
    let mut mounted = Vec::new();
    for (number, (variable, image)) in args.mounts.iter().enumerate() {
        let events = super::run::with_warnings(progress.sink());
        let state = build::unpack(environment, image, super::build::pull(args.pull), &events, &cancel)
            .map_err(|error| failure::of_build(&error, &File { name: "", text: "" }, &progress))?;
        let place = places.join(number.to_string());
        let attach = || -> Result<(), Box<dyn std::error::Error>> {
            let files = Snapshots::new(store)?.view(&state.layers)?;
            std::fs::create_dir(&place)?;
            mount::attach_at(files.as_fd(), &place)?;
            Ok(())
        };
        attach().map_err(|error| Failure {
            causes: vec![error.to_string()],
            ..Failure::new(Kind::Sandbox, format!("cannot mount `{image}`"))
        })?;
        mounted.push((variable.clone(), place));
    }
    Ok(mounted)
}

/// Runs a command. What the terminal sends reaches it without kiln; what is sent to kiln alone is passed on.
fn run(command: &mut Command) -> std::io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pass = move || {
        while let (Ok(signal), Some(id)) = (signals::wait_termination(), id) {
            // The terminal has sent an interrupt to both.
            if let Some(signal) = Signal::from_named_raw(signal).filter(|signal| *signal != Signal::INT) {
                let _ = kill_process(id, signal);
            }
        }
    };
    // Without the thread only the command itself can be told to end.
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(pass);
    child.wait()
}
