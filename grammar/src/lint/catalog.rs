//! All checks there are, with what each is about.
//!
//! Invariants:
//! - names are unique and never change: people write them into `skip=`;
//! - DL3021, DL3043 and DL3061 of hadolint are errors of the language, so they are not here;
//! - the list is in the order of [`Origin`], in it by BuildKit's own order or by name.

/// Where a check comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// BuildKit has it; these run in every build.
    BuildKit,
    /// hadolint has it, under this name.
    Hadolint,
    /// Only kiln has it.
    Kiln,
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleInfo {
    /// `StageNameCasing`, `DL3006`.
    pub name: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// A page about it; empty when there is none.
    pub url: &'static str,
    /// Runs only when `experimental=` names it.
    pub experimental: bool,
    /// Where it comes from.
    pub origin: Origin,
    /// Runs without being asked for.
    pub default_on: bool,
    /// A rule of BuildKit that finds the same. This one then runs only where BuildKit's do not
    /// ([`Facts::only`](super::Facts::only)), and skipping either skips both.
    pub same_as: Option<&'static str>,
}

/// All rules.
pub fn rules() -> &'static [RuleInfo] {
    RULES
}

/// The rule of that name.
pub fn rule(name: &str) -> Option<&'static RuleInfo> {
    RULES.iter().find(|rule| rule.name == name)
}

const fn buildkit(name: &'static str, url: &'static str, description: &'static str) -> RuleInfo {
    RuleInfo {
        name,
        description,
        url,
        experimental: false,
        origin: Origin::BuildKit,
        default_on: true,
        same_as: None,
    }
}

const fn hadolint(name: &'static str, url: &'static str, description: &'static str) -> RuleInfo {
    RuleInfo { origin: Origin::Hadolint, ..buildkit(name, url, description) }
}

const fn twin(
    name: &'static str,
    url: &'static str,
    same_as: &'static str,
    description: &'static str,
) -> RuleInfo {
    RuleInfo { same_as: Some(same_as), ..hadolint(name, url, description) }
}

const fn kiln(name: &'static str, description: &'static str) -> RuleInfo {
    RuleInfo { origin: Origin::Kiln, ..buildkit(name, "", description) }
}

/// The page of a rule of hadolint.
macro_rules! wiki {
    ($name:literal) => {
        concat!("https://github.com/hadolint/hadolint/wiki/", $name)
    };
}

