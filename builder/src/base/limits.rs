//! Limits on what kiln accepts from outside, each with its reason.

/// Largest image config, manifest or index that is read (the distribution spec asks registries for 4 MiB).
pub const MAX_METADATA_BYTES: u64 = 4 * 1024 * 1024;
/// Largest Buildfile.
pub const MAX_BUILDFILE_BYTES: u64 = 16 * 1024 * 1024;
/// Largest secret (buildx refuses more than this as well).
pub const MAX_SECRET_BYTES: u64 = 500 * 1024;
/// Most layers of one file system: overlayfs takes 500 lower directories and one upper (engine-facts 1.8).
pub const MAX_LAYERS: usize = 499;
/// Largest PAX header of one archive entry.
pub const MAX_PAX_BYTES: u64 = 1024 * 1024;
/// Longest chain of symlinks that a path inside an image may go through (as the kernel's).
pub const MAX_SYMLINKS: usize = 40;
