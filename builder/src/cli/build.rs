//! `kiln build`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_grammar::diagnostic::Diagnostic;

use super::access::Access;
use super::args::BuildArgs;
use super::args::cache::{CacheSpec, Place};
use super::args::choice::{
    self, Entitlement, Epoch, ImageFormat, Method, Network, OnFailure as OnFailureFlag, Pull, SquashFlag,
    UserNamespace,
};
use super::args::limits::LimitArgs;
use super::args::secret::{SecretSource as SecretFlag, SecretSpec};
use super::args::source::{ContextSource, FileSource};
use super::context::{self, Finder};
use super::failure::{self, File};
use super::metadata::{metadata, write_file};
use super::privileges::{self, Resolved};
use super::session::{self, Privilege};
use super::summary::Built;
use super::surroundings;
use crate::base::cancel::CancelToken;
use crate::base::events::EventSink;
use crate::build::debug::{Arrival, ShellRequest};
use crate::build::{self, BuildError, CacheTarget, Environment, OnFailure, PullPolicy, Report, Request};
use crate::context::git::GitEnvironment;
use crate::export::assemble::BuiltIndex;
use crate::export::attest::options::Attestations;
use crate::export::merge::{MergePolicy, Squash};
use crate::export::spec::{Destination, OutputKind, OutputSpec};
use crate::image::reference::Reference;
use crate::ops::{RunDefaults, SecretSource};
use crate::plan::graph::{NetworkMode, PlanOptions};
use crate::plan::without_credentials;
use crate::record::{About, BuildRecord, Recorder, Shelf};
use crate::sandbox::cgroup::Swap;
use crate::sandbox::net::hosts::ExtraHost;
use crate::sandbox::net::resolv::DnsOverrides;
use crate::sandbox::runner::Sandboxes;
use crate::store::Store;
use crate::store::records::now;
use crate::ui::diagnostics::{Style, render};
use crate::ui::failure::{EXIT_FAILED, Failure, Kind};
use crate::ui::progress::{Mode, Progress, Target};
use crate::ui::{print, terminal};

/// Columns of a step's name in the last lines.
const MAX_STEP_COLUMNS: usize = 100;

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Usage, message)
}

/// `kiln build`.
pub(super) fn build(root: Option<PathBuf>, mut args: BuildArgs) -> Result<u8, Failure> {
    super::project::apply(&mut args)?;
    if args.call.method != Method::Build {
        return super::check::call(root, &args);
    }
    let root = session::store_root(root)?;
    deletions(&args, &root)?;
    let engine_variables = session::engine_variables();
    let privilege = session::enter()?;
    let store = session::open_store(&root)?;
    let cancel = CancelToken::new();
    let progress = Progress::new(args.progress, Target::Stderr);
    session::watch_signals(cancel.clone(), progress.clone());
    if matches!(privilege, Privilege::Single(_)) {
        progress.sink().warn(session::single_id_notice());
    }
    for notice in args.notices() {
        progress.sink().warn(notice);
    }
    let access = access(&args)?;
    let net = access.net()?;
    let registry = access.client(&net, &cancel, progress.sink())?;
    let git = GitEnvironment::pick(std::env::vars_os());
    let host_ids = args.userns == UserNamespace::Host;
    if let Some(notice) = session::host_ids_notice(privilege, host_ids) {
        progress.sink().warn(notice);
    }
    let resolved = privileges::resolve(&args.privileges)?;
    resolved.notices.iter().for_each(|notice| progress.sink().warn(notice.clone()));
    let devices = resolved.devices.iter().map(|(host, _)| host.clone()).collect();
    let sandboxes = Sandboxes::new(store.root(), session::idmap(privilege, host_ids))
        .with_devices(devices)
        .with_network(surroundings::network_means()?);
    let policies = super::policy::read(&args.source_policy_files)?;
    let finder = Finder { store: &store, net: &net, git: &git, cancel: &cancel, policies: &policies };
    let inputs =
        finder.find(&args.context, args.file.as_ref(), args.ignorefile.as_deref(), &args.build_contexts)?;
    let (mut request, _temporary) = request(&args, inputs, resolved, &progress, cancel)?;
    request.plan.policies = policies;
    if privilege == Privilege::Subordinate {
        request.engine_variables = engine_variables;
    }
    record(&args, &mut request, &store);
    if let Some(path) = &args.logfile {
        request.events = logged(path, request.events.clone())?;
    }
    // Above all that shows or keeps what steps say.
    request.events = crate::record::masked(request.events, request.defaults.secret_values());
    let told = on_failure(&args, &mut request, &progress);
    let environment =
        Environment { store: &store, sandboxes: &sandboxes, net: &net, registry: &registry, git: &git };
    let result = build::build(environment, &request);
    progress.finish();
    let record = request.recorder.as_ref().and_then(Recorder::record);
    let explained = record.as_ref().filter(|_| args.explain).map(super::record::explanation);
    explained.iter().flatten().for_each(print::talk);
    // What changed nothing is not to be slowed by it.
    if !matches!(&result, Ok(report) if report.executed == 0) {
        super::prune::after_build(&store);
    }
    let file = File { name: &request.file_name, text: &request.text };
    match result {
        Err(error) if told.load(Ordering::SeqCst) => {
            Ok(failure::of_build(&error, &file, &progress).exit_code())
        }
        Ok(report) => finish(&args, &request, &report, record.as_ref(), progress.totals().warnings),
        Err(BuildError::Parse(diagnostics)) => Ok(findings(&file, &diagnostics)),
        Err(BuildError::Plan(error)) => Ok(findings(&file, &error.diagnostics)),
        Err(BuildError::Lint { diagnostics, .. }) => Ok(findings(&file, &diagnostics)),
        Err(BuildError::Several(errors)) => Err(several(&errors, &file, &progress)),
        Err(error) => Err(failure::of_build(&error, &file, &progress)),
    }
}

