//! Options of `kiln build`: those of `docker buildx build` and `buildah build` that make sense without a daemon
//! (cli.md 2.1 and 2.2).
//!
//! Invariants: options that other builders have and kiln does not need are accepted, hidden, and named by
//! [`BuildArgs::notices`]; nothing is ignored in silence.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::build::until::Until;
use crate::export::attest::options::{self as attest, AttestFlag, Attestations};
use crate::export::spec::OutputSpec;
use crate::export::spec::annotation::{self, Annotation, AnnotationError};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::ui::progress::Mode;

use super::access::AccessArgs;
use super::cache::{CacheSpec, Place};
use super::choice::{
    Call, Entitlement, Epoch, ImageFormat, Method, Network, OnFailure, Pull, SquashFlag, UserNamespace,
};
use super::limits::LimitArgs;
use super::pair::BuildArg;
use super::privileges::PrivilegeArgs;
use super::secret::SecretSpec;
use super::source::{ContextSource, FileSource, NamedContext};
use super::ssh::SshSpec;
use super::ulimit::Ulimit;
use super::{ArgsError, Environment, Surroundings, amount, cache, choice, pair, secret, source, ssh, ulimit};

/// Largest file of build arguments.
const MAX_ARGS_FILE_BYTES: u64 = 1024 * 1024;

const INPUT: &str = "Input";
const RESULT: &str = "Result";
const CACHE: &str = "Cache";
const STEPS: &str = "Steps";
const REPRODUCIBILITY: &str = "Reproducibility";
const DISPLAY: &str = "Display";

