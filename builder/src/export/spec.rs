//! Values of `--output`: where a result goes and in which form (cli.md 2.3).
//!
//! Invariants:
//! - parsing is pure: whether stdout is a terminal comes in through [`OutputSpec::check_destination`];
//! - a parsed [`OutputSpec`] holds no key that its type does not have;
//! - keys that only other builders need are accepted and listed in [`OutputSpec::ignored`], never dropped silently.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::image::platform::Platform;
use crate::image::reference::{Reference, ReferenceError};
use crate::layer::compress;

use annotation::{Annotation, AnnotationError, Carrier};
use attributes::AttributeError;

pub mod annotation;
pub mod attributes;

/// What kind of result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// The files of the result, in a directory.
    Local,
    /// The files of the result, as an archive.
    Tar,
    /// An OCI image layout.
    Oci,
    /// An archive that `docker load` takes; without destination it is loaded at once.
    Docker,
    /// An image in the store, pushed when [`OutputSpec::push`] is set (`type=registry` sets it).
    Image,
    /// Nothing but the cache.
    CacheOnly,
}

/// Where a result is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output (`dest=-`).
    Stdout,
    /// A file or a directory.
    Path(PathBuf),
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// gzip whose files can be fetched one by one.
    Estargz,
}

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// What kind.
    pub kind: OutputKind,
    /// `dest`.
    pub destination: Option<Destination>,
    /// `name`: images are tagged with these.
    pub names: Vec<Reference>,
    /// `tar` of `type=oci`: an archive (default) or a directory.
    pub archive: bool,
    /// `context` of `type=docker`: the docker context whose engine takes the image.
    pub engine_context: Option<String>,
    /// `mode=delete` of `type=local`: what the result does not have is removed from the destination.
    pub delete: bool,
    /// `push`.
    pub push: bool,
    /// `push-by-digest`: push without a tag.
    pub push_by_digest: bool,
    /// `registry.insecure`: plain http, or any certificate.
    pub insecure: bool,
    /// `compression`; `None` leaves the choice to the exporter.
    pub compression: Option<Compression>,
    /// `compression-level`; within the range of `compression`, of gzip when that is `None`.
    pub compression_level: Option<u32>,
    /// `force-compression`: layers of the base are compressed anew.
    pub force_compression: bool,
    /// `oci-mediatypes`; `None` is the exporter's default.
    pub oci_media_types: Option<bool>,
    /// `rewrite-timestamp`; `None` is kiln's default.
    pub rewrite_timestamp: Option<bool>,
    /// `source-date-epoch`, in seconds; `None` takes the build's.
    pub source_date_epoch: Option<u64>,
    /// `platform-split`: one directory per platform; `None` splits when there are several.
    pub platform_split: Option<bool>,
    /// `attestation-prefix` of `type=local` and `type=tar`: what the names of attestations begin with.
    pub attestation_prefix: String,
    /// `oci-artifact`: attestations name their image as their subject.
    pub oci_artifact: bool,
    /// `annotation*`.
    pub annotations: Vec<Annotation>,
    /// Keys that were given and have no effect in kiln.
    pub ignored: Vec<String>,
}

/// Why a text is not an output.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OutputError {
    /// Bad attributes.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// No `type`.
    #[error("`{0}` has no type; write type=oci, docker, local, tar, image, registry or cacheonly")]
    NoType(String),
    /// An unknown type.
    #[error(
        "unknown output type `{kind}`{}; use oci, docker, local, tar, image, registry or cacheonly",
        .meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default()
    )]
    Type {
        /// The type.
        kind: String,
        /// The most similar one.
        meant: Option<&'static str>,
    },
    /// No destination.
    #[error("type={0} needs a destination; write type={0},dest=PATH")]
    NoDestination(OutputKind),
    /// Bytes for a terminal.
    #[error(
        "type={0} would write an archive to the terminal; write type={0},dest=FILE or redirect the output"
    )]
    Terminal(OutputKind),
    /// A directory cannot go to stdout.
    #[error("{0} writes a directory and cannot go to standard output; name one with dest=PATH")]
    DirectoryToStdout(&'static str),
    /// An engine and a file.
    #[error("context=NAME says whose engine loads the image; with dest=FILE none does")]
    ContextOfFile,
    /// An unknown compression.
    #[error("unknown compression `{0}`; use gzip, zstd, estargz or uncompressed")]
    Compression(String),
    /// A level out of range.
    #[error("compression-level `{value}` is not a number from 0 to {max}")]
    Level {
        /// The level.
        value: String,
        /// The largest one.
        max: u32,
    },
    /// A level without effect.
    #[error("compression-level needs compression=gzip, zstd or estargz")]
    LevelAlone,
    /// Not a number of seconds.
    #[error("source-date-epoch `{0}` is not a number of seconds since 1970")]
    Epoch(String),
    /// An unknown mode of `type=local`.
    #[error("unknown mode `{0}` of type=local; use mode=copy or mode=delete")]
    Mode(String),
    /// Not the beginning of a file's name.
    #[error(
        "attestation-prefix `{0}` must not have a slash: attestations are beside the files that they are about"
    )]
    Prefix(String),
    /// A bad name.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// A bad annotation.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
}

