//! What a Buildfile offers: its stages, and what a target takes from outside.
//!
//! Invariants:
//! - pure and without resolving anything: triggers of base images are not seen;
//! - only what the target reaches is listed, in file order, each name once;
//! - a description is the rest of a comment line directly above that begins with the name (language.md 1.1).

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{ArgPair, Buildfile, Instruction, Kind, Stage, Word};
use crate::expand::{self, Expanded};
use crate::mount::{self, MountKind};
use crate::span::{Span, Spanned};

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As written after `AS`.
    pub name: Option<String>,
    /// From the comment above `FROM`; empty without one.
    pub description: String,
    /// What FROM names, as written.
    pub base: String,
    /// `--platform`, as written; empty without one.
    pub platform: String,
    /// Built when no target is named.
    pub is_default: bool,
    /// The FROM.
    pub span: Span,
}

/// What a target takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// Name of the target; empty when it has none.
    pub name: String,
    /// From the comment above its FROM.
    pub description: String,
    /// Build arguments.
    pub args: Vec<Argument>,
    /// Secrets.
    pub secrets: Vec<Wanted>,
    /// SSH agents.
    pub ssh: Vec<Wanted>,
    /// Cache mounts.
    pub caches: Vec<Wanted>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Name.
    pub name: String,
    /// From the comment above ARG; empty without one.
    pub description: String,
    /// Value: the build argument that was given, or the default; `None` without either.
    pub value: Option<String>,
    /// The name and default.
    pub span: Span,
}

/// A secret, an SSH agent or a cache mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its id.
    pub id: String,
    /// The build fails without it.
    pub required: bool,
    /// The `--mount`.
    pub span: Span,
}

/// The stages in file order.
pub fn targets(buildfile: &Buildfile) -> Vec<Target> {
    let last = buildfile.stages.len().saturating_sub(1);
    let target = |(index, stage): (usize, &Stage)| Target {
        name: stage.from.name.as_ref().map(|name| name.value.clone()),
        description: stage_description(stage),
        base: stage.from.base.value.clone(),
        platform: stage.from.platform.as_ref().map(|word| word.value.clone()).unwrap_or_default(),
        is_default: index == last,
        span: stage.from.span,
    };
    buildfile.stages.iter().enumerate().map(target).collect()
}

/// The position of the stage with a name, in any case, or a number; the last stage when `wanted` is `None`.
pub fn find_target(buildfile: &Buildfile, wanted: Option<&str>) -> Option<usize> {
    let last = buildfile.stages.len().checked_sub(1)?;
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Some(last) };
    stage_named(&buildfile.stages, wanted)
        .or_else(|| wanted.parse::<usize>().ok().filter(|index| *index <= last))
}

/// What the stage at `target` and everything it reaches take; `build_args` are the arguments that were given.
pub fn outline(buildfile: &Buildfile, target: usize, build_args: &BTreeMap<String, String>) -> Outline {
    let mut reader = Reader {
        buildfile,
        build_args,
        globals: BTreeMap::new(),
        used_globals: BTreeSet::new(),
        outline: Outline::default(),
    };
    reader.read_globals();
    if let Some(stage) = buildfile.stages.get(target) {
        reader.outline.name = stage.from.name.as_ref().map(|name| name.value.clone()).unwrap_or_default();
        reader.outline.description = stage_description(stage);
    }
    for index in reader.reachable(target) {
        if let Some(stage) = buildfile.stages.get(index) {
            reader.stage(stage);
        }
    }
    reader.finish()
}

struct Reader<'a> {
    buildfile: &'a Buildfile,
    build_args: &'a BTreeMap<String, String>,
    /// Values of global arguments.
    globals: BTreeMap<String, String>,
    used_globals: BTreeSet<String>,
    outline: Outline,
}

