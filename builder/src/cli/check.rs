//! `kiln check`, and what `kiln build --call` does instead of building.
//!
//! Invariants:
//! - nothing is built, pulled or resolved; of the context only the ignore file is read;
//! - the exit status is 1 when there is a finding, 0 otherwise (cli.md 2.1);
//! - reports go to stdout, talk about them to stderr.

mod findings;
mod fix;
mod ignore;
mod listing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_grammar::lint::Origin;

use super::args::choice::Method;
use super::args::pair::BuildArg;
use super::args::source::{ContextSource, FileSource};
use super::args::{BuildArgs, CheckArgs};
use super::context::{self, Finder};
use super::project;
use super::session;
use crate::base::cancel::CancelToken;
use crate::context::git::GitEnvironment;
use crate::context::local::LocalContext;
use crate::image::platform::Platform;
use crate::net::Net;
use crate::ui::diagnostics::Style;
use crate::ui::failure::{EXIT_FAILED, EXIT_OK, Failure, Kind};
use crate::ui::findings::{Findings, Format};
use crate::ui::print;
use crate::ui::progress::{Mode, Progress, Target};

/// Default names of docker, which knows no Buildfile.
const DOCKER_NAMES: [&str; 2] = ["Dockerfile", "dockerfile"];

/// A Buildfile to look at.
struct File {
    /// For messages.
    name: String,
    text: String,
    /// Where it is, when it is a file of this machine.
    path: Option<PathBuf>,
}

/// How to look.
#[derive(Default)]
struct Settings {
    build_args: BTreeMap<String, String>,
    target: Option<String>,
    platform: Option<Platform>,
    /// Names of `--build-context`.
    contexts: Vec<String>,
    skip: Vec<String>,
    pedantic: bool,
    only: Option<Origin>,
    /// What docker does not know is an error.
    portable: bool,
}

/// `kiln check`.
pub(super) fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let project::Look { file, target } =
        project::look(&args.context, args.file.as_ref(), args.target.as_ref())?;
    if !args.explain_ignore.is_empty() {
        let path = match &file {
            Some(FileSource::Stdin | FileSource::Url(_)) => None,
            Some(FileSource::Path(path)) => Some(path.clone()),
            None => context::buildfile(None, Some(&args.context)).ok().and_then(|(_, _, path)| path),
        };
        let local = open_context(&args.context, path.as_deref())?;
        return ignore::explain(&args.context, &local, &args.explain_ignore, args.format);
    }
    let file = file.as_ref();
    let directory = Some(args.context.as_path());
    let (name, text, path) = match args.strict_dockerfile {
        true => context::buildfile_named(&DOCKER_NAMES, file, directory)?,
        false => context::buildfile(file, directory)?,
    };
    let file = File { name, text, path };
    let settings = Settings {
        build_args: build_args(&args.build_args),
        target,
        skip: args.skip.clone(),
        pedantic: args.all,
        only: args.strict_dockerfile.then_some(Origin::BuildKit),
        portable: args.strict_dockerfile,
        ..Settings::default()
    };
    let local = local_context(&args.context, &file)?;
    if args.fix {
        return fix::fix(&file, &settings, local.as_ref(), args.write);
    }
    report(&file, &settings, local.as_ref(), args.format, args.error)
}

/// What is found in the Buildfile at `path`, as text; nothing when it cannot be read.
pub(super) fn findings_of(path: &Path, target: Option<String>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let file = File { name: path.display().to_string(), text, path: Some(path.to_owned()) };
    let local = path.parent().and_then(|directory| local_context(directory, &file).ok().flatten());
    let settings = Settings { target, ..Settings::default() };
    let found = findings::find(&file, &settings, local.as_ref());
    let report = Findings {
        file: &file.name,
        text: &file.text,
        diagnostics: &found.diagnostics,
        strict: found.config.error,
    };
    Some(if found.diagnostics.is_empty() { String::new() } else { report.render(Format::Text, Style::PLAIN) })
}

/// `kiln build --check` and `--call`.
pub(super) fn call(root: Option<PathBuf>, args: &BuildArgs) -> Result<u8, Failure> {
    let environment = |name: &str| std::env::var_os(name);
    let settings = Settings {
        build_args: args.arguments(&environment).map_err(|e| Failure::from_error(Kind::Usage, &e))?,
        target: args.target.clone(),
        platform: args.platforms.first().cloned(),
        contexts: args.build_contexts.iter().map(|named| named.name.clone()).collect(),
        only: Some(Origin::BuildKit),
        ..Settings::default()
    };
    let (file, local) = match &args.context {
        ContextSource::Path(directory) if !matches!(args.file, Some(FileSource::Url(_))) => {
            let (name, text, path) = context::buildfile(args.file.as_ref(), Some(directory))?;
            let file = File { name, text, path };
            let local = local_context(directory, &file)?;
            (file, local)
        }
        _ => (fetched(root, args)?, None),
    };
    match args.call.method {
        Method::Build | Method::Check => {
            let format = if args.call.json { Format::Json } else { Format::Text };
            report(&file, &settings, local.as_ref(), format, false)
        }
        Method::Outline => listing::outline(&file, &settings, args.call.json),
        Method::Targets => listing::targets(&file, args.call.json),
    }
}

/// The Buildfile of a context that is not a directory here.
fn fetched(root: Option<PathBuf>, args: &BuildArgs) -> Result<File, Failure> {
    let root = session::store_root(root)?;
    session::enter()?;
    let store = session::open_store(&root)?;
    let cancel = CancelToken::new();
    session::watch_signals(cancel.clone(), Progress::new(Mode::None, Target::Stderr));
    let net = Net::default();
    let git = GitEnvironment::pick(std::env::vars_os());
    let policies = super::policy::read(&args.source_policy_files)?;
    let finder = Finder { store: &store, net: &net, git: &git, cancel: &cancel, policies: &policies };
    let inputs = finder.find(&args.context, args.file.as_ref(), None, &[])?;
    Ok(File { name: inputs.file_name, text: inputs.text, path: None })
}

/// The context, when the directory is one: a Buildfile can be checked without.
fn local_context(directory: &Path, file: &File) -> Result<Option<LocalContext>, Failure> {
    if directory.is_dir() { open_context(directory, file.path.as_deref()).map(Some) } else { Ok(None) }
}

fn open_context(directory: &Path, buildfile: Option<&Path>) -> Result<LocalContext, Failure> {
    LocalContext::open(directory, buildfile).map_err(|e| Failure::from_error(Kind::User, &e))
}

pub(super) fn build_args(flags: &[BuildArg]) -> BTreeMap<String, String> {
    let value = |flag: &BuildArg| flag.value.clone().or_else(|| std::env::var(&flag.key).ok());
    flags.iter().filter_map(|flag| Some((flag.key.clone(), value(flag)?))).collect()
}

fn report(
    file: &File,
    settings: &Settings,
    local: Option<&LocalContext>,
    format: Format,
    strict: bool,
) -> Result<u8, Failure> {
    let found = findings::find(file, settings, local);
    let strict = strict || found.config.error;
    let report = Findings { file: &file.name, text: &file.text, diagnostics: &found.diagnostics, strict };
    put(&report.render(format, Style::stdout()))?;
    Ok(if found.diagnostics.is_empty() { EXIT_OK } else { EXIT_FAILED })
}

fn put(text: &str) -> Result<(), Failure> {
    print::data(text.as_bytes()).map_err(|e| Failure::from_error(Kind::User, &e))
}