const TYPES: [&str; 7] = ["oci", "docker", "local", "tar", "image", "registry", "cacheonly"];

/// Keys of every type that makes an image.
const IMAGE_KEYS: [&str; 10] = [
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "oci-artifact",
    "oci-mediatypes",
    "rewrite-timestamp",
    "source-date-epoch",
    "annotation.KEY",
    "annotation-index.KEY",
];

/// Keys of buildx that have no effect in kiln, or none for this type: there is no daemon's store to unpack into, and one
/// version of the format.
const IGNORED_KEYS: [&str; 10] = [
    "attestation-inline",
    "attestation-prefix",
    "compatibility-version",
    "danging-name-empty-only",
    "dangling-name-prefix",
    "name-canonical",
    "oci-artifact",
    "prefer-nondist-layers",
    "store",
    "unpack",
];

impl OutputKind {
    fn keys(self) -> Vec<&'static str> {
        let own: &[&str] = match self {
            Self::Local => &["dest", "platform-split", "mode", "attestation-prefix"],
            Self::Tar => &["dest", "platform-split", "attestation-prefix"],
            Self::Oci => &["dest", "tar"],
            Self::Docker => &["dest", "context"],
            Self::Image => &["push", "push-by-digest", "registry.insecure"],
            Self::CacheOnly => &[],
        };
        let image: &[&str] = if self.is_image() { &IMAGE_KEYS } else { &[] };
        [&["type"], own, image].concat()
    }

    /// True when the result is an image rather than files.
    pub fn is_image(self) -> bool {
        matches!(self, Self::Oci | Self::Docker | Self::Image)
    }
}

impl fmt::Display for OutputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Tar => "tar",
            Self::Oci => "oci",
            Self::Docker => "docker",
            Self::Image => "image",
            Self::CacheOnly => "cacheonly",
        })
    }
}

impl OutputSpec {
    /// An output of this kind with nothing else said.
    pub fn new(kind: OutputKind) -> Self {
        Self {
            kind,
            destination: None,
            names: Vec::new(),
            archive: true,
            engine_context: None,
            delete: false,
            push: false,
            push_by_digest: false,
            insecure: false,
            compression: None,
            compression_level: None,
            force_compression: false,
            oci_media_types: None,
            rewrite_timestamp: None,
            source_date_epoch: None,
            platform_split: None,
            attestation_prefix: String::new(),
            oci_artifact: false,
            annotations: Vec::new(),
            ignored: Vec::new(),
        }
    }

    /// Parses the value of `--output`: attributes, or a directory, or `-` for an archive on stdout.
    pub fn parse(text: &str) -> Result<Self, OutputError> {
        let fields = attributes::fields(text)?;
        if let [only] = fields.as_slice()
            && !only.starts_with("type=")
            && !only.contains('=')
        {
            let (kind, destination) = match only.as_str() {
                "-" => (OutputKind::Tar, Destination::Stdout),
                path => (OutputKind::Local, Destination::Path(path.into())),
            };
            return Ok(Self { destination: Some(destination), ..Self::new(kind) });
        }
        let pairs = attributes::pairs(text)?;
        let given = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        let kind = given("type").ok_or_else(|| OutputError::NoType(text.to_owned()))?;
        let mut spec = Self::of_type(kind)?;
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in &pairs {
            if seen.contains(&key.as_str()) {
                return Err(AttributeError::Twice(key.clone()).into());
            }
            seen.push(key);
            spec.set(key, value)?;
        }
        if let Some(level) = given("compression-level") {
            spec.compression_level = Some(compression_level(level, spec.compression)?);
        }
        spec.check_form()?;
        Ok(spec)
    }

