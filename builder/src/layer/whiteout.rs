//! Names with which a layer says that something of the layers below is gone (OCI image spec `layer.md`, "Whiteouts").
//!
//! Invariants: a whiteout never names `.`, `..` or nothing, so it cannot reach outside its directory.

/// What names of whiteouts begin with.
pub const PREFIX: &[u8] = b".wh.";

const OPAQUE: &[u8] = b".wh..wh..opq";
const META_PREFIX: &[u8] = b".wh..wh.";

/// What the last component of a layer entry's path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// An entry of its own.
    Ordinary,
    /// The name in the same directory does not exist any more.
    Removed(&'a [u8]),
    /// Everything that lower layers have in this directory does not exist any more.
    Opaque,
    /// Bookkeeping of AUFS (`.wh..wh.plnk`, `.wh..wh.aufs`, ...), which other engines skip as well.
    Bookkeeping,
    /// A whiteout of `.`, `..` or of nothing.
    Invalid,
}

/// Reads a name.
pub fn meaning(name: &[u8]) -> Meaning<'_> {
    if name == OPAQUE {
        return Meaning::Opaque;
    }
    if name.starts_with(META_PREFIX) {
        return Meaning::Bookkeeping;
    }
    match name.strip_prefix(PREFIX) {
        None => Meaning::Ordinary,
        Some(b"" | b"." | b"..") => Meaning::Invalid,
        Some(removed) => Meaning::Removed(removed),
    }
}

/// The name that removes `name`.
pub fn whiteout_name(name: &[u8]) -> Vec<u8> {
    [PREFIX, name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(meaning(b"file"), Meaning::Ordinary);
        assert_eq!(meaning(b".wh.file"), Meaning::Removed(b"file"));
        assert_eq!(meaning(b".wh..hidden"), Meaning::Removed(b".hidden"));
        assert_eq!(meaning(b".wh..wh..opq"), Meaning::Opaque);
        assert_eq!(meaning(b".wh..wh.plnk"), Meaning::Bookkeeping);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(meaning(bad), Meaning::Invalid, "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(meaning(&whiteout_name(b"x")), Meaning::Removed(b"x"));
    }
}
