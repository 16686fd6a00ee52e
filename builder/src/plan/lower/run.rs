//! RUN: the argument vector, here-documents, network and security modes.
//!
//! Invariants: variables of the command are left to the shell; only `--mount` options are expanded (language.md 1.6).

use std::time::Duration;

use kiln_grammar::ast::{Command, Heredoc, Instruction, Run};
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::expand;

use super::super::args::Environment;
use super::super::graph::{Guards, NetworkMode, Op, RunSpec, SecurityMode};
use super::super::history;
use super::{Lowering, display};

/// Host name of the sandbox unless `BUILDKIT_SANDBOX_HOSTNAME` says otherwise (fact 44).
const HOSTNAME: &str = "buildkitsandbox";

/// Directory of the scripts of here-documents that begin with `#!`.
const PIPES: &str = "/dev/pipes/";

/// What a RUN executes.
struct CommandLine {
    args: Vec<String>,
    scripts: Vec<(String, String)>,
    /// Beginning of the here-document, for the name.
    summary: Option<String>,
}

impl Lowering<'_, '_> {
    /// Lowers RUN.
    pub(super) fn run(&mut self, run: &Run, instruction: &Instruction) -> Result<(), Diagnostic> {
        if let Some(device) = run.devices.first() {
            return Err(self
                .site
                .error(device.span, "RUN --device is not supported: kiln does not know CDI devices")
                .with_hint(
                    "take the flag out and show a device of this machine to all steps: --device /dev/NAME",
                ));
        }
        let command = self.run_command(run, instruction)?;
        let network = self.network(run)?;
        let security = self.security(run)?;
        let mut inputs = vec![self.state.files];
        let mounts = self.mounts(run, &mut inputs)?;
        let mut env = self.state.env.clone();
        if let Some(socket) = &mounts.ssh_socket
            && env.value("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", socket);
        }
        let mut text = display(instruction, None);
        if let Some(summary) = &command.summary {
            text.push_str(&format!(" ({summary})"));
        }
        let name = self.step_name(&text);
        let created_by = history::run(&command.args, &self.state.build_args, &self.state.env);
        let options = self.session.options;
        let hostname = self.session.scope.build_args.get("BUILDKIT_SANDBOX_HOSTNAME");
        let spec = RunSpec {
            args: command.args,
            env: env.to_pairs(),
            cwd: self.state.working_dir(),
            user: self.state.config.config.user.clone(),
            mounts: mounts.specs,
            network,
            security,
            privileges: options.privileges.clone(),
            hostname: hostname
                .filter(|name| !name.is_empty())
                .cloned()
                .unwrap_or_else(|| HOSTNAME.to_owned()),
            extra_host_names: options.extra_host_names.clone(),
            ulimits: options.ulimits.clone(),
            shm_size_bytes: options.shm_size_bytes,
            scripts: command.scripts,
        };
        let guards = Guards {
            timeout: run.guards.timeout_ns.map(Duration::from_nanos),
            retries: run.guards.retries,
            memory_bytes: run.guards.memory_bytes,
            cpus_milli: run.guards.cpus_milli,
        };
        self.state.files = self.add_guarded(Op::Run(spec), inputs, name, guards);
        self.record(created_by, Some(self.state.files));
        Ok(())
    }

    /// The argument vector, with here-documents as language.md 1.10 has it.
    fn run_command(&self, run: &Run, instruction: &Instruction) -> Result<CommandLine, Diagnostic> {
        let text = match &run.command {
            Command::Exec(words) if words.is_empty() => {
                return Err(self
                    .site
                    .error(instruction.span, "RUN has no command: the array is empty")
                    .with_hint("write the program as the first string, for instance RUN [\"/bin/true\"]"));
            }
            Command::Exec(_) => {
                let args = self.command_line(&run.command);
                return Ok(CommandLine { args, scripts: Vec::new(), summary: None });
            }
            Command::Shell(text) => &text.value,
        };
        let Some(first) = run.heredocs.first() else {
            let args = self.with_shell(text.clone());
            return Ok(CommandLine { args, scripts: Vec::new(), summary: None });
        };
        if !is_only_heredoc(text) {
            return Ok(CommandLine {
                args: self.with_shell(self.rebuild(text, &run.heredocs)),
                scripts: Vec::new(),
                summary: None,
            });
        }
        let summary = Some(summarise(&first.body));
        if first.body.starts_with("#!") {
            let path = format!("{PIPES}{}", first.name);
            let scripts = vec![(first.name.clone(), first.body.clone())];
            return Ok(CommandLine { args: self.with_shell(path), scripts, summary });
        }
        Ok(CommandLine { args: self.with_shell(first.body.clone()), scripts: Vec::new(), summary })
    }

    /// The instruction's text followed by the bodies, for the shell to read. `<<-` bodies keep their tabs: the shell
    /// takes them off.
    fn rebuild(&self, text: &str, heredocs: &[Heredoc]) -> String {
        let mut script = text.to_owned();
        for heredoc in heredocs {
            script.push('\n');
            let written = self.site.text.get(heredoc.span.start..heredoc.span.end);
            script.push_str(written.filter(|_| heredoc.strip_tabs).unwrap_or(&heredoc.body));
            script.push_str(&heredoc.name);
        }
        script
    }

    fn network(&self, run: &Run) -> Result<NetworkMode, Diagnostic> {
        let (span, mode) = match &run.network {
            Some(word) => (
                word.span,
                match word.value.as_str() {
                    "default" => self.session.options.network,
                    "none" => NetworkMode::None,
                    "host" => NetworkMode::Host,
                    other => {
                        return Err(self
                            .site
                            .error(word.span, format!("unsupported network mode {other:?}"))
                            .with_hint("the modes are default, none and host"));
                    }
                },
            ),
            None => (self.site.span, self.session.options.network),
        };
        if mode == NetworkMode::Host {
            self.require(span, "network.host")?;
        }
        Ok(mode)
    }

    fn security(&self, run: &Run) -> Result<SecurityMode, Diagnostic> {
        let Some(word) = &run.security else { return Ok(SecurityMode::Sandbox) };
        match word.value.as_str() {
            "sandbox" => Ok(SecurityMode::Sandbox),
            "insecure" => {
                self.require(word.span, "security.insecure")?;
                Ok(SecurityMode::Insecure)
            }
            other => Err(self
                .site
                .error(word.span, format!("unsupported security mode {other:?}"))
                .with_hint("the modes are sandbox and insecure")),
        }
    }

    fn require(&self, span: kiln_grammar::span::Span, entitlement: &str) -> Result<(), Diagnostic> {
        if self.session.options.allow.iter().any(|allowed| allowed == entitlement) {
            return Ok(());
        }
        Err(self
            .site
            .error(span, format!("this step needs the entitlement {entitlement}, which is not allowed"))
            .with_hint(format!("pass --allow {entitlement} if you trust this build")))
    }
}

/// Whether the text is nothing but `[FD]<<[-]WORD`, so that the body itself is the command.
fn is_only_heredoc(text: &str) -> bool {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else { return false };
    let word = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    !word.contains('<')
        && expand::words(word, '\\', &Environment::default()).is_ok_and(|(words, _)| words.len() == 1)
}

/// The first line, with dots when there are more.
fn summarise(body: &str) -> String {
    let mut lines = body.trim().lines();
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { "..." } else { "" };
    format!("{first}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_heredoc_is_told_from_a_command() {
        for text in ["<<EOF", "<<-EOF", "3<<EOF", "<<'E O F'", "<<\"EOF\"", "<< EOF"] {
            assert!(is_only_heredoc(text), "{text}");
        }
        for text in ["<<EOF cat", "cat <<EOF", "<<A <<B", "<<", "", "<EOF"] {
            assert!(!is_only_heredoc(text), "{text}");
        }
    }

    #[test]
    fn summaries() {
        assert_eq!(summarise("\nset -e\nmake\n"), "set -e...");
        assert_eq!(summarise("make\n"), "make");
        assert_eq!(summarise(""), "");
    }
}
