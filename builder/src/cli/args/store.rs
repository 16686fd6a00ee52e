//! Options of the commands that list and remove what the store holds.
//!
//! Invariants: nothing is removed by an option's default.

use clap::Args;

use crate::image::reference::Reference;

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
