//! Recognising and reading compressed streams.
//!
//! Invariants: the content decides, never a name or a media type (semantics fact 27); what follows the end of a
//! compressed stream must be another stream of the same kind.

use std::io::{self, Cursor, Read};

use crate::layer::tar;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    /// Not compressed in a known way.
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

/// Bytes that [`sniff`] wants to see.
const SNIFF_BYTES: usize = 10;
/// Memory that an xz stream may ask for; the largest preset needs 65 MiB.
const XZ_MEMORY_BYTES: u64 = 512 * 1024 * 1024;

impl Format {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }
}

/// Tells the format from the first bytes of a stream (ten are enough).
pub fn sniff(start: &[u8]) -> Format {
    match start {
        [0x1f, 0x8b, 0x08, ..] => Format::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Zstd,
        // A skippable frame in front (RFC 8878, 3.1.2).
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        // "BZh", block size, and the magic of the first block or of the end.
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
        | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Format::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Format::Xz,
        _ => Format::Plain,
    }
}

/// Reads `reader` decompressed, whatever it is compressed with.
pub fn decompressor<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut start = Vec::with_capacity(SNIFF_BYTES);
    reader.by_ref().take(SNIFF_BYTES as u64).read_to_end(&mut start)?;
    let format = sniff(&start);
    let stream = Cursor::new(start).chain(reader);
    let inner: Box<dyn Read + Send + 'a> = match format {
        Format::Plain => return Ok(Box::new(stream)),
        Format::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
        Format::Zstd => Box::new(zstd::Decoder::new(stream)?),
        Format::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(stream)),
        Format::Xz => {
            let decoder =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::read::XzDecoder::new_stream(stream, decoder))
        }
    };
    Ok(Box::new(Named { inner, format }))
}

/// True when `reader` is a tar archive, compressed or not: what ADD unpacks (language.md 1.7).
pub fn is_archive(reader: impl Read + Send) -> bool {
    decompressor(reader).is_ok_and(tar::begins_with_entry)
}

/// Says in errors which format is damaged.
struct Named<'a> {
    inner: Box<dyn Read + Send + 'a>,
    format: Format,
}

/// A compressed stream that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
#[error("{format} data is damaged or ends early")]
struct DamagedError {
    format: &'static str,
    #[source]
    source: io::Error,
}

impl Read for Named<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|source| match source.kind() {
            // The decoders report damage with these; everything else came from below.
            io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::Other
                if source.get_ref().is_none_or(|inner| !inner.is::<crate::layer::blob::BlobError>()) =>
            {
                let kind = source.kind();
                io::Error::new(kind, DamagedError { format: self.format.name(), source })
            }
            _ => source,
        })
    }
}
