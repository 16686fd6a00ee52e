//! Executors: what each kind of vertex does.

mod caches;
mod commit;
pub mod copy;
mod error;
pub mod executor;
mod guards;
mod image;
mod imports;
mod local;
mod mounted;
mod run;
mod sources;
mod stat_cache;
mod stubs;
pub mod trust;

pub use error::OpError;
pub use image::LayerFetcher;
pub use imports::{ImportSetup, Imports};
pub use local::{LocalExecutor, RunDefaults, SecretSource};
pub use run::{Shell, Visit, Wrecks, interactive, missing, visit};
pub use sources::Fetched;