/// Checks outputs that remove what they do not write: they are allowed, and a slip of the hand does not remove the
/// directory that one works in, or the store.
fn deletions(args: &BuildArgs, store: &Path) -> Result<(), Failure> {
    for output in args.outputs.iter().filter(|output| output.delete) {
        if !args.allow.contains(&Entitlement::LocalDelete) {
            return Err(usage("mode=delete removes what the result does not have from the destination")
                .with_hint("to have it so: --allow buildx.local.delete"));
        }
        let Some(Destination::Path(path)) = &output.destination else { continue };
        // A destination that is not there has nothing to lose.
        let Ok(path) = path.canonicalize() else { continue };
        let here = std::env::current_dir().unwrap_or_default();
        let store = store.canonicalize().unwrap_or_else(|_| store.to_owned());
        if here.starts_with(&path) || store.starts_with(&path) {
            let message = format!("mode=delete would empty `{}`", path.display());
            return Err(usage(message).with_hint("name a directory of its own, e.g. dest=out"));
        }
    }
    Ok(())
}

/// Tells all failures of a build that kept going but the last, which is for the caller to tell.
fn several(errors: &[BuildError], file: &File<'_>, progress: &Progress) -> Failure {
    let mut failures: Vec<Failure> =
        errors.iter().map(|error| failure::of_build(error, file, progress)).collect();
    let last = failures.pop().unwrap_or_else(|| Failure::new(Kind::User, "the build failed"));
    for failure in &failures {
        print::talk(failure.render(Style::stderr()));
    }
    Failure { causes: last.causes.clone(), ..last }.with_hint(format!("{} steps failed", errors.len()))
}

/// Enters a failed step with `--on-failure=shell`. Gives whether the failure has been told.
fn on_failure(args: &BuildArgs, request: &mut Request, progress: &Progress) -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    if args.on_failure == OnFailureFlag::Stop {
        return told;
    }
    let (name, text) = (request.file_name.clone(), request.text.clone());
    let (progress, recorder, flag) = (progress.clone(), request.recorder.clone(), told.clone());
    let arrive = move |error: &BuildError, arrival: Result<&Arrival, &BuildError>| {
        progress.finish();
        let file = File { name: &name, text: &text };
        if !flag.swap(true, Ordering::SeqCst) {
            let mut failure = match error {
                BuildError::Several(errors) => several(errors, &file, &progress),
                error => failure::of_build(error, &file, &progress),
            };
            // That is what happens now.
            failure.hints.retain(|hint| hint != failure::ENTER);
            print::talk(failure.render(Style::stderr()).trim_end());
        }
        match arrival {
            Ok(arrival) => super::debug::tell(arrival, recorder.as_ref().and_then(Recorder::record).as_ref()),
            Err(reason) => print::talk(super::debug::not_entered(reason).render(Style::stderr()).trim_end()),
        }
    };
    request.on_failure = Some(OnFailure {
        shell: ShellRequest { command: Vec::new(), term: super::debug::term() },
        arrive: Box::new(arrive),
    });
    told
}

