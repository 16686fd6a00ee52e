//! Where a blob's bytes go while they arrive.
//!
//! Invariants: what a sink holds counts only when whoever fills it says so in the end.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write};

use super::digest::HashingWriter;

/// A writer that can be filled anew, when what came first turns out to be wrong.
pub trait BlobSink: Write {
    /// Forgets everything that was written.
    ///
    /// # Errors
    /// When that cannot be taken back; the blob cannot be had then.
    fn restart(&mut self) -> io::Result<()>;
}

impl BlobSink for Vec<u8> {
    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl BlobSink for File {
    fn restart(&mut self) -> io::Result<()> {
        self.rewind()?;
        self.set_len(0)
    }
}

impl BlobSink for BufWriter<File> {
    fn restart(&mut self) -> io::Result<()> {
        // Seeking writes out what is buffered, so that it cannot come later.
        self.rewind()?;
        self.get_mut().set_len(0)
    }
}

impl<W: BlobSink> BlobSink for HashingWriter<W> {
    fn restart(&mut self) -> io::Result<()> {
        self.inner_mut().restart()?;
        self.forget();
        Ok(())
    }
}

impl<W: BlobSink + ?Sized> BlobSink for &mut W {
    fn restart(&mut self) -> io::Result<()> {
        (**self).restart()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;

    #[test]
    fn a_file_filled_anew_has_nothing_of_before() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sink = HashingWriter::new(BufWriter::new(file.reopen().unwrap()));
        sink.write_all(b"longer than what follows").unwrap();
        sink.restart().unwrap();
        sink.write_all(b"right").unwrap();
        sink.flush().unwrap();
        let (_, digest, size_bytes) = sink.finish();
        assert_eq!((digest, size_bytes), (Digest::of(b"right"), 5));
        assert_eq!(std::fs::read(file.path()).unwrap(), b"right");
    }
}