    /// The time of the build as this output has it, in seconds since 1970; `build` is the one of the build.
    pub fn epoch(&self, build: Option<i64>) -> Option<i64> {
        self.source_date_epoch.and_then(|seconds| i64::try_from(seconds).ok()).or(build)
    }

    /// Checks that there is a destination where one is needed and that no archive goes to a terminal.
    pub fn check_destination(&self, stdout_is_terminal: bool) -> Result<(), OutputError> {
        let to_stdout = match (&self.destination, self.kind) {
            (Some(Destination::Stdout), _) => true,
            // buildx sends these to stdout when no file is named.
            (None, OutputKind::Oci | OutputKind::Tar) => true,
            _ => false,
        };
        if to_stdout && stdout_is_terminal { Err(OutputError::Terminal(self.kind)) } else { Ok(()) }
    }

    /// True when the result is written to stdout, so that nothing else may be.
    pub fn writes_to_stdout(&self) -> bool {
        match &self.destination {
            Some(destination) => *destination == Destination::Stdout,
            None => matches!(self.kind, OutputKind::Oci | OutputKind::Tar),
        }
    }

    fn of_type(kind: &str) -> Result<Self, OutputError> {
        Ok(match kind {
            "local" => Self::new(OutputKind::Local),
            "tar" => Self::new(OutputKind::Tar),
            "oci" => Self::new(OutputKind::Oci),
            "docker" => Self::new(OutputKind::Docker),
            "image" => Self::new(OutputKind::Image),
            "registry" => Self { push: true, ..Self::new(OutputKind::Image) },
            "cacheonly" => Self::new(OutputKind::CacheOnly),
            other => {
                let meant = attributes::closest(other, TYPES);
                return Err(OutputError::Type { kind: other.to_owned(), meant });
            }
        })
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), OutputError> {
        if IGNORED_KEYS.contains(&key) && !self.kind.keys().contains(&key) {
            self.ignored.push(key.to_owned());
            return Ok(());
        }
        if self.kind.is_image()
            && let Some(annotation) = annotation::parse_attribute(key, value)
        {
            self.annotations.push(annotation?);
            return Ok(());
        }
        let known = self.kind.keys();
        if !known.contains(&key) {
            return Err(attributes::unknown(key, &known).into());
        }
        let boolean = || attributes::boolean(key, value);
        match key {
            "dest" if value.is_empty() => return Err(OutputError::NoDestination(self.kind)),
            "dest" => self.destination = Some(destination(value)),
            "name" => {
                self.names = value
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::parse)
                    .collect::<Result<_, ReferenceError>>()?;
            }
            "context" => self.engine_context = Some(value.to_owned()).filter(|name| !name.is_empty()),
            "tar" => self.archive = boolean()?,
            "push" => self.push = boolean()?,
            "push-by-digest" => self.push_by_digest = boolean()?,
            "registry.insecure" => self.insecure = boolean()?,
            "compression" => self.compression = Some(compression(value)?),
            "force-compression" => self.force_compression = boolean()?,
            "oci-mediatypes" => self.oci_media_types = Some(boolean()?),
            "rewrite-timestamp" => self.rewrite_timestamp = Some(boolean()?),
            "source-date-epoch" => {
                let seconds = value.parse().map_err(|_| OutputError::Epoch(value.to_owned()))?;
                self.source_date_epoch = Some(seconds);
            }
            "platform-split" => self.platform_split = Some(boolean()?),
            "attestation-prefix" => {
                if value.contains(['/', '\0']) {
                    return Err(OutputError::Prefix(value.to_owned()));
                }
                value.clone_into(&mut self.attestation_prefix);
            }
            "oci-artifact" => self.oci_artifact = boolean()?,
            "mode" => {
                self.delete = match value {
                    "copy" => false,
                    "delete" => true,
                    other => return Err(OutputError::Mode(other.to_owned())),
                };
            }
            // `type` is read first, and `compression-level` last.
            _ => {}
        }
        Ok(())
    }

    fn check_form(&self) -> Result<(), OutputError> {
        match (self.kind, &self.destination) {
            (OutputKind::Local, None) => Err(OutputError::NoDestination(self.kind)),
            (OutputKind::Docker, Some(_)) if self.engine_context.is_some() => Err(OutputError::ContextOfFile),
            (OutputKind::Local, Some(Destination::Stdout)) => {
                Err(OutputError::DirectoryToStdout("type=local"))
            }
            (OutputKind::Oci, None | Some(Destination::Stdout)) if !self.archive => {
                Err(OutputError::DirectoryToStdout("type=oci,tar=false"))
            }
            _ => Ok(()),
        }
    }
}

