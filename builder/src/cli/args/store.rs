//! Options of the commands that list and remove what the store holds.
//!
//! Invariants: nothing is removed by an option's default.

use std::time::Duration;

use clap::Args;

use crate::image::reference::Reference;

use super::amount;

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
    /// Remove images that are in use or have other names
    #[arg(short, long)]
    pub force: bool,
}

/// `kiln prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Remove everything that no running build uses, named images too
    #[arg(short, long)]
    pub all: bool,
    /// Remove only what was not used for this long, e.g. 7d or 12h
    #[arg(long, value_name = "DURATION", value_parser = amount::duration)]
    pub older_than: Option<Duration>,
    /// Remove the longest unused until the cache is no larger, e.g. 20g
    #[arg(long, value_name = "SIZE", value_parser = amount::size)]
    pub max_size: Option<u64>,
    /// Show what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}
