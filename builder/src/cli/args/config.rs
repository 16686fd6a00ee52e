//! `kiln config`: the config of images that are built already.
//!
//! Invariants: a value that parsed can be written into a config as it is; what is taken away goes first.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{amount, choice, pair};
use crate::build::edit::Edit;
use crate::image::config::HealthConfig;
use crate::image::edit::{Change, CommandLine, Setting};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::plan::{exposed_ports, is_signal};

/// `kiln config`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The verbs of `kiln config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Change the config of an image without a build
    Edit(Box<ConfigEditArgs>),
}

/// `kiln config edit`.
#[derive(Debug, Args)]
#[command(
    after_help = "Layers stay as they are, and equal changes of equal images give equal digests. What is unset goes \
                        before what is set. CMD, ENTRYPOINT and health checks are JSON lists, or text for the image's \
                        shell."
)]
pub struct ConfigEditArgs {
    /// Name or id of an image of the store
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Name of the new image [default: the name of the old one]
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub tags: Vec<Reference>,
    /// Only the image of this platform [default: all platforms]
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,

    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair::parse_env, help_heading = "Set")]
    pub env: Vec<(String, String)>,
    /// Set a label
    #[arg(short, long = "label", value_name = "NAME=VALUE", value_parser = pair::parse_label, help_heading = "Set")]
    pub labels: Vec<(String, String)>,
    /// Set an annotation of the manifest
    #[arg(short, long = "annotation", value_name = "NAME=VALUE", value_parser = pair::parse_env, help_heading = "Set")]
    pub annotations: Vec<(String, String)>,
    /// Set the command
    #[arg(long, value_name = "COMMAND", help_heading = "Set")]
    pub cmd: Option<CommandLine>,
    /// Set the entrypoint; the command stays
    #[arg(long, value_name = "COMMAND", help_heading = "Set")]
    pub entrypoint: Option<CommandLine>,
    /// Set the user
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Set")]
    pub user: Option<String>,
    /// Set the working directory
    #[arg(short, long, value_name = "DIR", value_parser = absolute, visible_alias = "workingdir", help_heading = "Set")]
    pub workdir: Option<String>,
    /// Expose ports, e.g. 80 or 8000-8010/udp
    #[arg(short = 'p', long = "expose", value_name = "PORT", value_parser = ports, visible_alias = "port", help_heading = "Set")]
    pub ports: Vec<Ports>,
    /// Declare a volume
    #[arg(short, long = "volume", value_name = "PATH", value_parser = absolute, help_heading = "Set")]
    pub volumes: Vec<String>,
    /// Set the signal that stops a container
    #[arg(long, value_name = "SIGNAL", value_parser = signal, help_heading = "Set")]
    pub stop_signal: Option<String>,
    /// Set the author
    #[arg(long, value_name = "TEXT", help_heading = "Set")]
    pub author: Option<String>,
    /// Set the health check
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_healthcheck", help_heading = "Set")]
    pub health_cmd: Option<CommandLine>,
    /// Time between checks
    #[arg(long, value_name = "DURATION", requires = "health_cmd", value_parser = amount::duration, help_heading = "Set")]
    pub health_interval: Option<Duration>,
    /// Time that a check may take
    #[arg(long, value_name = "DURATION", requires = "health_cmd", value_parser = amount::duration, help_heading = "Set")]
    pub health_timeout: Option<Duration>,
    /// Time to start before failures count
    #[arg(long, value_name = "DURATION", requires = "health_cmd", value_parser = amount::duration, help_heading = "Set")]
    pub health_start_period: Option<Duration>,
    /// Failures in a row until unhealthy
    #[arg(long, value_name = "N", requires = "health_cmd", help_heading = "Set")]
    pub health_retries: Option<u32>,
    /// Turn the health check of the image, and of images it is made of, off
    #[arg(long, help_heading = "Set")]
    pub no_healthcheck: bool,

    /// Take away: env[=NAME], label[=NAME], port[=PORT], volume[=PATH], cmd, entrypoint, user, workdir, stopsignal,
    /// healthcheck, shell, onbuild or author; without a name all of them
    #[arg(long = "unset", value_name = "WHAT", help_heading = "Unset")]
    pub unset: Vec<Setting>,
    /// Take an environment variable away
    #[arg(long = "unsetenv", value_name = "NAME", help_heading = "Unset")]
    pub unset_env: Vec<String>,
    /// Take a label away
    #[arg(long = "unsetlabel", value_name = "NAME", help_heading = "Unset")]
    pub unset_labels: Vec<String>,
    /// Take an annotation of the manifest away
    #[arg(long = "unsetannotation", value_name = "NAME", help_heading = "Unset")]
    pub unset_annotations: Vec<String>,
}

/// What one `--expose` stands for: `port/protocol`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(pub Vec<String>);

fn ports(text: &str) -> Result<Ports, String> {
    exposed_ports(text).map(Ports)
}

fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("the path must be absolute".to_owned()) }
}

fn signal(text: &str) -> Result<String, String> {
    if is_signal(text) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no signal; give a name such as SIGTERM, or a number other than 0"))
}

impl ConfigEditArgs {
    /// All that is to be changed.
    pub fn edit(&self) -> Edit {
        let pairs = |pairs: &[(String, String)], make: fn(String, String) -> Change| -> Vec<Change> {
            pairs.iter().map(|(name, value)| make(name.clone(), value.clone())).collect()
        };
        let mut changes: Vec<Change> = Vec::new();
        let names = |names: &[String], make: fn(String) -> Setting| -> Vec<Change> {
            names.iter().map(|name| Change::Unset(make(name.clone()))).collect()
        };
        changes.extend(self.unset.iter().cloned().map(Change::Unset));
        changes.extend(names(&self.unset_env, Setting::Env));
        changes.extend(names(&self.unset_labels, Setting::Label));
        changes.extend(pairs(&self.env, |name, value| Change::Env { name, value }));
        changes.extend(pairs(&self.labels, |name, value| Change::Label { name, value }));
        changes.extend(self.entrypoint.clone().map(Change::Entrypoint));
        changes.extend(self.cmd.clone().map(Change::Cmd));
        changes.extend(self.user.clone().map(Change::User));
        changes.extend(self.workdir.clone().map(Change::Workdir));
        changes.extend(self.ports.iter().flat_map(|Ports(ports)| ports.iter().cloned().map(Change::Port)));
        changes.extend(self.volumes.iter().cloned().map(Change::Volume));
        changes.extend(self.stop_signal.clone().map(Change::StopSignal));
        changes.extend(self.author.clone().map(Change::Author));
        changes.extend(self.healthcheck().map(Change::Healthcheck));
        let taken = self.unset_annotations.iter().map(|name| (name.clone(), None));
        let given = self.annotations.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
        Edit { changes, annotations: taken.chain(given).collect(), platform: self.platform.clone() }
    }

    fn healthcheck(&self) -> Option<HealthConfig> {
        let nanoseconds = |time: Option<Duration>| {
            time.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
        };
        let test = match (&self.health_cmd, self.no_healthcheck) {
            (Some(CommandLine::Exec(words)), _) => {
                std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect()
            }
            (Some(CommandLine::Shell(text)), _) => vec!["CMD-SHELL".to_owned(), text.clone()],
            (None, true) => vec!["NONE".to_owned()],
            (None, false) => return None,
        };
        Some(HealthConfig {
            test,
            interval: nanoseconds(self.health_interval),
            timeout: nanoseconds(self.health_timeout),
            start_period: nanoseconds(self.health_start_period),
            start_interval: 0,
            retries: self.health_retries.unwrap_or(0).into(),
        })
    }
}