/// Has events written to a file as well.
fn logged(path: &Path, events: EventSink) -> Result<EventSink, Failure> {
    let file = std::fs::File::create(path).map_err(|e| Failure {
        causes: vec![e.to_string()],
        ..usage(format!("cannot write the log file `{}`", path.display()))
    })?;
    let log = Progress::new(Mode::Plain, Target::Writer(Box::new(file))).sink();
    Ok(EventSink::new(move |event| {
        log.send(event.clone());
        events.send(event);
    }))
}

/// Has the build recorded. Without random numbers there is no record, and a build all the same.
fn record(args: &BuildArgs, request: &mut Request, store: &Store) {
    let about = About {
        file: args.file.as_ref().map_or_else(
            || request.file_name.clone(),
            |file| match file {
                FileSource::Stdin => "-".to_owned(),
                FileSource::Path(path) => absolute(path),
                FileSource::Url(url) => without_credentials(url),
            },
        ),
        context: match &args.context {
            ContextSource::Path(path) => absolute(path),
            ContextSource::Stdin => "-".to_owned(),
            ContextSource::Git(address) | ContextSource::Http(address) => without_credentials(address),
            other => format!("{other:?}"),
        },
        target: args.target.clone(),
        names: args.tags.iter().map(ToString::to_string).collect(),
        platforms: args.platforms.iter().map(ToString::to_string).collect(),
        build_args: request.plan.build_args.keys().cloned().collect(),
        ..About::default()
    };
    if let Ok(recorder) = Recorder::new(Shelf::new(store.root()), about) {
        request.events = recorder.listen(request.events.clone());
        request.recorder = Some(recorder);
    }
}

fn absolute(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Shows findings that stopped the build.
fn findings(file: &File<'_>, diagnostics: &[Diagnostic]) -> u8 {
    print::talk(render(file.name, file.text, diagnostics, Style::stderr()).trim_end());
    EXIT_FAILED
}

/// How registries are spoken to: credentials of the command line are for those that the image goes to.
fn access(args: &BuildArgs) -> Result<Access, Failure> {
    let outputs = outputs(args);
    let pushed = || outputs.iter().filter(|output| output.push);
    let names = |output: &OutputSpec| -> Vec<String> {
        let all = args.tags.iter().chain(&output.names);
        all.map(|name| name.registry.clone()).collect()
    };
    let caches = args.cache_from.iter().chain(&args.cache_to).filter_map(|cache| cache.insecure_host());
    let insecure = caches.chain(pushed().filter(|output| output.insecure).flat_map(names)).collect();
    let targets = pushed().flat_map(names).collect();
    Access::new(&args.access, &targets, insecure)
}

fn request(
    args: &BuildArgs,
    inputs: context::Inputs,
    resolved: Resolved,
    progress: &Progress,
    cancel: CancelToken,
) -> Result<(Request, Vec<tempfile::TempDir>), Failure> {
    let variable = |name: &str| std::env::var_os(name);
    let as_usage = |e: super::args::ArgsError| Failure::from_error(Kind::Usage, &e);
    let mut build_args = args.arguments(&variable).map_err(as_usage)?;
    let epoch = match args.epoch(&build_args, &variable).map_err(as_usage)? {
        Some(Epoch::Seconds(seconds)) => Some(seconds.to_string()),
        Some(Epoch::Context) => commit_time(args)?,
        None => None,
    };
    // The flag, or `context`, has been settled above; the plan sees one plain number.
    build_args.remove("SOURCE_DATE_EPOCH");
    let jobs =
        args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |n| n as usize);
    let proxy_env = proxies(&build_args, args.http_proxy == Some(true));
    let inline =
        build_args.get("BUILDKIT_INLINE_CACHE").is_some_and(|value| choice::boolean(value) == Ok(true));
    let plan = PlanOptions {
        target: args.target.clone(),
        build_args,
        labels: args.labels.clone(),
        env: args
            .env
            .iter()
            .filter_map(|pair| {
                Some((pair.key.clone(), pair.value.clone().or_else(|| std::env::var(&pair.key).ok())?))
            })
            .collect(),
        unset_env: args.unset_env.clone(),
        unset_labels: args.unset_labels.clone(),
        platforms: args.platforms.clone(),
        network: network(args.network),
        allow: args.allow.iter().map(|entitlement| entitlement.to_string()).collect(),
        contexts: inputs.kinds,
        main_context: inputs.main,
        no_cache: args.no_cache,
        no_cache_stages: args.no_cache_filter.clone(),
        extra_host_names: Vec::new(),
        mounts: args.mounts.clone(),
        ulimits: args.ulimits.iter().map(|limit| limit.to_string()).collect(),
        shm_size_bytes: shm_size(args.shm_size),
        privileges: resolved.privileges.clone(),
        environment_epoch: epoch,
        policies: Vec::new(),
    };
    let mut defaults = defaults(&args.add_hosts, &args.dns, &args.dns_search, &args.dns_option)?;
    bound(&mut defaults, &args.limits, resolved)?;
    defaults.proxy_env = proxy_env;
    defaults.secrets = args.secrets.iter().map(secret).collect::<Result<_, _>>()?;
    defaults.authorities = surroundings::authorities(args.ca_bundle.as_deref())?;
    for spec in &args.ssh {
        defaults.agents.insert(spec.id.clone(), surroundings::agent(spec)?);
    }
    let plan =
        PlanOptions { extra_host_names: defaults.hosts.iter().map(|h| h.name.clone()).collect(), ..plan };
    let request = Request {
        file_name: inputs.file_name,
        text: inputs.text,
        plan,
        contexts: inputs.directories,
        defaults,
        pull: pull(args.pull),
        names: args.tags.clone(),
        outputs: outputs(args),
        engine_variables: Vec::new(),
        merge: merge(args),
        attestations: attestations(args)?,
        remote_context: inputs.remote,
        reports_provenance: args.metadata_file.as_ref().and_then(|_| super::metadata::provenance_mode()),
        rewrite_timestamps: args.rewrite_timestamp.unwrap_or(true),
        cache_from: args.cache_from.iter().filter_map(CacheSpec::source).collect(),
        cache_to: cache_targets(args, inline),
        jobs,
        keep_going: args.keep_going,
        until: args.until.clone(),
        on_failure: None,
        oldest: args.cache_ttl.map(oldest),
        recorder: None,
        events: progress.sink(),
        cancel,
    };
    Ok((request, inputs._temporary))
}

