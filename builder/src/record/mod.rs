//! What builds did: one record for each, below the store's `records/`, for `kiln history`, `kiln log` and
//! `kiln explain`.
//!
//! ```text
//! records/TIME-ID/build.json      the record (version 1); TIME: milliseconds since 1970, in hexadecimal
//! records/TIME-ID/N.log[.zst]     everything that step N wrote, unclipped; compressed when it is long
//! records/listings/DIGEST         the files of a selection that a step read, so that a later build can name the
//!                                 one that changed (zstd, see `listing`)
//! ```
//!
//! A record is made of the events of a build, as progress is ([`recorder`]), of its graph, and of what the scheduler
//! noted. When something ran, the closest earlier record of the same step tells why ([`explain`]).
//!
//! Invariants:
//! - records are input: a file that is cut off or was written by another version is skipped or told, and never stops a
//!   build;
//! - a build never fails because its record could not be written;
//! - no value of a secret and no proxy is in a record; the values of `--secret` are masked in all that steps say
//!   before progress or a record sees it ([`masked`]);
//! - what is kept is bounded ([`shelf`]), and a build that runs nothing writes one small file.

mod explain;
pub mod listing;
mod masks;
mod miss;
pub mod recorder;
pub mod shelf;
pub mod users;

use serde::{Deserialize, Serialize};

use crate::base::digest::{CacheKey, Digest};
use crate::plan::graph::Guards;

pub use explain::explain;
pub use listing::Listings;
pub use masks::masked;
pub use miss::MissReason;
pub use recorder::Recorder;
pub use shelf::{RecordError, Shelf};

/// Version of `build.json`. New keys do not change it; another meaning of a key does.
pub const VERSION: u32 = 1;

/// What is built, for people, and for finding earlier builds of the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The Buildfile.
    pub file: String,
    /// The context: a directory, or a reference without credentials.
    pub context: String,
    /// `--target`.
    pub target: Option<String>,
    /// Names of the image.
    pub names: Vec<String>,
    /// `--platform`.
    pub platforms: Vec<String>,
    /// Names of `--build-arg`.
    pub build_args: Vec<String>,
    /// Other names that ARG declares and ENV does not set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
}

impl About {
    /// Whether builds of both are builds of the same thing.
    pub fn is_same_project(&self, other: &Self) -> bool {
        self.file == other.file && self.context == other.context
    }

    /// Whether a variable is known to be a build argument.
    pub fn has_argument(&self, name: &str) -> bool {
        self.build_args.iter().chain(&self.arguments).any(|argument| argument == name)
    }
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildResult {
    /// It still runs, or it was killed.
    #[default]
    Unfinished,
    /// An image or what else was asked for is there.
    Succeeded,
    /// Something failed.
    Failed,
    /// The user stopped it.
    Stopped,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// The build ended before its turn, or still runs.
    #[default]
    NotReached,
    /// Nobody asked for it: what reads it was taken from the store.
    Covered,
    /// Taken from the store.
    Cached,
    /// Executed.
    Ran,
    /// Executed, in vain.
    Failed,
    /// Stopped because of something else.
    Cancelled,
}

impl StepOutcome {
    /// Whether a result of the step was there afterwards.
    pub fn has_result(self) -> bool {
        matches!(self, Self::Covered | Self::Cached | Self::Ran)
    }
}

/// Why a step did not even ask for a stored result, or did not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// `--no-cache`.
    NoCache,
    /// `--no-cache-filter`.
    NoCacheFilter,
    /// It ran that many seconds before the build, longer ago than `--cache-ttl` allows.
    Expired(u64),
}

/// How many steps did what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Steps as people count them.
    pub steps: u32,
    /// Taken from the store, or not even looked at.
    pub cached: u32,
    /// Executed.
    pub ran: u32,
    /// Failed.
    pub failed: u32,
    /// Bytes of files in what the steps that ran have added.
    pub written_bytes: u64,
}

/// A build, without its steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Head {
    /// Of the format.
    pub version: u32,
    /// Name of the build: hexadecimal digits; a beginning that is unique will do.
    pub id: String,
    /// Version of kiln.
    pub kiln: String,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// What was built.
    pub about: About,
    /// How it ended.
    pub result: BuildResult,
    /// Why it failed.
    pub error: Option<String>,
    /// Digest of the image's manifest or index.
    pub image: Option<Digest>,
    /// Sums.
    pub totals: Totals,
}

/// A build.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildRecord {
    /// All but the steps.
    #[serde(flatten)]
    pub head: Head,
    /// Every vertex that the result depends on, in the order of the graph.
    pub steps: Vec<StepRecord>,
}

/// A step of a build.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRecord {
    /// Number in progress output.
    pub number: u32,
    /// `[build 2/5] RUN make`.
    pub name: String,
    /// Stage; empty for sources.
    pub stage: String,
    /// Whether people count it.
    pub counted: bool,
    /// Platform.
    pub platform: String,
    /// Numbers of the steps whose results it reads.
    pub inputs: Vec<u32>,
    /// What it does: the canonical spec, without credentials of URLs.
    pub spec: serde_json::Value,
    /// Name and manifest digest of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<(String, Digest)>,
    /// Limits and attempts of a RUN.
    #[serde(skip_serializing_if = "Guards::is_none")]
    pub guards: Guards,
    /// Definition key.
    pub key: Option<CacheKey>,
    /// What it reads from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<Digest>,
    /// Content key, when it was needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_key: Option<CacheKey>,
    /// What it reads of each input, when that was needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<Digest>,
    /// Identity of its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Digest>,
    /// How it ended.
    pub outcome: StepOutcome,
    /// Taken by content key: an input ran again and gave what it gave before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_content: bool,
    /// No stored result was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// When it started, in milliseconds after the build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// How long it took.
    #[serde(skip_serializing_if = "is_zero")]
    pub took_ms: u64,
    /// Bytes of files in what it has added, when it ran.
    #[serde(skip_serializing_if = "is_zero")]
    pub written_bytes: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Exit status of a command that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Bytes of its log, uncompressed.
    #[serde(skip_serializing_if = "is_zero")]
    pub log_bytes: u64,
    /// Why it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub miss: Option<MissReason>,
    /// It ran and gave what it gave before, so that everything below stayed cached.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

// serde wants a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl BuildRecord {
    /// The step with this number.
    pub fn step(&self, number: u32) -> Option<&StepRecord> {
        let at = self.steps.binary_search_by_key(&number, |step| step.number).ok()?;
        self.steps.get(at)
    }

    /// Steps that ran, with the reason.
    pub fn misses(&self) -> impl Iterator<Item = (&StepRecord, &MissReason)> {
        self.steps.iter().filter_map(|step| Some((step, step.miss.as_ref()?)))
    }
}
