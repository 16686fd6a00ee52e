//! Damage of the store that a build meets: what is damaged is removed, and the build begins again, which fetches or
//! makes it anew.
//!
//! Invariants: only what was found damaged or gone is removed; a build begins again a limited number of times, and never
//! after it was stopped.

use super::BuildError;
use crate::base::cancel::CancelToken;
use crate::base::digest::{DiffId, Digest};
use crate::base::events::EventSink;
use crate::export::archive::OutputFailure;
use crate::export::layers::LayerError;
use crate::ops::OpError;
use crate::snapshot::pending::LostLayer;
use crate::store::{Finding, Store, StoreError};
use crate::transfer::TransferError;

/// Each attempt removes one thing. Damage is rare, and what cannot be had in so many attempts cannot be had.
const MAX_ATTEMPTS: usize = 20;

/// What an error is about.
enum Suspect {
    /// It may be damaged or gone.
    Blob(Digest),
    /// It may be damaged, or never have been here.
    Present(Digest),
    /// It is gone.
    Lost(Digest),
    /// Its blob is gone.
    Layer(DiffId),
}

/// Runs `attempt` until it succeeds, or fails for another reason than the store.
pub(super) fn healing<T>(
    store: &Store,
    (events, cancel): (&EventSink, &CancelToken),
    mut attempt: impl FnMut() -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let mut removed = Vec::new();
    loop {
        let error = match attempt() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let healed = match suspect(&error) {
            Some(suspect) if !cancel.is_cancelled() && removed.len() + 1 < MAX_ATTEMPTS => {
                heal(store, &suspect)?
            }
            _ => None,
        };
        let Some(text) = healed else {
            if !removed.is_empty() && !is_of_command(&error) && !cancel.is_cancelled() {
                events.warn(format!(
                    "what the store lacks could not be had again ({}); `kiln fsck --repair` removes everything that \
                     cannot be used without it",
                    removed.join("; ")
                ));
            }
            return Err(error);
        };
        events.warn(format!("{text}; it is made or fetched again"));
        removed.push(text);
    }
}

/// Whether a command failed, which has nothing to do with the store.
fn is_of_command(error: &BuildError) -> bool {
    match error {
        BuildError::Step { source, .. } => source.is_of_command(),
        BuildError::Several(errors) => errors.iter().all(is_of_command),
        _ => false,
    }
}

fn suspect(error: &BuildError) -> Option<Suspect> {
    let found = match error {
        BuildError::Several(errors) => return errors.iter().find_map(suspect),
        BuildError::Store(error)
        | BuildError::Layer(LayerError::Store(error))
        | BuildError::Output(OutputFailure::Store(error))
        | BuildError::Transfer(TransferError::Store(error)) => of_store(error),
        BuildError::Output(OutputFailure::Blob { digest, .. })
        | BuildError::Transfer(TransferError::Read { digest, .. }) => Some(Suspect::Blob(*digest)),
        BuildError::Step { source, .. } => of_step(source),
        _ => None,
    };
    // A layer of a remote cache or of its image, whose blob was here already.
    found.or_else(|| LostLayer::among(error).map(|lost| Suspect::Present(lost.digest)))
}

fn of_step(error: &OpError) -> Option<Suspect> {
    match error {
        OpError::Store(error) => of_store(error),
        OpError::Apply { digest, .. }
        | OpError::ReadLayer { digest, .. }
        | OpError::WrongDiffId { digest, .. } => Some(Suspect::Blob(*digest)),
        _ => None,
    }
}

fn of_store(error: &StoreError) -> Option<Suspect> {
    match error {
        StoreError::DamagedBlob { digest } => Some(Suspect::Blob(*digest)),
        StoreError::WrongDigest { expected, .. } => Some(Suspect::Present(*expected)),
        StoreError::NoBlob { digest } => Some(Suspect::Lost(*digest)),
        StoreError::LostLayer { diff_id } => Some(Suspect::Layer(*diff_id)),
        _ => None,
    }
}

/// Removes what is damaged. Gives what it was, or nothing when the store is not at fault.
fn heal(store: &Store, suspect: &Suspect) -> Result<Option<String>, BuildError> {
    Ok(match suspect {
        Suspect::Blob(digest) | Suspect::Present(digest) => match store.check_blob(digest) {
            Some(finding @ (Finding::DamagedBlob { .. } | Finding::UnreadableBlob { .. })) => {
                // Nothing of this build runs any more, and it looks everything up again.
                store.give_up_leases()?;
                store.discard_blob(digest)?;
                Some(finding.to_string())
            }
            _ if matches!(suspect, Suspect::Blob(_)) && store.stat_blob(digest).is_none() => {
                return heal(store, &Suspect::Lost(*digest));
            }
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
