//! Options that take one of a few words.
//!
//! Invariants: every message lists the words.

use crate::image::platform::{Platform, PlatformError};
use crate::layer::compress::Compression;

/// When a base image is looked up in its registry again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// On every build (`--pull`).
    Always,
    /// When the store lacks it.
    #[default]
    Missing,
    /// Never; the store must have it.
    Never,
    /// When the registry has another one under the same name; the store's when it cannot be reached.
    Newer,
}

/// Network of RUN steps that do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// kiln's own.
    #[default]
    Default,
    /// None.
    None,
    /// The host's; needs `--allow network.host`.
    Host,
}

/// In whose words manifests and configs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// OCI's media types.
    Oci,
    /// docker's media types.
    Docker,
}

/// What to do when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Tell, and end.
    #[default]
    Stop,
    /// Enter the step with a shell first.
    Shell,
}

/// What a build may do beyond the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `network.host`.
    NetworkHost,
    /// `security.insecure`.
    SecurityInsecure,
    /// `buildx.local.delete`.
    LocalDelete,
}

impl std::fmt::Display for Entitlement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
            Self::LocalDelete => "buildx.local.delete",
        })
    }
}

/// What to do with a Buildfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Build it.
    #[default]
    Build,
    /// Check it.
    Check,
    /// List its arguments, secrets and contexts.
    Outline,
    /// List its stages.
    Targets,
}

/// `--call method[,format=json]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    /// What.
    pub method: Method,
    /// Answer in JSON.
    pub json: bool,
}

/// What `--squash` makes one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SquashFlag {
    /// Nothing (`--squash=false`, as docker writes it).
    Nothing,
    /// Layers of this build.
    Own,
    /// All.
    All,
}

/// User namespace of RUN steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserNamespace {
    /// Their own.
    #[default]
    Auto,
    /// kiln's.
    Host,
}

/// Where file times come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epoch {
    /// Seconds since 1970.
    Seconds(u64),
    /// The commit of the context.
    Context,
}

/// Why a text is none of the words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// `--pull`.
    #[error("`{0}` is none of always, missing, never, newer")]
    Pull(String),
    /// `--on-failure`.
    #[error("`{0}` is none of stop, shell")]
    OnFailure(String),
    /// `--network`.
    #[error("`{0}` is none of default, none, host")]
    Network(String),
    /// `--allow`.
    #[error("`{0}` is none of network.host, security.insecure, buildx.local.delete")]
    Entitlement(String),
    /// `--format`.
    #[error("`{0}` is none of oci, docker")]
    ImageFormat(String),
    /// `--squash`.
    #[error("`{0}` is none of own, all")]
    Squash(String),
    /// `--call`.
    #[error("`{0}` is none of build, check, outline, targets, each with an optional `,format=json`")]
    Call(String),
    /// `--userns`.
    #[error("`{0}` is none of auto, host")]
    UserNamespace(String),
    /// `--source-date-epoch`.
    #[error("`{0}` is neither a number of seconds since 1970 nor `context`")]
    Epoch(String),
    /// `--compression` of an archive.
    #[error("`{0}` is none of zstd, gzip, none")]
    ArchiveCompression(String),
    /// A truth value.
    #[error("`{0}` is neither true nor false")]
    Bool(String),
    /// `--platform`.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// Parses `--format`; buildah's other names for the two are taken too.
pub fn image_format(text: &str) -> Result<ImageFormat, ChoiceError> {
    match text {
        "oci" => Ok(ImageFormat::Oci),
        "docker" | "v2s2" => Ok(ImageFormat::Docker),
        _ => Err(ChoiceError::ImageFormat(text.to_owned())),
    }
}

/// Parses `--pull`; docker's truth values are taken too.
pub fn pull(text: &str) -> Result<Pull, ChoiceError> {
    match text {
        "always" | "true" | "1" => Ok(Pull::Always),
        "missing" | "false" | "0" => Ok(Pull::Missing),
        "never" => Ok(Pull::Never),
        "newer" => Ok(Pull::Newer),
        _ => Err(ChoiceError::Pull(text.to_owned())),
    }
}

/// Parses `--network`.
pub fn network(text: &str) -> Result<Network, ChoiceError> {
    match text {
        "default" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        _ => Err(ChoiceError::Network(text.to_owned())),
    }
}

/// Parses `--on-failure`.
pub fn on_failure(text: &str) -> Result<OnFailure, ChoiceError> {
    match text {
        "stop" => Ok(OnFailure::Stop),
        "shell" => Ok(OnFailure::Shell),
        _ => Err(ChoiceError::OnFailure(text.to_owned())),
    }
}

