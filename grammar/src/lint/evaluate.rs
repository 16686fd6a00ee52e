//! Evaluates a file as far as it can be done without an image: scopes of ARG and ENV, stages and what they need.
//!
//! Invariants:
//! - the same scoping as in a build (language.md 1.5); of a base image that is not known only PATH is assumed;
//! - nothing fails: a word that cannot be expanded stays as it is written, the build reports it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::facts::Facts;
use super::model::{Base, File, FromWord, Settings, Stage, State, Step, Undefined, Values, find};
use super::platform::Platform;
use super::scope::{Scope, nearest};
use crate::ast::{ArgPair, Buildfile, Copy, From, Instruction, KeyValue, Kind, Word};
use crate::expand::{self, Expanded};
use crate::mount::{self, MountKind};
use crate::span::Span;

/// PATH of an image that sets none (language.md 1.4).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that never become variables (language.md 1.5).
pub(super) const NOT_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Evaluates `buildfile`.
pub(super) fn file<'a>(buildfile: &'a Buildfile, facts: &'a Facts<'a>) -> File<'a> {
    let build = Platform::of_fact(facts.build_platform.as_deref());
    let target =
        facts.target_platform.as_deref().map_or_else(|| build.clone(), |text| Platform::of_fact(Some(text)));
    let (globals, used) = global_scope(buildfile, automatic(buildfile, facts, &build, &target), Some(facts));
    let names = globals.names().map(str::to_owned);
    let declared = pairs_of(&buildfile.global_args).map(|pair| pair.name.value.clone());
    let mut file = File {
        buildfile,
        facts,
        global_names: names.chain(declared).collect(),
        globals,
        globals_used: used,
        stages: Vec::new(),
    };
    for index in 0..buildfile.stages.len() {
        if let Some(stage) = stage(&file, index, &build, &target) {
            let words = std::iter::once(&stage.base_word).chain(&stage.platform);
            let names = words.flat_map(|word| word.used.iter().chain(&word.undefined));
            file.globals_used.extend(names.cloned());
            file.stages.push(stage);
        }
    }
    reach(&mut file);
    file
}

/// The base name of each stage as it is when no build argument is given; `None` when a word cannot be expanded.
pub(super) fn default_bases(file: &File<'_>) -> Option<Vec<String>> {
    let build = Platform::of_fact(file.facts.build_platform.as_deref());
    let target = file.facts.target_platform.as_deref();
    let target = target.map_or_else(|| build.clone(), |text| Platform::of_fact(Some(text)));
    let buildfile = file.buildfile;
    let escape = buildfile.directives.escape;
    let mut scope = automatic(buildfile, file.facts, &build, &target);
    for pair in pairs_of(&buildfile.global_args) {
        if let Some(default) = &pair.value {
            let value = expand::word(&default.value, escape, &scope).ok()?.value;
            scope.set(&pair.name.value, &value);
        }
    }
    let words = buildfile.stages.iter().map(|stage| &stage.from.base.value);
    words.map(|word| expand::word(word, escape, &scope).ok().map(|expanded| expanded.value)).collect()
}

/// TARGETPLATFORM and its relatives; `--build-arg` overrides each.
fn automatic(buildfile: &Buildfile, facts: &Facts<'_>, build: &Platform, target: &Platform) -> Scope {
    let last = || Some(buildfile.stages.last()?.from.name.as_ref()?.value.to_lowercase());
    let stage = facts.target.clone().or_else(last).unwrap_or_else(|| "default".to_owned());
    let (build_text, target_text) = (build.to_string(), target.to_string());
    let mut scope = Scope::default();
    for (name, value) in [
        ("BUILDPLATFORM", build_text.as_str()),
        ("BUILDOS", &build.os),
        ("BUILDOSVERSION", ""),
        ("BUILDARCH", &build.architecture),
        ("BUILDVARIANT", &build.variant),
        ("TARGETPLATFORM", &target_text),
        ("TARGETOS", &target.os),
        ("TARGETOSVERSION", ""),
        ("TARGETARCH", &target.architecture),
        ("TARGETVARIANT", &target.variant),
        ("TARGETSTAGE", &stage),
    ] {
        scope.set(name, facts.build_args.get(name).map_or(value, String::as_str));
    }
    scope
}

fn pairs_of(instructions: &[Instruction]) -> impl Iterator<Item = &ArgPair> {
    instructions.iter().flat_map(|instruction| match &instruction.kind {
        Kind::Arg(pairs) => pairs.as_slice(),
        _ => &[],
    })
}

