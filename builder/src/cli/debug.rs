//! `kiln debug`: a shell in the place of a step.
//!
//! Invariants: what is said of the step goes to standard error, so that a command's output can be piped.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::access::Access;
use super::args::choice::UserNamespace;
use super::args::debug::DebugArgs;
use super::args::privileges::PrivilegeArgs;
use super::build::{bound, defaults, secret};
use super::failure::{self, File};
use super::record::record_failure;
use super::session::{self, Privilege};
use super::{privileges, surroundings};
use crate::base::cancel::CancelToken;
use crate::base::events::{Event, EventSink};
use crate::build::debug::{self, Arrival, DebugError, DebugRequest, ShellRequest};
use crate::build::{BuildError, Environment};
use crate::context::git::GitEnvironment;
use crate::ops::{RunDefaults, Shell};
use crate::plan::graph::{NetworkMode, SecurityMode};
use crate::record::{BuildRecord, Shelf, StepOutcome};
use crate::sandbox::runner::Sandboxes;
use crate::ui::failure::{Failure, Kind};
use crate::ui::progress::{Mode, Progress, Target};
use crate::ui::{print, text};

/// Columns of a step's name.
const MAX_NAME_COLUMNS: usize = 200;
/// Columns of a line about the step.
const MAX_COLUMNS: usize = 400;
/// Steps that are listed when none was named.
const MAX_LISTED: usize = 20;

/// Enters a step and gives the exit code of its shell.
pub(super) fn debug(root: Option<PathBuf>, args: &DebugArgs) -> Result<u8, Failure> {
    let root = session::store_root(root)?;
    // Before privileges are taken, so that a mistyped build is told by whoever typed it.
    let record = find(&Shelf::new(&root), args)?;
    let privilege = session::enter()?;
    let store = session::open_store(&root)?;
    let cancel = CancelToken::new();
    session::watch_signals(cancel.clone(), Progress::new(Mode::None, Target::Stderr));
    if matches!(privilege, Privilege::Single(_)) {
        print::talk(format!("warning: {}", session::single_id_notice()));
    }
    let access = Access::new(&args.access, &BTreeSet::new(), BTreeSet::new())?;
    let net = access.net()?;
    let registry = access.client(&net, &cancel, warnings())?;
    let git = GitEnvironment::pick(std::iter::empty());
    let given = PrivilegeArgs {
        devices: args.devices.clone(),
        security: args.security.clone(),
        ..PrivilegeArgs::default()
    };
    let resolved = privileges::resolve(&given)?;
    resolved.notices.iter().for_each(|notice| print::talk(format!("warning: {notice}")));
    let devices = resolved.devices.iter().map(|(host, _)| host.clone()).collect();
    let host_ids = args.userns == UserNamespace::Host;
    if let Some(notice) = session::host_ids_notice(privilege, host_ids) {
        print::talk(format!("warning: {notice}"));
    }
    let idmap = session::idmap(privilege, host_ids);
    let sandboxes = Sandboxes::new(store.root(), idmap)
        .with_devices(devices)
        .with_network(surroundings::network_means()?);
    let mut defaults = defaults(&args.add_hosts, &args.dns, &[], &[])?;
    bound(&mut defaults, &args.limits, resolved)?;
    given_again(&mut defaults, args)?;
    let request = DebugRequest {
        record: &record,
        step: args.step,
        after: args.after,
        shell: ShellRequest { command: command(args), term: term() },
        defaults: &defaults,
        events: warnings(),
        cancel,
    };
    let environment =
        Environment { store: &store, sandboxes: &sandboxes, net: &net, registry: &registry, git: &git };
    debug::debug(environment, &request, &mut |arrival| tell(arrival, Some(&record)))
        .map_err(|error| explained(&error, &record))
}

fn command(args: &DebugArgs) -> Vec<String> {
    match &args.shell {
        Some(shell) => vec![shell.clone()],
        None => args.command.clone(),
    }
}

/// `TERM` as the user's terminal has it.
pub(super) fn term() -> Option<String> {
    std::env::var("TERM").ok().filter(|term| !term.is_empty())
}

fn given_again(defaults: &mut RunDefaults, args: &DebugArgs) -> Result<(), Failure> {
    defaults.secrets = args.secrets.iter().map(secret).collect::<Result<_, _>>()?;
    defaults.authorities = surroundings::authorities(args.ca_bundle.as_deref())?;
    for spec in &args.ssh {
        defaults.agents.insert(spec.id.clone(), surroundings::agent(spec)?);
    }
    Ok(())
}

fn warnings() -> EventSink {
    EventSink::new(|event| {
        if let Event::Warning { message } = event {
            print::talk(format!("warning: {}", text::visible(&message)));
        }
    })
}

