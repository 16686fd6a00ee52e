//! Changes to an image's config that need no build, also those that no instruction can make: taking things away.
//!
//! Invariants:
//! - pure: no clock, so that the same changes to the same image give the same bytes;
//! - a change does what it says and nothing beside it: a new entrypoint leaves the command alone;
//! - what an instruction can say is told in the history as that instruction.

use serde_json::json;

use super::config::{Empty, HealthConfig, History, ImageConfig, set_image_env};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Change {
    Env {
        name: String,
        value: String,
    },
    Label {
        name: String,
        value: String,
    },
    Cmd(CommandLine),
    Entrypoint(CommandLine),
    User(String),
    Workdir(String),
    /// `80/tcp`.
    Port(String),
    Volume(String),
    StopSignal(String),
    Healthcheck(HealthConfig),
    Author(String),
    Unset(Setting),
}

/// What can be taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Setting {
    Env(String),
    AllEnv,
    Label(String),
    AllLabels,
    Cmd,
    Entrypoint,
    User,
    Workdir,
    Port(String),
    AllPorts,
    Volume(String),
    AllVolumes,
    StopSignal,
    Healthcheck,
    Shell,
    OnBuild,
    Author,
}

/// A command as CMD takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// Words.
    Exec(Vec<String>),
    /// Text for the image's shell.
    Shell(String),
}

impl std::str::FromStr for CommandLine {
    type Err = serde_json::Error;

    /// A JSON list of texts, else text for the shell.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim_start().starts_with('[') {
            return serde_json::from_str(text).map(Self::Exec);
        }
        Ok(Self::Shell(text.to_owned()))
    }
}

impl CommandLine {
    fn words(&self, config: &ImageConfig) -> Vec<String> {
        match self {
            Self::Exec(words) => words.clone(),
            Self::Shell(text) => {
                let shell = &config.config.shell;
                let usual = ["/bin/sh".to_owned(), "-c".to_owned()];
                let shell = if shell.is_empty() { &usual[..] } else { shell };
                shell.iter().cloned().chain([text.clone()]).collect()
            }
        }
    }
}

impl Change {
    /// Makes the change. False when there was nothing to take away.
    pub fn apply(&self, image: &mut ImageConfig) -> bool {
        let before = image.clone();
        let config = &mut image.config;
        match self {
            Self::Env { name, value } => set_image_env(&mut config.env, name, value),
            Self::Label { name, value } => {
                config.labels.insert(name.clone(), value.clone());
            }
            Self::Cmd(command) => config.cmd = Some(command.words(&before)),
            Self::Entrypoint(command) => config.entrypoint = Some(command.words(&before)),
            Self::User(user) => config.user.clone_from(user),
            Self::Workdir(directory) => config.working_dir.clone_from(directory),
            Self::Port(port) => {
                config.exposed_ports.insert(port.clone(), Empty {});
            }
            Self::Volume(path) => {
                config.volumes.insert(path.clone(), Empty {});
            }
            Self::StopSignal(signal) => config.stop_signal.clone_from(signal),
            Self::Healthcheck(check) => config.healthcheck = Some(check.clone()),
            Self::Author(author) => image.author.clone_from(author),
            Self::Unset(setting) => {
                setting.unset(image);
                if *image == before {
                    return false;
                }
            }
        }
        image.history.push(History {
            created: before.created.clone(),
            created_by: self.to_string(),
            comment: "kiln config edit".to_owned(),
            empty_layer: true,
            ..History::default()
        });
        true
    }
}

impl Setting {
    fn unset(&self, image: &mut ImageConfig) {
        let config = &mut image.config;
        match self {
            Self::Env(name) => config.env.retain(|pair| pair.split('=').next() != Some(name)),
            Self::AllEnv => config.env.clear(),
            Self::Label(name) => drop(config.labels.remove(name)),
            Self::AllLabels => config.labels.clear(),
            Self::Cmd => config.cmd = None,
            Self::Entrypoint => config.entrypoint = None,
            Self::User => config.user.clear(),
            Self::Workdir => config.working_dir.clear(),
            Self::Port(port) => drop(config.exposed_ports.remove(port)),
            Self::AllPorts => config.exposed_ports.clear(),
            Self::Volume(path) => drop(config.volumes.remove(path)),
            Self::AllVolumes => config.volumes.clear(),
            Self::StopSignal => config.stop_signal.clear(),
            Self::Healthcheck => config.healthcheck = None,
            Self::Shell => config.shell.clear(),
            Self::OnBuild => config.on_build.clear(),
            Self::Author => image.author.clear(),
        }
    }
}

/// As an instruction, where there is one.
impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env { name, value } => write!(f, "ENV {name}={value}"),
            Self::Label { name, value } => write!(f, "LABEL {name}={value}"),
            Self::Cmd(command) => write!(f, "CMD {command}"),
            Self::Entrypoint(command) => write!(f, "ENTRYPOINT {command}"),
            Self::User(user) => write!(f, "USER {user}"),
            Self::Workdir(directory) => write!(f, "WORKDIR {directory}"),
            Self::Port(port) => write!(f, "EXPOSE {port}"),
            Self::Volume(path) => write!(f, "VOLUME {path}"),
            Self::StopSignal(signal) => write!(f, "STOPSIGNAL {signal}"),
            Self::Healthcheck(check) => write!(f, "HEALTHCHECK {}", json!(check.test)),
            Self::Author(author) => write!(f, "MAINTAINER {author}"),
            Self::Unset(setting) => write!(f, "unset {setting}"),
        }
    }
}

impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exec(words) => write!(f, "{}", json!(words)),
            Self::Shell(text) => f.write_str(text),
        }
    }
}

/// As [`Setting::from_str`] reads it.
impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env={name}"),
            Self::Label(name) => write!(f, "label={name}"),
            Self::Port(port) => write!(f, "port={port}"),
            Self::Volume(path) => write!(f, "volume={path}"),
            plain => {
                let name = PLAIN.iter().find(|(_, setting)| setting == plain).map(|(name, _)| *name);
                f.write_str(name.unwrap_or_default())
            }
        }
    }
}

/// Settings that are taken away as a whole.
const PLAIN: [(&str, Setting); 13] = [
    ("env", Setting::AllEnv),
    ("label", Setting::AllLabels),
    ("cmd", Setting::Cmd),
    ("entrypoint", Setting::Entrypoint),
    ("user", Setting::User),
    ("workdir", Setting::Workdir),
    ("port", Setting::AllPorts),
    ("volume", Setting::AllVolumes),
    ("stopsignal", Setting::StopSignal),
    ("healthcheck", Setting::Healthcheck),
    ("shell", Setting::Shell),
    ("onbuild", Setting::OnBuild),
    ("author", Setting::Author),
];

/// Not a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nothing that can be unset; there are env[=NAME], label[=NAME], port[=PORT], volume[=PATH], cmd, \
     entrypoint, user, workdir, stopsignal, healthcheck, shell, onbuild and author"
)]
pub struct SettingError(String);

impl std::str::FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let unknown = || SettingError(text.to_owned());
        let Some((kind, name)) = text.split_once('=') else {
            let found = PLAIN.iter().find(|(name, _)| *name == text.to_ascii_lowercase());
            return found.map(|(_, setting)| setting.clone()).ok_or_else(unknown);
        };
        if name.is_empty() {
            return Err(unknown());
        }
        Ok(match &kind.to_ascii_lowercase()[..] {
            "env" => Self::Env(name.to_owned()),
            "label" => Self::Label(name.to_owned()),
            "port" if name.contains('/') => Self::Port(name.to_owned()),
            "port" => Self::Port(format!("{name}/tcp")),
            "volume" => Self::Volume(name.to_owned()),
            _ => return Err(unknown()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_can_be_unset() {
        let command = CommandLine::Exec(vec!["x".to_owned()]);
        let changes = [
            (Change::Env { name: "A".to_owned(), value: "1".to_owned() }, "env=A"),
            (Change::Label { name: "l".to_owned(), value: "1".to_owned() }, "label=l"),
            (Change::Cmd(command.clone()), "cmd"),
            (Change::Entrypoint(command), "entrypoint"),
            (Change::User("u".to_owned()), "user"),
            (Change::Workdir("/w".to_owned()), "workdir"),
            (Change::Port("80/tcp".to_owned()), "port=80"),
            (Change::Volume("/v".to_owned()), "volume=/v"),
            (Change::StopSignal("INT".to_owned()), "stopsignal"),
            (Change::Healthcheck(HealthConfig::default()), "healthcheck"),
            (Change::Author("me".to_owned()), "author"),
        ];
        for (change, unset) in changes {
            let mut image = ImageConfig::default();
            assert!(change.apply(&mut image), "{change}");
            let set = image.clone();
            assert_ne!((&set.config, &set.author), (&Default::default(), &String::new()), "{change}");
            let setting: Setting = unset.parse().unwrap();
            let again: Setting = setting.to_string().parse().unwrap();
            assert_eq!(setting, again);
            assert!(Change::Unset(setting.clone()).apply(&mut image));
            assert_eq!((&image.config, &image.author), (&Default::default(), &String::new()), "{change}");
            assert_eq!(image.history.len(), 2);
            assert!(image.history.iter().all(|entry| entry.empty_layer));
            assert!(!Change::Unset(setting).apply(&mut image), "nothing was left to take away");
            assert_eq!(image.history.len(), 2);
        }
        for (name, setting) in PLAIN {
            assert_eq!((setting.to_string(), name.parse()), (name.to_owned(), Ok(setting)));
        }
        for bad in ["", "env=", "cmd=x", "ports"] {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_in_shell_form_takes_the_images_shell() {
        let mut image = ImageConfig::default();
        let shell: CommandLine = "echo $A".parse().unwrap();
        Change::Cmd(shell.clone()).apply(&mut image);
        assert_eq!(image.config.cmd.as_deref().unwrap(), ["/bin/sh", "-c", "echo $A"]);
        image.config.shell = vec!["/bin/bash".to_owned(), "-ec".to_owned()];
        Change::Cmd(shell).apply(&mut image);
        assert_eq!(image.config.cmd.as_deref().unwrap(), ["/bin/bash", "-ec", "echo $A"]);
        assert_eq!("[]".parse::<CommandLine>().unwrap(), CommandLine::Exec(Vec::new()));
        assert!("[1]".parse::<CommandLine>().is_err());
    }
}