/// Global ARGs over the automatic ones, and the names that their defaults use.
fn global_scope(
    buildfile: &Buildfile,
    mut scope: Scope,
    facts: Option<&Facts<'_>>,
) -> (Scope, BTreeSet<String>) {
    let mut used = BTreeSet::new();
    for pair in pairs_of(&buildfile.global_args) {
        let name = &pair.name.value;
        if let Some(given) = facts.and_then(|facts| facts.build_args.get(name)) {
            scope.set(name, given);
        } else if let Some(default) = &pair.value
            && let Ok(expanded) = expand::word(&default.value, buildfile.directives.escape, &scope)
        {
            used.extend(expanded.used.into_iter().chain(expanded.undefined).chain(expanded.unset));
            scope.set(name, &expanded.value);
        }
    }
    (scope, used)
}

fn stage<'a>(file: &File<'a>, index: usize, build: &Platform, target: &Platform) -> Option<Stage<'a>> {
    let ast = file.buildfile.stages.get(index)?;
    let word = |word: &Word| from_word(word, file);
    let base_word = word(&ast.from.base).unwrap_or_default();
    let platform = ast.from.platform.as_ref().and_then(word);
    let lower = base_word.value.to_lowercase();
    let earlier = file.stages.iter().rposition(|stage| {
        stage.ast.from.name.as_ref().is_some_and(|name| name.value.to_lowercase() == lower)
    });
    let base = match (base_word.value.as_str(), earlier) {
        ("", _) => Base::Unknown,
        ("scratch", _) => Base::Scratch,
        (_, Some(earlier)) => Base::Stage(earlier),
        (name, None) => Base::Image(name.to_owned()),
    };
    let own = platform.as_ref().and_then(|word| Platform::parse(&word.value, build));
    let os = match &base {
        Base::Stage(earlier) => file.stages.get(*earlier).map(|stage| stage.os.clone()),
        Base::Scratch => None,
        Base::Image(_) | Base::Unknown => own.map(|platform| platform.os),
    };
    let os = os.unwrap_or_else(|| target.os.clone());
    let name = ast.from.name.as_ref().map(|name| name.value.to_lowercase());
    let replaced = name.is_some_and(|name| file.facts.contexts.contains(&name));
    let (state, triggers) = start(file, &base, &os);
    let mut walk = Walk { file, state, steps: Vec::new(), needs: BTreeSet::new() };
    for trigger in triggers {
        if let (Some(instruction), _) = crate::parse_trigger(&trigger) {
            walk.step(Cow::Owned(instruction), Some(&ast.from));
        }
    }
    for instruction in &ast.instructions {
        walk.step(Cow::Borrowed(instruction), None);
    }
    let Walk { state, steps, needs, .. } = walk;
    Some(Stage {
        ast,
        index,
        base,
        base_word,
        platform,
        os,
        replaced,
        reachable: false,
        shipped: false,
        needs,
        steps,
        end: state,
    })
}

fn from_word(word: &Word, file: &File<'_>) -> Option<FromWord> {
    let expanded = expand::word(&word.value, file.buildfile.directives.escape, &file.globals).ok()?;
    let undefined = missing(&expanded).into_iter().cloned().collect();
    Some(FromWord { value: expanded.value, used: expanded.used, undefined })
}

/// Names without a value, each once.
fn missing(expanded: &Expanded) -> BTreeSet<&String> {
    expanded.undefined.iter().chain(&expanded.unset).collect()
}

/// The state after FROM, and the triggers that run first.
fn start(file: &File<'_>, base: &Base, os: &str) -> (State, Vec<String>) {
    let mut state = State::default();
    let mut triggers = Vec::new();
    match base {
        Base::Stage(index) => {
            if let Some(stage) = file.stages.get(*index) {
                state = stage.end.clone();
                triggers = stage.ast.instructions.iter().filter_map(trigger_text).collect();
            }
        }
        Base::Image(name) => {
            if let Some(image) = file.facts.base_images.get(name) {
                image.env.iter().for_each(|pair| state.env.set_pair(pair));
                state.settings.shell.clone_from(&image.shell);
                state.settings.user.clone_from(&image.user);
                triggers.clone_from(&image.triggers);
            }
        }
        Base::Scratch | Base::Unknown => {}
    }
    if state.settings.directory.is_empty() {
        state.settings.directory = "/".to_owned();
    }
    if state.env.value("PATH").is_none() && os != "windows" {
        state.env.set("PATH", DEFAULT_PATH);
    }
    (state, triggers)
}

