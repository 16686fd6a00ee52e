//! `kiln manifest`: images of several platforms under one name.

use clap::{Args, Subcommand};

use super::access::AccessArgs;
use super::transfer::{ProgressArgs, PushArgs, parse_place};
use super::{build, choice, pair};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::transfer::Place;

/// `kiln manifest`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "kiln build --platform A,B makes such an image by itself; this is for images that were built apart. \
                  `kiln images` lists them, `kiln rmi` removes them."
)]
pub struct ManifestArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ManifestCommand,
}

/// The verbs of `kiln manifest`.
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Put images under a new name
    Create(ManifestCreateArgs),
    /// Add images; one for the same platform takes the other's place
    Add(ManifestAddArgs),
    /// Change what the list says of an image, or of itself
    Annotate(ManifestAnnotateArgs),
    /// Take an image out
    Remove(ManifestRemoveArgs),
    /// Send the list with its images to a registry (as kiln push does)
    Push(Box<PushArgs>),
    /// Print the list as JSON (as kiln inspect --raw does)
    Inspect(ManifestInspectArgs),
}

/// `kiln manifest create`.
#[derive(Debug, Args)]
pub struct ManifestCreateArgs {
    /// Name of the list
    #[arg(value_name = "LIST", value_parser = build::parse_tag)]
    pub list: Reference,
    /// Images: of the store, else of a registry; docker://NAME, oci:DIR[:TAG] and archives as for kiln copy
    #[arg(value_name = "IMAGE", value_parser = parse_place)]
    pub images: Vec<Place>,
    /// Add to a list that is there
    #[arg(short, long)]
    pub amend: bool,
    /// Add an annotation to the list
    #[arg(long = "annotation", value_name = "NAME=VALUE", value_parser = pair::parse_label)]
    pub annotations: Vec<(String, String)>,
    #[command(flatten)]
    pub progress: ProgressArgs,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `kiln manifest add`.
#[derive(Debug, Args)]
pub struct ManifestAddArgs {
    /// Name of the list
    #[arg(value_name = "LIST", value_parser = build::parse_tag)]
    pub list: Reference,
    /// Images, as for create
    #[arg(value_name = "IMAGE", required = true, value_parser = parse_place)]
    pub images: Vec<Place>,
    #[command(flatten)]
    pub progress: ProgressArgs,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `kiln manifest annotate`.
#[derive(Debug, Args)]
pub struct ManifestAnnotateArgs {
    /// Name of the list
    #[arg(value_name = "LIST", value_parser = build::parse_tag)]
    pub list: Reference,
    /// Which image: OS/ARCH, a digest, or a name of the store
    #[arg(value_name = "IMAGE", required_unless_present = "index", conflicts_with = "index")]
    pub image: Option<String>,
    /// Annotate the list itself
    #[arg(long, conflicts_with = "platform")]
    pub index: bool,
    /// What the image is for
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
    /// Add an annotation; with an empty value it is removed
    #[arg(long = "annotation", value_name = "NAME=VALUE", value_parser = pair::parse_label)]
    pub annotations: Vec<(String, String)>,
}

/// `kiln manifest remove`.
#[derive(Debug, Args)]
pub struct ManifestRemoveArgs {
    /// Name of the list
    #[arg(value_name = "LIST", value_parser = build::parse_tag)]
    pub list: Reference,
    /// Which image: OS/ARCH, a digest, or a name of the store
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `kiln manifest inspect`.
#[derive(Debug, Args)]
pub struct ManifestInspectArgs {
    /// List or image, as for kiln inspect
    #[arg(value_name = "LIST", value_parser = parse_place)]
    pub list: Place,
    #[command(flatten)]
    pub access: AccessArgs,
}
