//! Everything that can be found in a Buildfile without building it.
//!
//! Invariants:
//! - findings are in file order;
//! - of the errors of a plan only those are told that no base image could take back: the images are not looked up, so
//!   their variables are not known.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_grammar::ast::{Buildfile, Instruction, Kind, Parsed};
use kiln_grammar::diagnostic::Diagnostic;
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

/// How often a plan is made at most: once more than stages can have errors that are told.
const MAX_ROUNDS: usize = 50;

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
            contexts: settings.contexts.iter().map(|name| name.to_lowercase()).collect(),
            only: settings.only,
            ..Facts::default()
        };
        let mut warnings = lint::check(&buildfile, &facts, &config);
        // A base name that is wrong has been told as an error.
        warnings
            .retain(|warning| !diagnostics.iter().any(|error| is_error(error) && error.span == warning.span));
        diagnostics.extend(warnings);
    }
    if settings.portable {
        diagnostics.extend(kiln_grammar::portable::extensions(&buildfile));
    }
    diagnostics.sort_by_key(|found| (found.span.start, !is_error(found)));
    Found { diagnostics, config }
}

fn is_error(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity == kiln_grammar::diagnostic::Severity::Error
}

/// The file's own settings, or those of the build argument that stand above them (language.md 1.2), and `--skip`.
pub(super) fn config(buildfile: &Buildfile, settings: &Settings) -> Result<LintConfig, Diagnostic> {
    let mut config = LintConfig::for_file(buildfile, &settings.build_args)?;
    for rule in &settings.skip {
        if rule == "all" {
            config.skip_all = true;
        }
        config.skip.insert(rule.clone());
    }
    Ok(config)
}

/// Errors of planning. A stage ends at its first error, so what is wrong is taken out and the rest planned again.
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
    let variables = variables(&buildfile.text);
    let mut rest = buildfile.clone();
    let mut found: Vec<Diagnostic> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let mut errors = errors(&rest, &options, &[]);
        // Whatever stays when all variables have another value, no base image can change.
        if !errors.is_empty() && !variables.is_empty() {
            let others = self::errors(&rest, &options, &variables);
            errors.retain(|error| others.contains(error));
        }
        let again = take_out(&mut rest, &errors);
        found.extend(errors);
        if !again {
            break;
        }
    }
    found
}

fn errors(buildfile: &Buildfile, options: &PlanOptions, env: &[String]) -> Vec<Diagnostic> {
    plan(buildfile, options, &Unknown { env }).err().map(|error| error.diagnostics).unwrap_or_default()
}

/// Takes the instructions with errors out of their stages; false when there are none that others do not depend on.
fn take_out(buildfile: &mut Buildfile, errors: &[Diagnostic]) -> bool {
    let is_wrong = |instruction: &Instruction| {
        let inside = instruction.span.start..=instruction.span.end;
        errors.iter().any(|error| inside.contains(&error.span.start))
    };
    let mut taken = false;
    for stage in &mut buildfile.stages {
        stage.instructions.retain(|instruction| {
            let out = is_wrong(instruction) && !matches!(instruction.kind, Kind::Arg(_) | Kind::Env(_));
            taken |= out;
            !out
        });
    }
    taken
}

/// `NAME=VALUE` of every name behind a `$`.
fn variables(text: &str) -> Vec<String> {
    let name = |rest: &str| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let names: BTreeSet<String> = text.split('$').skip(1).map(name).filter(|name| !name.is_empty()).collect();
    names.into_iter().map(|name| format!("{name}=kiln")).collect()
}

/// Gives every image a config with nothing but variables: nothing is known about them here.
struct Unknown<'a> {
    env: &'a [String],
}

impl ImageResolver for Unknown<'_> {
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        Ok(Arc::new(ResolvedImage {
            name: request.name.clone(),
            digest: Digest::of(request.name.as_bytes()),
            config: ImageConfig {
                os: request.platform.os.clone(),
                architecture: request.platform.architecture.clone(),
                variant: request.platform.variant.clone(),
                config: ContainerConfig { env: self.env.to_vec(), ..ContainerConfig::default() },
                ..ImageConfig::default()
            },
            layers: Vec::new(),
            location: BlobLocation::Store,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        let parsed = kiln_grammar::parse(text);
        assert!(!parsed.has_errors());
        plan_errors(&parsed.buildfile, &Settings::default()).into_iter().map(|found| found.message).collect()
    }

    #[test]
    fn all_errors_of_a_stage_are_told() {
        let text = "FROM a\nCOPY --chmod=999 x /\nCOPY https://example.org/a /\nRUN z\nADD --checksum=sha256:xyz https://example.org/a /\n";
        assert_eq!(messages(text).len(), 3, "{:?}", messages(text));
    }

    #[test]
    fn what_a_base_image_may_set_is_no_error() {
        assert_eq!(messages("FROM a\nCOPY --chmod=$MODE ${FILE:?unset} /\n"), [""; 0]);
        assert_eq!(messages("FROM a\nCOPY ${FILE /\n").len(), 1);
        assert_eq!(messages("FROM scratch\nCOPY ${FILE:?unset} /\n").len(), 1);
    }
}
