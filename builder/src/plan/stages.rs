//! The stages of a file: names, what each is based on and needs, and which ones the target reaches.
//!
//! Invariants:
//! - names are looked up in lower case; FROM sees earlier stages only, `--from` the last stage of that name
//!   (language.md 1.4, semantics facts 74 and 75);
//! - base names, references and stage numbers are checked in every stage, but nothing is resolved for a stage that the
//!   target does not reach (fact 111).

use std::collections::{BTreeMap, BTreeSet};

use kiln_grammar::ast::{self, Buildfile, Instruction, Kind, Word};
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::span::Span;
use kiln_grammar::suggest;

use crate::image::platform::Platform;
use crate::image::reference::Reference;

use super::args::GlobalScope;
use super::lower::mounts::from_of;
use super::site::Site;
use super::sources::Sources;

/// What FROM names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// `scratch`.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image or a named context.
    Image(String),
}

/// What `--from` or a mount's `from` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A stage of this file.
    Stage(usize),
    /// An image or a named context, or `scratch`.
    Image(String),
}

/// An ONBUILD trigger that a stage runs right after its FROM.
#[derive(Debug, Clone)]
pub(super) struct Trigger {
    /// Text as stored.
    pub(super) text: String,
    /// Its syntax tree; spans point into `text`.
    pub(super) instruction: Instruction,
}

/// One stage.
#[derive(Debug)]
pub(super) struct StageEntry<'a> {
    /// Position in the file.
    pub(super) index: usize,
    /// Its syntax tree.
    pub(super) ast: &'a ast::Stage,
    /// Name in lower case, or `stage-N`.
    pub(super) name: String,
    /// What it starts from.
    pub(super) base: Base,
    /// `--platform=`, expanded.
    pub(super) platform: Option<Platform>,
    /// A named context of this name replaces the whole stage (fact 110).
    pub(super) replaced: bool,
    /// Triggers of the base, once they are known.
    pub(super) triggers: Vec<Trigger>,
    /// Stages that instructions read from.
    pub(super) needs: BTreeSet<usize>,
}

impl StageEntry<'_> {
    /// Everything that must be there before the stage: its base and what its instructions read.
    pub(super) fn prerequisites(&self) -> impl Iterator<Item = usize> {
        let base = match self.base {
            Base::Stage(index) if !self.replaced => Some(index),
            _ => None,
        };
        let needs = if self.replaced { None } else { Some(self.needs.iter().copied()) };
        base.into_iter().chain(needs.into_iter().flatten())
    }
}

/// All stages.
#[derive(Debug)]
pub(super) struct StageTable<'a> {
    /// In file order.
    pub(super) stages: Vec<StageEntry<'a>>,
    by_name: BTreeMap<String, usize>,
    escape: char,
}

