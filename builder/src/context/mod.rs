//! Build contexts: directories of the client, what is left out of them, and fingerprints of their files.

pub mod fingerprint;
pub mod local;