/// The record that was asked for: without a name, and without a step, the last one with a step that failed.
fn find(shelf: &Shelf, args: &DebugArgs) -> Result<BuildRecord, Failure> {
    let read = |entry| shelf.read(entry).map_err(|error| record_failure(&error));
    if args.build.is_some() || args.step.is_some() {
        return read(&shelf.find(args.build.as_deref()).map_err(|error| record_failure(&error))?);
    }
    let entries = shelf.entries().map_err(|error| record_failure(&error))?;
    let has_failed =
        |record: &BuildRecord| record.steps.iter().any(|step| step.outcome == StepOutcome::Failed);
    // Damaged records are told when they are asked for by name.
    let mut records = entries.iter().filter_map(|entry| shelf.read(entry).ok());
    match records.find(has_failed) {
        Some(record) => Ok(record),
        None => {
            let last = read(&shelf.find(None).map_err(|error| record_failure(&error))?)?;
            let failure = Failure::new(Kind::User, "no step of any recorded build failed")
                .with_hint("any step can be entered by its number: kiln debug --step N");
            Ok::<_, Failure>(last).and_then(|last| Err(listed(failure, &last)))
        }
    }
}

/// With the steps that can be entered.
fn listed(mut failure: Failure, record: &BuildRecord) -> Failure {
    let steps = record.steps.iter().filter(|step| step.counted);
    let list: Vec<String> =
        steps.take(MAX_LISTED).map(|step| format!("--step {}: {}", step.number, step.name)).collect();
    if !list.is_empty() {
        failure = failure.with_hint(format!("steps of the build {}:", record.head.id));
        failure.hints.extend(list);
    }
    failure
}

fn explained(error: &BuildError, record: &BuildRecord) -> Failure {
    let failure = not_entered(error);
    match error {
        BuildError::Debug(
            DebugError::NoStep { .. } | DebugError::NothingFailed { .. } | DebugError::Unenterable { .. },
        ) => listed(failure, record),
        _ => failure,
    }
}

/// Why a step was not entered, and what can be done.
pub(super) fn not_entered(error: &BuildError) -> Failure {
    let BuildError::Debug(why) = error else {
        let progress = Progress::new(Mode::None, Target::Stderr);
        return failure::of_build(error, &File { name: "", text: "" }, &progress);
    };
    let failure = Failure::from_error(Kind::User, why);
    match why {
        DebugError::NoStep { .. } | DebugError::NothingFailed { .. } | DebugError::Unenterable { .. } => failure,
        DebugError::Gone { .. } => failure
            .with_hint("build again: what was removed is made again on the way to the step; then enter it"),
        DebugError::NoResult { .. } => failure.with_hint(
            "enter it as it was before, without --after; `kiln build --on-failure=shell` enters a step with what it \
             has written",
        ),
        DebugError::NoShell => failure.with_hint(
            "name a program of the image with --shell PATH, or install a static busybox on this machine (Debian and \
             Ubuntu: apt-get install busybox-static)",
        ),
    }
}

/// What stands above the first prompt.
pub(super) fn tell(arrival: &Arrival, record: Option<&BuildRecord>) {
    lines(arrival, record).iter().for_each(print::talk);
}

fn lines(arrival: &Arrival, record: Option<&BuildRecord>) -> Vec<String> {
    let Arrival { number, name, spec, platform, shell, after, notices } = arrival;
    let fit = |line: String| text::fit(&line, MAX_COLUMNS).into_owned();
    let step = record.and_then(|record| record.step(*number));
    let state = if *after { "with what it wrote" } else { "as it was before" };
    let mut lines = Vec::new();
    let of_build = record.map(|record| format!(" of build {}", record.head.id)).unwrap_or_default();
    lines.push(format!("step {number}{of_build}: {}", text::fit(name, MAX_NAME_COLUMNS)));
    if let (Some(record), Some(error)) = (record, step.and_then(|step| step.error.as_deref())) {
        // The command is in the name already.
        let command = format!("process `{}` ", spec.args.join(" "));
        let error = error.strip_prefix(&command).unwrap_or(error);
        let log = format!("(kiln log {} --step {number})", record.head.id);
        lines.push(fit(format!("  it {} {log}", text::visible(error))));
    }
    lines.push(fit(format!(
        "  {}; {state}; what you change is thrown away",
        seen(spec, &platform.to_string())
    )));
    if !spec.args.is_empty() {
        lines.push("  /dev/pipes/step runs its command".to_owned());
    }
    if let Shell::Busybox(path) = shell {
        lines.push(fit(format!("  the image has no shell: this machine's {} serves as one", path.display())));
    }
    lines.extend(notices.iter().map(|notice| fit(format!("warning: {}", text::visible(notice)))));
    lines
}

/// What a step sees, in a few words.
pub(super) fn seen(spec: &crate::plan::graph::RunSpec, platform: &str) -> String {
    let user = if spec.user.is_empty() { "root" } else { &spec.user };
    let network = match spec.network {
        NetworkMode::Default => "",
        NetworkMode::None => ", no network",
        NetworkMode::Host => ", the host's network",
    };
    let insecure = if spec.security == SecurityMode::Insecure { ", insecure" } else { "" };
    format!(
        "user {}, directory {}, {platform}{network}{insecure}",
        text::visible(user),
        text::visible(&spec.cwd)
    )
}
