//! Writes archives: ustar blocks, with PAX records only for what a block cannot hold.
//!
//! Invariants:
//! - the bytes are a function of the entries: no names of users, no atime or ctime, nothing of this machine;
//! - an entry holds exactly as many bytes of data as its header says, or writing fails.

use std::io::{Read, Write};

use tar::{EntryType, Header};

use super::block::{BLOCK, MAX_OCTAL_7, MAX_OCTAL_11, field};
use super::{Device, Entry, Kind, TarError, display, pax};

/// Bytes that are read from a file at a time.
const BUFFER_BYTES: usize = 256 * 1024;
/// The name of the pseudo file that holds PAX records (Python's; readers without PAX would unpack it).
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// Writes an archive to `W`. Writes are large or header-sized; put nothing but a digest or a compressor behind it
/// without a buffer.
pub struct Writer<W> {
    inner: W,
    buffer: Vec<u8>,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(inner: W) -> Self {
        Self { inner, buffer: Vec::new(), written: 0 }
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// Adds an entry. `data` is read for regular files only, and not beyond the size that the entry states.
    pub fn append(&mut self, entry: &Entry, mut data: impl Read) -> Result<(), TarError> {
        self.put(&head(entry)?)?;
        if entry.kind == Kind::File {
            self.copy(entry, &mut data)?;
        }
        Ok(())
    }

    /// Adds an entry without data.
    pub fn append_empty(&mut self, entry: &Entry) -> Result<(), TarError> {
        self.append(entry, std::io::empty())
    }

    /// Closes the archive with two empty blocks.
    pub fn finish(mut self) -> Result<W, TarError> {
        self.put(&[0; 2 * BLOCK])?;
        self.inner.flush().map_err(TarError::Write)?;
        Ok(self.inner)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.inner.write_all(bytes).map_err(TarError::Write)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<(), TarError> {
        let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if rest == 0 { Ok(()) } else { self.put(&[0; BLOCK][rest..]) }
    }

    fn copy(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), TarError> {
        let failed = |source| TarError::Data { path: display(&entry.path), source };
        let mut left = entry.size;
        let mut buffer = std::mem::take(&mut self.buffer);
        // The length of the buffer never changes what is written, so it follows the largest file.
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = match data.read(buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => {
                    return Err(TarError::ShortData { path: display(&entry.path), missing_bytes: left });
                }
                Ok(read) => read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed(e)),
            };
            self.put(buffer.get(..read).unwrap_or_default())?;
            left -= read as u64;
        }
        self.buffer = buffer;
        self.pad(entry.size)
    }
}

/// What stands before an entry's data: its PAX records, if it needs any, and its header.
pub fn head(entry: &Entry) -> Result<Vec<u8>, TarError> {
    // Both before the first byte: a refused entry must leave nothing behind.
    let (records, own) = (records(entry)?, header(entry)?);
    let mut head = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(records.len() as u64);
        fill(&mut header, field::NAME, PAX_NAME);
        header.set_cksum();
        head.extend_from_slice(header.as_bytes());
        head.extend_from_slice(&records);
        head.resize(head.len().next_multiple_of(BLOCK), 0);
    }
    head.extend_from_slice(own.as_bytes());
    Ok(head)
}

/// The stored name: directories end in a slash.
fn stored_path(entry: &Entry) -> Vec<u8> {
    let mut path = entry.path.clone();
    if entry.kind == Kind::Directory && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path
}

