//! `kiln run`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::access::Access;
use super::args::RunArgs;
use super::args::choice::UserNamespace;
use super::args::run::RunImage;
use super::build::{bound, defaults, network, pull, shm_size};
use super::failure::{self, File};
use super::privileges;
use super::session::{self, Privilege};
use super::surroundings;
use crate::base::cancel::CancelToken;
use crate::base::events::{Event, EventSink};
use crate::build::{self, BuildError, Environment, RunRequest};
use crate::context::git::GitEnvironment;
use crate::context::layout;
use crate::image::platform::Platform;
use crate::sandbox::runner::Sandboxes;
use crate::ui::failure::{Failure, Kind};
use crate::ui::progress::{Mode, Progress, Target};
use crate::ui::{print, text};

/// Runs an image's command and gives its exit code.
pub(super) fn run(root: Option<PathBuf>, args: RunArgs) -> Result<u8, Failure> {
    let root = session::store_root(root)?;
    let privilege = session::enter()?;
    let store = session::open_store(&root)?;
    let cancel = CancelToken::new();
    // Pulling may take a while, but the command's own output is what counts here.
    let progress = Progress::new(Mode::None, Target::Stderr);
    session::watch_signals(cancel.clone(), progress.clone());
    if matches!(privilege, Privilege::Single(_)) {
        print::talk(format!("warning: {}", session::single_id_notice()));
    }
    let access = Access::new(&args.access, &BTreeSet::from_iter(registry_of(&args.image)), BTreeSet::new())?;
    let net = access.net()?;
    let registry = access.client(&net, &cancel, with_warnings(progress.sink()))?;
    let git = GitEnvironment::pick(std::iter::empty());
    let host_ids = args.userns == UserNamespace::Host;
    if let Some(notice) = session::host_ids_notice(privilege, host_ids) {
        print::talk(format!("warning: {notice}"));
    }
    let resolved = privileges::resolve(&args.privileges)?;
    resolved.notices.iter().for_each(|notice| print::talk(format!("warning: {notice}")));
    let devices = resolved.devices.iter().map(|(host, _)| host.clone()).collect();
    let sandboxes = Sandboxes::new(store.root(), session::idmap(privilege, host_ids))
        .with_devices(devices)
        .with_network(surroundings::network_means()?);
    let privileges = resolved.privileges.clone();
    let mut defaults = defaults(&args.add_hosts, &args.dns, &[], &[])?;
    bound(&mut defaults, &args.limits, resolved)?;
    defaults.authorities = surroundings::authorities(args.ca_bundle.as_deref())?;
    let request = RunRequest {
        image: match &args.image {
            RunImage::Named(reference) => reference.to_string(),
            RunImage::Layout(path) => format!("{}{path}", layout::PREFIX),
        },
        platform: args.platform.clone().unwrap_or_else(Platform::host),
        pull: pull(args.pull),
        entrypoint: args.entrypoint,
        command: args.command,
        env: args.env,
        workdir: args.workdir,
        user: args.user,
        network: network(args.network),
        ulimits: args.ulimits.iter().map(|limit| limit.to_string()).collect(),
        shm_size_bytes: shm_size(args.shm_size),
        privileges,
        defaults,
        events: with_warnings(progress.sink()),
        cancel,
    };
    let environment =
        Environment { store: &store, sandboxes: &sandboxes, net: &net, registry: &registry, git: &git };
    let result = build::run(environment, &request);
    result.map_err(|error| match error {
        BuildError::Cancelled => Failure::new(Kind::Interrupted, "stopped before the command ended"),
        error => failure::of_build(&error, &File { name: "", text: "" }, &progress),
    })
}

/// Says warnings, which no display shows here.
pub(super) fn with_warnings(sink: EventSink) -> EventSink {
    EventSink::new(move |event| {
        if let Event::Warning { message } = &event {
            print::talk(format!("warning: {}", text::visible(message)));
        }
        sink.send(event);
    })
}

fn registry_of(image: &RunImage) -> Option<String> {
    match image {
        RunImage::Named(reference) => Some(reference.registry.clone()),
        RunImage::Layout(_) => None,
    }
}
