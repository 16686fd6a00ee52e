//! From a syntax tree and options to a graph of vertices. Pure: no files, no network; images are resolved
//! through [`graph::ImageResolver`].
//!
//! Invariants:
//! - the plan means what BuildKit means by the same file (language.md, semantics.md); where kiln is more lenient, the
//!   place says so;
//! - unreachable stages are dropped before anything is resolved (fact 111);
//! - the same file, options and resolved images give the same plan: nothing is walked in hash order.

mod args;
mod build;
pub mod graph;
mod history;
mod lower;
mod paths;
pub mod policy;
mod remote;
mod site;
mod sources;
mod stages;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kiln_grammar::ast::{Buildfile, Kind};
use kiln_grammar::diagnostic::{Diagnostic, Severity};
use kiln_grammar::{ast, parse_trigger};

use crate::image::config::set_image_env;
use crate::image::platform::Platform;

use args::GlobalScope;
pub use args::arguments;
use build::GraphBuilder;
use graph::{ImageRequest, ImageResolver, Plan, PlanOptions, PlannedImage, ResolvedImage};
use lower::{Session, StageState};
pub use lower::{exposed_ports, is_signal};
pub use remote::{public_spec, without_credentials};
use site::Site;
use sources::{Meaning, Sources};
use stages::{Base, Source, StageTable, Trigger};

/// Why a file cannot be built as asked: one or more findings, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", summary(.diagnostics))]
pub struct PlanError {
    /// What was found, with places in the Buildfile.
    pub diagnostics: Vec<Diagnostic>,
}

fn summary(diagnostics: &[Diagnostic]) -> String {
    match diagnostics {
        [] => "the build cannot be planned".to_owned(),
        [only] => only.message.clone(),
        [first, rest @ ..] => format!("{} (and {} more)", first.message, rest.len()),
    }
}

/// Plans a build.
///
/// `buildfile` must come from a parse without errors.
///
/// # Errors
/// Findings about the file: unknown stages, images that were not found, expansions that fail, values that an
/// instruction does not take.
pub fn plan(
    buildfile: &Buildfile,
    options: &PlanOptions,
    resolver: &dyn ImageResolver,
) -> Result<Plan, PlanError> {
    if buildfile.stages.is_empty() {
        let error =
            Diagnostic::error(kiln_grammar::span::Span::default(), "dockerfile contains no stages to build");
        return Err(PlanError { diagnostics: vec![error.with_hint("begin with `FROM IMAGE`")] });
    }
    let platforms =
        if options.platforms.is_empty() { vec![Platform::host()] } else { options.platforms.clone() };
    let sources = Sources::new(options, resolver);
    let mut planner = Planner {
        buildfile,
        options,
        sources: &sources,
        show_platform: platforms.len() > 1 || wants_index(options),
        graph: GraphBuilder::default(),
        warnings: Vec::new(),
        trigger_args: BTreeSet::new(),
        base_images: BTreeMap::new(),
        epoch: None,
    };
    let mut images = Vec::new();
    let mut errors = Vec::new();
    for platform in &platforms {
        match planner.image(platform) {
            Ok(image) => images.push(image),
            Err(found) => errors.extend(found),
        }
    }
    if !errors.is_empty() {
        return Err(PlanError { diagnostics: tidy(errors) });
    }
    let (unused_build_args, warnings) = args::unused(buildfile, options, &planner.trigger_args);
    planner.warnings.extend(warnings);
    planner.warnings.extend(args::unknown_filters(buildfile, options));
    Ok(Plan {
        graph: planner.graph.finish(),
        images,
        diagnostics: tidy(planner.warnings),
        base_images: planner.base_images,
        unused_build_args,
        source_date_epoch: planner.epoch,
    })
}

/// File order, each finding once however many platforms have it.
fn tidy(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by(|a, b| (a.span, &a.message).cmp(&(b.span, &b.message)));
    diagnostics.dedup();
    diagnostics
}

fn wants_index(options: &PlanOptions) -> bool {
    options.build_args.get("BUILDKIT_MULTI_PLATFORM").is_some_and(|value| args::is_true(value))
}

/// One build, platform after platform.
struct Planner<'a> {
    buildfile: &'a Buildfile,
    options: &'a PlanOptions,
    sources: &'a Sources<'a>,
    show_platform: bool,
    graph: GraphBuilder,
    warnings: Vec<Diagnostic>,
    trigger_args: BTreeSet<String>,
    base_images: BTreeMap<String, Arc<ResolvedImage>>,
    epoch: Option<i64>,
}

