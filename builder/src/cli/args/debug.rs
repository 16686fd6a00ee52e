//! Options of `kiln debug`.
//!
//! Invariants: what records hold is not asked for; what they do not hold has the name that `kiln build` gives it.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::access::AccessArgs;
use super::choice::{self, UserNamespace};
use super::limits::LimitArgs;
use super::privileges::{self, Device, SecurityOption};
use super::secret::{self, SecretSpec};
use super::ssh::{self, SshSpec};

const AGAIN: &str = "What records do not hold";

/// `kiln debug`.
#[derive(Debug, Args)]
pub struct DebugArgs {
    /// Build, or the beginning of its id [default: the last one with a failed step; with
    /// --step the last one]
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
    /// Step, by the number that progress shows [default: the one that failed]
    #[arg(long, value_name = "N")]
    pub step: Option<u32>,
    /// Enter the step as it was when it was done, not before it began
    #[arg(long)]
    pub after: bool,
    /// Shell inside the image [default: /bin/sh, else this machine's static busybox]
    #[arg(long, value_name = "PATH")]
    pub shell: Option<String>,
    /// Run this in place of a shell
    #[arg(value_name = "COMMAND", last = true, conflicts_with = "shell")]
    pub command: Vec<String>,

    /// Secret of the step: id=NAME,src=FILE or id=NAME,env=VARIABLE
    #[arg(long = "secret", value_name = "SECRET", value_parser = secret::parse, help_heading = AGAIN)]
    pub secrets: Vec<SecretSpec>,
    /// SSH agent of the step: default, id=SOCKET or id=KEY[,KEY]
    #[arg(long, value_name = "AGENT", value_parser = ssh::parse, help_heading = AGAIN)]
    pub ssh: Vec<SshSpec>,
    /// Add a line to /etc/hosts; host-gateway is this machine
    #[arg(long = "add-host", value_name = "NAME:IP", help_heading = AGAIN)]
    pub add_hosts: Vec<String>,
    /// Name server
    #[arg(long, value_name = "IP", help_heading = AGAIN)]
    pub dns: Vec<IpAddr>,
    /// Authorities in PEM form that the step trusts; `host` takes this machine's
    #[arg(long, value_name = "FILE", help_heading = AGAIN)]
    pub ca_bundle: Option<PathBuf>,
    /// Device of this machine that the step saw
    #[arg(long = "device", value_name = "PATH[:INSIDE[:rwm]]", value_parser = privileges::device,
          help_heading = AGAIN)]
    pub devices: Vec<Device>,
    /// seccomp=FILE, apparmor=PROFILE or label=TYPE:VALUE of the step
    #[arg(long = "security-opt", value_name = "OPTION", value_parser = privileges::security,
          help_heading = AGAIN)]
    pub security: Vec<SecurityOption>,
    /// User namespace: auto or host
    #[arg(long, value_name = "MODE", default_value = "auto", hide_default_value = true,
          value_parser = choice::user_namespace, help_heading = AGAIN)]
    pub userns: UserNamespace,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
}
