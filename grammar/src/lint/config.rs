//! What `# check=` and `BUILDKIT_DOCKERFILE_CHECK` say.
//!
//! Invariants:
//! - names of rules are not checked: a setting may name a rule of another builder or version;
//! - an experimental rule runs only when it is asked for, and `skip` does not concern it (as BuildKit).

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::RuleInfo;
use crate::ast::Buildfile;
use crate::diagnostic::Diagnostic;
use crate::span::Span;

/// Build argument that stands in for the directive.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Which checks run, and whether a finding fails the build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LintConfig {
    /// Rules that do not run.
    pub skip: BTreeSet<String>,
    /// `skip=all`.
    pub skip_all: bool,
    /// A finding fails the build.
    pub error: bool,
    /// Experimental rules that run.
    pub experimental: BTreeSet<String>,
    /// `experimental=all`.
    pub experimental_all: bool,
}

impl LintConfig {
    /// Reads `skip=A,B;error=true;experimental=X`; an empty text is the default.
    ///
    /// # Errors
    /// An option that does not exist or has no value, or an `error` that is no truth value, in BuildKit's words.
    pub fn from_directive(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(config);
        }
        // At most three parts, as BuildKit: of a fourth the semicolon belongs to the third one's value.
        for part in text.splitn(3, ';') {
            let Some((name, value)) = part.split_once('=') else {
                return Err(format!("invalid check option {part:?}"));
            };
            let value = value.trim();
            match name.trim() {
                "skip" => (config.skip, config.skip_all) = names(value),
                "experimental" => (config.experimental, config.experimental_all) = names(value),
                "error" => {
                    config.error = truth(value).ok_or_else(|| {
                        format!("failed to parse check option {part:?}: {value:?} is neither true nor false")
                    })?;
                }
                other => return Err(format!("invalid check option {other:?}")),
            }
        }
        Ok(config)
    }

    /// What a file says, or the build argument `BUILDKIT_DOCKERFILE_CHECK` in its stead.
    ///
    /// # Errors
    /// See [`LintConfig::from_directive`]; the finding stands at the directive, or at the start for the argument.
    pub fn for_file(
        buildfile: &Buildfile,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, Diagnostic> {
        let directive = buildfile.directives.check.as_ref();
        let (text, span, place) = match (build_args.get(ARGUMENT), directive) {
            (Some(argument), _) => (argument.as_str(), Span::default(), format!(" of {ARGUMENT}")),
            (None, Some(directive)) => (directive.value.as_str(), directive.span, String::new()),
            (None, None) => return Ok(Self::default()),
        };
        Self::from_directive(text).map_err(|reason| {
            Diagnostic::error(span, format!("failed to parse check options{place}: {reason}"))
                .with_hint("write for instance `skip=RULE,RULE;error=true`")
        })
    }

    /// Whether findings of `rule` are wanted.
    pub fn allows(&self, rule: &RuleInfo) -> bool {
        if rule.experimental {
            return self.experimental_all || self.experimental.contains(rule.name);
        }
        !self.skip_all && !self.skip.contains(rule.name)
    }

    /// This configuration with what a comment above an instruction adds (`error` is for the whole file).
    pub(super) fn with(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        merged.skip.extend(other.skip.iter().cloned());
        merged.skip_all |= other.skip_all;
        merged.experimental.extend(other.experimental.iter().cloned());
        merged.experimental_all |= other.experimental_all;
        merged
    }
}

/// A list of rules, or `all`.
fn names(value: &str) -> (BTreeSet<String>, bool) {
    match value {
        "all" => (BTreeSet::new(), true),
        list => (list.split(',').map(|name| name.trim().to_owned()).collect(), false),
    }
}

/// A truth value in the forms that Go takes.
fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::rule;
    use super::*;

    fn read(text: &str) -> LintConfig {
        LintConfig::from_directive(text).unwrap()
    }

    #[test]
    fn reads_options() {
        assert_eq!(read("  "), LintConfig::default());
        let config = read(" skip = StageNameCasing , B;error=T;experimental=all");
        assert_eq!(config.skip.iter().collect::<Vec<_>>(), ["B", "StageNameCasing"]);
        assert!(config.error && config.experimental_all && !config.skip_all);
        assert!(read("skip=all").skip_all);
        assert_eq!(LintConfig::from_directive("skip"), Err("invalid check option \"skip\"".into()));
        assert_eq!(LintConfig::from_directive("foo=a"), Err("invalid check option \"foo\"".into()));
        assert!(LintConfig::from_directive("error=yes").is_err());
        assert!(LintConfig::from_directive("skip=A;").is_err());
    }

    #[test]
    fn experimental_rules_must_be_asked_for() {
        let description = rule("InvalidDefinitionDescription").unwrap();
        assert!(!LintConfig::default().allows(description));
        assert!(read("experimental=InvalidDefinitionDescription;skip=all").allows(description));
        let casing = rule("StageNameCasing").unwrap();
        assert!(LintConfig::default().allows(casing));
        assert!(!read("skip=StageNameCasing").allows(casing));
        assert!(!read("skip=all").allows(casing));
        assert!(!LintConfig::default().with(&read("skip=StageNameCasing")).allows(casing));
    }
}
