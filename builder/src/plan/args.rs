//! Variables: the global scope before the first FROM, the environment of a stage, build arguments.
//!
//! Invariants:
//! - a build argument beats a default in a stage, which beats a global value (language.md 1.5, fact 58);
//! - the automatic platform arguments live in the global scope only: a stage sees them after `ARG NAME`;
//! - nothing here reads the process environment: what comes from there is in [`PlanOptions`].

use std::collections::{BTreeMap, BTreeSet};

use kiln_grammar::ast::{Buildfile, Instruction, Kind};
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::expand;
use kiln_grammar::span::Span;
use kiln_grammar::suggest;

use crate::image::platform::Platform;

use super::graph::PlanOptions;
use super::site::Site;

/// PATH of an image that sets none (language.md 1.4).
pub(super) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Arguments that need no declaration to have a meaning (language.md 1.5).
const PREDEFINED: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    EPOCH,
];

/// Arguments that never become variables of RUN.
const NOT_IN_ENVIRONMENT: &[&str] = &["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Whether an argument becomes a variable of RUN.
pub(super) fn reaches_environment(name: &str) -> bool {
    !NOT_IN_ENVIRONMENT.contains(&name)
}

/// Variables in the order in which RUN gets them: the one set last stands last, as BuildKit's list does it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Environment {
    entries: Vec<(String, String)>,
}

impl Environment {
    /// The value of `name`.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sets or replaces a variable.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.entries.retain(|(known, _)| known != name);
        self.entries.push((name.to_owned(), value.to_owned()));
    }

    /// Sets a variable from `KEY=VALUE`.
    pub(super) fn set_pair(&mut self, pair: &str) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        self.set(name, value);
    }

    /// `KEY=VALUE` of each.
    pub(super) fn to_pairs(&self) -> Vec<String> {
        self.entries.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Names in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }
}

impl expand::Env for Environment {
    fn get(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }
}

/// Build arguments: `--build-arg`, with the environment's SOURCE_DATE_EPOCH as if it had been given there.
pub(super) fn build_args(options: &PlanOptions) -> BTreeMap<String, String> {
    let mut args = options.build_args.clone();
    if let Some(epoch) = &options.environment_epoch {
        args.entry(EPOCH.to_owned()).or_insert_with(|| epoch.clone());
    }
    args
}

/// The scope of FROM lines and of global ARGs.
#[derive(Debug)]
pub(super) struct GlobalScope {
    /// Values, automatic arguments first.
    pub(super) values: Environment,
    /// `--build-arg` and what counts as such.
    pub(super) build_args: BTreeMap<String, String>,
    /// The epoch of the build.
    pub(super) epoch: Option<i64>,
}

impl GlobalScope {
    /// Evaluates the global ARGs for one target platform.
    pub(super) fn new(
        buildfile: &Buildfile,
        options: &PlanOptions,
        target: &Platform,
    ) -> Result<Self, Diagnostic> {
        let mut build_args = build_args(options);
        let mut values = automatic(buildfile, options, target, &build_args);
        let mut epoch_span = None;
        for instruction in &buildfile.global_args {
            let site = Site::in_file(&buildfile.text, instruction.span);
            let Kind::Arg(pairs) = &instruction.kind else { continue };
            for pair in pairs {
                let name = &pair.name.value;
                if name == EPOCH {
                    epoch_span = Some(pair.span);
                }
                if let Some(value) = build_args.get(name) {
                    values.set(name, value);
                } else if let Some(default) = &pair.value {
                    let value = site.expand(default, buildfile.directives.escape, &values)?;
                    values.set(name, &value);
                }
            }
        }
        let epoch = take_epoch(&mut build_args, &mut values, epoch_span)?;
        Ok(Self { values, build_args, epoch })
    }
}

/// TARGETPLATFORM and its relatives; `--build-arg` may override each (language.md 1.5).
fn automatic(
    buildfile: &Buildfile,
    options: &PlanOptions,
    target: &Platform,
    build_args: &BTreeMap<String, String>,
) -> Environment {
    let build = Platform::host();
    let stage = options
        .target
        .clone()
        .or_else(|| buildfile.stages.last()?.from.name.as_ref().map(|name| name.value.to_lowercase()))
        .unwrap_or_else(|| "default".to_owned());
    let mut values = Environment::default();
    for (name, value) in [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os),
        ("BUILDOSVERSION", build.os_version),
        ("BUILDARCH", build.architecture),
        ("BUILDVARIANT", build.variant),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage),
    ] {
        values.set(name, build_args.get(name).unwrap_or(&value));
    }
    values
}

