//! Options of `kiln graph`.
//!
//! Invariants: the same words mean the same as for `kiln build`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::choice;
use super::pair::{self, BuildArg};
use super::source::{self, FileSource, NamedContext};
use crate::image::platform::Platform;

/// How a graph is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// A picture for browsers
    Svg,
    /// For Graphviz
    Dot,
    /// For Markdown
    Mermaid,
    /// For programs
    Json,
}

/// `kiln graph`.
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing is built or pulled: of base images the names are known, but neither their ONBUILD triggers nor \
                        their environment."
)]
pub struct GraphArgs {
    /// Build context
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: PathBuf,
    /// Buildfile; `-` reads it from standard input [default: CONTEXT/Buildfile, then CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH", value_parser = source::parse_file)]
    pub file: Option<FileSource>,
    /// How to write it: svg, dot (Graphviz), mermaid or json
    #[arg(long, value_name = "FORMAT", value_enum, hide_possible_values = true, default_value = "svg")]
    pub format: GraphFormat,
    /// Write to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Platforms to build for [default: this machine's]
    #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',', value_parser = choice::platform)]
    pub platforms: Vec<Platform>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", value_parser = pair::parse_build_arg)]
    pub build_args: Vec<BuildArg>,
    /// Add a named context
    #[arg(long = "build-context", value_name = "NAME=SOURCE", value_parser = source::parse_named)]
    pub build_contexts: Vec<NamedContext>,
}