pub(super) fn pull(flag: Option<Pull>) -> PullPolicy {
    match flag {
        Some(Pull::Always) => PullPolicy::Always,
        Some(Pull::Newer) => PullPolicy::Newer,
        Some(Pull::Never) => PullPolicy::Never,
        Some(Pull::Missing) | None => PullPolicy::Missing,
    }
}

pub(super) fn network(flag: Network) -> NetworkMode {
    match flag {
        Network::Default => NetworkMode::Default,
        Network::None => NetworkMode::None,
        Network::Host => NetworkMode::Host,
    }
}

/// `--provenance` and its like. There is no place for them in an image in docker's words (BuildKit refuses that too).
fn attestations(args: &BuildArgs) -> Result<Attestations, Failure> {
    let attestations = args.attestations();
    let in_dockers_words = |output: &OutputSpec| {
        let image = output.kind.is_image() && output.kind != OutputKind::Docker;
        image && output.oci_media_types == Some(false)
    };
    if !attestations.is_none() && outputs(args).iter().any(in_dockers_words) {
        return Err(usage("an image in docker's words has no place for attestations")
            .with_hint("leave --format docker, BUILDAH_FORMAT and oci-mediatypes=false out, or build without --provenance"));
    }
    Ok(attestations)
}

/// `--squash` and `--max-layers`.
fn merge(args: &BuildArgs) -> MergePolicy {
    MergePolicy {
        squash: args.squash.and_then(|flag| match flag {
            SquashFlag::Nothing => None,
            SquashFlag::Own => Some(Squash::Own),
            SquashFlag::All => Some(Squash::All),
        }),
        max_layers: args.max_layers.map(usize::from),
    }
}

