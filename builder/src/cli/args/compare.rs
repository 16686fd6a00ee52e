//! Options of `kiln diff` and `kiln verify`.
//!
//! Invariants: the words of `kiln verify` behind the image are those of `kiln build` and are parsed as such; none of
//! them may write a result or take one from elsewhere.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _};

use super::choice;
use super::{BuildArgs, Cli, Command, Surroundings, parse_in};
use crate::image::platform::Platform;

/// `kiln diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Image of the store, or path of an OCI layout or archive with an optional :TAG
    #[arg(value_name = "A")]
    pub a: String,
    /// Image to compare it with
    #[arg(value_name = "B")]
    pub b: String,
    /// Platform to choose where there are several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
    /// Leave times of files and of the image out
    #[arg(long)]
    pub ignore_times: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `kiln verify`.
#[derive(Debug, Args)]
#[command(
    override_usage = "kiln verify [OPTIONS] IMAGE [BUILD OPTIONS] [CONTEXT]",
    after_help = "BUILD OPTIONS are those that the image was built with, as kiln build takes them, without -t and -o."
)]
pub struct VerifyArgs {
    /// Image of the store, or path of an OCI layout or archive with an optional :TAG
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Leave times of files and of the image out
    #[arg(long)]
    pub ignore_times: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// What kiln build is to be given
    #[arg(value_name = "BUILD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,

    /// The words, parsed.
    #[arg(skip)]
    pub build: Option<Box<BuildArgs>>,
}

impl VerifyArgs {
    /// Parses the words for `kiln build`.
    pub(super) fn complete(&mut self, surroundings: &Surroundings<'_>) -> Result<(), clap::Error> {
        let line = ["kiln", "build"].into_iter().map(OsString::from).chain(self.words.iter().cloned());
        let Command::Build(build) = parse_in(line.collect(), surroundings)?.command else { return Ok(()) };
        let refused = [
            (!build.tags.is_empty(), "-t"),
            (!build.outputs.is_empty(), "-o"),
            (build.push, "--push"),
            (build.load, "--load"),
            (build.iidfile.is_some(), "--iidfile"),
            (build.metadata_file.is_some(), "--metadata-file"),
            (!build.cache_from.is_empty(), "--cache-from"),
            (!build.cache_to.is_empty(), "--cache-to"),
        ];
        if let Some((_, option)) = refused.iter().find(|(given, _)| *given) {
            let why = format!(
                "{option} has no place in kiln verify: the rebuilt image is compared and thrown away"
            );
            return Err(Cli::command().error(ErrorKind::ArgumentConflict, why));
        }
        self.build = Some(build);
        Ok(())
    }
}
