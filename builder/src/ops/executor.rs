//! What the scheduler asks of whoever executes vertices: the local executor today, a remote one later.
//!
//! Invariants: a call gets specs and results only; nothing in it refers to the scheduler's own state.

use crate::base::digest::{CacheKey, Digest};
use crate::plan::graph::{Graph, VertexId};
use crate::store::records::{FsState, StepResult};

/// What a vertex gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VertexResult {
    /// A file system.
    Fs(StepResult),
    /// A downloaded file in the store.
    File(Downloaded),
    /// A directory of the client: read where it is, never a result of its own.
    Local,
}

impl VertexResult {
    /// The file system with the steps that led to it, when it is one.
    pub fn fs(&self) -> Option<&StepResult> {
        match self {
            Self::Fs(result) => Some(result),
            Self::File(_) | Self::Local => None,
        }
    }

    /// The file system, when it is one.
    pub fn state(&self) -> Option<&FsState> {
        self.fs().map(|result| &result.state)
    }
}

/// A downloaded file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Blob in the store.
    pub digest: Digest,
    /// Name that the URL or the server gives it.
    pub file_name: String,
    /// Seconds since 1970.
    pub modified: i64,
}

/// Executes vertices.
pub trait Executor: Sync {
    /// Why a vertex failed.
    type Error: Send + std::fmt::Display;

    /// Digest of what a vertex reads from outside the graph: selected files of a context, the body of a URL, a
    /// commit. Part of its definition key.
    ///
    /// # Errors
    /// When the outside cannot be read.
    fn outside(&self, graph: &Graph, id: VertexId) -> Result<Option<Digest>, Self::Error>;

    /// The definition keys, with names for people, that may be looked up, the results' first: for caches where many
    /// questions at once cost less than one after the other.
    fn expect(&self, _steps: &[(CacheKey, &str)]) {}

    /// A stored result by definition key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn lookup(&self, key: &CacheKey) -> Result<Option<StepResult>, Self::Error>;

    /// A stored result by content key. `shared` is the key for remote caches when that is another one, see
    /// [`Executor::shared_contents`].
    ///
    /// # Errors
    /// When the store cannot be read.
    fn lookup_content(
        &self,
        key: &CacheKey,
        _shared: Option<&CacheKey>,
    ) -> Result<Option<StepResult>, Self::Error> {
        self.lookup(key)
    }

    /// Takes the right to run the step of this key, until what is given back is dropped; `None` while another process
    /// has it. Never waits.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn claim(&self, _key: &CacheKey) -> Result<Option<Box<dyn Send>>, Self::Error> {
        Ok(Some(Box::new(())))
    }

    /// Stores a result under its keys.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn save(
        &self,
        keys: &[CacheKey],
        result: &StepResult,
        name: &str,
        took_ms: u64,
    ) -> Result<(), Self::Error>;

    /// For each input, the digest of what the vertex reads of it.
    ///
    /// # Errors
    /// When an input cannot be read.
    fn contents(
        &self,
        graph: &Graph,
        id: VertexId,
        inputs: &[VertexResult],
    ) -> Result<Vec<Digest>, Self::Error>;

    /// What [`Executor::contents`] gave, as other machines know it; `None` when that is the same. Differs where an
    /// input came from a remote cache, whose word about identities is not taken here.
    fn shared_contents(&self, _inputs: &[VertexResult], _contents: &[Digest]) -> Option<Vec<Digest>> {
        None
    }

    /// Does the work.
    ///
    /// # Errors
    /// When the step fails.
    fn execute(
        &self,
        graph: &Graph,
        id: VertexId,
        inputs: &[VertexResult],
    ) -> Result<VertexResult, Self::Error>;
}
