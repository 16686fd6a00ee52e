//! Telling blocks that cannot be made smaller from those that can, before any time is spent on them.
//!
//! Deflate at the levels that engines use takes 9 ms for a mebibyte of random or compressed bytes (110 MB/s) and saves
//! nothing. Two looks are cheaper by far: how evenly the byte values are spread, and whether two samples hold anything
//! that repeats.
//!
//! Invariants: the answer depends on the block alone, because the bytes of a blob do.

use libdeflater::{CompressionLvl, Compressor};

/// Blocks below this are compressed without asking.
const LEAST_BYTES: usize = 128 * 1024;
/// One sample. Deflate sees repetitions within 32 KiB, so it has to be longer than that.
const SAMPLE_BYTES: usize = 48 * 1024;
/// Most that the chance of two equal bytes may exceed that of even values, in 1/256: codes of fewer bits win about 1 %
/// then. Bytes that were compressed stay below it.
const UNEVEN_256TH: u128 = 16;
/// The lowest level that finds every repetition within the window.
const SAMPLER_LEVEL: i32 = 2;
/// A sample must not get smaller than this part of itself, in 1/256.
const SMALLER_256TH: usize = 254;

/// Finds blocks that are not worth compressing.
pub(super) struct Density {
    sampler: Compressor,
    buffer: Vec<u8>,
}

impl Density {
    pub(super) fn new() -> Self {
        let level = CompressionLvl::new(SAMPLER_LEVEL).unwrap_or_default();
        Self { sampler: Compressor::new(level), buffer: Vec::new() }
    }

    /// True when the block is as good as random.
    pub(super) fn is_dense(&mut self, block: &[u8]) -> bool {
        if block.len() < LEAST_BYTES || !is_even(block) {
            return false;
        }
        let quarter = block.len() / 4;
        [quarter, block.len() - quarter].into_iter().all(|middle| {
            let start = middle.saturating_sub(SAMPLE_BYTES / 2);
            let sample = block.get(start..start + SAMPLE_BYTES).unwrap_or_default();
            self.buffer.resize(self.sampler.deflate_compress_bound(sample.len()), 0);
            let size = self.sampler.deflate_compress(sample, &mut self.buffer);
            size.is_ok_and(|size| size * 256 >= sample.len() * SMALLER_256TH)
        })
    }
}

/// True when all byte values are about as frequent as one another.
fn is_even(block: &[u8]) -> bool {
    // Four tables, so that a count does not wait for the one before it.
    let mut counts = [[0_u32; 256]; 4];
    let (chunks, rest) = block.as_chunks::<4>();
    for [a, b, c, d] in chunks {
        counts[0][usize::from(*a)] += 1;
        counts[1][usize::from(*b)] += 1;
        counts[2][usize::from(*c)] += 1;
        counts[3][usize::from(*d)] += 1;
    }
    for byte in rest {
        counts[0][usize::from(*byte)] += 1;
    }
    let equal_pairs: u128 =
        (0..256).map(|value| counts.iter().map(|table| u128::from(table[value])).sum::<u128>().pow(2)).sum();
    let length = block.len() as u128;
    // Of even values the sum is length² / 256, and length more by chance.
    equal_pairs * 256 * 256 <= length * length * (256 + UNEVEN_256TH) + length * 256 * 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// Digests of numbers: as even as random bytes, and the same in every run.
    fn noise(bytes: usize) -> Vec<u8> {
        let digests = (0_u64..).flat_map(|n| Sha256::digest(n.to_le_bytes()));
        digests.take(bytes).collect()
    }

    #[test]
    fn random_and_compressed_bytes_are_dense() {
        let mut density = Density::new();
        assert!(density.is_dense(&noise(1 << 20)));
        assert!(density.is_dense(&noise(LEAST_BYTES)));
        let text: String = noise(1 << 20).chunks(20).map(|line| format!("{line:02x?}\n")).collect();
        let mut compressor = Compressor::new(CompressionLvl::default());
        let mut packed = vec![0; compressor.gzip_compress_bound(text.len())];
        let size = compressor.gzip_compress(text.as_bytes(), &mut packed).unwrap();
        assert!(density.is_dense(&packed[..size]), "{size} bytes");
    }

    #[test]
    fn what_can_be_made_smaller_is_not() {
        let mut density = Density::new();
        assert!(!density.is_dense(&vec![0; 1 << 20]));
        assert!(!density.is_dense("some text, again and again. ".repeat(40_000).as_bytes()));
        // Random bytes that come again within the window.
        assert!(!density.is_dense(&noise(24 * 1024).repeat(43)));
        // Random bytes of few values: no repetitions, but short codes.
        let few: Vec<u8> = noise(1 << 20).into_iter().map(|byte| byte & 0x7f).collect();
        assert!(!density.is_dense(&few));
        // Half of it is text.
        let mut half = noise(1 << 20);
        half[..1 << 19].fill(b'x');
        assert!(!density.is_dense(&half));
        assert!(!density.is_dense(&noise(1000)));
    }
}
