//! Options of `kiln run`, named as docker's.
//!
//! Invariants: everything behind the image belongs to the command, options included.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use crate::image::platform::Platform;
use crate::image::reference::{Reference, ReferenceError};

use super::access::AccessArgs;
use super::choice::{Network, Pull, UserNamespace};
use super::limits::LimitArgs;
use super::privileges::PrivilegeArgs;
use super::ulimit::Ulimit;
use super::{amount, choice, pair, ulimit};

/// `kiln run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Image to run, pulled when the store lacks it, or oci-layout:PATH[:TAG]
    #[arg(value_name = "IMAGE", value_parser = parse_image)]
    pub image: RunImage,
    /// Command and its arguments [default: the image's]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Run this in place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair::parse_env)]
    pub env: Vec<(String, String)>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, and group, to run as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Network: default, none or host
    #[arg(long, value_name = "MODE", default_value = "default", hide_default_value = true,
          value_parser = choice::network)]
    pub network: Network,
    /// Add a line to /etc/hosts; host-gateway is this machine
    #[arg(long = "add-host", value_name = "NAME:IP")]
    pub add_hosts: Vec<String>,
    /// Name server
    #[arg(long, value_name = "IP")]
    pub dns: Vec<IpAddr>,
    /// Authorities in PEM form that the command trusts; `host` takes this machine's
    #[arg(long, value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    /// Size of /dev/shm, e.g. 64m
    #[arg(long, value_name = "SIZE", value_parser = amount::size)]
    pub shm_size: Option<u64>,
    /// Resource limit, e.g. nofile=1024:4096
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = ulimit::parse)]
    pub ulimits: Vec<Ulimit>,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub privileges: PrivilegeArgs,
    /// User namespace: auto or host
    #[arg(long, value_name = "MODE", default_value = "auto", hide_default_value = true,
          value_parser = choice::user_namespace)]
    pub userns: UserNamespace,
    /// Platform to choose from the image, e.g. linux/arm64
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
    /// Look the image up again: always, missing, never or newer [default: missing; --pull alone: always]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_missing_value = "always", value_parser = choice::pull)]
    pub pull: Option<Pull>,
    /// Accepted for docker: the container is always removed
    #[arg(long, hide = true)]
    pub rm: bool,
}

/// What `kiln run` runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunImage {
    /// An image of the store or of a registry.
    Named(Reference),
    /// `PATH[:TAG][@DIGEST]` of an OCI layout.
    Layout(String),
}

/// `oci-layout:PATH`, `oci-layout://PATH` and, as skopeo writes it, `oci:PATH`; all else is a reference.
fn parse_image(text: &str) -> Result<RunImage, ReferenceError> {
    for prefix in ["oci-layout://", "oci-layout:", "oci:"] {
        if let Some(path) = text.strip_prefix(prefix).filter(|path| !path.is_empty()) {
            return Ok(RunImage::Layout(path.to_owned()));
        }
    }
    text.parse().map(RunImage::Named)
}
