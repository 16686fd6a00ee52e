//! Fingerprints of regular files: what a file holds, as far as a copy of it would show.
//!
//! | in the fingerprint | why |
//! |---|---|
//! | bytes | they are the file |
//! | `security.capability`, `user.*` (not `user.overlay.*`) | they are copied (semantics fact 20) |
//!
//! Path, mode and owner are not in it: whoever digests a tree adds them. Times and inode numbers never are.
//!
//! Invariants:
//! - a file without such attributes has the plain sha256 of its bytes as fingerprint, one with attributes has the first
//!   half of that, so that people can be told which of both has changed;
//! - a [`FileDigests`] may answer from memory only when size, mtime, ctime and inode are those it remembers: a
//!   change of bytes or attributes always changes the ctime.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::fs::{self, Stat};
use rustix::io::Errno;

use crate::base::digest::{Digest, HashingWriter, KeyHasher};
use crate::sys::override_stat;

/// Bytes read at once while hashing.
const BUFFER_BYTES: usize = 256 * 1024;
/// Bytes at the beginning of a fingerprint that depend on the bytes of the file alone.
pub const CONTENT_BYTES: usize = 16;
/// Largest extended attribute (the kernel's own limit, `XATTR_SIZE_MAX`).
const MAX_ATTRIBUTE_BYTES: usize = 64 * 1024;

/// Remembers fingerprints of files between builds.
pub trait FileDigests: Sync {
    /// The fingerprint of the file at `path` (inside its context) with metadata `stat`, if it is remembered.
    fn known(&self, path: &[u8], stat: &Stat) -> Option<Digest>;

    /// The fingerprint of the file at `path` (inside its context) with metadata `stat`; `read` computes it.
    fn digest(
        &self,
        path: &[u8],
        stat: &Stat,
        read: &mut dyn FnMut() -> io::Result<Digest>,
    ) -> io::Result<Digest>;
}

/// Remembers nothing: every file is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadAlways;

impl FileDigests for ReadAlways {
    fn known(&self, _path: &[u8], _stat: &Stat) -> Option<Digest> {
        None
    }

    fn digest(
        &self,
        _path: &[u8],
        _stat: &Stat,
        read: &mut dyn FnMut() -> io::Result<Digest>,
    ) -> io::Result<Digest> {
        read()
    }
}

/// Extended attributes: name and value, sorted by name.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads a file and makes its fingerprint.
pub fn fingerprint(file: &File) -> io::Result<Digest> {
    let mut hashing = HashingWriter::new(io::sink());
    // Most files are small: one byte more than the size lets the second read see the end.
    let size_bytes = usize::try_from(file.metadata()?.len()).unwrap_or(BUFFER_BYTES);
    let mut buffer = vec![0; size_bytes.saturating_add(1).clamp(4096, BUFFER_BYTES)];
    let mut reader = file;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => io::Write::write_all(&mut hashing, buffer.get(..count).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let (_, content, _) = hashing.finish();
    let attributes = attributes(file)?;
    if attributes.is_empty() {
        return Ok(content);
    }
    let mut hasher = KeyHasher::new("file-with-attributes/v2");
    hasher.digest(&content);
    for (name, value) in &attributes {
        hasher.field(name).field(value);
    }
    // Two files that are equal in this are equal in 128 bits of either digest.
    let (mut bytes, both) = (*content.as_bytes(), hasher.finish());
    for (byte, other) in bytes.iter_mut().zip(both.as_bytes()).skip(CONTENT_BYTES) {
        *byte = *other;
    }
    Ok(Digest::from_bytes(bytes))
}

/// The extended attributes of an open file or directory that belong to its content and travel with copies:
/// `security.capability` and `user.*`. Everything else is the host's or a file system's own business.
pub fn attributes(fd: impl AsFd) -> io::Result<Attributes> {
    let fd = fd.as_fd();
    let mut found = Attributes::new();
    for name in names(fd)? {
        if !travels(&name) {
            continue;
        }
        let mut value = vec![0; MAX_ATTRIBUTE_BYTES];
        match fs::fgetxattr(fd, name.as_slice(), &mut value) {
            Ok(length) => {
                value.truncate(length);
                found.push((name, value));
            }
            // Removed meanwhile, or not for us to see.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether an attribute is part of what is copied.
pub fn travels(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && name != override_stat::NAME
}

fn names(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut size = match fs::flistxattr_query(fd) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => return Ok(Vec::new()),
        Ok(size) => size,
        Err(e) => return Err(e.into()),
    };
    loop {
        let mut list = vec![0; size];
        match fs::flistxattr(fd, &mut list) {
            Ok(length) => {
                let list = list.get(..length).unwrap_or_default();
                return Ok(list.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect());
            }
            // It grew meanwhile.
            Err(Errno::RANGE) if size < 2 * MAX_ATTRIBUTE_BYTES => size *= 2,
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn plain_files_have_the_digest_of_their_bytes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abc").unwrap();
        assert_eq!(fingerprint(&File::open(file.path()).unwrap()).unwrap(), Digest::of(b"abc"));
    }

    #[test]
    fn attributes_that_travel_are_in_the_fingerprint() {
        for (name, expected) in [
            ("user.colour", true),
            ("security.capability", true),
            ("user.overlay.opaque", false),
            ("security.selinux", false),
            ("system.posix_acl_access", false),
            ("trusted.overlay.redirect", false),
        ] {
            assert_eq!(travels(name.as_bytes()), expected, "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let open = || File::open(&path).unwrap();
        if let Err(e) = fs::fsetxattr(open(), "user.colour", b"red", fs::XattrFlags::empty()) {
            eprintln!("skipped: no user attributes here: {e}");
            return;
        }
        let red = fingerprint(&open()).unwrap();
        assert_ne!(red, Digest::of(b"abc"));
        fs::fsetxattr(open(), "user.colour", b"blue", fs::XattrFlags::empty()).unwrap();
        assert_ne!(fingerprint(&open()).unwrap(), red);
        fs::fremovexattr(open(), "user.colour").unwrap();
        assert_eq!(fingerprint(&open()).unwrap(), Digest::of(b"abc"));
    }
}
