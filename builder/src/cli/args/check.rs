//! Options of `kiln check`.
//!
//! Invariants: the same words mean the same as for `kiln build`.

use std::path::PathBuf;

use clap::Args;

use super::pair::{self, BuildArg};
use super::source::{self, FileSource};
use crate::ui::findings::Format;

/// `kiln check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Build context
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: PathBuf,
    /// Buildfile to check; `-` reads it from standard input [default: CONTEXT/Buildfile, then
    /// CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH", value_parser = source::parse_file)]
    pub file: Option<FileSource>,
    /// Check this stage and what it needs [default: all stages]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", value_parser = pair::parse_build_arg)]
    pub build_args: Vec<BuildArg>,
    /// How findings are written: text, json (as docker build --call=check,format=json), sarif or github
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_default_value = true,
          value_parser = parse_format)]
    pub format: Format,
    /// Leave out these checks
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Run the checks too that are off unless asked for
    #[arg(long)]
    pub all: bool,
    /// Report warnings as errors
    #[arg(long)]
    pub error: bool,
    /// Read what docker reads: look for a Dockerfile only, run docker's checks only, and report what is kiln's own
    #[arg(long, conflicts_with = "all")]
    pub strict_dockerfile: bool,
    /// Show safe rewrites as a diff
    #[arg(long)]
    pub fix: bool,
    /// With --fix: change the file
    #[arg(long, requires = "fix")]
    pub write: bool,
    /// Tell which line of the ignore file leaves these paths out or takes them back in
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "fix")]
    pub explain_ignore: Vec<PathBuf>,
}

fn parse_format(text: &str) -> Result<Format, crate::ui::findings::UnknownFormat> {
    text.parse()
}
