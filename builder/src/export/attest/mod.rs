//! Attestations: what is said of an image beside it, in the forms of BuildKit (its docs/attestations).
//!
//! Invariants:
//! - nothing here reads a clock, the environment or the network: times and names come in;
//! - equal input gives equal bytes: everything is sorted;
//! - no value of a secret, no credential of a URL and no path of this machine gets in.

mod attestor;
mod manifest;
pub mod options;
pub mod provenance;
mod purl;
mod sbom;
mod statement;
mod walk;

pub use attestor::Attestor;
pub use manifest::{BuiltAttestation, manifest};
pub use statement::{Statement, Subject};
pub use walk::WalkError;
