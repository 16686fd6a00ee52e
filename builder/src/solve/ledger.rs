//! What the scheduler learned about every vertex, for the record of the build.
//!
//! Invariants: whatever ends a build (success, failure, a stop, a panic), the accounts of what was done so far stay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::digest::{CacheKey, Digest};
use crate::plan::graph::VertexId;

/// How a vertex got its result, or why it did not take one from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Look {
    /// Nobody asked: something above it was taken from the store, or the build ended before.
    #[default]
    Unneeded,
    /// Taken by definition key.
    Definition,
    /// Taken by content key: an input ran again and gave what it gave before.
    Content,
    /// Another vertex or another process ran the step meanwhile.
    Elsewhere,
    /// Nothing was stored.
    Missing,
    /// `--no-cache` or `--no-cache-filter`.
    Forced,
    /// What was stored is older than `--cache-ttl` allows; when it was made, in seconds since 1970.
    Expired(i64),
}

/// What is known of one vertex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Its definition key.
    pub definition: Option<CacheKey>,
    /// What it reads from outside.
    pub outside: Option<Digest>,
    /// Its content key, when it was needed.
    pub content: Option<CacheKey>,
    /// What it reads of each input, when that was needed.
    pub contents: Vec<Digest>,
    /// How the store answered.
    pub look: Look,
    /// Identity of its result.
    pub result: Option<Digest>,
}

/// Accounts of a build's vertices. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<VertexId, Account>>>);

impl Ledger {
    /// What is known of every vertex that the results depend on.
    pub fn accounts(&self) -> BTreeMap<VertexId, Account> {
        self.lock().clone()
    }

    /// Changes the account of a vertex.
    pub(super) fn note(&self, id: VertexId, change: impl FnOnce(&mut Account)) {
        change(self.lock().entry(id).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VertexId, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