fn destination(value: &str) -> Destination {
    if value == "-" { Destination::Stdout } else { Destination::Path(value.into()) }
}

/// Reads `compression-level`.
pub fn compression_level(value: &str, compression: Option<Compression>) -> Result<u32, OutputError> {
    let max = match compression {
        // gzip is what buildx takes when nothing is said.
        Some(Compression::Gzip | Compression::Estargz) | None => 9,
        Some(Compression::Zstd) => 22,
        Some(Compression::Uncompressed) => return Err(OutputError::LevelAlone),
    };
    let level = value.parse().ok().filter(|level| *level <= max);
    level.ok_or_else(|| OutputError::Level { value: value.to_owned(), max })
}

/// The compressor that the attributes stand for.
pub fn compressor(compression: Option<Compression>, level: Option<u32>) -> compress::Compression {
    match (compression, level) {
        (Some(Compression::Uncompressed), _) => compress::Compression::None,
        // buildx counts from 0; zstd's 0 means its default.
        (Some(Compression::Zstd), None | Some(0)) => compress::Compression::DEFAULT_ZSTD,
        (Some(Compression::Zstd), Some(level)) => compress::Compression::Zstd { level: level as i32 },
        // The parts of eStargz are gzip, each of its own.
        (Some(Compression::Gzip | Compression::Estargz) | None, None) => compress::Compression::DEFAULT_GZIP,
        (Some(Compression::Gzip | Compression::Estargz) | None, Some(level)) => {
            compress::Compression::Gzip { level: level.max(1) }
        }
    }
}

/// Reads `compression`.
pub fn compression(value: &str) -> Result<Compression, OutputError> {
    match value {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "estargz" => Ok(Compression::Estargz),
        "uncompressed" => Ok(Compression::Uncompressed),
        other => Err(OutputError::Compression(other.to_owned())),
    }
}

/// Annotations of a platform's manifest.
pub fn manifest_annotations(output: &OutputSpec, platform: &Platform) -> BTreeMap<String, String> {
    let wanted = |carrier: &Carrier| match carrier {
        Carrier::Manifest(None) => true,
        Carrier::Manifest(Some(only)) => only == platform,
        _ => false,
    };
    pick(output, wanted)
}

/// Annotations of the descriptor of a platform's manifest.
pub fn manifest_descriptor_annotations(output: &OutputSpec, platform: &Platform) -> BTreeMap<String, String> {
    let wanted = |carrier: &Carrier| match carrier {
        Carrier::ManifestDescriptor(None) => true,
        Carrier::ManifestDescriptor(Some(only)) => only == platform,
        _ => false,
    };
    pick(output, wanted)
}

/// Annotations of the index' descriptor.
pub fn index_descriptor_annotations(output: &OutputSpec) -> BTreeMap<String, String> {
    pick(output, |carrier| *carrier == Carrier::IndexDescriptor)
}

/// Annotations that no object of an image for these platforms can carry, as the command line writes them.
pub fn homeless_annotations(output: &OutputSpec, platforms: &[&Platform], has_index: bool) -> Vec<String> {
    let homeless = |carrier: &Carrier| match carrier {
        Carrier::Index | Carrier::IndexDescriptor => !has_index,
        Carrier::Manifest(Some(only)) | Carrier::ManifestDescriptor(Some(only)) => !platforms.contains(&only),
        Carrier::Manifest(None) | Carrier::ManifestDescriptor(None) => false,
    };
    let found = output.annotations.iter().filter(|annotation| homeless(&annotation.carrier));
    found.map(|annotation| format!("{}:{}", annotation.carrier, annotation.key)).collect()
}

/// Annotations of the index.
pub fn index_annotations(output: &OutputSpec) -> BTreeMap<String, String> {
    pick(output, |carrier| *carrier == Carrier::Index)
}

fn pick(output: &OutputSpec, wanted: impl Fn(&Carrier) -> bool) -> BTreeMap<String, String> {
    let chosen = output.annotations.iter().filter(|annotation| wanted(&annotation.carrier));
    chosen.map(|annotation| (annotation.key.clone(), annotation.value.clone())).collect()
}

#[cfg(test)]
mod tests;
