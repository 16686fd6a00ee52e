//! The last thing kiln says when something went wrong, and the status it exits with.
//!
//! Invariants:
//! - the exit status is a function of [`Kind`] alone;
//! - the output of a failed step comes first and the message after it, so that the cause stands last on screen;
//! - texts are escaped here; whoever makes a `Failure` passes them as they are.

use kiln_grammar::span::Span;

use super::diagnostics::{self, Style, paint};
use super::text;

/// Exit status of success.
pub const EXIT_OK: u8 = 0;
/// Exit status of a failed build: a RUN that failed, a mistake in the Buildfile, a registry that said no. The
/// status of the RUN itself is not passed on, as in buildx (cli.md 2.1).
pub const EXIT_FAILED: u8 = 1;
/// Exit status of a wrong command line.
pub const EXIT_USAGE: u8 = 2;
/// Exit status when an image is beyond a limit that was asked for (`kiln layers --max-size`, `--max-waste`).
pub const EXIT_LIMIT: u8 = 3;
/// Exit status of a mistake in kiln.
pub const EXIT_INTERNAL: u8 = 100;
/// Exit status when the disk or the memory is full.
pub const EXIT_RESOURCES: u8 = 102;
/// Exit status after an interrupt.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Whose failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The Buildfile, the context or a command in it.
    User,
    /// The command line.
    Usage,
    /// Settings of kiln or of the machine.
    Config,
    /// A registry or another server.
    Network,
    /// The kernel does not allow what a sandbox needs.
    Sandbox,
    /// An image is beyond a limit that the user set.
    Limit,
    /// Disk or memory is full.
    Resources,
    /// The user stopped it.
    Interrupted,
    /// A mistake in kiln.
    Internal,
}

/// A failure, ready to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose.
    pub kind: Kind,
    /// What happened, one line.
    pub message: String,
    /// Why, the nearest cause first; one line each.
    pub causes: Vec<String>,
    /// What to do, one line each.
    pub hints: Vec<String>,
    /// Where in the Buildfile.
    pub snippet: Option<Place>,
    /// What the failed step saw: user, directory and so on, one line.
    pub seen: Option<String>,
    /// What the failed step said last.
    pub step_tail: Option<StepTail>,
}

/// A place in a Buildfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name to show.
    pub file: String,
    /// All of its text.
    pub text: String,
    /// Where in it.
    pub span: Span,
}

/// The end of a step's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTail {
    /// Name of the step.
    pub name: String,
    /// Its last lines, from `Progress::tail`.
    pub lines: Vec<String>,
}

/// Longest line of a step's output that is shown; the whole of it is in the log.
const MAX_TAIL_COLUMNS: usize = 500;
/// Causes shown at most.
const MAX_CAUSES: usize = 16;

impl Kind {
    /// The status to exit with.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::User | Self::Config | Self::Network | Self::Sandbox => EXIT_FAILED,
            Self::Usage => EXIT_USAGE,
            Self::Limit => EXIT_LIMIT,
            Self::Resources => EXIT_RESOURCES,
            Self::Interrupted => EXIT_INTERRUPTED,
            Self::Internal => EXIT_INTERNAL,
        }
    }
}