/// `kiln build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Directory, git repository or archive URL to build from; `-` reads an archive or a Buildfile from
    /// standard input
    #[arg(value_name = "CONTEXT", default_value = ".", value_parser = source::parse_context)]
    pub context: ContextSource,

    /// Buildfile: a path, a URL, or `-` for standard input [default: CONTEXT/Buildfile, then CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH", value_parser = source::parse_build_file, help_heading = INPUT)]
    pub file: Option<FileSource>,
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE", help_heading = INPUT)]
    pub target: Option<String>,
    /// Platforms to build for, e.g. linux/amd64,linux/arm64; `local` is this machine's
    #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',',
          value_parser = choice::platform, help_heading = INPUT)]
    pub platforms: Vec<Platform>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", value_parser = pair::parse_build_arg,
          help_heading = INPUT)]
    pub build_args: Vec<BuildArg>,
    /// Read build arguments from a file of NAME=VALUE lines; --build-arg wins
    #[arg(long = "build-arg-file", value_name = "PATH", help_heading = INPUT)]
    pub build_arg_files: Vec<PathBuf>,
    /// Add a named context: a path, a URL, docker-image://REF or oci-layout://PATH
    #[arg(long = "build-context", value_name = "NAME=SOURCE", value_parser = source::parse_named,
          help_heading = INPUT)]
    pub build_contexts: Vec<NamedContext>,
    /// Use this file in place of .dockerignore
    #[arg(long, value_name = "PATH", help_heading = INPUT)]
    pub ignorefile: Option<PathBuf>,
    /// Rules about images, URLs and repositories that the build may take, as BuildKit has them [env:
    /// EXPERIMENTAL_BUILDKIT_SOURCE_POLICY]
    #[arg(long = "source-policy-file", value_name = "FILE", help_heading = INPUT)]
    pub source_policy_files: Vec<PathBuf>,
    /// Look base images up again: always, missing, never or newer [default: missing; --pull alone: always]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_missing_value = "always", value_parser = choice::pull, help_heading = INPUT)]
    pub pull: Option<Pull>,

    /// Name the image
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]", value_parser = parse_tag, help_heading = RESULT)]
    pub tags: Vec<Reference>,
    /// Write the result: a directory, `-` (tar to standard output), or type=TYPE,dest=PATH with
    /// TYPE oci, docker, local, tar, image, registry or cacheonly
    #[arg(short = 'o', long = "output", value_name = "DEST", value_parser = OutputSpec::parse,
          help_heading = RESULT)]
    pub outputs: Vec<OutputSpec>,
    /// Push the image to its registry
    #[arg(long, help_heading = RESULT)]
    pub push: bool,
    /// Load the image into docker or podman
    #[arg(long, help_heading = RESULT)]
    pub load: bool,
    /// Write manifests and configs as oci or docker [default: oci] [env: BUILDAH_FORMAT]
    #[arg(long = "format", value_name = "FORMAT", value_parser = choice::image_format, help_heading = RESULT)]
    pub image_format: Option<ImageFormat>,
    /// Add a label
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair::parse_label, help_heading = RESULT)]
    pub labels: Vec<(String, String)>,
    /// Take a label of the Buildfile or its base image away
    #[arg(long = "unsetlabel", value_name = "NAME", value_parser = pair::parse_name, help_heading = RESULT)]
    pub unset_labels: Vec<String>,
    /// Set an environment variable of the image that no step sees
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = pair::parse_build_arg, help_heading = RESULT)]
    pub env: Vec<BuildArg>,
    /// Take an environment variable of the Buildfile or its base image away from the image
    #[arg(long = "unsetenv", value_name = "NAME", value_parser = pair::parse_name, help_heading = RESULT)]
    pub unset_env: Vec<String>,
    /// Add an annotation; TYPE is manifest, index, manifest-descriptor or index-descriptor
    #[arg(long = "annotation", value_name = "[TYPE:]NAME=VALUE", value_parser = parse_annotation,
          help_heading = RESULT)]
    pub annotations: Vec<AnnotationFlag>,
    /// Write beside the image how it was made, as SLSA provenance: true, false or mode=min|max with, after commas,
    /// version=v1|v0.2, builder-id=URI, filename=NAME, reproducible=BOOL, inline-only=BOOL
    #[arg(long, value_name = "ATTRIBUTES", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = attest::parse_provenance, help_heading = RESULT)]
    provenance: Option<AttestFlag>,
    /// Write beside the image what packages it has, as SPDX
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = attest::parse_sbom, help_heading = RESULT)]
    sbom: Option<AttestFlag>,
    /// Write an attestation: type=sbom, or type=provenance with the attributes of --provenance
    #[arg(long, value_name = "ATTESTATION", value_parser = attest::parse_attest, help_heading = RESULT)]
    attest: Vec<AttestFlag>,
    /// Make one layer of this build's (own) or of all of them, the base's included (all) [default: own
    /// when given alone]
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true,
          default_missing_value = "own", value_parser = choice::squash, help_heading = RESULT)]
    pub squash: Option<SquashFlag>,
    /// Merge the uppermost layers of this build when the image would have more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = RESULT)]
    pub max_layers: Option<u16>,
    /// Write the image's id to a file
    #[arg(long, value_name = "PATH", help_heading = RESULT)]
    pub iidfile: Option<PathBuf>,
    /// Write the digest of the manifest or index to a file, as it is in a registry
    #[arg(long, visible_alias = "digest-file", value_name = "PATH", help_heading = RESULT)]
    pub digestfile: Option<PathBuf>,
    /// Write what was built to a JSON file
    #[arg(long, value_name = "PATH", help_heading = RESULT)]
    pub metadata_file: Option<PathBuf>,

    /// Run every step anew
    #[arg(long, help_heading = CACHE)]
    pub no_cache: bool,
    /// Run the steps of these stages anew
    #[arg(long, value_name = "STAGE", value_delimiter = ',', help_heading = CACHE)]
    pub no_cache_filter: Vec<String>,
    /// Run steps anew whose results are older, e.g. 24h or 7d; 0 for all steps
    #[arg(long, value_name = "DURATION", value_parser = cache::parse_ttl, help_heading = CACHE)]
    pub cache_ttl: Option<Duration>,
    /// Tell why each step ran
    #[arg(short = 'D', long, visible_alias = "debug", help_heading = CACHE)]
    pub explain: bool,
    /// Take results from a remote cache: an image name, type=registry,ref=NAME, type=local,src=DIR, type=gha or
    /// type=s3
    #[arg(long, value_name = "CACHE", value_parser = cache::parse_from, help_heading = CACHE)]
    pub cache_from: Vec<CacheSpec>,
    /// Write results to a remote cache: an image name, type=registry,ref=NAME, type=inline (beside the image that is
    /// pushed), type=local,dest=DIR, type=gha (GitHub Actions) or type=s3 (a bucket), with mode=min (the image's own
    /// steps) or mode=max (every step)
    #[arg(long, value_name = "CACHE", value_parser = cache::parse_to, help_heading = CACHE)]
    pub cache_to: Vec<CacheSpec>,

    /// Offer a secret to steps: id=NAME,src=FILE or id=NAME,env=VARIABLE
    #[arg(long = "secret", value_name = "SECRET", value_parser = secret::parse, help_heading = STEPS)]
    pub secrets: Vec<SecretSpec>,
    /// Offer an SSH agent to steps: default, id=SOCKET or id=KEY[,KEY]
    #[arg(long, value_name = "AGENT", value_parser = ssh::parse, help_heading = STEPS)]
    pub ssh: Vec<SshSpec>,
    /// Give every RUN a mount, written as behind RUN --mount
    #[arg(long = "mount", value_name = "MOUNT", value_parser = parse_mount, help_heading = STEPS)]
    pub mounts: Vec<String>,
    /// Authorities in PEM form that RUN trusts and no image keeps; `host` takes this machine's
    #[arg(long, value_name = "FILE", help_heading = STEPS)]
    pub ca_bundle: Option<PathBuf>,
    /// Network of RUN: default, none or host
    #[arg(long, value_name = "MODE", default_value = "default", hide_default_value = true,
          value_parser = choice::network, help_heading = STEPS)]
    pub network: Network,
    /// Allow network.host, security.insecure or buildx.local.delete
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = choice::entitlement,
          help_heading = STEPS)]
    pub allow: Vec<Entitlement>,
    /// Add a line to /etc/hosts of RUN; host-gateway is this machine
    #[arg(long = "add-host", value_name = "NAME:IP", help_heading = STEPS)]
    pub add_hosts: Vec<String>,
    /// Name server of RUN
    #[arg(long, value_name = "IP", help_heading = STEPS)]
    pub dns: Vec<IpAddr>,
    /// Search domain of RUN
    #[arg(long, value_name = "DOMAIN", help_heading = STEPS)]
    pub dns_search: Vec<String>,
    /// Resolver option of RUN
    #[arg(long, value_name = "OPTION", help_heading = STEPS)]
    pub dns_option: Vec<String>,
    /// Size of /dev/shm, e.g. 64m
    #[arg(long, value_name = "SIZE", value_parser = amount::size, help_heading = STEPS)]
    pub shm_size: Option<u64>,
    /// Resource limit of RUN, e.g. nofile=1024:4096
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = ulimit::parse, help_heading = STEPS)]
    pub ulimits: Vec<Ulimit>,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub privileges: PrivilegeArgs,
    /// Give RUN the proxies of this machine's environment, as proxies of --build-arg: they are in no image
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean, help_heading = STEPS)]
    pub http_proxy: Option<bool>,
    /// User namespace of RUN: auto or host
    #[arg(long, value_name = "MODE", default_value = "auto", hide_default_value = true,
          value_parser = choice::user_namespace, help_heading = STEPS)]
    pub userns: UserNamespace,
    /// Steps that run at once [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = STEPS)]
    pub jobs: Option<u32>,
    /// After a failure, run what does not depend on it, and report all failures
    #[arg(long, help_heading = STEPS)]
    pub keep_going: bool,
    /// End after the step on a line, or after the last one of a stage; nothing is written but the cache
    #[arg(long, value_name = "LINE|STAGE", help_heading = STEPS)]
    pub until: Option<Until>,
    /// After a failure, enter the failed step with a shell: shell or stop [default: stop]
    #[arg(long, value_name = "WHAT", default_value = "stop", hide_default_value = true,
          value_parser = choice::on_failure, help_heading = STEPS)]
    pub on_failure: OnFailure,

    /// Time of the build in seconds since 1970, or `context` [env: SOURCE_DATE_EPOCH]
    #[arg(long, visible_alias = "timestamp", value_name = "TIME", value_parser = choice::epoch, help_heading = REPRODUCIBILITY)]
    pub source_date_epoch: Option<Epoch>,
    /// Lower file times in new layers to the time of the build [default: true when that is known]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean, help_heading = REPRODUCIBILITY)]
    pub rewrite_timestamp: Option<bool>,

    /// Kind of progress: auto, tty, plain, quiet, rawjson or none [env: BUILDKIT_PROGRESS]
    #[arg(long = "progress", value_name = "KIND", value_parser = super::parse_progress, help_heading = DISPLAY)]
    progress_flag: Option<Mode>,
    /// Print nothing but the image's id
    #[arg(short, long, help_heading = DISPLAY)]
    pub quiet: bool,
    /// Write progress to a file too, as --progress=plain has it
    #[arg(long, value_name = "FILE", help_heading = DISPLAY)]
    pub logfile: Option<PathBuf>,
    /// Only check the Buildfile
    #[arg(long, conflicts_with = "call_flag", help_heading = DISPLAY)]
    check: bool,
    /// Do something else than build: check, outline or targets, each with an optional ,format=json
    #[arg(long = "call", value_name = "METHOD", value_parser = choice::call, help_heading = DISPLAY)]
    call_flag: Option<Call>,

    /// How progress is shown; decided by --quiet, --progress and BUILDKIT_PROGRESS.
    #[arg(skip)]
    pub progress: Mode,
    /// What to do; decided by --check and --call.
    #[arg(skip)]
    pub call: Call,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    compatibility: CompatibilityArgs,
}