impl Planner<'_> {
    fn image(&mut self, platform: &Platform) -> Result<PlannedImage, Vec<Diagnostic>> {
        let scope = GlobalScope::new(self.buildfile, self.options, platform).map_err(|error| vec![error])?;
        self.epoch = scope.epoch;
        let mut table =
            StageTable::new(self.buildfile, &scope, self.sources, platform, &self.options.mounts)?;
        let target = table.target(self.options.target.as_deref()).map_err(|error| vec![error])?;
        let reachable = self.settle(&mut table, target, platform).map_err(|error| vec![error])?;
        let done = self.lower(&scope, &table, &reachable, platform)?;
        let state = done.into_iter().nth(target).flatten();
        let state = state.expect("invariant: without errors every reachable stage was lowered");
        Ok(self.finish(state, platform))
    }

    /// Finds what the target reaches. Triggers of base images can need more stages and images, so this repeats until
    /// nothing is added; images are asked for as soon as they are known to be needed, several at once.
    fn settle(
        &mut self,
        table: &mut StageTable<'_>,
        target: usize,
        platform: &Platform,
    ) -> Result<BTreeSet<usize>, Diagnostic> {
        let mut settled = BTreeSet::new();
        loop {
            let reachable = table.reachable(target);
            self.sources.prefetch(self.requests(table, &reachable, platform));
            let fresh: Vec<usize> = reachable.difference(&settled).copied().collect();
            let mut more = false;
            for index in fresh {
                settled.insert(index);
                let triggers = self.triggers(table, index, platform)?;
                if !triggers.is_empty() {
                    more |= table.add_triggers(index, triggers)?;
                }
            }
            if !more {
                return Ok(table.reachable(target));
            }
        }
    }

    /// Images that the reachable stages name.
    fn requests(
        &self,
        table: &StageTable<'_>,
        reachable: &BTreeSet<usize>,
        platform: &Platform,
    ) -> Vec<ImageRequest> {
        let mut names: Vec<(String, Platform)> = Vec::new();
        for stage in reachable.iter().filter_map(|index| table.stages.get(*index)) {
            let own = table.platform_of(stage.index, platform);
            if stage.replaced {
                names.push((stage.name.clone(), own));
                continue;
            }
            if let Base::Image(name) = &stage.base {
                names.push((name.clone(), own));
            }
            let triggers = stage.triggers.iter().map(|trigger| &trigger.instruction);
            for instruction in triggers.chain(&stage.ast.instructions) {
                let site = Site::in_file(&self.buildfile.text, stage.ast.from.span);
                // What is wrong with a source has been or will be reported; here it is only not fetched.
                for source in table.sources_of(instruction, &site).unwrap_or_default() {
                    if let Source::Image(name) = source {
                        names.push((name, platform.clone()));
                    }
                }
            }
        }
        names
            .into_iter()
            .filter_map(|(name, platform)| match self.sources.meaning(&name, &platform) {
                Meaning::Image(request) => Some(request),
                Meaning::Scratch | Meaning::Files(..) => None,
            })
            .collect()
    }

    /// ONBUILD triggers that a stage has to run (fact 61).
    fn triggers(
        &mut self,
        table: &StageTable<'_>,
        index: usize,
        platform: &Platform,
    ) -> Result<Vec<Trigger>, Diagnostic> {
        let Some(stage) = table.stages.get(index).filter(|stage| !stage.replaced) else {
            return Ok(Vec::new());
        };
        let texts: Vec<String> = match &stage.base {
            Base::Scratch => Vec::new(),
            Base::Stage(base) => table
                .stages
                .get(*base)
                .filter(|base| !base.replaced)
                .into_iter()
                .flat_map(|base| &base.ast.instructions)
                .filter_map(|instruction| match &instruction.kind {
                    Kind::Onbuild(onbuild) => Some(onbuild.trigger.value.clone()),
                    _ => None,
                })
                .collect(),
            Base::Image(name) => match self.sources.meaning(name, &table.platform_of(index, platform)) {
                // An image that was not found is reported when the stage is lowered.
                Meaning::Image(request) => self
                    .sources
                    .resolve(&request)
                    .map(|image| image.config.config.on_build.clone())
                    .unwrap_or_default(),
                Meaning::Scratch | Meaning::Files(..) => Vec::new(),
            },
        };
        texts.into_iter().map(|text| self.trigger(text, stage.ast)).collect()
    }

    fn trigger(&mut self, text: String, stage: &ast::Stage) -> Result<Trigger, Diagnostic> {
        let (instruction, diagnostics) = parse_trigger(&text);
        let site = Site::in_trigger(&text, stage.from.span);
        if let Some(error) = diagnostics.into_iter().find(|found| found.severity == Severity::Error) {
            return Err(site.place(error));
        }
        let Some(instruction) = instruction else {
            return Err(site.error(stage.from.span, "onbuild trigger should be a single expression"));
        };
        if let Kind::Arg(pairs) = &instruction.kind {
            self.trigger_args.extend(pairs.iter().map(|pair| pair.name.value.clone()));
        }
        Ok(Trigger { text, instruction })
    }

    /// Lowers the reachable stages. A stage that needs one that failed is left out without a word.
    fn lower(
        &mut self,
        scope: &GlobalScope,
        table: &StageTable<'_>,
        reachable: &BTreeSet<usize>,
        platform: &Platform,
    ) -> Result<Vec<Option<StageState>>, Vec<Diagnostic>> {
        let mut session = Session {
            options: self.options,
            text: &self.buildfile.text,
            escape: self.buildfile.directives.escape,
            scope,
            table,
            sources: self.sources,
            target: platform,
            show_platform: self.show_platform,
            graph: &mut self.graph,
            done: table.stages.iter().map(|_| None).collect(),
            warnings: Vec::new(),
            base_images: &mut self.base_images,
        };
        let mut errors = Vec::new();
        let mut failed = BTreeSet::new();
        // A stage that a context replaces needs nothing, so stages above it may read it as well.
        let replaced = |index: &usize| table.stages.get(*index).is_some_and(|stage| stage.replaced);
        let (first, then): (Vec<usize>, Vec<usize>) = reachable.iter().partition(|index| replaced(index));
        for index in first.into_iter().chain(then) {
            let Some(stage) = table.stages.get(index) else { continue };
            if stage.prerequisites().any(|needed| failed.contains(&needed)) {
                failed.insert(index);
                continue;
            }
            match lower::stage(&mut session, index) {
                Ok(state) => {
                    if let Some(slot) = session.done.get_mut(index) {
                        *slot = Some(state);
                    }
                }
                Err(error) => {
                    failed.insert(index);
                    errors.push(error);
                }
            }
        }
        self.warnings.append(&mut session.warnings);
        if errors.is_empty() { Ok(session.done) } else { Err(errors) }
    }

    /// The image of the target: its labels and its platform (language.md 1.9, 1.4).
    fn finish(&self, state: StageState, target: &Platform) -> PlannedImage {
        let mut config = state.config;
        let of_image = &mut config.config;
        of_image.labels.retain(|name, _| !self.options.unset_labels.contains(name));
        of_image.labels.extend(self.options.labels.iter().cloned());
        let is_unset = |pair: &String| {
            pair.split('=').next().is_some_and(|name| self.options.unset_env.iter().any(|n| n == name))
        };
        of_image.env.retain(|pair| !is_unset(pair));
        for (name, value) in &self.options.env {
            set_image_env(&mut of_image.env, name, value);
        }
        let mut platform = Platform::new(&config.os, &config.architecture, &config.variant);
        platform.os_version.clone_from(&config.os_version);
        if !self.options.platforms.is_empty() || config.os.is_empty() || config.architecture.is_empty() {
            let same = platform.os == target.os && platform.architecture == target.architecture;
            let own = std::mem::replace(&mut platform, target.clone());
            if same && platform.variant.is_empty() {
                platform.variant = own.variant;
            }
            if same && platform.os_version.is_empty() {
                platform.os_version = own.os_version;
            }
        }
        config.os.clone_from(&platform.os);
        config.architecture.clone_from(&platform.architecture);
        config.variant.clone_from(&platform.variant);
        config.os_version.clone_from(&platform.os_version);
        PlannedImage {
            platform: if self.options.platforms.is_empty() { platform } else { target.clone() },
            config,
            result: state.files,
            base_history: state.base_history,
            history: state.history,
        }
    }
}
