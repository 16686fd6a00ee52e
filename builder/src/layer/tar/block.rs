//! The 512-byte header block: fields, numbers, checksum.
//!
//! Invariants: a field that is not what it should be is `None`, never a guess.

use tar::Header;

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;

/// Largest value of a numeric field of eight bytes (seven octal digits).
pub(super) const MAX_OCTAL_7: u64 = 0o7_777_777;
/// Largest value of a numeric field of twelve bytes (eleven octal digits).
pub(super) const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// Byte ranges of the fields of a header (POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Standard").
pub(super) mod field {
    use std::ops::Range;

    pub const NAME: Range<usize> = 0..100;
    pub const MODE: Range<usize> = 100..108;
    pub const UID: Range<usize> = 108..116;
    pub const GID: Range<usize> = 116..124;
    pub const SIZE: Range<usize> = 124..136;
    pub const MTIME: Range<usize> = 136..148;
    pub const CHECKSUM: Range<usize> = 148..156;
    pub const TYPE: usize = 156;
    pub const LINK: Range<usize> = 157..257;
    pub const MAGIC: Range<usize> = 257..265;
    pub const MAJOR: Range<usize> = 329..337;
    pub const MINOR: Range<usize> = 337..345;
    pub const PREFIX: Range<usize> = 345..500;
    pub const GNU_SPARSE: Range<usize> = 386..482;
    pub const GNU_IS_EXTENDED: usize = 482;
    pub const GNU_REAL_SIZE: Range<usize> = 483..495;
}

/// Which dialect the magic states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// No magic: name, mode, ids, size, time, type and link only.
    V7,
    Ustar,
    Gnu,
}

/// A block that was read.
pub(super) struct Block(Header);

impl Block {
    pub(super) fn new(bytes: &[u8; BLOCK]) -> Self {
        Self(Header::from_byte_slice(bytes).clone())
    }

    pub(super) fn bytes(&self) -> &[u8; BLOCK] {
        self.0.as_bytes()
    }

    /// True when the stored checksum is the sum of the bytes, as unsigned or (historical tars) signed numbers.
    pub(super) fn checksum_holds(&self) -> bool {
        let Some(stored) = number(&self.bytes()[field::CHECKSUM]) else { return false };
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, byte) in self.bytes().iter().enumerate() {
            let byte = if field::CHECKSUM.contains(&at) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        stored == unsigned || stored == signed
    }

    pub(super) fn dialect(&self) -> Dialect {
        match &self.bytes()[field::MAGIC] {
            magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
            b"ustar  \0" => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.bytes()[field::TYPE]
    }

    /// Name with the prefix that ustar splits off.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.bytes()[field::NAME]);
        let prefix = match self.dialect() {
            Dialect::Ustar => text(&self.bytes()[field::PREFIX]),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.bytes()[field::LINK]).to_vec()
    }
}

/// A text field: up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A numeric field: octal digits among blanks and NULs, or two's complement with the first bit set (GNU base-256).
/// An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        return base256(field);
    }
    let start = field.iter().position(|b| !matches!(b, b' ' | 0)).unwrap_or(field.len());
    let digits = field[start..].split(|b| matches!(b, b' ' | 0)).next().unwrap_or_default();
    let mut value = 0i64;
    for digit in digits {
        if !matches!(digit, b'0'..=b'7') {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

fn base256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    // The marker bit is not part of the number; sign-extend what remains of the first byte.
    let mut value = i64::from(first & 0x3f) - if negative { 0x40 } else { 0 };
    for byte in rest {
        value = value.checked_mul(256)?.checked_add(i64::from(*byte))?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_notation() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77_777_777));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-000644\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0xb2, 0xd0, 0x5e, 0]), Some(3_000_000_000));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        let minus_1000: Vec<u8> = [&[0xff; 4][..], &(-1000i64).to_be_bytes()].concat();
        assert_eq!(number(&minus_1000), Some(-1000));
        let max: Vec<u8> = [&[0x80, 0, 0, 0][..], &i64::MAX.to_be_bytes()].concat();
        assert_eq!(number(&max), Some(i64::MAX));
        let over: Vec<u8> = [&[0x80, 0, 0, 0][..], &u64::MAX.to_be_bytes()].concat();
        assert_eq!(number(&over), None);
    }
}