/// Options of other builders without effect here.
#[derive(Debug, Args)]
struct CompatibilityArgs {
    /// Accepted for docker: kiln keeps no containers
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    rm: Option<bool>,
    /// Accepted for docker: kiln keeps no containers
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    force_rm: Option<bool>,
    /// Accepted for docker: contexts are not sent anywhere
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    compress: Option<bool>,
    /// Accepted for docker and buildah: there is one kind of sandbox
    #[arg(long, hide = true, value_name = "KIND")]
    isolation: Option<String>,
    /// Accepted for buildx: there is no builder to choose
    #[arg(long, hide = true, value_name = "NAME")]
    builder: Option<String>,
    /// As --explain, with debug or trace
    #[arg(long, hide = true, value_name = "LEVEL", value_parser = ["trace", "debug", "info", "warn", "error",
          "fatal", "panic"])]
    log_level: Option<String>,
    /// As --on-failure=shell
    #[arg(long, hide = true)]
    debug_on_error: bool,
    /// Accepted for buildah: steps are always cached, see --no-cache
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    layers: Option<bool>,
    /// Accepted for buildah: only stages that the target needs are built
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    skip_unused_stages: Option<bool>,
    /// Accepted for docker: there is no such trust
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    disable_content_trust: Option<bool>,
    /// Accepted for buildah: there is one kind of sandbox
    #[arg(long, hide = true, value_name = "PATH")]
    runtime: Option<String>,
}

