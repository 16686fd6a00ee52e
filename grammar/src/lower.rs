//! From logical lines to the typed tree; every message about syntax is made here or below.
//!
//! Invariants:
//! - an instruction that is wrong is left out and the next one is read: a file gives all its errors at once;
//! - what is accepted is what BuildKit accepts (language.md 1.1 to 1.10), with its wording where users know it.

mod command;
mod copy;
mod env;
mod flags;
mod from;
mod guards;
mod health;
mod heredoc;
mod json;
mod meta;
mod run;

use std::ops::Range;

use crate::ast::{Buildfile, From, Heredoc, Instruction, Kind, Parsed, Stage, Word};
use crate::diagnostic::{Diagnostic, Severity};
use crate::line::{Lines, LogicalLine};
use crate::raw;
use crate::span::{LineIndex, Span, Spanned};
use crate::suggest;

/// The instructions of the language, in the order in which suggestions are looked for.
const NAMES: [&str; 18] = [
    "FROM",
    "RUN",
    "COPY",
    "ENV",
    "ARG",
    "CMD",
    "ENTRYPOINT",
    "WORKDIR",
    "ADD",
    "USER",
    "LABEL",
    "EXPOSE",
    "VOLUME",
    "SHELL",
    "HEALTHCHECK",
    "ONBUILD",
    "STOPSIGNAL",
    "MAINTAINER",
];

/// What a logical line turned out to be.
enum Item {
    From(From),
    Instruction(Instruction),
}

/// One instruction on its way from pieces to a node.
struct Input<'a> {
    line: &'a LogicalLine,
    escape: char,
    keyword: Range<usize>,
    flags: Vec<raw::Flag>,
    rest: Range<usize>,
    heredocs: Vec<Heredoc>,
    /// Here-document bodies with their terminators, as they stand in the file.
    heredoc_text: String,
}

impl<'a> Input<'a> {
    fn text(&self, range: Range<usize>) -> &'a str {
        self.line.text.get(range).unwrap_or("")
    }

    fn arguments(&self) -> &'a str {
        self.text(self.rest.clone())
    }

    fn span(&self, range: Range<usize>) -> Span {
        self.line.locate(range)
    }

    fn keyword_span(&self) -> Span {
        self.span(self.keyword.clone())
    }

    /// The whole logical line, or the keyword when nothing follows it.
    fn line_span(&self) -> Span {
        self.span(self.keyword.start..self.rest.end.max(self.keyword.end))
    }

    /// A piece of the arguments, given by its range in them, as a word.
    fn argument(&self, range: Range<usize>) -> Word {
        let range = self.rest.start + range.start..self.rest.start + range.end;
        Spanned::new(self.text(range.clone()).to_string(), self.span(range))
    }

    fn whole_argument(&self) -> Word {
        self.argument(0..self.rest.len())
    }

    fn fields(&self) -> Vec<Word> {
        raw::fields(self.arguments()).into_iter().map(|range| self.argument(range)).collect()
    }
}

/// Errors and warnings of one file.
type Findings = Vec<Diagnostic>;

/// Parses a whole file.
pub(crate) fn file(text: &str) -> Parsed {
    let mut lines = Lines::new(text);
    let mut findings = Findings::new();
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut empty = true;
    let mut misplaced = false;
    while let Some(line) = lines.next_line() {
        empty = false;
        let Some(item) = lower(&line, text, &mut lines, &mut findings) else { continue };
        match item {
            Item::From(from) => stages.push(Stage { span: from.span, from, instructions: Vec::new() }),
            Item::Instruction(instruction) => match (stages.last_mut(), &instruction.kind) {
                (Some(stage), _) => {
                    stage.span = stage.span.to(instruction.span);
                    stage.instructions.push(instruction);
                }
                (None, Kind::Arg(_)) => global_args.push(instruction),
                // A broken `FROM` above is the cause and has been reported.
                (None, _) if misplaced || findings.iter().any(|d| d.severity == Severity::Error) => {}
                (None, _) => {
                    misplaced = true;
                    let message = "no build stage in current context";
                    findings.push(
                        Diagnostic::error(instruction.keyword.span, message)
                            .with_label("stands before any `FROM`")
                            .with_hint("begin the stage with `FROM`; only `ARG` may stand before it"),
                    );
                }
            },
        }
    }
    findings.extend(lines.take_diagnostics());
    if !findings.iter().any(|d| d.severity == Severity::Error) && stages.is_empty() {
        findings.push(without_stage(text, empty));
    }
    findings.sort_by_key(|d| d.span.start);
    let buildfile = Buildfile {
        text: text.to_string(),
        lines: LineIndex::new(text),
        directives: lines.directives().clone(),
        global_args,
        stages,
    };
    Parsed { buildfile, diagnostics: findings }
}