const RULES: &[RuleInfo] = &[
    buildkit(
        "StageNameCasing",
        "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        "Stage names should be lowercase",
    ),
    buildkit(
        "FromAsCasing",
        "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    buildkit(
        "NoEmptyContinuation",
        "https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/",
        "Empty continuation lines will become errors in a future release",
    ),
    buildkit(
        "ConsistentInstructionCasing",
        "https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    buildkit(
        "DuplicateStageName",
        "https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/",
        "Stage names should be unique",
    ),
    buildkit(
        "ReservedStageName",
        "https://docs.docker.com/go/dockerfile/rule/reserved-stage-name/",
        "Reserved words should not be used as stage names",
    ),
    buildkit(
        "JSONArgsRecommended",
        "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    buildkit(
        "MaintainerDeprecated",
        "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    buildkit(
        "UndefinedArgInFrom",
        "https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/",
        "FROM command must use declared ARGs",
    ),
    buildkit(
        "WorkdirRelativePath",
        "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    buildkit(
        "UndefinedVar",
        "https://docs.docker.com/go/dockerfile/rule/undefined-var/",
        "Variables should be defined before their use",
    ),
    buildkit(
        "MultipleInstructionsDisallowed",
        "https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    buildkit(
        "LegacyKeyValueFormat",
        "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    buildkit("InvalidBaseImagePlatform", "", "Base image platform does not match expected target platform"),
    buildkit(
        "RedundantTargetPlatform",
        "https://docs.docker.com/go/dockerfile/rule/redundant-target-platform/",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    buildkit(
        "SecretsUsedInArgOrEnv",
        "https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    buildkit(
        "InvalidDefaultArgInFrom",
        "https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    buildkit(
        "FromPlatformFlagConstDisallowed",
        "https://docs.docker.com/go/dockerfile/rule/from-platform-flag-const-disallowed/",
        "FROM --platform flag should not use a constant value",
    ),
    buildkit(
        "CopyIgnoredFile",
        "https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/",
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    RuleInfo {
        experimental: true,
        ..buildkit(
            "InvalidDefinitionDescription",
            "https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/",
            "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        )
    },
    buildkit(
        "ExposeProtoCasing",
        "https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/",
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    buildkit(
        "ExposeInvalidFormat",
        "https://docs.docker.com/go/dockerfile/rule/expose-invalid-format/",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
    hadolint("DL3000", wiki!("DL3000"), "Use an absolute WORKDIR"),
    hadolint("DL3002", wiki!("DL3002"), "The last USER should not be root"),
    hadolint("DL3003", wiki!("DL3003"), "Use WORKDIR to change the directory, not `cd`"),
    hadolint(
        "DL3004",
        wiki!("DL3004"),
        "Do not use sudo: it has unpredictable effects on terminals and signals",
    ),
    hadolint("DL3006", wiki!("DL3006"), "Tag the version of a base image explicitly"),
    hadolint("DL3007", wiki!("DL3007"), "Do not use `latest`: the base image can change at any time"),
    hadolint(
        "DL3009",
        wiki!("DL3009"),
        "Delete the apt lists after installing, or keep them in a cache mount",
    ),
    hadolint("DL3010", wiki!("DL3010"), "Use ADD to unpack local archives"),
    hadolint("DL3011", wiki!("DL3011"), "Ports lie between 0 and 65535"),
    twin("DL3012", wiki!("DL3012"), "MultipleInstructionsDisallowed", "One HEALTHCHECK per stage"),
    hadolint("DL3014", wiki!("DL3014"), "Use `-y` with apt-get install, so that it does not ask"),
    hadolint("DL3015", wiki!("DL3015"), "Use `--no-install-recommends` to install what is needed only"),
    hadolint("DL3019", wiki!("DL3019"), "Use `apk add --no-cache`, or a cache mount for /var/cache/apk"),
    hadolint("DL3020", wiki!("DL3020"), "Use COPY for files and directories, not ADD"),
    hadolint("DL3022", wiki!("DL3022"), "COPY --from should name an earlier stage"),
    hadolint("DL3023", wiki!("DL3023"), "COPY --from cannot name its own stage"),
    twin("DL3024", wiki!("DL3024"), "DuplicateStageName", "Names of stages must be unique"),
    twin("DL3025", wiki!("DL3025"), "JSONArgsRecommended", "Use JSON form for CMD and ENTRYPOINT"),
    hadolint("DL3027", wiki!("DL3027"), "Use apt-get, not apt: the interface of apt is for people"),
    hadolint("DL3030", wiki!("DL3030"), "Use `-y` with yum install"),
    hadolint("DL3032", wiki!("DL3032"), "Clean up after yum install, or use a cache mount"),
    hadolint("DL3034", wiki!("DL3034"), "Use `-y` with zypper install"),
    hadolint("DL3035", wiki!("DL3035"), "Do not use `zypper dist-upgrade`"),
    hadolint("DL3036", wiki!("DL3036"), "Clean up after zypper install, or use a cache mount"),
    hadolint("DL3038", wiki!("DL3038"), "Use `-y` with dnf install"),
    hadolint("DL3040", wiki!("DL3040"), "Clean up after dnf install, or use a cache mount"),
    hadolint("DL3042", wiki!("DL3042"), "Use `pip install --no-cache-dir`, or a cache mount"),
    hadolint("DL3044", wiki!("DL3044"), "Do not refer to a variable in the ENV that defines it"),
    hadolint("DL3045", wiki!("DL3045"), "COPY to a relative destination needs a WORKDIR"),
    hadolint("DL3046", wiki!("DL3046"), "`useradd` with a large UID needs `-l`, or it makes a huge file"),
    hadolint("DL3047", wiki!("DL3047"), "wget without a quiet or dot-style progress floods the log"),
    hadolint("DL3067", wiki!("DL3067"), "Do not copy the whole file system of another stage"),
    hadolint("DL4006", wiki!("DL4006"), "Set `SHELL` with `-o pipefail` before RUN with a pipe"),
    kiln("AptWithoutUpdate", "apt-get install needs the lists of an apt-get update in the same RUN"),
    kiln("CacheMountUserMismatch", "A cache mount belongs to root while the step runs as another user"),
    kiln("ChmodDoublesLayer", "chmod -R or chown -R of copied files stores them a second time"),
    kiln(
        "CopyBeforeDeps",
        "COPY of the whole context before dependencies are installed makes every change install them again",
    ),
    kiln("CopyRootUid", "Copied files belong to root while the stage runs as another user"),
    kiln("HeredocNoErrexit", "A RUN here-document goes on after a command that fails"),
    RuleInfo {
        default_on: false,
        ..kiln("MutableBase", "A base image without a digest can change between builds")
    },
    kiln("SecretInHistory", "The value of an ARG stays readable in the history of the image"),
    kiln("UnusedArg", "An ARG that nothing uses"),
    kiln("UnusedStage", "A stage that nothing uses"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_order_of_origin() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(RULES.iter().skip(index + 1).all(|other| other.name != rule.name), "{}", rule.name);
            assert!(!rule.description.is_empty(), "{}", rule.name);
            if let Some(same) = rule.same_as {
                assert_eq!(super::rule(same).map(|other| other.origin), Some(Origin::BuildKit));
            }
        }
        assert!(RULES.is_sorted_by_key(|rule| rule.origin));
        assert_eq!(RULES.iter().filter(|rule| rule.origin == Origin::BuildKit).count(), 22);
    }
}
