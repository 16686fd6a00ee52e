//! The command line as clap sees it, parsed into typed values. What the commands do with them is not here.
//!
//! Invariants:
//! - parsing has no effect and reads nothing but the environment it is given;
//! - a value that parsed is well formed; whether it fits the machine or the Buildfile is for the commands to say;
//! - every option has help text (a test sees to it), and every message names the value and shows the right form.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::ui::progress::Mode;
use crate::ui::terminal;

pub mod access;
pub mod actions_cache;
pub mod amount;
pub mod bucket_cache;
pub mod build;
pub mod cache;
pub mod check;
pub mod choice;
pub mod compare;
pub mod config;
pub mod debug;
pub mod graph;
pub mod limits;
pub mod login;
pub mod look;
pub mod manifest;
pub mod mounts;
pub mod pair;
pub mod privileges;
pub mod record;
pub mod run;
pub mod secret;
pub mod source;
pub mod ssh;
pub mod store;
pub mod transfer;
pub mod ulimit;
pub mod unshare;

pub use build::BuildArgs;
pub use check::CheckArgs;
pub use compare::{DiffArgs, VerifyArgs};
pub use login::{LoginArgs, LogoutArgs};
pub use look::{CatArgs, CpArgs, LayersArgs, LsArgs};
pub use mounts::CacheArgs;
pub use run::RunArgs;
pub use store::{DuArgs, FsckArgs, ImagesArgs, PruneArgs, ResetArgs, RmiArgs};
pub use transfer::{CopyArgs, InspectArgs, PullArgs, PushArgs, TagArgs};

/// Looks up an environment variable. Commands pass the process's, tests their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What parsing depends on besides the arguments.
pub struct Surroundings<'a> {
    /// Environment variables.
    pub environment: Environment<'a>,
    /// An archive is not written to a terminal.
    pub stdout_is_terminal: bool,
}

