//! The typed syntax tree of a Buildfile. Plain data: no expansion has happened, every word is as written.
//!
//! Invariants:
//! - every node has a span; the spans of instructions cover their first to their last line, here-documents
//!   included, without the final newline;
//! - words keep quotes, escapes and `$VAR`: [`crate::expand`] is the only place that interprets them.

use crate::diagnostic::Diagnostic;
use crate::span::{LineIndex, Span, Spanned};

/// A word as written in the file (after joining continued lines), quotes and variables untouched.
pub type Word = Spanned<String>;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buildfile {
    /// The text that was parsed, byte for byte.
    pub text: String,
    /// Line starts of `text`.
    pub lines: LineIndex,
    /// Parser directives at the top.
    pub directives: Directives,
    /// `ARG` instructions before the first `FROM`, in order.
    pub global_args: Vec<Instruction>,
    /// Stages in order; never empty when parsing gave no error.
    pub stages: Vec<Stage>,
}

/// Parser directives (language.md 1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: kept, not used.
    pub syntax: Option<Spanned<String>>,
    /// `# escape=`: backslash unless set.
    pub escape: char,
    /// `# check=`: the text after the equal sign.
    pub check: Option<Spanned<String>>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None }
    }
}

/// `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The `FROM` instruction itself.
    pub from: From,
    /// From `FROM` to the end of the last instruction.
    pub span: Span,
    /// The stage's instructions without `FROM`.
    pub instructions: Vec<Instruction>,
}

/// `FROM [--platform=P] BASE [AS NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Keyword as written, e.g. `From`.
    pub keyword: Spanned<String>,
    /// The whole instruction.
    pub span: Span,
    /// The logical line with continuations joined, as BuildKit's `original`.
    pub original: String,
    /// Comment lines directly above, without `#` and surrounding blanks.
    pub comments: Vec<Spanned<String>>,
    /// `--platform=` value, unexpanded.
    pub platform: Option<Word>,
    /// Image, stage or `scratch`, unexpanded.
    pub base: Word,
    /// Name after `AS`, as written (look-ups are by lower case).
    pub name: Option<Word>,
    /// `AS` as written.
    pub as_keyword: Option<Spanned<String>>,
}

/// One instruction other than `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Keyword as written.
    pub keyword: Spanned<String>,
    /// First byte of the keyword to the end of the last line, here-documents included.
    pub span: Span,
    /// The logical line with continuations joined (no here-document bodies), as BuildKit's `original`.
    pub original: String,
    /// Comment lines directly above, without `#` and surrounding blanks.
    pub comments: Vec<Spanned<String>>,
    /// What it says.
    pub kind: Kind,
}

/// The instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Add(Copy),
    Arg(Vec<ArgPair>),
    Cmd(Command),
    Copy(Copy),
    Entrypoint(Command),
    Env(Vec<KeyValue>),
    /// Ports as written, in the order written.
    Expose(Vec<Word>),
    Healthcheck(Healthcheck),
    Label(Vec<KeyValue>),
    Maintainer(Word),
    Onbuild(Onbuild),
    Run(Run),
    Shell(Vec<Word>),
    Stopsignal(Word),
    User(Word),
    Volume(Vec<Word>),
    Workdir(Word),
}

/// `NAME[=DEFAULT]` of `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgPair {
    /// Name, unexpanded (BuildKit expands it).
    pub name: Word,
    /// Default, unexpanded; `None` when there is no equal sign.
    pub value: Option<Word>,
    /// Name and default together.
    pub span: Span,
}

/// `KEY=VALUE` or legacy `KEY VALUE` of `ENV` and `LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Unexpanded key.
    pub key: Word,
    /// Unexpanded value.
    pub value: Word,
    /// Written with a blank instead of an equal sign.
    pub legacy: bool,
}

/// A command in shell or exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The text after the keyword and flags; run by the shell.
    Shell(Word),
    /// A JSON array of strings.
    Exec(Vec<Word>),
}

/// A here-document: `[FD]<<[-]NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// Terminator without quotes.
    pub name: String,
    /// File descriptor number before `<<`; 0 when none is written.
    pub descriptor: u32,
    /// No quote in the word: COPY and ADD expand variables in the body.
    pub expand: bool,
    /// `<<-`: leading tabs are taken off (already done in `body`).
    pub strip_tabs: bool,
    /// Body with its final newline.
    pub body: String,
    /// Where the body stands (terminator line excluded).
    pub span: Span,
    /// Where the `<<WORD` stands.
    pub word_span: Span,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `--mount=` values in order, as written; read them with [`crate::mount::parse`] after expansion.
    pub mounts: Vec<Word>,
    /// `--network=`.
    pub network: Option<Word>,
    /// `--security=`.
    pub security: Option<Word>,
    /// `--device=` values.
    pub devices: Vec<Word>,
    /// kiln's own flags.
    pub guards: Guards,
    /// The command. With here-documents the shell text still holds the `<<WORD`.
    pub command: Command,
    /// Here-documents in order.
    pub heredocs: Vec<Heredoc>,
}

/// Limits of one `RUN` and what happens when it fails: kiln's own flags, which docker does not know. They change no
/// result, so they are in no cache key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// `--timeout=` in nanoseconds: the command is killed when it takes longer.
    pub timeout_ns: Option<u64>,
    /// `--retry=`: how many times more a command that failed is run.
    pub retries: u32,
    /// `--memory=` in bytes.
    pub memory_bytes: Option<u64>,
    /// `--cpus=` in thousandths of a processor.
    pub cpus_milli: Option<u64>,
    /// The flags that were given, with the places of their values.
    pub written: Vec<(&'static str, Span)>,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Sources: paths, URLs, git references, unexpanded; here-document words are not among them.
    pub sources: Vec<Word>,
    /// Destination, unexpanded.
    pub destination: Word,
    /// Here-document sources.
    pub heredocs: Vec<Heredoc>,
    /// `--from=` (COPY only).
    pub from: Option<Word>,
    /// `--chown=`.
    pub chown: Option<Word>,
    /// `--chmod=`.
    pub chmod: Option<Word>,
    /// `--link[=bool]`.
    pub link: bool,
    /// `--parents[=bool]` (COPY only).
    pub parents: bool,
    /// `--exclude=` patterns.
    pub exclude: Vec<Word>,
    /// `--checksum=` (ADD only).
    pub checksum: Option<Word>,
    /// `--keep-git-dir[=bool]` (ADD only).
    pub keep_git_dir: Option<bool>,
    /// `--unpack[=bool]` (ADD only).
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK [flags] CMD …`. Durations in nanoseconds, 0 when absent.
    Cmd {
        /// The command after `CMD`.
        command: Command,
        /// `--interval`.
        interval_ns: i64,
        /// `--timeout`.
        timeout_ns: i64,
        /// `--start-period`.
        start_period_ns: i64,
        /// `--start-interval`.
        start_interval_ns: i64,
        /// `--retries`.
        retries: i64,
    },
}

/// `ONBUILD TRIGGER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The trigger's text as it is stored in the image (here-documents included).
    pub trigger: Word,
}

/// What parsing gives: as much of a tree as could be read, and what was found on the way.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The tree. Do not use it for a build when [`Parsed::has_errors`] says true.
    pub buildfile: Buildfile,
    /// Errors and warnings in file order.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// True when at least one diagnostic is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == crate::diagnostic::Severity::Error)
    }
}
