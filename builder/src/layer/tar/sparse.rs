//! Sparse files in archives: the old GNU format (type `S`) and the PAX formats 0.0, 0.1 and 1.0 (GNU tar manual,
//! "Storing Sparse Files").
//!
//! Invariants: a map is sorted, does not overlap, lies inside the file, and accounts for every stored byte.

use super::block::{BLOCK, Block, field, number};
use super::pax;

/// Largest number of pieces of one sparse file.
const MAX_SEGMENTS: usize = 1 << 17;
/// Pieces in the header of an old GNU sparse file, and in each block that continues it.
const PIECE_BYTES: usize = 24;
const EXTENSION_PIECES_BYTES: usize = 21 * PIECE_BYTES;

/// Offset and length of a piece of data.
pub(super) type Segment = (u64, u64);

/// Where the data of a file lies.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub(super) segments: Vec<Segment>,
    pub(super) size: u64,
}

impl Map {
    /// A file without holes.
    pub(super) fn whole(size: u64) -> Self {
        Self { segments: vec![(0, size)], size }
    }

    /// Checks the order of the pieces and that they account for `stored` bytes.
    pub(super) fn checked(segments: Vec<Segment>, size: u64, stored: u64) -> Result<Self, &'static str> {
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, length) in &segments {
            if *offset < end {
                return Err("its pieces overlap");
            }
            end = offset.checked_add(*length).ok_or("a piece ends beyond every file")?;
            // No overflow: the pieces do not overlap and end below 2^64.
            sum += length;
        }
        if end > size {
            return Err("a piece lies behind the end of the file");
        }
        if sum != stored {
            return Err("its pieces do not add up to the stored size");
        }
        if size > i64::MAX.cast_unsigned() {
            return Err("it is larger than any file can be");
        }
        Ok(Self { segments, size })
    }
}

/// Pairs of numbers as pieces.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<Segment>, &'static str> {
    if numbers.len() / 2 > MAX_SEGMENTS {
        return Err("it has too many pieces");
    }
    let pairs = numbers.chunks(2).map(|pair| match pair {
        [offset, length] => Ok((*offset, *length)),
        _ => Err("its map has an odd count of numbers"),
    });
    pairs.collect()
}

/// The map of an old GNU sparse file while its extension blocks are read.
pub(super) struct OldMap {
    pub(super) segments: Vec<Segment>,
    pub(super) real_size: u64,
    pub(super) more: bool,
}

impl OldMap {
    pub(super) fn from_header(block: &Block) -> Result<Self, &'static str> {
        let bytes = block.bytes();
        let real_size = number(&bytes[field::GNU_REAL_SIZE])
            .and_then(|n| u64::try_from(n).ok())
            .ok_or("its size is not a number")?;
        let mut map = Self { segments: Vec::new(), real_size, more: bytes[field::GNU_IS_EXTENDED] != 0 };
        map.add(&bytes[field::GNU_SPARSE])?;
        Ok(map)
    }

    pub(super) fn extend(&mut self, block: &[u8; BLOCK]) -> Result<(), &'static str> {
        self.more = block[EXTENSION_PIECES_BYTES] != 0;
        self.add(&block[..EXTENSION_PIECES_BYTES])
    }

    fn add(&mut self, pieces: &[u8]) -> Result<(), &'static str> {
        for piece in pieces.chunks_exact(PIECE_BYTES) {
            // An unused place ends the list.
            if piece.first() == Some(&0) {
                break;
            }
            let (offset, length) = piece.split_at(PIECE_BYTES / 2);
            let value = |field| number(field).and_then(|n| u64::try_from(n).ok());
            let segment = value(offset).zip(value(length)).ok_or("a piece is not a pair of numbers")?;
            self.segments.push(segment);
        }
        if self.segments.len() > MAX_SEGMENTS {
            return Err("it has too many pieces");
        }
        Ok(())
    }
}

/// Reads the decimal numbers at the head of the data of a PAX 1.0 sparse file: a count, then pairs. They come in
/// whole blocks.
#[derive(Default)]
pub(super) struct DataMap {
    numbers: Vec<u64>,
    digits: Vec<u8>,
}

impl DataMap {
    /// Takes one block. True when the map is complete.
    pub(super) fn feed(&mut self, block: &[u8; BLOCK]) -> Result<bool, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                self.digits.push(*byte);
                if self.digits.len() > 20 {
                    return Err("its map holds no number");
                }
                continue;
            }
            self.numbers.push(pax::decimal(&self.digits).ok_or("its map holds no number")?);
            self.digits.clear();
            if self.complete()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn segments(&self) -> Result<Vec<Segment>, &'static str> {
        pairs(self.numbers.get(1..).unwrap_or_default())
    }

    fn complete(&self) -> Result<bool, &'static str> {
        let Some(count) = self.numbers.first() else { return Ok(false) };
        let count =
            usize::try_from(*count).ok().filter(|n| *n <= MAX_SEGMENTS).ok_or("it has too many pieces")?;
        Ok(self.numbers.len() == 1 + 2 * count)
    }
}
