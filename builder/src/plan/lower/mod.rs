//! One stage: from its FROM and instructions to vertices, a config and a history.
//!
//! Invariants:
//! - instructions are lowered in order; each sees the variables that were set before it (language.md 1.5);
//! - a stage is lowered after everything that it needs;
//! - the first error ends the stage, so that one mistake is told once.

mod copy;
mod expose;
mod files;
mod meta;
pub(super) mod mounts;
mod run;
mod signal;

pub use expose::parse as exposed_ports;
pub use signal::is_signal;

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_grammar::ast::{Instruction, Kind, Word};
use kiln_grammar::diagnostic::Diagnostic;

use crate::image::config::{History, ImageConfig};
use crate::image::platform::Platform;

use super::args::{DEFAULT_PATH, Environment, GlobalScope};
use super::build::GraphBuilder;
use super::graph::{Guards, Op, PlanOptions, PlannedHistory, ResolvedImage, Vertex, VertexId};
use super::history::COMMENT;
use super::paths;
use super::site::Site;
use super::sources::Sources;
use super::stages::{Base, StageEntry, StageTable};

/// What all stages of one platform share.
pub(super) struct Session<'a> {
    /// The build's options.
    pub(super) options: &'a PlanOptions,
    /// Text of the Buildfile.
    pub(super) text: &'a str,
    /// Escape character of the Buildfile.
    pub(super) escape: char,
    /// Global variables.
    pub(super) scope: &'a GlobalScope,
    /// The stages.
    pub(super) table: &'a StageTable<'a>,
    /// Names outside the file.
    pub(super) sources: &'a Sources<'a>,
    /// Target platform.
    pub(super) target: &'a Platform,
    /// Several platforms are built: names of vertices say which.
    pub(super) show_platform: bool,
    /// The graph, shared by all platforms.
    pub(super) graph: &'a mut GraphBuilder,
    /// Stages that are done.
    pub(super) done: Vec<Option<StageState>>,
    /// Warnings.
    pub(super) warnings: Vec<Diagnostic>,
    /// Images that stages start from, by their name in FROM; for the checks.
    pub(super) base_images: &'a mut BTreeMap<String, Arc<ResolvedImage>>,
}

impl Session<'_> {
    /// Whether a stage has been lowered.
    fn is_done(&self, index: usize) -> bool {
        self.done.get(index).is_some_and(Option::is_some)
    }
}

/// What a stage amounts to after its last instruction; also what the next stage `FROM` it starts with.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    /// File system.
    pub(super) files: VertexId,
    /// Image config; its history is in the fields below.
    pub(super) config: ImageConfig,
    /// Variables for expansion and RUN: ENV and ARG.
    pub(super) env: Environment,
    /// ARGs in the order of their declaration, those of the base stage first.
    pub(super) build_args: Vec<(String, Option<String>)>,
    /// Platform.
    pub(super) platform: Platform,
    /// History of the base image.
    pub(super) base_history: Vec<History>,
    /// History of this build.
    pub(super) history: Vec<PlannedHistory>,
}

impl StageState {
    /// The working directory for RUN and relative paths.
    fn working_dir(&self) -> String {
        paths::absolute("/", &self.config.config.working_dir)
    }
}

/// Lowers stage `index`.
pub(super) fn stage(session: &mut Session<'_>, index: usize) -> Result<StageState, Diagnostic> {
    let table = session.table;
    let entry = table.stages.get(index).expect("invariant: only indexes of the table are lowered");
    let state = files::start(session, entry)?;
    if entry.replaced {
        return Ok(state);
    }
    let total = step_total(entry);
    let mut lowering = Lowering {
        session,
        entry,
        state,
        total,
        position: usize::from(starts_with_image(entry)),
        has_cmd: false,
        site: Site::in_file("", entry.ast.from.span),
    };
    lowering.begin();
    for trigger in &entry.triggers {
        lowering.site = Site::in_trigger(&trigger.text, entry.ast.from.span);
        lowering.instruction(&trigger.instruction)?;
    }
    for instruction in &entry.ast.instructions {
        lowering.site = Site::in_file(lowering.session.text, instruction.span);
        lowering.instruction(instruction)?;
    }
    Ok(lowering.state)
}

/// Whether FROM is a step of its own in `[stage 1/n]` (fact 114).
fn starts_with_image(entry: &StageEntry<'_>) -> bool {
    matches!(entry.base, Base::Image(_))
}

/// Steps of a stage: its image and its ADD, COPY, RUN and WORKDIR, those of triggers included.
fn step_total(entry: &StageEntry<'_>) -> usize {
    let triggers = entry.triggers.iter().map(|trigger| &trigger.instruction);
    let steps = triggers.chain(&entry.ast.instructions).filter(|instruction| is_step(instruction)).count();
    steps + usize::from(starts_with_image(entry))
}

fn is_step(instruction: &Instruction) -> bool {
    matches!(instruction.kind, Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_))
}

/// `[linux/arm64 build 2/5] ` in front of a vertex' name (fact 114). The stage is left out when it is the only one.
pub(super) fn prefix(
    session: &Session<'_>,
    entry: &StageEntry<'_>,
    platform: &Platform,
    position: usize,
    total: usize,
) -> String {
    let platform = if session.show_platform { format!("{platform} ") } else { String::new() };
    let stage = if session.table.stages.len() > 1 { format!("{} ", entry.name) } else { String::new() };
    let width = total.to_string().len();
    format!("[{platform}{stage}{position:width$}/{total}] ")
}