/// Reads the epoch and leaves its normalised form in both scopes. `context` is left to the caller of the plan, who
/// knows whether the context is a git checkout with a commit time; a local context has none (language.md 1.5).
fn take_epoch(
    build_args: &mut BTreeMap<String, String>,
    values: &mut Environment,
    span: Option<Span>,
) -> Result<Option<i64>, Diagnostic> {
    let Some(text) = build_args.get(EPOCH).cloned().or_else(|| values.value(EPOCH).map(str::to_owned)) else {
        return Ok(None);
    };
    if text.is_empty() || text == "context" {
        build_args.remove(EPOCH);
        values.entries.retain(|(name, _)| name != EPOCH);
        return Ok(None);
    }
    let epoch: i64 = text.parse().map_err(|_| {
        Diagnostic::error(span.unwrap_or_default(), format!("invalid SOURCE_DATE_EPOCH: {text}")).with_hint(
            "give the time in seconds since 1970, or `context` for the commit time of a git context",
        )
    })?;
    let text = epoch.to_string();
    if let Some(value) = build_args.get_mut(EPOCH) {
        value.clone_from(&text);
    }
    if values.value(EPOCH).is_some() {
        values.set(EPOCH, &text);
    }
    Ok(Some(epoch))
}

/// Go's `strconv.ParseBool`, where everything else is false.
pub(super) fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn instructions(buildfile: &Buildfile) -> impl Iterator<Item = &Instruction> {
    let stages = buildfile.stages.iter().flat_map(|stage| &stage.instructions);
    buildfile.global_args.iter().chain(stages)
}

/// Names that some ARG of the file declares.
fn declared(buildfile: &Buildfile) -> impl Iterator<Item = (&str, Span)> {
    let pairs = instructions(buildfile).flat_map(|instruction| match &instruction.kind {
        Kind::Arg(pairs) => pairs.as_slice(),
        _ => &[],
    });
    pairs.map(|pair| (pair.name.value.as_str(), pair.span))
}

/// `--build-arg` names that nothing consumes, with a warning for each. `trigger_args` are those that ONBUILD triggers
/// declare.
pub(super) fn unused(
    buildfile: &Buildfile,
    options: &PlanOptions,
    trigger_args: &BTreeSet<String>,
) -> (Vec<String>, Vec<Diagnostic>) {
    let known: BTreeMap<&str, Span> = declared(buildfile).collect();
    let consumed = |name: &str| {
        known.contains_key(name)
            || trigger_args.contains(name)
            || PREDEFINED.contains(&name)
            || is_automatic(name)
    };
    let names: Vec<String> = options.build_args.keys().filter(|name| !consumed(name)).cloned().collect();
    let start = buildfile.stages.first().map(|stage| stage.from.span).unwrap_or_default();
    let warnings = names
        .iter()
        .map(|name| {
            let near = suggest::closest(name, known.keys().copied());
            let span = near.and_then(|near| known.get(near)).copied().unwrap_or(start);
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("declare it with `ARG {name}` in the stage that uses it"),
            };
            Diagnostic::warning("UnusedBuildArg", span, format!("build argument `{name}` was not consumed"))
                .with_hint(hint)
        })
        .collect();
    (names, warnings)
}

/// Names that ARG declares and no ENV sets: what has one of them as its name is a build argument to whoever reads the
/// file.
pub fn arguments(buildfile: &Buildfile) -> BTreeSet<String> {
    let set: BTreeSet<&str> = instructions(buildfile)
        .flat_map(|instruction| match &instruction.kind {
            Kind::Env(pairs) => &pairs[..],
            _ => &[],
        })
        .map(|pair| pair.key.value.as_str())
        .collect();
    declared(buildfile).map(|(name, _)| name).filter(|name| !set.contains(name)).map(str::to_owned).collect()
}

/// A warning for each `--no-cache-filter` that names no stage.
pub(super) fn unknown_filters(buildfile: &Buildfile, options: &PlanOptions) -> Vec<Diagnostic> {
    let names: Vec<String> = buildfile
        .stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            stage.from.name.as_ref().map_or_else(|| format!("stage-{index}"), |name| name.value.clone())
        })
        .collect();
    let start = buildfile.stages.first().map(|stage| stage.from.span).unwrap_or_default();
    let unknown = options
        .no_cache_stages
        .iter()
        .filter(|filter| !names.iter().any(|name| name.eq_ignore_ascii_case(filter)));
    unknown
        .map(|filter| {
            let hint = match suggest::closest(filter, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the stages are {}", names.join(", ")),
            };
            let message = format!("--no-cache-filter: no stage is named `{filter}`");
            Diagnostic::warning("UnknownStage", start, message).with_hint(hint)
        })
        .collect()
}

fn is_automatic(name: &str) -> bool {
    let suffix = name.strip_prefix("TARGET").or_else(|| name.strip_prefix("BUILD"));
    matches!(suffix, Some("PLATFORM" | "OS" | "OSVERSION" | "ARCH" | "VARIANT" | "STAGE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_set_last_stands_last() {
        let mut env = Environment::default();
        env.set_pair("A=1");
        env.set_pair("B=2=3");
        env.set("A", "4");
        assert_eq!(env.to_pairs(), ["B=2=3", "A=4"]);
        assert_eq!(env.value("B"), Some("2=3"));
    }
}
