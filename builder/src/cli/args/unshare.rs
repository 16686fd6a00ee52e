//! Options of `kiln unshare`, named as buildah's.
//!
//! Invariants: everything behind the first word that is no option belongs to the command.

use std::ffi::OsString;

use clap::Args;

use super::access::AccessArgs;
use super::choice::{self, Pull};

/// `kiln unshare`.
#[derive(Debug, Args)]
#[command(
    after_help = "For an ordinary user, files of images have owners that only a user namespace gives rights over. \
                        The command is root of that namespace, and sees the machine's files as before. What is mounted \
                        is read-only and gone when the command ends."
)]
pub struct UnshareArgs {
    /// Mount an image, pulled when the store lacks it, and put its directory into an environment variable
    #[arg(long = "mount", value_name = "VARIABLE=IMAGE", value_parser = parse_mount)]
    pub mounts: Vec<(String, String)>,
    /// Look images up again: always, missing, never or newer [default: missing; --pull alone: always]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_missing_value = "always", value_parser = choice::pull)]
    pub pull: Option<Pull>,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Command and its arguments [default: $SHELL, else sh]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

fn parse_mount(text: &str) -> Result<(String, String), String> {
    let is_name = |name: &str| {
        !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match text.split_once('=') {
        Some((name, image)) if is_name(name) && !image.is_empty() => Ok((name.to_owned(), image.to_owned())),
        _ => Err(format!("`{text}` is not of the form VARIABLE=IMAGE, e.g. ROOT=debian:12")),
    }
}