/// Parses one instruction out of an image's triggers.
pub(crate) fn trigger(text: &str) -> (Option<Instruction>, Findings) {
    let mut lines = Lines::new(text);
    let mut findings = Findings::new();
    let mut found = None;
    let whole = Span::new(0, text.len());
    while let Some(line) = lines.next_line() {
        if found.is_some() {
            let message = "onbuild trigger should be a single instruction";
            findings.push(Diagnostic::error(line.span, message));
            break;
        }
        found = lower(&line, text, &mut lines, &mut findings);
    }
    findings.extend(lines.take_diagnostics());
    let failed = |findings: &Findings| findings.iter().any(|d| d.severity == Severity::Error);
    let instruction = match found {
        Some(Item::From(from)) => {
            findings.push(meta::refused_trigger("FROM", from.keyword.span));
            None
        }
        Some(Item::Instruction(instruction)) => {
            let name = instruction.keyword.value.to_ascii_uppercase();
            if matches!(instruction.kind, Kind::Onbuild(_) | Kind::Maintainer(_)) {
                findings.push(meta::refused_trigger(&name, instruction.keyword.span));
            }
            Some(instruction)
        }
        None => {
            if !failed(&findings) {
                findings.push(Diagnostic::error(whole, "onbuild trigger holds no instruction"));
            }
            None
        }
    };
    let instruction = instruction.filter(|_| !failed(&findings));
    (instruction, findings)
}

fn without_stage(text: &str, empty: bool) -> Diagnostic {
    let (end, hint) = (Span::new(text.len(), text.len()), "begin with `FROM image`, or `FROM scratch`");
    let message = match (text.trim_start_matches('\u{feff}').is_empty(), empty) {
        (true, _) => "the file is empty",
        (false, true) => "file with no instructions",
        (false, false) => "the file has no build stage: `FROM` is missing",
    };
    Diagnostic::error(end, message).with_hint(hint)
}

/// Lowers one logical line; here-document bodies are read from `lines`.
fn lower(line: &LogicalLine, text: &str, lines: &mut Lines<'_>, findings: &mut Findings) -> Option<Item> {
    findings.extend(lines.take_diagnostics());
    if let Some(span) = line.empty_continuation {
        findings.push(
            Diagnostic::warning("NoEmptyContinuation", span, "Empty continuation line")
                .with_hint("remove the empty line, or make it a comment"),
        );
    }
    let escape = lines.directives().escape;
    let head = raw::head(&line.text, escape);
    let mut input = Input {
        line,
        escape,
        keyword: head.keyword,
        flags: head.flags,
        rest: head.rest,
        heredocs: Vec::new(),
        heredoc_text: String::new(),
    };
    let end = match heredoc::read(&mut input, text, lines) {
        Ok(end) => end,
        Err(error) => {
            // A line over the limit ends the file, and has been reported.
            if !lines.stopped_early() {
                findings.push(error);
            }
            return None;
        }
    };
    let comments = line.comments.clone();
    let written = input.text(input.keyword.clone());
    let keyword = Spanned::new(written.to_string(), input.keyword_span());
    let span = Span::new(keyword.span.start, end.unwrap_or(line.span.end));
    if written.eq_ignore_ascii_case("FROM") {
        let parts = from::lower(&input, findings)?;
        let original = line.text.clone();
        let from::Parts { platform, base, as_keyword, name } = parts;
        return Some(Item::From(From {
            keyword,
            span,
            original,
            comments,
            platform,
            base,
            name,
            as_keyword,
        }));
    }
    let kind = lower_kind(&input, findings)?;
    Some(Item::Instruction(Instruction { keyword, span, original: line.text.clone(), comments, kind }))
}

fn lower_kind(input: &Input<'_>, findings: &mut Findings) -> Option<Kind> {
    let name = input.text(input.keyword.clone()).to_ascii_uppercase();
    match name.as_str() {
        "ADD" => copy::add(input, findings),
        "ARG" => env::arg(input, findings),
        "CMD" => command::cmd(input, findings),
        "COPY" => copy::copy(input, findings),
        "ENTRYPOINT" => command::entrypoint(input, findings),
        "ENV" => env::env(input, findings),
        "EXPOSE" => meta::expose(input, findings),
        "HEALTHCHECK" => health::healthcheck(input, findings),
        "LABEL" => env::label(input, findings),
        "MAINTAINER" => meta::maintainer(input, findings),
        "ONBUILD" => meta::onbuild(input, findings),
        "RUN" => run::run(input, findings),
        "SHELL" => command::shell(input, findings),
        "STOPSIGNAL" => meta::stopsignal(input, findings),
        "USER" => meta::user(input, findings),
        "VOLUME" => meta::volume(input, findings),
        "WORKDIR" => meta::workdir(input, findings),
        _ => {
            findings.push(unknown(input));
            None
        }
    }
}

fn unknown(input: &Input<'_>) -> Diagnostic {
    let written = input.text(input.keyword.clone());
    if written.is_empty() {
        let span = Span::new(input.line.span.start, input.line.span.end);
        return Diagnostic::error(span, "continued line without an instruction")
            .with_hint("remove the escape character");
    }
    let error = Diagnostic::error(input.keyword_span(), format!("unknown instruction `{written}`"))
        .with_label("not an instruction");
    match suggest::closest(&written.to_uppercase(), NAMES) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

/// `X requires at least one argument`.
fn needs_argument(input: &Input<'_>, name: &str, example: &str) -> Diagnostic {
    Diagnostic::error(input.line_span(), format!("{name} requires at least one argument"))
        .with_hint(format!("for example `{name} {example}`"))
}

/// `X requires exactly one argument`.
fn needs_one_argument(input: &Input<'_>, name: &str, example: &str) -> Diagnostic {
    Diagnostic::error(input.line_span(), format!("{name} requires exactly one argument"))
        .with_hint(format!("for example `{name} {example}`"))
}