/// The annotations of one `--annotation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotationFlag(pub Vec<Annotation>);

/// Checks the form of a mount; what depends on variables is seen when a RUN gets it.
fn parse_mount(text: &str) -> Result<String, String> {
    let checked = kiln_grammar::mount::parse(text);
    match checked {
        Err(error) if !text.contains('$') => Err(error
            .hint
            .map_or_else(|| error.message.clone(), |hint| format!("{} ({hint})", error.message))),
        _ => Ok(text.to_owned()),
    }
}

fn parse_annotation(text: &str) -> Result<AnnotationFlag, AnnotationError> {
    annotation::parse_flag(text).map(AnnotationFlag)
}

pub(in crate::cli) fn parse_tag(text: &str) -> Result<Reference, String> {
    let reference: Reference = text.parse().map_err(|error| format!("{error}; write NAME[:TAG]"))?;
    match reference.digest {
        Some(_) => Err(format!("`{text}` has a digest, which nobody can choose; write NAME[:TAG]")),
        None => Ok(reference),
    }
}

impl BuildArgs {
    /// Settles what several options or the environment decide together.
    pub(super) fn complete(&mut self, surroundings: &Surroundings<'_>) -> Result<(), ArgsError> {
        self.progress = match (self.quiet, self.progress_flag) {
            (true, _) => Mode::Quiet,
            (false, Some(mode)) => mode,
            (false, None) => environment_progress(surroundings.environment)?,
        };
        self.call = match self.check {
            true => Call { method: Method::Check, json: false },
            false => self.call_flag.unwrap_or_default(),
        };
        if self.platforms.is_empty() {
            self.platforms = environment_platforms(surroundings.environment)?;
        }
        if self.source_policy_files.is_empty() {
            let file = (surroundings.environment)("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY");
            self.source_policy_files =
                file.filter(|value| !value.is_empty()).map(PathBuf::from).into_iter().collect();
        }
        for cache in self.cache_from.iter_mut().chain(&mut self.cache_to) {
            cache.complete(surroundings.environment)?;
        }
        if self.image_format.is_none() {
            self.image_format = environment_format(surroundings.environment)?;
        }
        self.explain |= matches!(self.compatibility.log_level.as_deref(), Some("debug" | "trace"));
        if self.compatibility.debug_on_error {
            self.on_failure = OnFailure::Shell;
        }
        if self.file == Some(FileSource::Stdin) && self.context == ContextSource::Stdin {
            return Err(ArgsError::BothStdin);
        }
        for output in &self.outputs {
            output.check_destination(surroundings.stdout_is_terminal)?;
        }
        if self.outputs.iter().filter(|output| output.writes_to_stdout()).count() > 1 {
            return Err(ArgsError::TwoStdout);
        }
        Ok(())
    }