/// Parses one word of `--allow`.
pub fn entitlement(text: &str) -> Result<Entitlement, ChoiceError> {
    match text {
        "network.host" => Ok(Entitlement::NetworkHost),
        "security.insecure" => Ok(Entitlement::SecurityInsecure),
        "buildx.local.delete" => Ok(Entitlement::LocalDelete),
        _ => Err(ChoiceError::Entitlement(text.to_owned())),
    }
}

/// Parses `--call`.
pub fn call(text: &str) -> Result<Call, ChoiceError> {
    let bad = || ChoiceError::Call(text.to_owned());
    let (method, json) = match text.split_once(',') {
        None => (text, false),
        Some((method, "format=json")) => (method, true),
        Some((method, "format=text")) => (method, false),
        Some(_) => return Err(bad()),
    };
    let method = match method {
        "build" => Method::Build,
        "check" | "lint" => Method::Check,
        "outline" => Method::Outline,
        "targets" => Method::Targets,
        _ => return Err(bad()),
    };
    Ok(Call { method, json })
}

/// Parses `--userns`.
pub fn user_namespace(text: &str) -> Result<UserNamespace, ChoiceError> {
    match text {
        "auto" | "private" => Ok(UserNamespace::Auto),
        "host" => Ok(UserNamespace::Host),
        _ => Err(ChoiceError::UserNamespace(text.to_owned())),
    }
}

/// Parses `--source-date-epoch`.
pub fn epoch(text: &str) -> Result<Epoch, ChoiceError> {
    match text {
        "context" => Ok(Epoch::Context),
        digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map(Epoch::Seconds).map_err(|_| ChoiceError::Epoch(text.to_owned()))
        }
        _ => Err(ChoiceError::Epoch(text.to_owned())),
    }
}

/// Parses `--compression` of an archive.
pub fn archive_compression(text: &str) -> Result<Compression, ChoiceError> {
    match text {
        "zstd" => Ok(Compression::DEFAULT_ZSTD),
        "gzip" => Ok(Compression::DEFAULT_GZIP),
        "none" | "uncompressed" => Ok(Compression::None),
        _ => Err(ChoiceError::ArchiveCompression(text.to_owned())),
    }
}

/// Parses a truth value.
pub fn boolean(text: &str) -> Result<bool, ChoiceError> {
    crate::export::spec::attributes::boolean("", text).map_err(|_| ChoiceError::Bool(text.to_owned()))
}

/// Parses `--squash`; docker's is a truth value.
pub fn squash(text: &str) -> Result<SquashFlag, ChoiceError> {
    match text {
        "own" => Ok(SquashFlag::Own),
        "all" => Ok(SquashFlag::All),
        other => match boolean(other) {
            Ok(true) => Ok(SquashFlag::Own),
            Ok(false) => Ok(SquashFlag::Nothing),
            Err(_) => Err(ChoiceError::Squash(other.to_owned())),
        },
    }
}

/// Parses one platform; `local` is this machine's.
pub fn platform(text: &str) -> Result<Platform, ChoiceError> {
    Ok(text.trim().parse::<Platform>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(pull("newer"), Ok(Pull::Newer));
        assert_eq!(pull("true"), Ok(Pull::Always));
        assert_eq!(network("host"), Ok(Network::Host));
        assert_eq!(entitlement("network.host"), Ok(Entitlement::NetworkHost));
        assert_eq!(call("check,format=json"), Ok(Call { method: Method::Check, json: true }));
        assert_eq!(user_namespace("host"), Ok(UserNamespace::Host));
        assert_eq!(epoch("1600000000"), Ok(Epoch::Seconds(1_600_000_000)));
        assert_eq!(epoch("context"), Ok(Epoch::Context));
        assert_eq!(platform("local"), Ok(Platform::host()));
        assert_eq!(boolean("0"), Ok(false));
        assert_eq!(["own", "all", "true", "0"].map(|t| squash(t).unwrap()), {
            use SquashFlag::{All, Nothing, Own};
            [Own, All, Own, Nothing]
        });
        assert_eq!(archive_compression("zstd"), Ok(Compression::DEFAULT_ZSTD));
        for bad in ["", " always", "yes", "\u{1b}[2J", "-1", "check,format=xml", "99999999999999999999999"] {
            assert!(pull(bad).is_err() && network(bad).is_err() && entitlement(bad).is_err(), "{bad}");
            assert!(call(bad).is_err() && user_namespace(bad).is_err() && epoch(bad).is_err(), "{bad}");
            assert!(archive_compression(bad).is_err(), "{bad}");
            assert!(boolean(bad).is_err() && platform(bad).is_err() && squash(bad).is_err(), "{bad}");
        }
    }
}
