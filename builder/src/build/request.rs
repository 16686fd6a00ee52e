//! What a build is asked for, what it works with, and what it gives.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_grammar::diagnostic::Diagnostic;
use serde_json::Value;

use super::debug::{Arrival, ShellRequest};
use super::until::Until;
use super::{BuildError, CacheSource, CacheTarget, PullPolicy};
use crate::base::cancel::CancelToken;
use crate::base::digest::Digest;
use crate::base::events::EventSink;
use crate::context::git::GitEnvironment;
use crate::context::local::LocalContext;
use crate::export::assemble::BuiltIndex;
use crate::export::attest::options::{Attestations, Mode};
use crate::export::attest::provenance::RemoteContext;
use crate::export::merge::MergePolicy;
use crate::export::spec::OutputSpec;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::net::Net;
use crate::ops::RunDefaults;
use crate::plan::graph::PlanOptions;
use crate::record::Recorder;
use crate::registry::Client;
use crate::sandbox::runner::Sandboxes;
use crate::store::Store;

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Where everything is kept.
    pub store: &'a Store,
    /// Starts commands.
    pub sandboxes: &'a Sandboxes,
    /// Downloads.
    pub net: &'a Net,
    /// Registries.
    pub registry: &'a Client,
    /// For git.
    pub git: &'a GitEnvironment,
}

/// What is to be built.
pub struct Request {
    /// Name of the Buildfile for messages.
    pub file_name: String,
    /// Its text.
    pub text: String,
    /// What planning needs.
    pub plan: PlanOptions,
    /// Directories of the client by context name; the main one's is empty.
    pub contexts: BTreeMap<String, LocalContext>,
    /// What RUN gets.
    pub defaults: RunDefaults,
    /// When registries are asked.
    pub pull: PullPolicy,
    /// Names of the image.
    pub names: Vec<Reference>,
    /// Where it goes; with none it stays in the store.
    pub outputs: Vec<OutputSpec>,
    /// Clamp file times in new layers to the epoch, when there is one.
    pub rewrite_timestamps: bool,
    /// What docker and podman get besides kiln's own environment (`--load`).
    pub engine_variables: Vec<(String, String)>,
    /// Which layers become one.
    pub merge: MergePolicy,
    /// What is said of the image beside it.
    pub attestations: Attestations,
    /// The archive that the main context was unpacked from.
    pub remote_context: Option<RemoteContext>,
    /// Whether the report says how the image was made.
    pub reports_provenance: Option<Mode>,
    /// Remote caches to take results from, in this order.
    pub cache_from: Vec<CacheSource>,
    /// Remote caches to write results to.
    pub cache_to: Vec<CacheTarget>,
    /// Most steps at a time.
    pub jobs: usize,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Ends after this step, without outputs.
    pub until: Option<Until>,
    /// After a failure, enters the step that failed.
    pub on_failure: Option<OnFailure>,
    /// Steps that ran before this time, in seconds since 1970, run again.
    pub oldest: Option<i64>,
    /// Makes the record of the build; it has to hear `events` too, see [`Recorder::listen`].
    pub recorder: Option<Recorder>,
    /// Progress.
    pub events: EventSink,
    /// Stops the build.
    pub cancel: CancelToken,
}

/// Told of a failure, and of the step that is entered or why it cannot be.
pub type OnArrival = dyn Fn(&BuildError, Result<&Arrival, &BuildError>) + Send + Sync;

/// A shell in the place of the step that fails.
pub struct OnFailure {
    /// What runs there.
    pub shell: ShellRequest,
    /// Called before the shell begins.
    pub arrive: Box<OnArrival>,
}

/// What a build gave.
#[derive(Debug)]
pub struct Report {
    /// The image, unless every output was of files.
    pub image: Option<BuiltIndex>,
    /// How each platform's image was made, in the form of SLSA v0.2, if that was asked for.
    pub provenance: Vec<(Platform, Value)>,
    /// Findings about the Buildfile that did not stop the build.
    pub warnings: Vec<Diagnostic>,
    /// `--build-arg` that nothing consumed.
    pub unused_build_args: Vec<String>,
    /// The step that it ended after, with `--until`: its number and name.
    pub stopped: Option<(u32, String)>,
    /// Steps that ran.
    pub executed: usize,
    /// Steps taken from the store.
    pub cached: usize,
    /// Wall time.
    pub took: Duration,
}

impl Report {
    /// The image id: the config's digest of a single image, the index' digest of several, or of one with attestations
    /// (semantics fact 98).
    pub fn image_id(&self) -> Option<Digest> {
        let image = self.image.as_ref()?;
        match &image.images[..] {
            [only] if !image.is_index() => Some(only.config_digest),
            _ => Some(image.descriptor.digest),
        }
    }
}
