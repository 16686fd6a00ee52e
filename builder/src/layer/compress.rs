//! Compressing layers, and reading whatever compression a layer or archive comes in.
//!
//! Invariants:
//! - compressed bytes depend on the input and the [`Compression`] alone: not on the number of threads, the sizes of
//!   the writes or the machine (engine-facts 1.3);
//! - [`Compression::compressor_id`] changes whenever those bytes may change;
//! - memory is bounded: a few blocks per thread.

mod density;
mod gzip;
mod members;
mod read;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

pub use gzip::BLOCK_BYTES;
pub use read::{Format, decompressor, is_archive, sniff};

pub(super) use members::Members;

use gzip::GzipWriter;

/// What one of zstd's threads compresses at a time. Its own choice would be twice as much, and with that a layer of
/// any size takes more than 120 MiB on two processors and as much more on each further pair.
const ZSTD_JOB_BYTES: u32 = 4 * 1024 * 1024;
/// More are no faster than the hashing of what they read and write, and each has jobs under way.
const MAX_ZSTD_THREADS: usize = 4;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Not at all.
    None,
    /// Members of 1 MiB each, by libdeflate; what cannot be made smaller is stored.
    Gzip {
        /// 1 (fast) to 12 (small).
        level: u32,
    },
    /// One frame.
    Zstd {
        /// 1 (fast) to 22 (small).
        level: i32,
    },
}

/// A level that a compressor does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("compression level {level} is not possible for {name}: choose {least} to {most}")]
#[allow(missing_docs)]
pub struct LevelError {
    pub name: &'static str,
    pub level: i64,
    pub least: i64,
    pub most: i64,
}

impl Compression {
    /// gzip as small as engines make it by default, which libdeflate reaches at a lower level than zlib
    /// (docs/benchmarks.md).
    pub const DEFAULT_GZIP: Self = Self::Gzip { level: 4 };
    /// zstd at its own default level.
    pub const DEFAULT_ZSTD: Self = Self::Zstd { level: 3 };

    /// Refuses levels that the compressor does not have.
    pub fn check(self) -> Result<Self, LevelError> {
        let (name, level, least, most) = match self {
            Self::None => return Ok(self),
            Self::Gzip { level } => ("gzip", i64::from(level), 1, 12),
            Self::Zstd { level } => ("zstd", i64::from(level), 1, 22),
        };
        if (least..=most).contains(&level) { Ok(self) } else { Err(LevelError { name, level, least, most }) }
    }

    /// Names everything that the compressed bytes depend on besides the input. Stored next to the digest of a
    /// compressed layer.
    pub fn compressor_id(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Gzip { level } => {
                format!("gzip libdeflater=1.26.1 block={BLOCK_BYTES} dense=1 level={level}")
            }
            Self::Zstd { level } => {
                format!("zstd zstd=0.14.3 mt job={ZSTD_JOB_BYTES} checksum level={level}")
            }
        }
    }
}

/// Compresses what is written to it into `W`.
pub struct Compressor<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Gzip(GzipWriter<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    /// Compresses on `threads` threads (at least one) besides the caller's.
    pub fn new(inner: W, compression: Compression, threads: usize) -> io::Result<Self> {
        let invalid = |e: LevelError| io::Error::new(io::ErrorKind::InvalidInput, e);
        let threads = threads.max(1);
        Ok(Self(match compression.check().map_err(invalid)? {
            Compression::None => Inner::Plain(inner),
            Compression::Gzip { level } => Inner::Gzip(GzipWriter::new(inner, level, threads)?),
            Compression::Zstd { level } => {
                let mut encoder = zstd::Encoder::new(inner, level)?;
                encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB_BYTES))?;
                // Without workers zstd takes another path with other bytes.
                encoder.multithread(u32::try_from(threads.min(MAX_ZSTD_THREADS)).unwrap_or(1))?;
                encoder.include_checksum(true)?;
                Inner::Zstd(encoder)
            }
        }))
    }

    /// Ends the compressed stream.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Plain(mut inner) => {
                inner.flush()?;
                Ok(inner)
            }
            Inner::Gzip(writer) => writer.finish(),
            Inner::Zstd(encoder) => {
                let mut inner = encoder.finish()?;
                inner.flush()?;
                Ok(inner)
            }
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(inner) => inner.write(buf),
            Inner::Gzip(writer) => writer.write(buf),
            Inner::Zstd(encoder) => encoder.write(buf),
        }
    }

    /// Does nothing for compressed streams: a flush would end a block early and so change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(inner) => inner.flush(),
            Inner::Gzip(_) | Inner::Zstd(_) => Ok(()),
        }
    }
}
