//! Options of the commands that move and name images.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::access::{AccessArgs, Login, parse_login};
use super::choice;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::transfer::Place;
use crate::ui::progress::Mode;

/// How progress is shown.
#[derive(Debug, Clone, Args)]
pub struct ProgressArgs {
    /// Kind of progress: auto, tty, plain, quiet, rawjson or none
    #[arg(long, value_name = "KIND", value_parser = super::parse_progress)]
    progress: Option<Mode>,
    /// Print nothing but the image's digest
    #[arg(short, long)]
    quiet: bool,
}

impl ProgressArgs {
    /// What both say.
    pub fn mode(&self) -> Mode {
        if self.quiet { Mode::Quiet } else { self.progress.unwrap_or_default() }
    }
}

/// What is moved, and where its digest goes.
#[derive(Debug, Args)]
pub struct DeliveryArgs {
    /// Only this platform [default: all that the image has]
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
    /// Write the digest to a file
    #[arg(long, value_name = "PATH")]
    pub digestfile: Option<PathBuf>,
}

/// Which image of several is meant.
#[derive(Debug, Args)]
pub struct ChoiceArgs {
    /// Platform to choose where there are several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
}

/// `kiln pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Image, e.g. debian:12 or quay.io/team/app@sha256:...
    #[arg(value_name = "IMAGE", required = true, value_parser = parse_remote)]
    pub images: Vec<Reference>,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// All platforms
    #[arg(short, long, conflicts_with = "platform")]
    pub all_platforms: bool,
    #[command(flatten)]
    pub progress: ProgressArgs,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `kiln push`.
#[derive(Debug, Args)]
#[command(
    after_help = "DEST may also be oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]."
)]
pub struct PushArgs {
    /// Image of the store
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Name to push it under [default: its own]
    #[arg(value_name = "DEST", value_parser = parse_place)]
    pub destination: Option<Place>,
    #[command(flatten)]
    pub delivery: DeliveryArgs,
    #[command(flatten)]
    pub progress: ProgressArgs,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `kiln copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "SRC and DEST are names of kiln's store (as SRC also of a registry, where the store has none), \
                        docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]. Nothing is \
                        unpacked, and digests stay. --creds and --tls-verify are for both sides."
)]
pub struct CopyArgs {
    /// Where the image is
    #[arg(value_name = "SRC", value_parser = parse_place)]
    pub source: Place,
    /// Where it goes
    #[arg(value_name = "DEST", value_parser = parse_place)]
    pub destination: Place,
    #[command(flatten)]
    pub delivery: DeliveryArgs,
    /// Credentials for the source's registry
    #[arg(long, value_name = "USER:PASSWORD", value_parser = parse_login)]
    pub src_creds: Option<Login>,
    /// Credentials for the destination's registry
    #[arg(long, value_name = "USER:PASSWORD", value_parser = parse_login)]
    pub dest_creds: Option<Login>,
    /// As --tls-verify, for the source only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    pub src_tls_verify: Option<bool>,
    /// As --tls-verify, for the destination only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    pub dest_tls_verify: Option<bool>,
    #[command(flatten)]
    pub progress: ProgressArgs,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `kiln tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Image of the store
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Names to give it
    #[arg(value_name = "NAME[:TAG]", required = true, value_parser = super::build::parse_tag)]
    pub names: Vec<Reference>,
}

/// How something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
}

/// `kiln inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "IMAGE is a name or id of the store, or else of a registry; docker://NAME, oci:DIR[:TAG], \
                        oci-archive:FILE[:TAG] and docker-archive:FILE are possible too. Of a remote image nothing but \
                        manifests and the config is fetched."
)]
pub struct InspectArgs {
    /// Image
    #[arg(value_name = "IMAGE", value_parser = parse_place)]
    pub image: Place,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// text or json
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub format: Format,
    /// Print the manifest or index byte for byte; with --platform that one's manifest
    #[arg(long, conflicts_with = "format")]
    pub raw: bool,
    /// Print the image config byte for byte
    #[arg(long, conflicts_with_all = ["format", "raw"])]
    pub config: bool,
    /// Print how the image was made: the statement with its provenance
    #[arg(long, conflicts_with_all = ["format", "raw", "config"])]
    pub provenance: bool,
    /// Print the list of the image's packages: the statement with its SBOM
    #[arg(long, conflicts_with_all = ["format", "raw", "config", "provenance"])]
    pub sbom: bool,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Parses a place.
pub(super) fn parse_place(text: &str) -> Result<Place, String> {
    text.parse::<Place>().map_err(|error| error.to_string())
}

/// A name in a registry, with skopeo's prefix or without.
fn parse_remote(text: &str) -> Result<Reference, String> {
    match parse_place(text)? {
        Place::Named(reference, _) | Place::Registry(reference) => Ok(reference),
        _ => Err(format!(
            "`{text}` is no image of a registry; `kiln copy {text} NAME` brings it into the store"
        )),
    }
}