/// The PAX records that the entry needs, sorted by key.
fn records(entry: &Entry) -> Result<Vec<u8>, TarError> {
    let unrepresentable = |reason| Err(TarError::Unrepresentable { path: display(&entry.path), reason });
    if entry.path.is_empty() || entry.path.contains(&0) || entry.link.contains(&0) {
        return unrepresentable("its name is empty or holds a NUL byte");
    }
    let mut records: Vec<(&[u8], Vec<u8>)> = Vec::new();
    if u64::from(entry.gid) > MAX_OCTAL_7 {
        records.push((b"gid", entry.gid.to_string().into_bytes()));
    }
    if entry.link.len() > field::LINK.len() || !entry.link.is_ascii() {
        records.push((b"linkpath", entry.link.clone()));
    }
    if entry.mtime_nanoseconds != 0 || block_time(entry).is_none() {
        let time = (entry.mtime_seconds, entry.mtime_nanoseconds);
        records.push((b"mtime", pax::time_text(time).into_bytes()));
    }
    let path = stored_path(entry);
    if split(&path).is_none() {
        records.push((b"path", path));
    }
    if stored_size(entry) > MAX_OCTAL_11 {
        records.push((b"size", entry.size.to_string().into_bytes()));
    }
    if u64::from(entry.uid) > MAX_OCTAL_7 {
        records.push((b"uid", entry.uid.to_string().into_bytes()));
    }
    let mut out = Vec::new();
    // Keys of attributes begin with an upper-case letter and so sort before the others.
    for (name, value) in &entry.xattrs {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            return unrepresentable("an extended attribute's name is empty or holds `=` or a NUL byte");
        }
        pax::append_xattr(&mut out, name, value);
    }
    for (key, value) in records {
        pax::append(&mut out, key, &value);
    }
    if out.len() as u64 > crate::base::limits::MAX_PAX_BYTES {
        return unrepresentable("its extended attributes are larger than 1 MiB");
    }
    Ok(out)
}

fn header(entry: &Entry) -> Result<Header, TarError> {
    let mut header = Header::new_ustar();
    header.set_entry_type(match entry.kind {
        Kind::File => EntryType::Regular,
        Kind::Directory => EntryType::Directory,
        Kind::Symlink => EntryType::Symlink,
        Kind::HardLink => EntryType::Link,
        Kind::CharDevice => EntryType::Char,
        Kind::BlockDevice => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
    });
    header.set_mode(entry.mode & 0o7777);
    // What does not fit is 0 here and exact in the PAX records.
    let fitting = |value: u64, max: u64| if value <= max { value } else { 0 };
    header.set_uid(fitting(entry.uid.into(), MAX_OCTAL_7));
    header.set_gid(fitting(entry.gid.into(), MAX_OCTAL_7));
    header.set_size(fitting(stored_size(entry), MAX_OCTAL_11));
    header.set_mtime(block_time(entry).unwrap_or(0));
    let path = stored_path(entry);
    match split(&path) {
        Some((prefix, name)) => {
            fill(&mut header, field::PREFIX, prefix);
            fill(&mut header, field::NAME, name);
        }
        None => fill(&mut header, field::NAME, &path),
    }
    if matches!(entry.kind, Kind::Symlink | Kind::HardLink) {
        fill(&mut header, field::LINK, &entry.link);
    }
    let device = match entry.kind {
        Kind::CharDevice | Kind::BlockDevice => entry.device,
        _ => Device::default(),
    };
    if u64::from(device.major.max(device.minor)) > MAX_OCTAL_7 {
        let path = display(&entry.path);
        return Err(TarError::Unrepresentable { path, reason: "its device number is too large" });
    }
    for (range, number) in [(field::MAJOR, device.major), (field::MINOR, device.minor)] {
        fill(&mut header, range, format!("{number:07o}").as_bytes());
    }
    header.set_cksum();
    Ok(header)
}

fn stored_size(entry: &Entry) -> u64 {
    if entry.kind == Kind::File { entry.size } else { 0 }
}

/// The time as a header block can hold it.
fn block_time(entry: &Entry) -> Option<u64> {
    u64::try_from(entry.mtime_seconds).ok().filter(|seconds| *seconds <= MAX_OCTAL_11)
}

/// Prefix and name of a path that ustar can hold: ASCII, cut at a slash.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    let (name_len, prefix_len) = (field::NAME.len(), field::PREFIX.len());
    if path.len() <= name_len {
        return Some((b"", path));
    }
    // The slash itself is not stored, and the name must not become empty.
    let from = path.len().checked_sub(name_len + 1)?;
    let cut = (from..path.len() - 1)
        .find(|at| path.get(*at) == Some(&b'/'))
        .filter(|at| *at > 0 && *at <= prefix_len)?;
    Some((path.get(..cut)?, path.get(cut + 1..)?))
}

fn fill(header: &mut Header, range: std::ops::Range<usize>, value: &[u8]) {
    let length = value.len().min(range.len());
    let field = &mut header.as_mut_bytes()[range];
    field.fill(0);
    field[..length].copy_from_slice(&value[..length]);
}
