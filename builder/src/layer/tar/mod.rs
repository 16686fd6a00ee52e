//! The tar format: ustar blocks, PAX records (POSIX.1-2017 pax), and the GNU extensions that readers meet.
//!
//! Our own codec, because the `tar` crate loses xattrs, hard links, negative times and PAX values with newlines
//! (engine-facts 1.2); its [`tar::Header`](::tar::Header) serves as the 512-byte block.
//!
//! Invariants:
//! - one entry has one [`Entry`], the same for reading and writing;
//! - nothing is trusted: every length has a bound, every number a range, and a stream that ends early is an error;
//! - the writer's bytes depend on the entries alone: numeric ids, no atime or ctime (semantics fact 77).

mod block;
pub mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;

pub use reader::Reader;
pub use writer::{Writer, head};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// Another name of an earlier entry, or of a file in a lower layer.
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[allow(missing_docs)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

/// One member of an archive, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as the archive has it, without the trailing slashes of directories. Not cleaned otherwise: it may
    /// be absolute or hold `..`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky: the lowest twelve bits.
    pub mode: u32,
    /// Owner; never `u32::MAX`, which the kernel takes for "leave alone".
    pub uid: u32,
    /// Group; never `u32::MAX`.
    pub gid: u32,
    /// Modification time in seconds since 1970, also before it.
    pub mtime_seconds: i64,
    /// What is to be added to the seconds; below 1,000,000,000.
    pub mtime_nanoseconds: u32,
    /// Bytes of a regular file, holes included; 0 for everything else.
    pub size: u64,
    /// Target of a symlink or of a hard link; empty for everything else.
    pub link: Vec<u8>,
    /// Number of a device; zero for everything else.
    pub device: Device,
    /// Extended attributes (`SCHILY.xattr.*` records).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// An entry of user 0 with mode 0755 for directories, 0777 for symlinks and 0644 for everything else.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        let mode = match kind {
            Kind::Directory => 0o755,
            Kind::Symlink => 0o777,
            _ => 0o644,
        };
        Self {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime_seconds: 0,
            mtime_nanoseconds: 0,
            size: 0,
            link: Vec::new(),
            device: Device::default(),
            xattrs: BTreeMap::new(),
        }
    }
}

/// Why an archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TarError {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    #[error("cannot read the data of `{path}`")]
    Data {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` became shorter while it was read: {missing_bytes} bytes are missing")]
    ShortData { path: String, missing_bytes: u64 },
    #[error("the archive ends in the middle of {what}")]
    Truncated { what: &'static str },
    #[error("no tar header at byte {offset}: the checksum is wrong")]
    Checksum { offset: u64 },
    #[error("tar header at byte {offset}: {field} is not a number")]
    Number { offset: u64, field: &'static str },
    #[error("tar header at byte {offset}: {field} {value} is out of range")]
    Range { offset: u64, field: &'static str, value: i64 },
    #[error("extended header at byte {offset} is damaged")]
    Pax {
        offset: u64,
        #[source]
        source: pax::PaxError,
    },
    #[error(
        "tar header at byte {offset}: {what} of {size_bytes} bytes is larger than the limit of {limit_bytes}"
    )]
    TooLarge { offset: u64, what: &'static str, size_bytes: u64, limit_bytes: u64 },
    #[error("`{path}` has entry type {type_flag:?}, which is not supported")]
    UnsupportedType { path: String, type_flag: char },
    #[error("directory `{path}` has data")]
    DirectoryWithData { path: String },
    #[error("name or link target at byte {offset} holds a NUL byte")]
    NulInName { offset: u64 },
    #[error("sparse file `{path}`: {reason}")]
    Sparse { path: String, reason: &'static str },
    #[error("`{path}` cannot be written to an archive: {reason}")]
    Unrepresentable { path: String, reason: &'static str },
}

impl From<TarError> for io::Error {
    fn from(error: TarError) -> Self {
        let kind = match &error {
            TarError::Read(e) | TarError::Write(e) | TarError::Data { source: e, .. } => e.kind(),
            TarError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// True when the bytes of `reader` (already decompressed) begin with a tar entry: what ADD takes for an archive
/// (semantics fact 27). An archive without entries is none, as for BuildKit.
pub fn begins_with_entry(reader: impl io::Read) -> bool {
    match Reader::new(reader).next_entry() {
        Ok(entry) => entry.is_some(),
        // A well-formed header of something that is refused later, with a message that says so.
        Err(
            TarError::UnsupportedType { .. }
            | TarError::Sparse { .. }
            | TarError::DirectoryWithData { .. }
            | TarError::Pax { .. }
            | TarError::TooLarge { .. }
            | TarError::Range { .. },
        ) => true,
        Err(_) => false,
    }
}

fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