/// kiln's whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version = env!("KILN_VERSION"),
    about = "Builds container images from a Dockerfile or Buildfile. No daemon, no root.",
    disable_help_subcommand = true,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Exit status: 0 done; 1 failed, also a failed RUN, and findings of check, diff, verify and fsck; 2 wrong \
                  command line; 3 beyond a limit of kiln layers; 100 mistake in kiln; 102 disk or memory full; 130 \
                  stopped by a signal. `kiln run` passes the command's status on."
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Keep images and cache in DIR [env: KILN_ROOT] [default: /var/lib/kiln for root, else
    /// ~/.local/share/kiln]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub root: Option<PathBuf>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image
    // As with docker, the last one of an option given twice holds: scripts add to lines that have it already.
    #[command(visible_alias = "b", alias = "bud", args_override_self = true)]
    Build(Box<BuildArgs>),
    /// Run a command in a new container of an image
    #[command(args_override_self = true)]
    Run(Box<RunArgs>),
    /// Run a command with kiln's rights over its store, and with images mounted
    Unshare(Box<unshare::UnshareArgs>),
    /// List images
    Images(ImagesArgs),
    /// Fetch an image from a registry into the store
    Pull(Box<PullArgs>),
    /// Send an image to a registry
    Push(Box<PushArgs>),
    /// Copy an image between the store, registries, layouts and archives
    Copy(Box<CopyArgs>),
    /// Give an image another name
    Tag(TagArgs),
    /// Show what an image is, here or in a registry
    Inspect(Box<InspectArgs>),
    /// Make images of several platforms out of images of one
    Manifest(Box<manifest::ManifestArgs>),
    /// Keep credentials for a registry
    Login(LoginArgs),
    /// Forget credentials for a registry
    Logout(LogoutArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show what differs between two images
    Diff(DiffArgs),
    /// Build an image again and show what differs
    Verify(VerifyArgs),
    /// Show what each layer of an image costs
    Layers(LayersArgs),
    /// List files of an image
    Ls(LsArgs),
    /// Print files of an image
    Cat(CatArgs),
    /// Copy files out of an image
    Cp(CpArgs),
    /// Change the config of an image without a build
    Config(config::ConfigArgs),
    /// Show what takes how much space
    #[command(visible_alias = "df")]
    Du(DuArgs),
    /// Remove cache that no image needs
    Prune(Box<PruneArgs>),
    /// Check the store for damage, and repair it
    Fsck(FsckArgs),
    /// Remove the whole store, with all images and cache
    Reset(ResetArgs),
    /// List, remove, export and import cache mounts
    Cache(Box<CacheArgs>),
    /// Show what this machine offers and where things are kept
    Info(InfoArgs),
    /// List builds
    History(record::HistoryArgs),
    /// Show what the steps of a build wrote
    Log(record::LogArgs),
    /// Write a page about a build: times, graph, layers, checks, logs
    Report(record::ReportArgs),
    /// Tell why steps of a build ran
    Explain(record::ExplainArgs),
    /// Enter a step of a build with a shell: the one that failed, or any
    Debug(Box<debug::DebugArgs>),
    /// Check a Buildfile without building it
    Check(Box<CheckArgs>),
    /// Draw the steps of a Buildfile
    Graph(Box<graph::GraphArgs>),
    /// Make a command `build` that stands for `kiln build`
    InstallAlias(InstallAliasArgs),
    /// Print completions for a shell
    Completion(CompletionArgs),
    /// Print the manual page, or write all of them
    Man(ManArgs),
    /// Show the version
    Version,
}

/// `kiln info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `kiln completion`.
#[derive(Debug, Args)]
#[command(after_help = "For bash: kiln completion bash > ~/.local/share/bash-completion/completions/kiln\n\
                        For fish: kiln completion fish > ~/.config/fish/completions/kiln.fish\n\
                        For zsh: write it as _kiln into a directory of $fpath")]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `kiln man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory that gets a page for each command, e.g. ~/.local/share/man/man1
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// `kiln install-alias`.
#[derive(Debug, Args)]
pub struct InstallAliasArgs {
    /// Directory of your PATH that gets the link `build`
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Replace an existing `build`
    #[arg(short, long)]
    pub force: bool,
}

/// Why options that are well formed one by one do not fit together or the environment.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// An environment variable that holds a bad value.
    #[error("environment variable {name}: {reason}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// `-f -` and context `-`.
    #[error("`-f -` and the context `-` cannot both read standard input")]
    BothStdin,
    /// Two results for one stdout.
    #[error("only one --output can go to standard output")]
    TwoStdout,
    /// An output that does not fit.
    #[error("--output: {0}")]
    Output(#[from] crate::export::spec::OutputError),
    /// A file of build arguments that cannot be read.
    #[error("cannot read the build arguments in `{path}`")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A cache in a bucket that is not known well enough.
    #[error("type=s3 needs `{key}` or {variable}")]
    Bucket {
        /// The attribute.
        key: &'static str,
        /// The variable that serves as well.
        variable: &'static str,
    },
    /// A malformed file of build arguments.
    #[error("`{path}` line {line}: {reason}")]
    ArgsFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: pair::PairError,
    },
}

/// Parses the command line. Called as `build` (see `install-alias`) it is that of `kiln build`.
pub fn parse(argv: Vec<OsString>) -> Result<Cli, clap::Error> {
    let surroundings = Surroundings {
        environment: &|name| std::env::var_os(name),
        stdout_is_terminal: terminal::stdout_is_terminal(),
    };
    parse_in(argv, &surroundings)
}

/// [`parse`] in surroundings of the caller's.
pub fn parse_in(mut argv: Vec<OsString>, surroundings: &Surroundings<'_>) -> Result<Cli, clap::Error> {
    if called_as_build(&argv) {
        argv.insert(1, OsString::from("build"));
    }
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(argv).map_err(without_secrets)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    if cli.global.root.is_none() {
        let variable = (surroundings.environment)("KILN_ROOT");
        cli.global.root = variable.filter(|root| !root.is_empty()).map(PathBuf::from);
    }
    if let Command::Build(args) = &mut cli.command {
        args.complete(surroundings)
            .map_err(|error| command.error(clap::error::ErrorKind::ValueValidation, error))?;
    }
    if let Command::Verify(args) = &mut cli.command {
        args.complete(surroundings)?;
    }
    Ok(cli)
}

/// A message quotes what it is about, which is no place for the token of a cache.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && let Some(shown) = cache::without_secrets(value)
    {
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
    error
}

fn called_as_build(argv: &[OsString]) -> bool {
    argv.first().and_then(|name| Path::new(name).file_name()).is_some_and(|name| name == "build")
}

/// Parses `--progress`.
pub(super) fn parse_progress(text: &str) -> Result<Mode, String> {
    text.parse::<Mode>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