    /// What `--attest` and `--provenance` come to; as in buildx, what the special options say holds.
    pub fn attestations(&self) -> Attestations {
        Attestations::of(self.attest.iter().chain(&self.provenance).chain(&self.sbom))
    }

    /// The annotations of all `--annotation`.
    pub fn annotations(&self) -> impl Iterator<Item = &Annotation> {
        self.annotations.iter().flat_map(|flag| &flag.0)
    }

    /// The build arguments: files first, then `--build-arg`, the last of a name wins. A bare name that the
    /// environment lacks is left out (language.md 1.5: the Buildfile's default holds then).
    pub fn arguments(&self, environment: Environment<'_>) -> Result<BTreeMap<String, String>, ArgsError> {
        let mut arguments = BTreeMap::new();
        for path in &self.build_arg_files {
            arguments.extend(read_args_file(path)?);
        }
        for BuildArg { key, value } in &self.build_args {
            let value = value.clone().or_else(|| environment(key)?.into_string().ok());
            if let Some(value) = value {
                arguments.insert(key.clone(), value);
            }
        }
        Ok(arguments)
    }

    /// The time of the build: `--source-date-epoch`, else the build argument, else the environment
    /// (design.md, Reproducibility). Empty texts count as unset.
    pub fn epoch(
        &self,
        arguments: &BTreeMap<String, String>,
        environment: Environment<'_>,
    ) -> Result<Option<Epoch>, ArgsError> {
        const NAME: &str = "SOURCE_DATE_EPOCH";
        if self.source_date_epoch.is_some() {
            return Ok(self.source_date_epoch);
        }
        let from_environment = || environment(NAME).map(|value| value.to_string_lossy().into_owned());
        let text = arguments.get(NAME).cloned().or_else(from_environment).filter(|text| !text.is_empty());
        let bad = |error: choice::ChoiceError| ArgsError::Variable { name: NAME, reason: error.to_string() };
        text.map(|text| choice::epoch(&text).map_err(bad)).transpose()
    }

