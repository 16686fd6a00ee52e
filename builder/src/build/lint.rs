//! The checks of a build: BuildKit's, on what the build reaches, with what planning has learned.
//!
//! Invariants:
//! - they run after planning, so a file that cannot be planned shows its errors only;
//! - of several platforms each finding is told once.

use std::collections::{BTreeMap, BTreeSet};

use kiln_grammar::ast::Buildfile;
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::lint::{self, BaseImage, Facts, LintConfig, Origin};
use kiln_grammar::span::Span;

use crate::image::platform::Platform;
use crate::plan::graph::{ContextKind, Plan};

use super::{BuildError, Request};

/// Name of the main context.
const MAIN: &str = "";

/// What the file, or the build argument in its stead, says of checks.
///
/// # Errors
/// A setting that cannot be read.
pub(super) fn configuration(buildfile: &Buildfile, request: &Request) -> Result<LintConfig, BuildError> {
    LintConfig::for_file(buildfile, &request.plan.build_args).map_err(|error| BuildError::Parse(vec![error]))
}

/// Findings of the parser, of planning and of the checks.
///
/// # Errors
/// [`BuildError::Lint`] when the configuration makes a finding fatal and there is one.
pub(super) fn findings(
    buildfile: &Buildfile,
    parsed: Vec<Diagnostic>,
    plan: &Plan,
    request: &Request,
    config: &LintConfig,
) -> Result<Vec<Diagnostic>, BuildError> {
    let mut found = parsed;
    found.extend(plan.diagnostics.iter().cloned());
    lint::keep(&mut found, config);
    let local = matches!(request.plan.main_context, ContextKind::Local);
    let ignore = request.contexts.get(MAIN).filter(|_| local).and_then(|context| context.ignore.as_ref());
    let facts = Facts {
        build_args: request.plan.build_args.clone(),
        target: request.plan.target.clone(),
        ignore: ignore.map(|ignore| ignore.matcher()),
        build_platform: Some(Platform::host().to_string()),
        base_images: base_images(plan),
        contexts: context_names(&request.plan.contexts),
        only: Some(Origin::BuildKit),
        ..Facts::default()
    };
    let platforms = match &request.plan.platforms[..] {
        [] => vec![None],
        given => given.iter().map(|platform| Some(platform.to_string())).collect(),
    };
    for target_platform in platforms {
        for finding in lint::check(buildfile, &Facts { target_platform, ..facts.clone() }, config) {
            // One word of a file can give the same finding twice; for another platform it is no news.
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
    }
    found.sort_by_key(|finding| finding.span.start);
    let known = found.iter().filter_map(|finding| lint::rule(finding.rule?)).map(|rule| rule.name);
    let rules: BTreeSet<&str> = known.collect();
    if !config.error || rules.is_empty() {
        return Ok(found);
    }
    let rules: Vec<String> = rules.into_iter().map(str::to_owned).collect();
    let span = buildfile.directives.check.as_ref().map_or(Span::default(), |check| check.span);
    let error = Diagnostic::error(span, format!("lint violation found for rules: {}", rules.join(", ")))
        .with_hint("mend what the findings above say, or skip a rule with `# check=skip=RULE;error=true`");
    found.push(error);
    Err(BuildError::Lint { rules, diagnostics: found })
}

fn base_images(plan: &Plan) -> BTreeMap<String, BaseImage> {
    let of = |(name, image): (&String, &std::sync::Arc<crate::plan::graph::ResolvedImage>)| {
        let config = &image.config.config;
        let base = BaseImage {
            env: config.env.clone(),
            shell: config.shell.clone(),
            user: config.user.clone(),
            triggers: config.on_build.clone(),
        };
        (name.clone(), base)
    };
    plan.base_images.iter().map(of).collect()
}

/// Names of contexts without their platforms (`name::platform`).
fn context_names(contexts: &BTreeMap<String, ContextKind>) -> BTreeSet<String> {
    contexts.keys().filter_map(|key| Some(key.split("::").next()?.to_lowercase())).collect()
}
