//! Damage of the store that a build meets: what is damaged is removed, and the build begins again, which fetches or
//! makes it anew.
//!
//! Invariants: only what was found damaged or gone is removed; a build begins again a few times at most, and never
//! after it was stopped.

use super::{BuildError, Request};
use crate::base::digest::{DiffId, Digest};
use crate::export::archive::OutputFailure;
use crate::export::layers::LayerError;
use crate::ops::OpError;
use crate::store::{Finding, Store, StoreError};
use crate::transfer::TransferError;

/// Damage is rare, and what cannot be had in a few attempts cannot be had.
const MAX_ATTEMPTS: usize = 5;

/// What an error is about.
enum Suspect {
    /// It may be damaged.
    Blob(Digest),
    /// It is gone.
    Lost(Digest),
    /// Its blob is gone.
    Layer(DiffId),
}

/// Runs `attempt` until it succeeds, or fails for another reason than the store.
pub(super) fn healing<T>(
    store: &Store,
    request: &Request,
    mut attempt: impl FnMut() -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    for _ in 1..MAX_ATTEMPTS {
        let error = match attempt() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let healed = match suspect(&error) {
            Some(suspect) if !request.cancel.is_cancelled() => heal(store, &suspect)?,
            _ => None,
        };
        match healed {
            Some(text) => request.events.warn(format!("{text}; it is made or fetched again")),
            None => return Err(error),
        }
    }
    attempt()
}

fn suspect(error: &BuildError) -> Option<Suspect> {
    match error {
        BuildError::Store(error)
        | BuildError::Layer(LayerError::Store(error))
        | BuildError::Output(OutputFailure::Store(error))
        | BuildError::Transfer(TransferError::Store(error)) => of_store(error),
        BuildError::Output(OutputFailure::Blob { digest, .. })
        | BuildError::Transfer(TransferError::Read { digest, .. }) => Some(Suspect::Blob(*digest)),
        BuildError::Step { source, .. } => match &**source {
            OpError::Store(error) => of_store(error),
            OpError::Apply { digest, .. } | OpError::WrongDiffId { digest, .. } => {
                Some(Suspect::Blob(*digest))
            }
            _ => None,
        },
        _ => None,
    }
}

fn of_store(error: &StoreError) -> Option<Suspect> {
    match error {
        StoreError::DamagedBlob { digest } => Some(Suspect::Blob(*digest)),
        StoreError::NoBlob { digest } => Some(Suspect::Lost(*digest)),
        StoreError::LostLayer { diff_id } => Some(Suspect::Layer(*diff_id)),
        _ => None,
    }
}

/// Removes what is damaged. Gives what it was, or nothing when the store is not at fault.
fn heal(store: &Store, suspect: &Suspect) -> Result<Option<String>, BuildError> {
    Ok(match suspect {
        Suspect::Blob(digest) => match store.check_blob(digest) {
            Some(finding @ (Finding::DamagedBlob { .. } | Finding::UnreadableBlob { .. })) => {
                // Nothing of this build runs any more, and it looks everything up again.
                store.give_up_leases()?;
                store.discard_blob(digest)?;
                Some(finding.to_string())
            }
            _ if store.stat_blob(digest).is_none() => return heal(store, &Suspect::Lost(*digest)),
            _ => None,
        },
        Suspect::Lost(digest) => {
            store.give_up_leases()?;
            store.discard_blob(digest)?;
            Some(format!("blob {digest} of the store is gone"))
        }
        Suspect::Layer(diff_id) => {
            store.give_up_leases()?;
            store.discard_layer(diff_id)?;
            Some(format!("layer {diff_id} of a base image is gone"))
        }
    })
}