    /// What was asked for and has no effect, one line each.
    pub fn notices(&self) -> Vec<String> {
        let CompatibilityArgs {
            rm,
            force_rm,
            compress,
            isolation,
            builder,
            log_level: _,
            debug_on_error: _,
            layers,
            skip_unused_stages,
            disable_content_trust: _,
            runtime,
        } = &self.compatibility;
        let mut notices = Vec::new();
        let mut note = |given: bool, option: &str, why: &str| {
            if given {
                notices.push(format!("{option} has no effect: {why}"));
            }
        };
        note(rm.is_some(), "--rm", "kiln keeps no containers");
        note(force_rm.is_some(), "--force-rm", "kiln keeps no containers");
        note(compress.is_some(), "--compress", "contexts are not sent anywhere");
        note(isolation.is_some(), "--isolation", "there is one kind of sandbox");
        note(builder.is_some(), "--builder", "there is no builder to choose");
        note(*layers == Some(false), "--layers=false", "steps are always cached; --no-cache runs all anew");
        let unused = "a stage that the target does not need is not built";
        note(*skip_unused_stages == Some(false), "--skip-unused-stages=false", unused);
        note(runtime.is_some(), "--runtime", "there is one kind of sandbox");
        for cache in self.cache_from.iter().chain(&self.cache_to) {
            for key in &cache.unused {
                note(true, &format!("`{key}` of a cache"), "steps have tags of their own and are only added");
            }
            if let Some(tag) = cache.unused_tag() {
                note(true, &format!("the tag `{tag}` of a cache"), "steps have tags of their own beside it");
            }
        }
        let mut caches = self.cache_from.iter().chain(&self.cache_to);
        let why = "ACTIONS_RUNTIME_TOKEN and ACTIONS_RESULTS_URL are not set here; the action \
                   crazy-max/ghaction-github-runtime gives them to the steps of a job";
        note(caches.any(|cache| matches!(cache.place, Place::Actions(_))), "type=gha", why);
        let pushed = self.push || self.outputs.iter().any(|output| output.push);
        let inline = self.cache_to.iter().any(|cache| cache.place == Place::Beside);
        note(inline && !pushed, "type=inline", "the image is not pushed");
        for key in self.outputs.iter().flat_map(|output| &output.ignored) {
            note(true, &format!("`{key}` of --output"), "only other builders need it");
        }
        notices
    }
}

/// docker's default for `--platform`.
fn environment_platforms(environment: Environment<'_>) -> Result<Vec<Platform>, ArgsError> {
    const NAME: &str = "DOCKER_DEFAULT_PLATFORM";
    let Some(value) = environment(NAME).filter(|value| !value.is_empty()) else { return Ok(Vec::new()) };
    let bad = |error: choice::ChoiceError| ArgsError::Variable { name: NAME, reason: error.to_string() };
    let value = value.to_string_lossy();
    value.split(',').map(|platform| choice::platform(platform).map_err(bad)).collect()
}

/// buildah's default for `--format`.
fn environment_format(environment: Environment<'_>) -> Result<Option<ImageFormat>, ArgsError> {
    const NAME: &str = "BUILDAH_FORMAT";
    let Some(value) = environment(NAME).filter(|value| !value.is_empty()) else { return Ok(None) };
    let bad = |error: choice::ChoiceError| ArgsError::Variable { name: NAME, reason: error.to_string() };
    choice::image_format(&value.to_string_lossy()).map(Some).map_err(bad)
}

fn environment_progress(environment: Environment<'_>) -> Result<Mode, ArgsError> {
    const NAME: &str = "BUILDKIT_PROGRESS";
    let Some(value) = environment(NAME).filter(|value| !value.is_empty()) else { return Ok(Mode::Auto) };
    let bad = |reason| ArgsError::Variable { name: NAME, reason };
    super::parse_progress(&value.to_string_lossy()).map_err(bad)
}

fn read_args_file(path: &Path) -> Result<BTreeMap<String, String>, ArgsError> {
    let failed = |source| ArgsError::ReadFile { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let read = file.take(MAX_ARGS_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if read as u64 > MAX_ARGS_FILE_BYTES {
        return Err(failed(std::io::Error::other("the file is larger than 1 MiB")));
    }
    pair::parse_args_file(&text).map_err(|(line, reason)| ArgsError::ArgsFile {
        path: path.to_owned(),
        line,
        reason,
    })
}