impl Reader<'_> {
    fn expand(&self, word: &Word, values: &BTreeMap<String, String>) -> Expanded {
        let plain = || Expanded { value: word.value.clone(), ..Expanded::default() };
        expand::word(&word.value, self.buildfile.directives.escape, values).unwrap_or_else(|_| plain())
    }

    fn read_globals(&mut self) {
        for (_, pair) in args(&self.buildfile.global_args) {
            let default = pair.value.as_ref().map(|word| self.expand(word, &self.globals).value);
            if let Some(value) = self.build_args.get(&pair.name.value).cloned().or(default) {
                self.globals.insert(pair.name.value.clone(), value);
            }
        }
    }

    /// Marks the global arguments that a word reads.
    fn use_globals(&mut self, word: &Word) {
        let expanded = self.expand(word, &self.globals);
        self.used_globals.extend(expanded.used.into_iter().chain(expanded.undefined).chain(expanded.unset));
    }

    /// Stages that the target needs, in file order.
    fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            let Some(stage) = self.buildfile.stages.get(index).filter(|_| reached.insert(index)) else {
                continue;
            };
            let earlier = self.buildfile.stages.get(..index).unwrap_or_default();
            open.extend(stage_named(earlier, &self.expand(&stage.from.base, &self.globals).value));
            for instruction in &stage.instructions {
                for name in sources(instruction) {
                    let by_name = || stage_named(&self.buildfile.stages, &name);
                    open.extend(name.parse::<usize>().ok().or_else(by_name));
                }
            }
        }
        reached
    }

    fn stage(&mut self, stage: &Stage) {
        self.use_globals(&stage.from.base);
        if let Some(platform) = &stage.from.platform {
            self.use_globals(platform);
        }
        let mut values = BTreeMap::new();
        for instruction in &stage.instructions {
            match &instruction.kind {
                Kind::Arg(pairs) => {
                    for pair in pairs {
                        self.argument(instruction, pair, &mut values);
                    }
                }
                Kind::Env(pairs) => {
                    for pair in pairs {
                        let value = self.expand(&pair.value, &values).value;
                        values.insert(pair.key.value.clone(), value);
                    }
                }
                Kind::Run(run) => run.mounts.iter().for_each(|word| self.mount(word)),
                _ => {}
            }
        }
    }

    fn argument(&mut self, instruction: &Instruction, pair: &ArgPair, values: &mut BTreeMap<String, String>) {
        let name = &pair.name.value;
        let default = pair.value.as_ref().map(|word| self.expand(word, values).value);
        let given = self.build_args.get(name).cloned();
        let value = given.or(default).or_else(|| self.globals.get(name).cloned());
        if let Some(value) = &value {
            values.insert(name.clone(), value.clone());
        }
        if pair.value.is_none() {
            self.used_globals.insert(name.clone());
        }
        let description = description(&instruction.comments, name);
        match self.outline.args.iter_mut().find(|known| known.name == *name) {
            Some(known) => {
                known.value = known.value.take().or(value);
                if known.description.is_empty() {
                    known.description = description;
                }
            }
            None => {
                self.outline.args.push(Argument { name: name.clone(), description, value, span: pair.span });
            }
        }
    }

    fn mount(&mut self, word: &Word) {
        // What is wrong with a mount is found when the file is planned.
        let Ok(mount) = mount::parse(&word.value) else { return };
        let (list, id, required) = match mount.kind {
            MountKind::Secret { id, required, .. } => (&mut self.outline.secrets, id, required),
            MountKind::Ssh { id, required, .. } => (&mut self.outline.ssh, id, required),
            MountKind::Cache { id, .. } => {
                (&mut self.outline.caches, id.or(mount.target).unwrap_or_default(), false)
            }
            MountKind::Bind | MountKind::Tmpfs { .. } => return,
        };
        match list.iter_mut().find(|known| known.id == id) {
            Some(known) => known.required |= required,
            None => list.push(Wanted { id, required, span: word.span }),
        }
    }

    /// Adds the global arguments that count, and those that their defaults read.
    fn finish(mut self) -> Outline {
        for (instruction, pair) in args(&self.buildfile.global_args).into_iter().rev() {
            let name = &pair.name.value;
            if !self.used_globals.contains(name) {
                continue;
            }
            if let Some(word) = &pair.value {
                self.use_globals(word);
            }
            let description = description(&instruction.comments, name);
            match self.outline.args.iter_mut().find(|known| known.name == *name) {
                Some(known) => {
                    // The place where the value comes from.
                    known.span = pair.span;
                    if !description.is_empty() {
                        known.description = description;
                    }
                }
                None => {
                    let value = self.globals.get(name).cloned();
                    self.outline.args.push(Argument {
                        name: name.clone(),
                        description,
                        value,
                        span: pair.span,
                    });
                }
            }
        }
        self.outline.args.sort_by_key(|argument| argument.span);
        self.outline
    }
}

fn args(instructions: &[Instruction]) -> Vec<(&Instruction, &ArgPair)> {
    let mut found = Vec::new();
    for instruction in instructions {
        if let Kind::Arg(pairs) = &instruction.kind {
            found.extend(pairs.iter().map(|pair| (instruction, pair)));
        }
    }
    found
}