/// A stage while its instructions are lowered.
struct Lowering<'s, 'a> {
    session: &'s mut Session<'a>,
    entry: &'s StageEntry<'a>,
    state: StageState,
    /// Steps in all, and the number of the current one.
    total: usize,
    position: usize,
    /// A CMD has been seen in this stage (fact 56).
    has_cmd: bool,
    /// Where the current instruction stands.
    site: Site<'s>,
}

impl Lowering<'_, '_> {
    /// What happens between FROM and the first instruction (language.md 1.4): PATH, variables of the image over the
    /// ARGs of the base stage, an absolute working directory.
    fn begin(&mut self) {
        let config = &mut self.state.config.config;
        if !config.env.iter().any(|pair| pair.split('=').next() == Some("PATH")) {
            config.env.push(DEFAULT_PATH.to_owned());
        }
        for pair in &config.env {
            self.state.env.set_pair(pair);
        }
        if !config.working_dir.is_empty() {
            config.working_dir = paths::workdir(&config.working_dir, &config.working_dir);
        }
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), Diagnostic> {
        match &instruction.kind {
            Kind::Add(copy) => self.copy(copy, instruction, copy::Verb::Add),
            Kind::Copy(copy) => self.copy(copy, instruction, copy::Verb::Copy),
            Kind::Run(run) => self.run(run, instruction),
            Kind::Workdir(path) => self.workdir(path, instruction),
            Kind::Expose(ports) => self.expose(ports),
            kind => self.metadata(kind),
        }
    }

    /// Expands a word with the stage's variables.
    fn expand(&self, word: &Word) -> Result<String, Diagnostic> {
        self.site.expand(word, self.session.escape, &self.state.env)
    }

    fn expand_option(&self, word: Option<&Word>) -> Result<Option<String>, Diagnostic> {
        let value = word.map(|word| self.expand(word)).transpose()?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// The name of the next step, for people.
    fn step_name(&mut self, text: &str) -> String {
        self.position += 1;
        let prefix = prefix(self.session, self.entry, &self.state.platform, self.position, self.total);
        let trigger = if self.site.trigger.is_some() { "ONBUILD " } else { "" };
        format!("{prefix}{trigger}{text}")
    }

    /// Adds a vertex that belongs to the current instruction.
    fn add(&mut self, op: Op, inputs: Vec<VertexId>, name: String) -> VertexId {
        self.add_guarded(op, inputs, name, Guards::default())
    }

    /// Adds a RUN with its bounds.
    fn add_guarded(&mut self, op: Op, inputs: Vec<VertexId>, name: String, guards: Guards) -> VertexId {
        let ignore_cache = ignores_cache(self.session.options, self.entry);
        self.session.graph.add(Vertex {
            op,
            inputs,
            name,
            stage: self.entry.name.clone(),
            ignore_cache,
            origin: Some(self.site.origin()),
            platform: self.state.platform.clone(),
            guards,
        })
    }

    /// Adds a history entry; with a vertex when it made a layer.
    fn record(&mut self, created_by: String, vertex: Option<VertexId>) {
        self.state.history.push(PlannedHistory { created_by, comment: COMMENT.to_owned(), vertex });
    }
}

fn ignores_cache(options: &PlanOptions, entry: &StageEntry<'_>) -> bool {
    options.no_cache || options.no_cache_stages.iter().any(|stage| stage.eq_ignore_ascii_case(&entry.name))
}

/// An instruction as one line for people: keyword in capitals, known variables replaced (fact 115).
fn display(instruction: &Instruction, env: Option<&Environment>) -> String {
    let text = instruction.original.trim();
    let (keyword, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    let keyword = keyword.to_uppercase();
    match env {
        Some(env) => format!("{keyword}{}", substitute(rest, env)),
        None => format!("{keyword}{rest}"),
    }
}

/// Replaces `$NAME` and `${NAME}` where the name has a value; leaves everything else as it is written.
fn substitute(text: &str, env: &Environment) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, after) = rest.split_at(dollar);
        out.push_str(before);
        let body = after.trim_start_matches('$');
        let (braced, body) = body.strip_prefix('{').map_or((false, body), |body| (true, body));
        let end = body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len());
        let (name, tail) = body.split_at(end);
        let tail = if braced { tail.strip_prefix('}') } else { Some(tail) };
        let single = !after.starts_with("$$");
        match (env.value(name), tail) {
            (Some(value), Some(tail)) if single => {
                out.push_str(value);
                rest = tail;
            }
            _ => {
                out.push('$');
                rest = after.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_replaces_what_is_known() {
        let mut env = Environment::default();
        env.set("V", "1.2");
        for (text, expected) in [
            ("a/$V/b", "a/1.2/b"),
            ("a/${V}b", "a/1.2b"),
            ("$VV ${W} ${V:-x} $$V $", "$VV ${W} ${V:-x} $1.2 $"),
            ("日$V日", "日$V日"),
        ] {
            assert_eq!(substitute(text, &env), expected);
        }
    }
}