impl<'a> StageTable<'a> {
    /// Reads every FROM and every reference between stages. Errors of several stages are reported together.
    pub(super) fn new(
        buildfile: &'a Buildfile,
        scope: &GlobalScope,
        sources: &Sources<'_>,
        target: &Platform,
        mounts: &[String],
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut table =
            Self { stages: Vec::new(), by_name: BTreeMap::new(), escape: buildfile.directives.escape };
        let mut errors = Vec::new();
        for (index, stage) in buildfile.stages.iter().enumerate() {
            let site = Site::in_file(&buildfile.text, stage.from.span);
            match table.entry(index, stage, &site, scope) {
                Ok(mut entry) => {
                    let platform = entry.platform.as_ref().unwrap_or(target);
                    if let Some(name) = &stage.from.name {
                        entry.replaced = sources.named_context(&name.value, platform).is_some();
                        table.by_name.insert(name.value.to_lowercase(), index);
                    }
                    table.stages.push(entry);
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        for (index, stage) in buildfile.stages.iter().enumerate() {
            for instruction in &stage.instructions {
                let site = Site::in_file(&buildfile.text, instruction.span);
                match table.needs_of(instruction, &site) {
                    Ok(needs) => {
                        if let Some(entry) = table.stages.get_mut(index) {
                            entry.needs.extend(needs);
                        }
                    }
                    Err(error) => errors.push(error),
                }
            }
        }
        table.add_mounts(mounts);
        if errors.is_empty() {
            errors.extend(table.find_cycle());
        }
        if errors.is_empty() { Ok(table) } else { Err(errors) }
    }

    /// Stages that mounts of the command line are taken from are needed by every stage below them: any of these may have
    /// a RUN, from a trigger if not of its own. One that has none executes nothing more for it.
    fn add_mounts(&mut self, mounts: &[String]) {
        for from in mounts.iter().filter_map(|mount| from_of(mount)) {
            let site = Site::in_file("", Span::default());
            // Names that cannot be meant are told where a RUN gets the mount.
            if let Ok(Source::Stage(taken)) = self.mount_source(&from, Span::default(), &site) {
                for entry in self.stages.iter_mut().skip(taken + 1) {
                    entry.needs.insert(taken);
                }
            }
        }
    }

    fn entry(
        &self,
        index: usize,
        stage: &'a ast::Stage,
        site: &Site<'_>,
        scope: &GlobalScope,
    ) -> Result<StageEntry<'a>, Diagnostic> {
        let from = &stage.from;
        let base_name = site.expand(&from.base, self.escape, &scope.values)?;
        if base_name.is_empty() {
            let message = format!("base name ({}) should not be blank", from.base.value);
            return Err(site
                .error(from.base.span, message)
                .with_hint("give the ARG a default before the first FROM, or pass --build-arg"));
        }
        let base = if base_name == "scratch" {
            Base::Scratch
        } else if let Some(earlier) = self.by_name.get(&base_name.to_lowercase()) {
            Base::Stage(*earlier)
        } else {
            check_reference(&base_name)
                .map_err(|message| self.with_stage_hint(site.error(from.base.span, message), &base_name))?;
            Base::Image(base_name)
        };
        let platform =
            from.platform.as_ref().map(|word| platform_of(word, site, self.escape, scope)).transpose()?;
        Ok(StageEntry {
            index,
            ast: stage,
            name: from
                .name
                .as_ref()
                .map_or_else(|| format!("stage-{index}"), |name| name.value.to_lowercase()),
            base,
            platform,
            replaced: false,
            triggers: Vec::new(),
            needs: BTreeSet::new(),
        })
    }

    /// The stage to build: `--target` by name or number, else the last one.
    pub(super) fn target(&self, wanted: Option<&str>) -> Result<usize, Diagnostic> {
        let last = self.stages.len().saturating_sub(1);
        let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Ok(last) };
        if let Some(index) = self.by_name.get(&wanted.to_lowercase()) {
            return Ok(*index);
        }
        if let Some(index) = wanted.parse::<usize>().ok().filter(|index| *index <= last) {
            return Ok(index);
        }
        let span = self.stages.last().map(|stage| stage.ast.from.span).unwrap_or_default();
        let error = Diagnostic::error(span, format!("target stage {wanted:?} could not be found"));
        let names: Vec<&str> = self.names().collect();
        let hint = match suggest::closest(wanted, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "no stage of this file has a name".to_owned(),
            None => format!("the stages are {}", names.join(", ")),
        };
        Err(error.with_hint(hint))
    }

    /// What a `--from` names. Numbers are stages; out of range they are an error for COPY (fact 74).
    pub(super) fn copy_source(&self, word: &Word, site: &Site<'_>) -> Result<Source, Diagnostic> {
        let text = &word.value;
        let plain = site.expand(word, self.escape, &BTreeMap::new()).is_ok_and(|expanded| expanded == *text);
        if !plain {
            return Err(site
                .error(word.span, "variable expansion is not supported for --from")
                .with_hint("define a new stage with FROM using ARG from global scope as a workaround"));
        }
        if let Ok(index) = text.parse::<i64>() {
            return match usize::try_from(index).ok().filter(|index| *index < self.stages.len()) {
                Some(index) => Ok(Source::Stage(index)),
                None => Err(site
                    .error(word.span, format!("invalid stage index {index}"))
                    .with_hint(format!("this file has {} stages, counted from 0", self.stages.len()))),
            };
        }
        self.named_source(text, word.span, site)
    }

    /// What a mount's `from` names; a number that is no stage is taken for an image, as BuildKit does.
    pub(super) fn mount_source(&self, from: &str, span: Span, site: &Site<'_>) -> Result<Source, Diagnostic> {
        match from.parse::<usize>().ok().filter(|index| *index < self.stages.len()) {
            Some(index) => Ok(Source::Stage(index)),
            None => self.named_source(from, span, site),
        }
    }

    fn named_source(&self, name: &str, span: Span, site: &Site<'_>) -> Result<Source, Diagnostic> {
        if let Some(index) = self.by_name.get(&name.to_lowercase()) {
            return Ok(Source::Stage(*index));
        }
        check_reference(name).map_err(|message| self.with_stage_hint(site.error(span, message), name))?;
        Ok(Source::Image(name.to_owned()))
    }

    /// Stages that an instruction reads from.
    fn needs_of(&self, instruction: &Instruction, site: &Site<'_>) -> Result<Vec<usize>, Diagnostic> {
        Ok(self
            .sources_of(instruction, site)?
            .into_iter()
            .filter_map(|source| match source {
                Source::Stage(index) => Some(index),
                Source::Image(_) => None,
            })
            .collect())
    }

    /// Everything outside the context that an instruction reads from.
    pub(super) fn sources_of(
        &self,
        instruction: &Instruction,
        site: &Site<'_>,
    ) -> Result<Vec<Source>, Diagnostic> {
        match &instruction.kind {
            Kind::Copy(copy) => copy
                .from
                .iter()
                .filter(|word| !word.value.is_empty())
                .map(|word| self.copy_source(word, site))
                .collect(),
            Kind::Run(run) => run
                .mounts
                .iter()
                .filter_map(|mount| Some((from_of(&mount.value)?, mount.span)))
                .map(|(from, span)| self.mount_source(&from, span, site))
                .collect(),
            _ => Ok(Vec::new()),
        }
    }

    /// Adds the triggers of a stage's base; true when they need something that was not needed before.
    pub(super) fn add_triggers(&mut self, index: usize, triggers: Vec<Trigger>) -> Result<bool, Diagnostic> {
        let Some(from) = self.stages.get(index).map(|stage| stage.ast.from.span) else { return Ok(false) };
        let mut found = false;
        let mut needs = BTreeSet::new();
        for trigger in &triggers {
            for source in self.sources_of(&trigger.instruction, &Site::in_trigger(&trigger.text, from))? {
                found = true;
                if let Source::Stage(index) = source {
                    needs.insert(index);
                }
            }
        }
        if let Some(stage) = self.stages.get_mut(index) {
            stage.triggers = triggers;
            stage.needs.extend(needs);
        }
        Ok(found)
    }

    /// Stages that `target` needs, itself included.
    pub(super) fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            if reached.insert(index)
                && let Some(stage) = self.stages.get(index)
            {
                open.extend(stage.prerequisites());
            }
        }
        reached
    }

    /// Platform of a stage: its base stage's, else its own `--platform`, else the target's.
    pub(super) fn platform_of(&self, index: usize, target: &Platform) -> Platform {
        let mut stage = self.stages.get(index);
        while let Some(current) = stage {
            match current.base {
                Base::Stage(base) if !current.replaced => stage = self.stages.get(base),
                Base::Scratch if !current.replaced => return target.clone(),
                _ => return current.platform.clone().unwrap_or_else(|| target.clone()),
            }
        }
        target.clone()
    }

    /// Names that people gave.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Adds a did-you-mean among the stages to an error that has no hint.
    pub(super) fn with_stage_hint(&self, error: Diagnostic, name: &str) -> Diagnostic {
        match suggest::closest(&name.to_lowercase(), self.names()) {
            Some(near) if error.hint.is_none() => {
                error.with_hint(format!("did you mean the stage `{near}`?"))
            }
            _ => error,
        }
    }

    /// A stage that needs itself, directly or through others. Any circle has a step to the same or a later stage.
    fn find_cycle(&self) -> Option<Diagnostic> {
        let mut forward = self
            .stages
            .iter()
            .filter(|stage| !stage.replaced)
            .flat_map(|stage| stage.needs.range(stage.index..).map(move |need| (stage, *need)));
        let (stage, _) = forward.find(|(stage, need)| self.needs_lead(*need, stage.index))?;
        let message = format!("circular dependency detected on stage: {}", stage.name);
        Some(
            Diagnostic::error(stage.ast.from.span, message)
                .with_hint("a stage can read from stages above it only"),
        )
    }

    /// Whether the needs of stage `from` lead to stage `to`.
    fn needs_lead(&self, from: usize, to: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(index) = open.pop() {
            if index == to {
                return true;
            }
            if seen.insert(index)
                && let Some(stage) = self.stages.get(index).filter(|stage| !stage.replaced)
            {
                open.extend(&stage.needs);
            }
        }
        false
    }
}

/// Refuses names that no image can have. `scratch` is not an image.
fn check_reference(name: &str) -> Result<(), String> {
    match name {
        "scratch" => Ok(()),
        name => name
            .parse::<Reference>()
            .map(drop)
            .map_err(|error| format!("failed to parse stage name {name:?}: {error}")),
    }
}

fn platform_of(
    word: &Word,
    site: &Site<'_>,
    escape: char,
    scope: &GlobalScope,
) -> Result<Platform, Diagnostic> {
    let text = site.expand(word, escape, &scope.values)?;
    let unknown = |error: Diagnostic| {
        let name = word.value.trim_matches(|c: char| !c.is_alphanumeric() && c != '_');
        match suggest::closest(name, scope.values.names()) {
            Some(near) if word.value.contains('$') => error.with_hint(format!("did you mean `${near}`?")),
            _ => error.with_hint("write os/arch[/variant], for instance linux/arm64"),
        }
    };
    if text.is_empty() {
        let message = format!("empty platform value from expression {}", word.value);
        return Err(unknown(site.error(word.span, message)));
    }
    text.parse::<Platform>().map_err(|error| {
        unknown(site.error(word.span, format!("failed to parse platform {}: {error}", word.value)))
    })
}