fn trigger_text(instruction: &Instruction) -> Option<String> {
    match &instruction.kind {
        Kind::Onbuild(onbuild) => Some(onbuild.trigger.value.clone()),
        _ => None,
    }
}

/// A walk over the instructions of one stage.
struct Walk<'w, 'a> {
    file: &'w File<'a>,
    state: State,
    steps: Vec<Step<'a>>,
    needs: BTreeSet<usize>,
}

/// Expansion of the words of one instruction.
struct Reader<'r> {
    escape: char,
    state: &'r State,
    undefined: Vec<Undefined>,
    used: BTreeSet<String>,
}

impl Reader<'_> {
    fn word(&mut self, word: &Word) -> String {
        self.text(&word.value, word.span)
    }

    fn text(&mut self, text: &str, span: Span) -> String {
        match expand::word(text, self.escape, &self.state.env) {
            Ok(expanded) => self.note(expanded, span),
            Err(_) => text.to_owned(),
        }
    }

    fn option(&mut self, word: Option<&Word>) {
        if let Some(word) = word {
            self.word(word);
        }
    }

    /// Remembers what was used; a declared ARG without a value is not undefined.
    fn note(&mut self, expanded: Expanded, span: Span) -> String {
        for name in missing(&expanded) {
            if !self.state.args.contains(name) && !NOT_VARIABLES.contains(&name.as_str()) {
                let nearest = nearest(name, self.state.env.names());
                self.undefined.push(Undefined { name: name.clone(), nearest, span });
            }
        }
        self.used.extend(expanded.used.into_iter().chain(expanded.undefined).chain(expanded.unset));
        expanded.value
    }
}

impl<'a> Walk<'_, 'a> {
    fn step(&mut self, instruction: Cow<'a, Instruction>, trigger_of: Option<&'a From>) {
        // A trigger is read with the backslash, and expanded with the escape character of the file (as BuildKit).
        let escape = self.file.buildfile.directives.escape;
        let before = self.state.settings.clone();
        let mut reader = Reader { escape, state: &self.state, undefined: Vec::new(), used: BTreeSet::new() };
        let values = match &instruction.kind {
            Kind::Add(copy) | Kind::Copy(copy) => self.copy(copy, &mut reader),
            Kind::Env(pairs) | Kind::Label(pairs) => Values::Pairs(read_pairs(pairs, &mut reader)),
            Kind::User(word) | Kind::Workdir(word) | Kind::Stopsignal(word) => {
                Values::Words(vec![reader.word(word)])
            }
            Kind::Volume(words) => Values::Words(words.iter().map(|word| reader.word(word)).collect()),
            Kind::Expose(words) => Values::Words(ports(words, &mut reader)),
            Kind::Run(run) => Values::Mounts(mounts(&run.mounts, &mut reader)),
            _ => Values::None,
        };
        let Reader { mut undefined, mut used, .. } = reader;
        self.note_needs(&instruction.kind, &values);
        match &instruction.kind {
            Kind::Arg(pairs) => {
                for pair in pairs {
                    self.arg(pair, &mut undefined, &mut used);
                }
            }
            kind => apply(kind, &values, &mut self.state),
        }
        self.steps.push(Step { instruction, trigger_of, before, values, undefined, used });
    }

    fn copy(&self, copy: &Copy, reader: &mut Reader<'_>) -> Values {
        for option in [&copy.chown, &copy.chmod, &copy.checksum] {
            reader.option(option.as_ref());
        }
        let sources = copy.sources.iter().map(|word| reader.word(word)).collect();
        let destination = reader.word(&copy.destination);
        for heredoc in copy.heredocs.iter().filter(|heredoc| heredoc.expand) {
            if let Ok(expanded) = expand::heredoc_body(&heredoc.body, &self.state.env) {
                reader.note(expanded, heredoc.span);
            }
        }
        Values::Copy { sources, destination }
    }

    /// Value of an ARG: `--build-arg`, else the default, else the global one (fact 58).
    fn arg(&mut self, pair: &ArgPair, undefined: &mut Vec<Undefined>, used: &mut BTreeSet<String>) {
        let name = &pair.name.value;
        let given = self.file.facts.build_args.get(name).cloned();
        let value = given.or_else(|| match &pair.value {
            Some(default) => {
                let escape = self.file.buildfile.directives.escape;
                let mut reader =
                    Reader { escape, state: &self.state, undefined: Vec::new(), used: BTreeSet::new() };
                let value = reader.word(default);
                undefined.append(&mut reader.undefined);
                used.append(&mut reader.used);
                Some(value)
            }
            None => self.file.globals.value(name).map(str::to_owned),
        });
        if let Some(value) = value.filter(|_| !NOT_VARIABLES.contains(&name.as_str())) {
            self.state.env.set(name, &value);
        }
        self.state.args.insert(name.clone());
    }

    fn note_needs(&mut self, kind: &Kind, values: &Values) {
        let buildfile = self.file.buildfile;
        match kind {
            Kind::Copy(copy) => {
                self.needs.extend(copy.from.as_ref().and_then(|from| find(buildfile, &from.value)));
            }
            Kind::Run(_) => {
                let sources = values.mounts().iter().filter_map(|mount| mount.from.as_deref());
                self.needs.extend(sources.filter_map(|from| find(buildfile, from)));
            }
            _ => {}
        }
    }
}

