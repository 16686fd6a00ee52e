//! Instructions that change the config: ARG, ENV, LABEL, CMD, ENTRYPOINT, HEALTHCHECK, SHELL, USER, VOLUME, STOPSIGNAL,
//! MAINTAINER, ONBUILD, and WORKDIR, which also makes a directory.
//!
//! Invariants: ENV and LABEL see the variables from before the instruction, each ARG those set by the ones before it
//! (fact 57); the history text is made from expanded values.

use kiln_grammar::ast::{ArgPair, Command, Healthcheck, Instruction, KeyValue, Kind, Word};
use kiln_grammar::diagnostic::Diagnostic;

use crate::image::config::{Empty, HealthConfig, set_image_env};

use super::super::args::reaches_environment;
use super::super::graph::{MkdirSpec, Op};
use super::super::history;
use super::super::paths;
use super::{Lowering, display, signal};

impl Lowering<'_, '_> {
    /// Lowers an instruction that makes no layer.
    pub(super) fn metadata(&mut self, kind: &Kind) -> Result<(), Diagnostic> {
        match kind {
            Kind::Arg(pairs) => self.arg(pairs),
            Kind::Env(pairs) => self.env(pairs),
            Kind::Label(pairs) => self.label(pairs),
            Kind::Cmd(command) => self.cmd(command),
            Kind::Entrypoint(command) => self.entrypoint(command),
            Kind::Healthcheck(check) => self.healthcheck(check),
            Kind::Shell(words) => self.shell(words),
            Kind::User(word) => self.user(word),
            Kind::Volume(words) => self.volume(words),
            Kind::Stopsignal(word) => self.stopsignal(word),
            Kind::Maintainer(word) => {
                self.state.config.author.clone_from(&word.value);
                self.record(format!("MAINTAINER {}", word.value), None);
                Ok(())
            }
            Kind::Onbuild(onbuild) => {
                // No history entry (language.md 1.9).
                self.state.config.config.on_build.push(onbuild.trigger.value.clone());
                Ok(())
            }
            // These have functions of their own in `Lowering::instruction`.
            Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_) | Kind::Expose(_) => Ok(()),
        }
    }

    /// Value: `--build-arg`, else the default, else the global ARG of that name, else unset (fact 58).
    fn arg(&mut self, pairs: &[ArgPair]) -> Result<(), Diagnostic> {
        let mut shown = Vec::new();
        for pair in pairs {
            let name = &pair.name.value;
            let value = match (self.session.scope.build_args.get(name), &pair.value) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => self.session.scope.values.value(name).map(str::to_owned),
            };
            if let Some(value) = value.as_ref().filter(|_| reaches_environment(name)) {
                self.state.env.set(name, value);
            }
            shown.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            self.state.build_args.push((name.clone(), value));
        }
        self.record(format!("ARG {}", shown.join(" ")), None);
        Ok(())
    }

    fn env(&mut self, pairs: &[KeyValue]) -> Result<(), Diagnostic> {
        let expanded = self.pairs(pairs)?;
        let mut text = "ENV".to_owned();
        for (name, value) in expanded {
            text.push_str(&format!(" {name}={value}"));
            self.state.env.set(&name, &value);
            set_image_env(&mut self.state.config.config.env, &name, &value);
        }
        self.record(text, None);
        Ok(())
    }

    fn label(&mut self, pairs: &[KeyValue]) -> Result<(), Diagnostic> {
        let expanded = self.pairs(pairs)?;
        let mut text = "LABEL".to_owned();
        for (name, value) in expanded {
            text.push_str(&format!(" {name}={value}"));
            self.state.config.config.labels.insert(name, value);
        }
        self.record(text, None);
        Ok(())
    }

    fn pairs(&self, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, Diagnostic> {
        pairs.iter().map(|pair| Ok((self.expand(&pair.key)?, self.expand(&pair.value)?))).collect()
    }

    fn cmd(&mut self, command: &Command) -> Result<(), Diagnostic> {
        self.has_cmd = true;
        let args = self.command_line(command);
        self.record(format!("CMD {}", history::quoted_list(&args)), None);
        let config = &mut self.state.config.config;
        config.cmd = stored(args);
        config.args_escaped = true;
        Ok(())
    }

    /// Resets a CMD that came from the base (fact 56).
    fn entrypoint(&mut self, command: &Command) -> Result<(), Diagnostic> {
        let args = self.command_line(command);
        self.record(format!("ENTRYPOINT {}", history::quoted_list(&args)), None);
        let config = &mut self.state.config.config;
        config.entrypoint = stored(args);
        if !self.has_cmd {
            config.cmd = None;
        }
        Ok(())
    }

    /// A command as an argument vector: the shell form behind the stage's SHELL (fact 50).
    pub(super) fn command_line(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Shell(text) => self.with_shell(text.value.clone()),
            Command::Exec(words) => words.iter().map(|word| word.value.clone()).collect(),
        }
    }

    /// Puts the shell in front of a text.
    pub(super) fn with_shell(&self, text: String) -> Vec<String> {
        let shell = &self.state.config.config.shell;
        let mut args =
            if shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { shell.clone() };
        args.push(text);
        args
    }

    fn healthcheck(&mut self, check: &Healthcheck) -> Result<(), Diagnostic> {
        let health = match check {
            Healthcheck::None => HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() },
            Healthcheck::Cmd {
                command,
                interval_ns,
                timeout_ns,
                start_period_ns,
                start_interval_ns,
                retries,
            } => {
                let mut test = Vec::new();
                match command {
                    Command::Shell(text) => test.extend(["CMD-SHELL".to_owned(), text.value.clone()]),
                    Command::Exec(words) => {
                        test.push("CMD".to_owned());
                        test.extend(words.iter().map(|word| word.value.clone()));
                    }
                }
                HealthConfig {
                    test,
                    interval: *interval_ns,
                    timeout: *timeout_ns,
                    start_period: *start_period_ns,
                    start_interval: *start_interval_ns,
                    retries: *retries,
                }
            }
        };
        self.record(history::healthcheck(&health), None);
        self.state.config.config.healthcheck = Some(health);
        Ok(())
    }

    fn shell(&mut self, words: &[Word]) -> Result<(), Diagnostic> {
        let shell: Vec<String> = words.iter().map(|word| word.value.clone()).collect();
        self.record(format!("SHELL {}", history::list(&shell)), None);
        self.state.config.config.shell = shell;
        Ok(())
    }

    fn user(&mut self, word: &Word) -> Result<(), Diagnostic> {
        let user = self.expand(word)?;
        self.record(format!("USER {user}"), None);
        self.state.config.config.user = user;
        Ok(())
    }

    fn volume(&mut self, words: &[Word]) -> Result<(), Diagnostic> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(word)?;
            if volume.is_empty() {
                return Err(self.site.error(word.span, "VOLUME specified can not be an empty string"));
            }
            volumes.push(volume);
        }
        self.record(format!("VOLUME {}", history::list(&volumes)), None);
        self.state.config.config.volumes.extend(volumes.into_iter().map(|volume| (volume, Empty {})));
        Ok(())
    }

    /// The text is kept as written once it is known to be a signal (fact 70).
    fn stopsignal(&mut self, word: &Word) -> Result<(), Diagnostic> {
        let name = self.expand(word)?;
        if !signal::is_signal(&name) {
            return Err(self
                .site
                .error(word.span, format!("invalid signal: {name}"))
                .with_hint("give a name such as SIGTERM, SIGRTMIN+3, or a number other than 0"));
        }
        self.record(format!("STOPSIGNAL {name}"), None);
        self.state.config.config.stop_signal = name;
        Ok(())
    }

    /// Makes the directory, in a layer of its own, unless it is `/` (facts 34 to 36).
    pub(super) fn workdir(&mut self, word: &Word, instruction: &Instruction) -> Result<(), Diagnostic> {
        let path = self.expand(word)?;
        let path = paths::workdir(&self.state.config.config.working_dir, &path);
        self.state.config.config.working_dir.clone_from(&path);
        let mut vertex = None;
        if path != "/" {
            let name = self.step_name(&display(instruction, Some(&self.state.env)));
            let spec = MkdirSpec { path: paths::clean(&path), user: self.state.config.config.user.clone() };
            self.state.files = self.add(Op::Mkdir(spec), vec![self.state.files], name);
            vertex = Some(self.state.files);
        }
        self.record(format!("WORKDIR {path}"), vertex);
        Ok(())
    }
}

/// An empty command clears the field: it leaves no key behind in the config's JSON.
fn stored(args: Vec<String>) -> Option<Vec<String>> {
    Some(args).filter(|args| !args.is_empty())
}
