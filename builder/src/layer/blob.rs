//! Blobs as streams: reading one with its digest verified, and making a layer's blob in one pass.
//!
//! Invariants:
//! - [`VerifiedReader`] reports end of file only after size and digest were found right;
//! - [`LayerSink`] hashes each byte of the tar once and each byte of the blob once, while they are written.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::base::digest::{DiffId, Digest, HashingWriter};
use crate::layer::compress::{Compression, Compressor};

/// A blob that is not what its descriptor says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BlobError {
    #[error("blob {expected} has the digest {found}")]
    Digest { expected: Digest, found: Digest },
    #[error("blob {digest} ends after {found_bytes} of {expected_bytes} bytes")]
    Short { digest: Digest, expected_bytes: u64, found_bytes: u64 },
    #[error("blob {digest} is longer than the {expected_bytes} bytes that its descriptor states")]
    Long { digest: Digest, expected_bytes: u64 },
}

impl From<BlobError> for io::Error {
    fn from(error: BlobError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Reads a blob and checks it on the way: too many bytes fail at once, too few or other ones at the end.
pub struct VerifiedReader<R> {
    inner: R,
    hasher: Sha256,
    digest: Digest,
    size_bytes: Option<u64>,
    seen_bytes: u64,
    verified: bool,
}

impl<R: Read> VerifiedReader<R> {
    /// Expects `digest`, and `size_bytes` when it is known.
    pub fn new(inner: R, digest: Digest, size_bytes: Option<u64>) -> Self {
        Self { inner, hasher: Sha256::new(), digest, size_bytes, seen_bytes: 0, verified: false }
    }

    /// Reads the rest, so that the whole blob is verified, and gives the inner reader back.
    pub fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.inner)
    }

    fn verify(&mut self) -> Result<(), BlobError> {
        if let Some(expected_bytes) = self.size_bytes.filter(|size| *size != self.seen_bytes) {
            let found_bytes = self.seen_bytes;
            return Err(BlobError::Short { digest: self.digest, expected_bytes, found_bytes });
        }
        let found = Digest::from_bytes(self.hasher.clone().finalize().into());
        if found != self.digest {
            return Err(BlobError::Digest { expected: self.digest, found });
        }
        self.verified = true;
        Ok(())
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let read = self.inner.read(buf)?;
        if read == 0 {
            if !self.verified {
                self.verify()?;
            }
            return Ok(0);
        }
        self.seen_bytes += read as u64;
        if let Some(expected_bytes) = self.size_bytes.filter(|size| *size < self.seen_bytes) {
            return Err(BlobError::Long { digest: self.digest, expected_bytes }.into());
        }
        self.hasher.update(buf.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// What a layer's blob turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerDigests {
    /// Of the tar (semantics fact 86).
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// Of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size_bytes: u64,
}

/// Takes the bytes of a layer's tar, writes its blob, and knows both digests at the end.
pub struct LayerSink<W: Write> {
    hasher: Sha256,
    tar_bytes: u64,
    output: Output<W>,
}

enum Output<W: Write> {
    /// The blob is the tar: one hash serves for both.
    Same(W),
    Compressed(Box<Compressor<HashingWriter<W>>>),
}

impl<W: Write> LayerSink<W> {
    /// Writes the blob to `out`, compressing on `threads` threads.
    pub fn new(out: W, compression: Compression, threads: usize) -> io::Result<Self> {
        let output = match compression {
            Compression::None => Output::Same(out),
            _ => {
                let compressor = Compressor::new(HashingWriter::new(out), compression, threads)?;
                Output::Compressed(Box::new(compressor))
            }
        };
        Ok(Self { hasher: Sha256::new(), tar_bytes: 0, output })
    }

    /// Ends the blob.
    pub fn finish(self) -> io::Result<(W, LayerDigests)> {
        let tar_digest = Digest::from_bytes(self.hasher.finalize().into());
        let (out, digest, size_bytes) = match self.output {
            Output::Same(mut out) => {
                out.flush()?;
                (out, tar_digest, self.tar_bytes)
            }
            Output::Compressed(compressor) => compressor.finish()?.finish(),
        };
        let diff_id = DiffId(tar_digest);
        Ok((out, LayerDigests { diff_id, tar_bytes: self.tar_bytes, digest, size_bytes }))
    }
}

impl<W: Write> Write for LayerSink<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = match &mut self.output {
            Output::Same(out) => out.write(buf)?,
            Output::Compressed(compressor) => compressor.write(buf)?,
        };
        self.hasher.update(buf.get(..written).unwrap_or_default());
        self.tar_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.output {
            Output::Same(out) => out.flush(),
            Output::Compressed(compressor) => compressor.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(bytes: &[u8], digest: Digest, size: Option<u64>) -> BlobError {
        let mut reader = VerifiedReader::new(bytes, digest, size);
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        error.downcast::<BlobError>().unwrap()
    }

    #[test]
    fn wrong_blobs_are_noticed() {
        let digest = Digest::of(b"hello");
        let mut text = String::new();
        VerifiedReader::new(&b"hello"[..], digest, Some(5)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(matches!(error_of(b"hellO", digest, None), BlobError::Digest { .. }));
        assert!(matches!(error_of(b"hell", digest, Some(5)), BlobError::Short { found_bytes: 4, .. }));
        assert!(matches!(error_of(b"hello!", digest, Some(5)), BlobError::Long { .. }));
        assert!(VerifiedReader::new(&b"hellO"[..], digest, Some(5)).finish().is_err());
    }

    #[test]
    fn one_pass_knows_both_digests() {
        let tar = b"not really a tar, but bytes".repeat(100_000);
        for compression in [Compression::None, Compression::DEFAULT_GZIP, Compression::DEFAULT_ZSTD] {
            let mut sink = LayerSink::new(Vec::new(), compression, 2).unwrap();
            sink.write_all(&tar).unwrap();
            let (blob, digests) = sink.finish().unwrap();
            assert_eq!(digests.diff_id.0, Digest::of(&tar));
            assert_eq!((digests.tar_bytes, digests.size_bytes), (tar.len() as u64, blob.len() as u64));
            assert_eq!(digests.digest, Digest::of(&blob));
            let mut back = Vec::new();
            crate::layer::compress::decompressor(&blob[..]).unwrap().read_to_end(&mut back).unwrap();
            assert_eq!(back, tar);
        }
    }

    /// Decompressors must read to the end of the blob, or a wrong digest would stay unnoticed.
    #[test]
    fn wrong_blobs_are_noticed_behind_every_decompressor() {
        let data = b"some content".repeat(10_000);
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&data).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&data).unwrap();
        let mut blobs = vec![bzip2.finish().unwrap(), xz.finish().unwrap()];
        for compression in [Compression::None, Compression::DEFAULT_GZIP, Compression::DEFAULT_ZSTD] {
            let mut sink = LayerSink::new(Vec::new(), compression, 1).unwrap();
            sink.write_all(&data).unwrap();
            blobs.push(sink.finish().unwrap().0);
        }
        for blob in &blobs {
            let format = crate::layer::compress::sniff(blob);
            for (digest, size) in [
                (Digest::of(b"other"), None),
                (Digest::of(blob), Some(blob.len() as u64 + 1)),
                (Digest::of(blob), Some(blob.len() as u64 - 1)),
            ] {
                let reader = VerifiedReader::new(&blob[..], digest, size);
                let mut reader = crate::layer::compress::decompressor(reader).unwrap();
                let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
                assert!(error.get_ref().is_some_and(|e| e.is::<BlobError>()), "{format:?}: {error:?}");
            }
        }
    }
}
