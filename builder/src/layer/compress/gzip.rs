//! Parallel gzip: every [`BLOCK_BYTES`] of input become one gzip member (RFC 1952, 2.2: members may follow each
//! other), so blocks need nothing of one another.
//!
//! Invariants: an empty input is one empty member: no reader takes nothing for gzip.

use std::io::{self, Write};

use super::members::Members;

/// Input bytes of one member.
pub const BLOCK_BYTES: usize = 1024 * 1024;

/// Writes gzip to `W`.
pub(super) struct GzipWriter<W: Write> {
    members: Members<W>,
    block: Vec<u8>,
}

impl<W: Write> GzipWriter<W> {
    pub(super) fn new(inner: W, level: u32, threads: usize) -> io::Result<Self> {
        Ok(Self { members: Members::new(inner, level, threads)?, block: Vec::new() })
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        // A single block needs no thread.
        if !self.block.is_empty() || self.members.is_unused() {
            self.members.push_last(&self.block)?;
        }
        self.members.finish()
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK_BYTES {
            self.block = self.members.push(std::mem::take(&mut self.block))?;
        }
        let count = buf.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(buf.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