/// What an instruction reads besides the context and its own stage.
fn sources(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        Kind::Add(copy) | Kind::Copy(copy) => copy.from.iter().map(|word| word.value.clone()).collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(|word| mount::parse(&word.value).ok()?.from).collect(),
        _ => Vec::new(),
    }
}

/// The last stage of that name.
fn stage_named(stages: &[Stage], wanted: &str) -> Option<usize> {
    let wanted = wanted.to_lowercase();
    stages
        .iter()
        .rposition(|stage| stage.from.name.as_ref().is_some_and(|name| name.value.to_lowercase() == wanted))
}

fn stage_description(stage: &Stage) -> String {
    stage.from.name.as_ref().map(|name| description(&stage.from.comments, &name.value)).unwrap_or_default()
}

fn description(comments: &[Spanned<String>], name: &str) -> String {
    let rest = |comment: &Spanned<String>| {
        Some(comment.value.strip_prefix(name)?.strip_prefix(' ')?.trim().to_owned())
    };
    comments.iter().find_map(rest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# version is what is built
ARG version=1
ARG base=alpine:$version other=x
# build compiles it
FROM $base AS build
# jobs how many at once
ARG jobs=4 version
RUN --mount=type=cache,target=/c --mount=type=secret,id=token,required=true make
FROM scratch AS unused
ARG never
RUN --mount=type=ssh true
FROM --platform=$BUILDPLATFORM debian AS Final
COPY --from=build /x /
RUN --mount=type=secret,target=/run/token --mount=type=ssh,id=git --mount=type=cache,id=pip,target=/p true
";

    fn read(target: Option<&str>, build_args: &[(&str, &str)]) -> Outline {
        let parsed = crate::parse(TEXT);
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        let index = find_target(&parsed.buildfile, target).unwrap();
        let build_args = build_args.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        outline(&parsed.buildfile, index, &build_args)
    }

    #[test]
    fn lists_stages() {
        let listed = targets(&crate::parse(TEXT).buildfile);
        let shown: Vec<_> = listed
            .iter()
            .map(|t| {
                (
                    t.name.as_deref(),
                    t.description.as_str(),
                    t.base.as_str(),
                    t.platform.as_str(),
                    t.is_default,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                (Some("build"), "compiles it", "$base", "", false),
                (Some("unused"), "", "scratch", "", false),
                (Some("Final"), "", "debian", "$BUILDPLATFORM", true),
            ]
        );
    }

    #[test]
    fn lists_what_the_target_reaches() {
        let found = read(None, &[]);
        let args: Vec<_> = found
            .args
            .iter()
            .map(|a| (a.name.as_str(), a.value.as_deref(), a.description.as_str()))
            .collect();
        assert_eq!(
            args,
            [
                ("version", Some("1"), "is what is built"),
                ("base", Some("alpine:1"), ""),
                ("jobs", Some("4"), "how many at once"),
            ]
        );
        let ids = |list: &[Wanted]| list.iter().map(|w| (w.id.clone(), w.required)).collect::<Vec<_>>();
        assert_eq!(ids(&found.secrets), [("token".to_owned(), true)]);
        assert_eq!(ids(&found.ssh), [("git".to_owned(), false)]);
        assert_eq!(ids(&found.caches), [("/c".to_owned(), false), ("pip".to_owned(), false)]);
        assert_eq!(found.name, "Final");
    }

    #[test]
    fn takes_given_arguments_and_targets() {
        let found = read(Some("BUILD"), &[("version", "2"), ("jobs", "8")]);
        let values: Vec<_> = found.args.iter().filter_map(|a| a.value.as_deref()).collect();
        assert_eq!(values, ["2", "alpine:2", "8"]);
        assert_eq!((found.name.as_str(), found.description.as_str()), ("build", "compiles it"));
        assert!(found.ssh.is_empty());
        assert_eq!(read(Some("1"), &[]).args.len(), 1);
        let parsed = crate::parse(TEXT);
        assert_eq!(find_target(&parsed.buildfile, Some("nope")), None);
    }

    #[test]
    fn endless_references_end() {
        let parsed = crate::parse("FROM a AS x\nCOPY --from=y /f /\nFROM x AS y\nCOPY --from=9 /f /\n");
        assert_eq!(outline(&parsed.buildfile, 1, &BTreeMap::new()).name, "y");
    }
}
