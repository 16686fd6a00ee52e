//! `kiln cache`: what RUN's cache mounts hold.
//!
//! Invariants: nothing is removed or replaced by an option's default while a running build uses it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::choice;
use crate::layer::compress::Compression;

/// `kiln cache`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "These are the directories of RUN --mount=type=cache. The cache of steps is in the store: `kiln du` \
                  shows it, `kiln prune` makes it smaller."
)]
pub struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// The verbs of `kiln cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List cache mounts with size and last use
    #[command(visible_alias = "list")]
    Ls(CacheLsArgs),
    /// Show all that is known of cache mounts
    Inspect(CacheInspectArgs),
    /// Remove cache mounts
    Rm(CacheRmArgs),
    /// Write a cache mount as an archive
    Export(CacheExportArgs),
    /// Make a cache mount of an archive
    Import(CacheImportArgs),
}

/// `kiln cache ls`.
#[derive(Debug, Args)]
pub struct CacheLsArgs {
    /// Print ids only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Only those that this was built with last: a Buildfile, a context or the name of an image
    #[arg(long, value_name = "WHAT")]
    pub used_by: Option<String>,
}

/// `kiln cache inspect`.
#[derive(Debug, Args)]
pub struct CacheInspectArgs {
    /// Ids of cache mounts (`id=` of the mount, else its target)
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
}

/// `kiln cache rm`.
#[derive(Debug, Args)]
pub struct CacheRmArgs {
    /// Ids of cache mounts
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub ids: Vec<String>,
    /// Remove all of them
    #[arg(short, long, conflicts_with = "ids")]
    pub all: bool,
    /// Also what a running build uses (it keeps its files until it ends), and ids that are not there
    #[arg(short, long)]
    pub force: bool,
}

/// `kiln cache export`.
#[derive(Debug, Args)]
pub struct CacheExportArgs {
    /// Id of the cache mount
    #[arg(value_name = "ID")]
    pub id: String,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How the tar is compressed
    #[arg(long, value_name = "METHOD", default_value = "zstd", value_parser = choice::archive_compression)]
    pub compression: Compression,
    /// Also while a running build uses it
    #[arg(short, long)]
    pub force: bool,
}

/// `kiln cache import`.
#[derive(Debug, Args)]
pub struct CacheImportArgs {
    /// Id of the cache mount
    #[arg(value_name = "ID")]
    pub id: String,
    /// The archive, a tar in any compression; standard input when it is left out or `-`
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Replace one that a running build uses (it keeps its files until it ends)
    #[arg(short, long)]
    pub force: bool,
}