impl Failure {
    /// A failure without details.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            snippet: None,
            seen: None,
            step_tail: None,
        }
    }

    /// A failure with the chain of an error's sources as its causes.
    pub fn from_error(kind: Kind, error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        Self { causes: causes.map(ToString::to_string).collect(), ..Self::new(kind, error.to_string()) }
    }

    /// Adds what to do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The status to exit with.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }

    /// The whole text, every line ended.
    pub fn render(&self, style: Style) -> String {
        let mut rendered = String::new();
        if let Some(tail) = &self.step_tail
            && !tail.lines.is_empty()
        {
            rendered.push_str("------\n");
            rendered.push_str(&format!(" > {}:\n", text::visible(&tail.name)));
            for line in &tail.lines {
                rendered.push_str(&text::fit(text::plain(line).trim_end(), MAX_TAIL_COLUMNS));
                rendered.push('\n');
            }
            rendered.push_str("------\n");
        }
        let (word, code) = match self.kind {
            Kind::Interrupted => ("interrupted:", "1;33"),
            Kind::Internal => ("internal error:", "1;31"),
            _ => ("error:", "1;31"),
        };
        rendered.push_str(&format!("{} {}\n", paint(word, code, style), text::visible(&self.message)));
        for cause in self.shown_causes() {
            rendered.push_str(&format!("  {} {}\n", paint("caused by:", "1", style), text::visible(cause)));
        }
        if let Some(place) = &self.snippet {
            rendered.push_str(&diagnostics::render_place(&place.file, &place.text, place.span, style));
        }
        if let Some(seen) = &self.seen {
            let line = text::fit(seen, MAX_TAIL_COLUMNS);
            rendered.push_str(&format!("  {} {line}\n", paint("ran as:", "1", style)));
        }
        if !self.hints.is_empty() {
            rendered.push('\n');
        }
        for hint in &self.hints {
            rendered.push_str(&diagnostics::hint_line(hint, style));
        }
        rendered
    }

    /// Causes that say something new: many errors repeat their source in their own text.
    fn shown_causes(&self) -> impl Iterator<Item = &str> {
        let mut said = vec![self.message.as_str()];
        let new = self.causes.iter().filter(move |cause| {
            let known = said.iter().any(|said| said.contains(cause.as_str()));
            said.push(cause);
            !known
        });
        new.map(String::as_str).take(MAX_CAUSES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_run() {
        let text = "FROM debian\nRUN make all\n";
        let failure = Failure {
            causes: vec!["exit status 2".to_owned()],
            hints: vec![
                "run the same step again with `--no-cache-filter`".to_owned(),
                "see \u{1b}[1m".to_owned(),
            ],
            snippet: Some(Place {
                file: "Buildfile".to_owned(),
                text: text.to_owned(),
                span: Span::new(12, text.len() - 1),
            }),
            seen: Some("user root, directory /src, linux/amd64".to_owned()),
            step_tail: Some(StepTail {
                name: "[2/2] RUN make all".to_owned(),
                lines: vec![
                    "cc -c a.c".to_owned(),
                    "\u{1b}[1;31ma.c:1: error\u{1b}[0m: no\u{1b}[2J".to_owned(),
                    "make: *** [all] Error 2".to_owned(),
                ],
            }),
            ..Failure::new(Kind::User, "`RUN make all` failed")
        };
        assert_eq!(failure.exit_code(), 1);
        insta::assert_snapshot!(failure.render(Style::PLAIN), @r"
        ------
         > [2/2] RUN make all:
        cc -c a.c
        a.c:1: error: no
        make: *** [all] Error 2
        ------
        error: `RUN make all` failed
          caused by: exit status 2
         --> Buildfile:2:1
          |
        2 | RUN make all
          | ^^^^^^^^^^^^
          ran as: user root, directory /src, linux/amd64

        hint: run the same step again with `--no-cache-filter`
        hint: see \x1b[1m
        ");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot pull `x`: connection refused")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn causes_come_from_the_chain_and_do_not_repeat() {
        let error = Outer(Middle(std::io::Error::other("tcp: 10.0.0.1:5000\nport closed")));
        let failure = Failure::from_error(Kind::Network, &error).with_hint("check the address");
        insta::assert_snapshot!(failure.render(Style::PLAIN), @r"
        error: cannot pull `x`: connection refused
          caused by: tcp: 10.0.0.1:5000\nport closed

        hint: check the address
        ");
    }

    #[test]
    fn every_kind_has_its_status() {
        for (kind, code) in [
            (Kind::User, 1),
            (Kind::Usage, 2),
            (Kind::Config, 1),
            (Kind::Network, 1),
            (Kind::Sandbox, 1),
            (Kind::Resources, 102),
            (Kind::Interrupted, 130),
            (Kind::Internal, 100),
        ] {
            assert_eq!(kind.exit_code(), code);
        }
    }

    #[test]
    fn colour_only_adds_escapes() {
        let failure = Failure::new(Kind::Internal, "x").with_hint("y");
        let coloured = failure.render(Style { colour: true, columns: 80 });
        let stripped: String = coloured.lines().map(|line| format!("{}\n", text::plain(line))).collect();
        assert_ne!(coloured, stripped);
        assert_eq!(stripped, failure.render(Style::PLAIN));
    }
}