/// `-o`, `--push` and `--load` as outputs, with the annotations of `--annotation`.
fn outputs(args: &BuildArgs) -> Vec<OutputSpec> {
    let mut outputs = args.outputs.clone();
    if args.push {
        match outputs.iter_mut().find(|output| output.kind == OutputKind::Image) {
            Some(image) => image.push = true,
            None => outputs.push(OutputSpec { push: true, ..OutputSpec::new(OutputKind::Image) }),
        }
    }
    if args.load {
        outputs.push(OutputSpec::new(OutputKind::Docker));
    }
    if outputs.is_empty() {
        outputs.push(OutputSpec::new(OutputKind::Image));
    }
    for output in &mut outputs {
        output.annotations.extend(args.annotations().cloned());
        // What an output says of itself holds.
        if args.image_format == Some(ImageFormat::Docker) && output.kind.is_image() {
            output.oci_media_types.get_or_insert(false);
        }
    }
    outputs
}

/// What every RUN gets whatever its Buildfile says.
pub(super) fn defaults(
    hosts: &[String],
    dns: &[std::net::IpAddr],
    search: &[String],
    options: &[String],
) -> Result<RunDefaults, Failure> {
    let hosts = hosts
        .iter()
        .map(|value| ExtraHost::parse(value).map_err(|e| Failure::from_error(Kind::Usage, &e)))
        .collect::<Result<_, _>>()?;
    let servers: Vec<String> = dns.iter().map(ToString::to_string).collect();
    let dns =
        DnsOverrides::parse(&servers, search, options).map_err(|e| Failure::from_error(Kind::Usage, &e))?;
    Ok(RunDefaults { hosts, dns, programs: super::session::program_directories(), ..RunDefaults::default() })
}

/// Adds limits and privileges.
pub(super) fn bound(
    defaults: &mut RunDefaults,
    limits: &LimitArgs,
    resolved: Resolved,
) -> Result<(), Failure> {
    defaults.limits = limits.limits();
    if let (Some(memory), Some(Swap::Bytes(both))) =
        (defaults.limits.memory_bytes, defaults.limits.memory_swap)
        && both < memory
    {
        return Err(Failure::new(Kind::Usage, "--memory-swap is less than --memory").with_hint(
            "--memory-swap is memory and swap together: equal to --memory means no swap, -1 any amount of it",
        ));
    }
    defaults.cgroup_parent.clone_from(&limits.cgroup_parent);
    defaults.seccomp = resolved.seccomp;
    defaults.labels = resolved.labels;
    defaults.devices = resolved.devices;
    Ok(())
}

/// `--shm-size`; 0 is docker's word for the default.
pub(super) fn shm_size(bytes: Option<u64>) -> Option<u64> {
    bytes.filter(|bytes| *bytes > 0)
}

/// The time before which a step must not have run.
fn oldest(ttl: Duration) -> i64 {
    // Times have whole seconds, and what was made in this one is too old as well.
    if ttl.is_zero() { i64::MAX } else { now().saturating_sub_unsigned(ttl.as_secs()) }
}

/// Where results are written to. An inline cache is in every repository that the image is pushed to.
fn cache_targets(args: &BuildArgs, inline: bool) -> Vec<CacheTarget> {
    let inline = inline && !args.cache_to.iter().any(|cache| cache.place == Place::Beside);
    let asked = args.cache_to.iter().cloned().chain(inline.then(CacheSpec::inline));
    let mut pushed: Vec<Reference> = Vec::new();
    for output in outputs(args).iter().filter(|output| output.push) {
        pushed.extend(args.tags.iter().chain(&output.names).cloned());
    }
    // One repository is one cache, whatever tags the image has in it.
    pushed.sort_by(|a, b| (&a.registry, &a.repository).cmp(&(&b.registry, &b.repository)));
    pushed.dedup_by(|a, b| (&a.registry, &a.repository) == (&b.registry, &b.repository));
    asked.flat_map(|cache| cache.targets(&pushed)).collect()
}

/// Proxy variables of the build arguments, in both cases (semantics fact 43). kiln's own environment travels with
/// `--http-proxy` only: commands see what the image, the Buildfile and the command line say (design.md, Sandbox).
fn proxies(build_args: &BTreeMap<String, String>, of_machine: bool) -> Vec<String> {
    let mut env = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"] {
        let lower = name.to_lowercase();
        let here = || {
            let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            of_machine.then(|| variable(name).or_else(|| variable(&lower))).flatten()
        };
        if let Some(value) = build_args.get(name).or_else(|| build_args.get(&lower)).cloned().or_else(here) {
            env.push(format!("{name}={value}"));
            env.push(format!("{lower}={value}"));
        }
    }
    env
}