fn read_pairs(pairs: &[KeyValue], reader: &mut Reader<'_>) -> Vec<(String, String)> {
    pairs.iter().map(|pair| (reader.word(&pair.key), reader.word(&pair.value))).collect()
}

/// Ports; BuildKit says nothing of undefined variables in them.
fn ports(words: &[Word], reader: &mut Reader<'_>) -> Vec<String> {
    let mut ports = Vec::new();
    for word in words {
        if let Ok((found, expanded)) = expand::words(&word.value, reader.escape, &reader.state.env) {
            ports.extend(found);
            reader.used.extend(expanded.used.into_iter().chain(expanded.undefined).chain(expanded.unset));
        }
    }
    ports
}

fn mounts(words: &[Word], reader: &mut Reader<'_>) -> Vec<mount::Mount> {
    let read =
        |word: &Word| mount::parse_with(&word.value, &mut |text| Ok(reader.text(text, word.span))).ok();
    words.iter().filter_map(read).collect()
}

/// What an instruction leaves for the next.
fn apply(kind: &Kind, values: &Values, state: &mut State) {
    match (kind, values) {
        (Kind::Env(_), Values::Pairs(pairs)) => {
            pairs.iter().for_each(|(name, value)| state.env.set(name, value));
        }
        (Kind::Workdir(_), _) => {
            state.settings.directory = join(&state.settings.directory, values.first());
            state.settings.workdir_set = true;
        }
        (Kind::User(_), _) => values.first().clone_into(&mut state.settings.user),
        (Kind::Shell(words), _) => {
            state.settings.shell = words.iter().map(|word| word.value.clone()).collect();
        }
        _ => {}
    }
}

/// A path in a directory, without `.`, `..` and double slashes.
pub(super) fn join(directory: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Marks the stages that the target needs, and those that it is made from.
fn reach(file: &mut File<'_>) {
    let named = file.facts.target.as_deref().and_then(|name| file.find(name));
    let Some(target) = named.or_else(|| file.stages.len().checked_sub(1)) else { return };
    let mut open = vec![target];
    while let Some(stage) = open.pop().and_then(|index| file.stages.get_mut(index)) {
        if stage.replaced || std::mem::replace(&mut stage.reachable, true) {
            continue;
        }
        open.extend(&stage.needs);
        if let Base::Stage(base) = stage.base {
            open.push(base);
        }
    }
    if file.facts.all_stages && file.facts.target.is_none() {
        file.stages.iter_mut().for_each(|stage| stage.reachable = !stage.replaced);
    }
    let mut next = Some(target);
    while let Some(stage) = next.and_then(|index| file.stages.get_mut(index)) {
        stage.shipped = true;
        next = match stage.base {
            Base::Stage(base) => Some(base),
            _ => None,
        };
    }
}

impl Settings {
    /// Whether commands run as a user other than root, as far as this file says.
    pub(super) fn is_unprivileged(&self) -> bool {
        let name = self.user.split(':').next().unwrap_or("");
        !matches!(name, "" | "root" | "0") && !name.contains('$')
    }
}

/// Whether a cache mount covers `directory` or a directory above or below it.
pub(super) fn has_cache(mounts: &[mount::Mount], directory: &str) -> bool {
    mounts.iter().any(|mount| {
        matches!(mount.kind, MountKind::Cache { .. })
            && mount.target.as_deref().is_some_and(|target| {
                let target = target.trim_end_matches('/');
                directory == target
                    || directory.strip_prefix(target).is_some_and(|rest| rest.starts_with('/'))
                    || target.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
            })
    })
}
