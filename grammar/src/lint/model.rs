//! A file as the checks see it: stages with what they start from, instructions with their values expanded.
//!
//! Invariants: every instruction of every stage is here, reachable or not; triggers of a base come first in its stage.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::facts::Facts;
use super::report::Site;
use super::scope::Scope;
use crate::ast::{self, Buildfile, Instruction};
use crate::mount::Mount;
use crate::span::Span;

/// A whole file.
pub(super) struct File<'a> {
    pub(super) buildfile: &'a Buildfile,
    pub(super) facts: &'a Facts<'a>,
    /// Variables of FROM.
    pub(super) globals: Scope,
    /// Names that FROM may use: those with a value and every global ARG.
    pub(super) global_names: Vec<String>,
    /// Names used in FROM and in defaults of global ARGs.
    pub(super) globals_used: BTreeSet<String>,
    pub(super) stages: Vec<Stage<'a>>,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    Scratch,
    Stage(usize),
    /// Expanded name.
    Image(String),
    /// The name has no value here.
    Unknown,
}

/// A word of FROM with its variables replaced.
#[derive(Debug, Clone, Default)]
pub(super) struct FromWord {
    pub(super) value: String,
    pub(super) used: Vec<String>,
    pub(super) undefined: Vec<String>,
}

/// One stage.
pub(super) struct Stage<'a> {
    pub(super) ast: &'a ast::Stage,
    pub(super) index: usize,
    pub(super) base: Base,
    pub(super) base_word: FromWord,
    /// `--platform=`, when it can be expanded.
    pub(super) platform: Option<FromWord>,
    /// Operating system that it is for.
    pub(super) os: String,
    /// A named context stands for it; its instructions do not run.
    pub(super) replaced: bool,
    /// BuildKit would look at its instructions.
    pub(super) reachable: bool,
    /// The target is made from it: its history and files are in the image.
    pub(super) shipped: bool,
    /// Stages that its instructions read.
    pub(super) needs: BTreeSet<usize>,
    pub(super) steps: Vec<Step<'a>>,
    /// At its end.
    pub(super) end: State,
}

/// Settings that instructions leave for the next.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) env: Scope,
    /// ARGs declared so far, base stages included.
    pub(super) args: BTreeSet<String>,
    pub(super) settings: Settings,
}

/// The part of a state that checks of single instructions look at.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// SHELL; empty when none is set.
    pub(super) shell: Vec<String>,
    /// USER; empty when none is set.
    pub(super) user: String,
    /// Working directory, absolute; `/` when nothing in this file sets it.
    pub(super) directory: String,
    /// WORKDIR stands somewhere above.
    pub(super) workdir_set: bool,
}

/// An instruction with its values.
pub(super) struct Step<'a> {
    pub(super) instruction: Cow<'a, Instruction>,
    /// The FROM that brought it, when it is a trigger.
    pub(super) trigger_of: Option<&'a ast::From>,
    /// Before it.
    pub(super) before: Settings,
    pub(super) values: Values,
    /// Variables that it uses and that have no value.
    pub(super) undefined: Vec<Undefined>,
    /// Variables that it uses, defined or not.
    pub(super) used: BTreeSet<String>,
}

/// A variable without a value.
#[derive(Debug, Clone)]
pub(super) struct Undefined {
    pub(super) name: String,
    pub(super) nearest: Option<String>,
    pub(super) span: Span,
}

/// Expanded values of an instruction.
#[derive(Debug, Clone)]
pub(super) enum Values {
    /// Nothing is expanded, or nothing that a check needs.
    None,
    /// USER, WORKDIR, EXPOSE, VOLUME, STOPSIGNAL.
    Words(Vec<String>),
    /// ENV and LABEL.
    Pairs(Vec<(String, String)>),
    /// COPY and ADD.
    Copy { sources: Vec<String>, destination: String },
    /// RUN.
    Mounts(Vec<Mount>),
}

impl Values {
    /// The first word, if there are words.
    pub(super) fn first(&self) -> &str {
        match self {
            Values::Words(words) => words.first().map_or("", String::as_str),
            _ => "",
        }
    }

    pub(super) fn words(&self) -> &[String] {
        if let Values::Words(words) = self { words } else { &[] }
    }

    pub(super) fn mounts(&self) -> &[Mount] {
        if let Values::Mounts(mounts) = self { mounts } else { &[] }
    }
}

impl Step<'_> {
    pub(super) fn site<'s>(&'s self, file: &File<'_>) -> Site<'s> {
        let text = &file.buildfile.text;
        match self.trigger_of {
            Some(from) => Site::of_from(text, from),
            None => Site::of(text, &self.instruction),
        }
    }

    /// The same with the caret under `part`. The spans of a trigger point into its own text, so its site stays FROM.
    pub(super) fn site_at<'s>(&'s self, file: &File<'_>, part: Span) -> Site<'s> {
        let site = self.site(file);
        if self.trigger_of.is_some() { site } else { site.narrowed(part) }
    }

    /// Keyword as written.
    pub(super) fn keyword(&self) -> &str {
        &self.instruction.keyword.value
    }
}

impl<'a> File<'a> {
    pub(super) fn site_of_from(&self, stage: &Stage<'a>) -> Site<'a> {
        Site::of_from(&self.buildfile.text, &stage.ast.from)
    }

    /// Steps that BuildKit would look at, with their stages.
    pub(super) fn reached(&self) -> impl Iterator<Item = (&Stage<'a>, &Step<'a>)> {
        self.stages
            .iter()
            .filter(|stage| stage.reachable)
            .flat_map(|stage| stage.steps.iter().map(move |step| (stage, step)))
    }

    /// All steps that stand in the file, with their stages.
    pub(super) fn written(&self) -> impl Iterator<Item = (&Stage<'a>, &Step<'a>)> {
        self.stages.iter().flat_map(|stage| {
            stage.steps.iter().filter(|step| step.trigger_of.is_none()).map(move |step| (stage, step))
        })
    }

    /// The stage that `--from` or a mount's `from` names.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        find(self.buildfile, name)
    }
}

/// The stage that a name or number stands for; the last one of that name.
pub(super) fn find(buildfile: &Buildfile, name: &str) -> Option<usize> {
    let named = |stage: &ast::Stage| {
        stage.from.name.as_ref().is_some_and(|known| known.value.eq_ignore_ascii_case(name))
    };
    buildfile
        .stages
        .iter()
        .rposition(named)
        .or_else(|| name.parse::<usize>().ok().filter(|index| *index < buildfile.stages.len()))
}