/// Where a secret is. Files are opened when a step asks, but a missing one is told now.
pub(super) fn secret(spec: &SecretSpec) -> Result<(String, SecretSource), Failure> {
    let from_file = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(SecretSource::File(path.to_owned())),
        Ok(_) => Err(usage(format!("secret `{}`: `{}` is not a file", spec.id, path.display()))),
        Err(error) => Err(Failure {
            causes: vec![error.to_string()],
            ..usage(format!("secret `{}`: cannot read `{}`", spec.id, path.display()))
        }),
    };
    use std::os::unix::ffi::OsStringExt as _;
    let source = match &spec.source {
        SecretFlag::File(path) => from_file(path)?,
        SecretFlag::Env(name) => match std::env::var_os(name) {
            Some(value) => SecretSource::Value(value.into_vec()),
            None => return Err(usage(format!("secret `{}`: the variable `{name}` is not set", spec.id))),
        },
        SecretFlag::Detect => match std::env::var_os(&spec.id) {
            Some(value) => SecretSource::Value(value.into_vec()),
            None => from_file(Path::new(&spec.id))?,
        },
    };
    Ok((spec.id.clone(), source))
}

/// `--source-date-epoch context`: the time of the commit that the context directory stands at.
fn commit_time(args: &BuildArgs) -> Result<Option<String>, Failure> {
    let super::args::source::ContextSource::Path(directory) = &args.context else {
        return Err(usage(
            "--source-date-epoch context: only a directory's commit is known; give seconds since 1970",
        ));
    };
    let output = std::process::Command::new("git")
        .arg("-C")
        .arg(directory)
        // Not `git log`: its settings in the context's own repository may run programs (log.showSignature).
        .args(["rev-list", "--max-count=1", "--timestamp", "HEAD"])
        .output()
        .map_err(|e| Failure {
            causes: vec![e.to_string()],
            ..usage("cannot run git for the time of the context")
        })?;
    let line = String::from_utf8_lossy(&output.stdout);
    let text = line.split_whitespace().next().unwrap_or_default().to_owned();
    if !output.status.success() || text.is_empty() {
        return Err(usage(format!("`{}` has no commit whose time could be taken", directory.display())));
    }
    Ok(Some(text))
}

fn finish(
    args: &BuildArgs,
    request: &Request,
    report: &Report,
    record: Option<&BuildRecord>,
    warned: u32,
) -> Result<u8, Failure> {
    let shows = !matches!(args.progress, Mode::Quiet | Mode::None | Mode::RawJson);
    if !report.warnings.is_empty() && shows {
        print::talk(render(&request.file_name, &request.text, &report.warnings, Style::stderr()).trim_end());
    }
    if let (Some((number, name)), true) = (&report.stopped, shows) {
        let name = crate::ui::text::fit(name, MAX_STEP_COLUMNS);
        print::talk(format!(
            "stopped after step {number}: {name}; to enter it: kiln debug --step {number} --after"
        ));
    }
    if shows && report.stopped.is_none() {
        let image = report.image.as_ref();
        let built = Built {
            names: request.names.iter().filter(|_| image.is_some()).map(Reference::familiar).collect(),
            what: image.map_or_else(|| "files".to_owned(), |image| image.descriptor.digest.to_string()),
            size_bytes: image.map(BuiltIndex::size_bytes),
            seconds: report.took.as_secs_f64(),
            steps: (report.executed, report.cached),
            columns: terminal::stderr_is_terminal().then(|| terminal::stderr_size().columns),
            warnings: report.warnings.len() + warned as usize,
            record,
        };
        built.lines().iter().for_each(print::talk);
    }
    if let Some(path) = &args.iidfile {
        let id = report
            .image_id()
            .ok_or_else(|| usage("--iidfile: the output is not an image, so it has no id"))?;
        write_file(path, id.to_string().as_bytes())?;
    }
    if let Some(path) = &args.digestfile {
        let image = report
            .image
            .as_ref()
            .ok_or_else(|| usage("--digestfile: the output is not an image, so it has no digest"))?;
        write_file(path, image.descriptor.digest.to_string().as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        write_file(path, metadata(request, report, record).as_bytes())?;
    }
    if args.progress == Mode::Quiet
        && !args.outputs.iter().any(OutputSpec::writes_to_stdout)
        && let Some(id) = report.image_id()
    {
        print::line(id.to_string()).map_err(|e| Failure::from_error(Kind::User, &e))?;
    }
    Ok(0)
}
