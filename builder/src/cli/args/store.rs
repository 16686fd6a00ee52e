//! Options of the commands that list and remove what the store holds.
//!
//! Invariants: no option's default removes an image, or anything that is in use.

use std::time::Duration;

use clap::Args;

use super::amount;
use crate::image::reference::Reference;
use crate::store::Filter;

/// `kiln images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Only images of this name
    #[arg(value_name = "NAME")]
    pub name: Option<Reference>,
    /// Print ids only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// Print whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `kiln rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Names or ids of images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Remove images that are in use, part of another one, or have other names
    #[arg(short, long)]
    pub force: bool,
}

/// One `--filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterArg {
    /// `until=DURATION`: not used for so long.
    Until(Duration),
    /// A condition.
    Only(Filter),
}

fn filter(text: &str) -> Result<FilterArg, String> {
    match text.strip_prefix("until=") {
        Some(duration) => amount::duration(duration).map(FilterArg::Until).map_err(|e| e.to_string()),
        None => text.parse().map(FilterArg::Only).map_err(|e: crate::store::FilterError| e.to_string()),
    }
}

/// `kiln du`.
#[derive(Debug, Args)]
#[command(
    after_help = "Snapshots are unpacked layers, of images and of steps; blobs are layers and documents as images \
                        hold them; strays are left over from killed builds and go with the next collection."
)]
pub struct DuArgs {
    /// Only what fits: until=24h, type=snapshot|blob|mount|git|stray, id=, description~=, inuse, shared, private,
    /// mutable, immutable
    #[arg(long = "filter", value_name = "FILTER", value_parser = filter)]
    pub filters: Vec<FilterArg>,
    /// List every item
    #[arg(short, long)]
    pub verbose: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "verbose")]
    pub json: bool,
}

/// `kiln prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without options this removes the cache of steps and base images that no image in `kiln images` \
                        is made of, and cache mounts. Images themselves are removed by `kiln rmi`. With a limit the \
                        least recently used goes first."
)]
pub struct PruneArgs {
    /// Also the unpacked layers of images
    #[arg(short, long)]
    pub all: bool,
    /// Only what fits: until=24h, type=snapshot|blob|mount|git|stray, id=, description~=, shared, private, mutable,
    /// immutable
    #[arg(long = "filter", value_name = "FILTER", value_parser = filter)]
    pub filters: Vec<FilterArg>,
    /// Keep this much at least
    #[arg(long, value_name = "SIZE", value_parser = amount::size, visible_alias = "keep-storage")]
    pub reserved_space: Option<u64>,
    /// Keep this much at most
    #[arg(long, value_name = "SIZE", value_parser = amount::size)]
    pub max_used_space: Option<u64>,
    /// Remove until the file system has this much free
    #[arg(long, value_name = "SIZE", value_parser = amount::size)]
    pub min_free_space: Option<u64>,
    /// Show what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// List every item
    #[arg(short, long)]
    pub verbose: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "verbose")]
    pub json: bool,
    /// Taken for docker's sake: kiln never asks
    #[arg(short, long)]
    pub force: bool,
}

/// `kiln fsck`.
#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 when something was found, also when it was repaired.")]
pub struct FsckArgs {
    /// Remove what is damaged, so that it is made or fetched again
    #[arg(long)]
    pub repair: bool,
    /// Compare records with files, but do not read the files
    #[arg(long)]
    pub quick: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `kiln reset`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// Do not ask; also while kiln is running
    #[arg(short, long)]
    pub force: bool,
}
