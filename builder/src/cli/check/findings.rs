//! Everything that can be found in a Buildfile without building it.
//!
//! Invariants:
//! - findings are in file order;
//! - of the errors of a plan only those are told that no base image could take back: the images are not looked up, so
//!   their variables are not known.

use std::sync::Arc;

use kiln_grammar::ast::{Buildfile, Parsed};
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::format;
use kiln_grammar::lint::{self, Facts, LintConfig};

use super::{File, Settings};
use crate::base::digest::Digest;
use crate::context::local::LocalContext;
use crate::image::config::{ContainerConfig, ImageConfig};
use crate::image::platform::Platform;
use crate::plan::graph::{
    BlobLocation, ContextKind, ImageRequest, ImageResolver, PlanOptions, ResolveError, ResolvedImage,
};
use crate::plan::plan;

/// What was found, and the settings that it was found under.
pub(super) struct Found {
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) config: LintConfig,
}

/// Looks for everything.
pub(super) fn find(file: &File, settings: &Settings, local: Option<&LocalContext>) -> Found {
    let Parsed { buildfile, mut diagnostics } = kiln_grammar::parse(&file.text);
    let config = match config(&buildfile, settings) {
        Ok(config) => config,
        Err(error) => {
            diagnostics.push(error);
            LintConfig::default()
        }
    };
    lint::keep(&mut diagnostics, &config);
    if !diagnostics.iter().any(is_error) {
        diagnostics.extend(plan_errors(&buildfile, settings));
        let platform = settings.platform.as_ref().map(ToString::to_string);
        let facts = Facts {
            build_args: settings.build_args.clone(),
            target: settings.target.clone(),
            ignore: local.and_then(|local| local.ignore.as_ref()).map(|ignore| ignore.matcher()),
            target_platform: platform,
            build_platform: Some(Platform::host().to_string()),
            pedantic: settings.pedantic,
            only: settings.only,
            ..Facts::default()
        };
        diagnostics.extend(lint::check(&buildfile, &facts, &config));
    }
    diagnostics.sort_by_key(|found| (found.span.start, !is_error(found)));
    Found { diagnostics, config }
}

fn is_error(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity == kiln_grammar::diagnostic::Severity::Error
}

/// The file's own settings, or those of the build argument that stand above them (language.md 1.2), and `--skip`.
pub(super) fn config(buildfile: &Buildfile, settings: &Settings) -> Result<LintConfig, Diagnostic> {
    let directive = buildfile.directives.check.as_ref();
    let given = settings.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    let text = given.or(directive.map(|directive| &directive.value)).map_or("", String::as_str);
    let mut config = LintConfig::from_directive(text).map_err(|message| {
        let span = directive.map(|directive| directive.span).unwrap_or_default();
        Diagnostic::error(span, message).with_hint("write `skip=RULE,...;error=true;experimental=RULE,...`")
    })?;
    for rule in &settings.skip {
        if rule == "all" {
            config.skip_all = true;
        }
        config.skip.insert(rule.clone());
    }
    Ok(config)
}

fn plan_errors(buildfile: &Buildfile, settings: &Settings) -> Vec<Diagnostic> {
    let options = PlanOptions {
        target: settings.target.clone(),
        build_args: settings.build_args.clone(),
        platforms: settings.platform.iter().cloned().collect(),
        // Entitlements are a matter of the build, not of the file.
        allow: ["network.host", "security.insecure"].map(str::to_owned).to_vec(),
        contexts: settings.contexts.iter().map(|name| (name.clone(), ContextKind::Local)).collect(),
        ..PlanOptions::default()
    };
    let Err(error) = plan(buildfile, &options, &Unknown) else { return Vec::new() };
    error.diagnostics.into_iter().filter(|found| is_certain(buildfile, found)).collect()
}

/// Only variables can be set by a base image, and not before its FROM.
fn is_certain(buildfile: &Buildfile, error: &Diagnostic) -> bool {
    let mut instructions = buildfile.stages.iter().flat_map(|stage| &stage.instructions);
    instructions
        .find(|instruction| (instruction.span.start..=instruction.span.end).contains(&error.span.start))
        .is_none_or(|instruction| !format::instruction(buildfile, instruction).contains('$'))
}

/// Gives every image an empty config: nothing is known about them here.
struct Unknown;

impl ImageResolver for Unknown {
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        Ok(Arc::new(ResolvedImage {
            name: request.name.clone(),
            digest: Digest::of(request.name.as_bytes()),
            config: ImageConfig {
                os: request.platform.os.clone(),
                architecture: request.platform.architecture.clone(),
                variant: request.platform.variant.clone(),
                config: ContainerConfig::default(),
                ..ImageConfig::default()
            },
            layers: Vec::new(),
            location: BlobLocation::Store,
        }))
    }
}
