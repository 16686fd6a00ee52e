//! Copying the bytes of one open file to another, by the cheapest way that both file systems offer.
//!
//! Invariants:
//! - the target is empty and positioned at 0 when it comes in, and holds exactly the source's bytes when the
//!   call succeeds;
//! - nothing is ever opened here: callers hand in descriptors;
//! - holes stay holes where the source's file system reports them;
//! - what is shown is what was written, also when the source changes meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs;
use rustix::io::Errno;

/// Bytes moved by one read and write when the kernel cannot do it alone.
const BUFFER_BYTES: usize = 256 * 1024;
/// Files smaller than this have no holes worth asking for.
const SPARSE_FROM_BYTES: u64 = 1024 * 1024;

/// Bytes of a hole that are shown at a time.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
/// Smaller files are read and written sooner than the file system is asked for a shared extent.
const CLONE_FROM_BYTES: u64 = 64 * 1024;

/// Is shown all bytes of a file in their order, holes as zeros.
pub type Viewer<'a> = dyn FnMut(&[u8]) + 'a;

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether they were shown: not when the file systems share them.
    pub shown: bool,
}

/// Copies all of `source` to the empty file `target`: a shared extent (`FICLONE`) where possible, else reading and
/// writing (semantics fact 26), so that `viewer` sees what is written.
pub fn copy_file(source: &File, target: &File, viewer: &mut Viewer<'_>) -> io::Result<Copied> {
    let size_bytes = source.metadata()?.len();
    if size_bytes >= CLONE_FROM_BYTES && fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(Copied { bytes: target.metadata()?.len(), shown: false });
    }
    if size_bytes < SPARSE_FROM_BYTES {
        let bytes = copy_range(source, target, 0, u64::MAX, size_bytes, viewer)?;
        return Ok(Copied { bytes, shown: true });
    }
    let mut copied = 0;
    while let Some((start, end)) = next_data(source, copied)? {
        show_hole(start - copied, viewer);
        let length = copy_range(source, target, start, end - start, size_bytes, viewer)?;
        copied = start + length;
        if length < end - start {
            // The file became shorter meanwhile.
            return Ok(Copied { bytes: copied, shown: true });
        }
    }
    let end = source.metadata()?.len().max(copied);
    show_hole(end - copied, viewer);
    target.set_len(end)?;
    Ok(Copied { bytes: end, shown: true })
}

fn show_hole(mut length: u64, viewer: &mut Viewer<'_>) {
    while length > 0 {
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
        viewer(ZEROS.get(..count).unwrap_or_default());
        length -= count as u64;
    }
}

/// The next stretch of data at or after `from`; `None` when only a hole or nothing is left.
fn next_data(source: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match fs::seek(source, fs::SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system without SEEK_DATA: all of it is data, once.
        Err(Errno::INVAL) if from == 0 => return Ok(Some((0, u64::MAX))),
        Err(Errno::INVAL) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let end = fs::seek(source, fs::SeekFrom::Hole(start))?;
    Ok((end > start).then_some((start, end)))
}

/// Copies at most `length` bytes at `start` of both files, less when the source ends before. It was `size_bytes`
/// long a moment ago.
fn copy_range(
    source: &File,
    target: &File,
    start: u64,
    length: u64,
    size_bytes: u64,
    viewer: &mut Viewer<'_>,
) -> io::Result<u64> {
    let wanted = usize::try_from(size_bytes.min(length)).unwrap_or(BUFFER_BYTES);
    // One byte more than there is shows the end at once; 4096 for what procfs and the like call empty.
    let mut buffer = vec![0; wanted.saturating_add(1).clamp(4096, BUFFER_BYTES)];
    let mut copied = 0;
    while copied < length {
        let room = usize::try_from(length - copied).unwrap_or(usize::MAX).min(buffer.len());
        let Some(free) = buffer.get_mut(..room) else { return Err(io::ErrorKind::InvalidData.into()) };
        let count = match source.read_at(free, start + copied) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let bytes = free.get(..count).unwrap_or_default();
        target.write_all_at(bytes, start + copied)?;
        viewer(bytes);
        copied += count as u64;
        if count < room && start + copied == size_bytes {
            break;
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
    use std::os::unix::fs::MetadataExt as _;

    fn copy_of(source: &File) -> (u64, File) {
        let target = tempfile::tempfile().unwrap();
        let mut seen = Vec::new();
        let copied = copy_file(source, &target, &mut |bytes| seen.extend_from_slice(bytes)).unwrap();
        if copied.shown {
            assert!(seen == bytes_of(&target), "what is shown is what is written");
        }
        (copied.bytes, target)
    }

    fn bytes_of(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn contents_arrive_whole() {
        for size in [0_usize, 1, 4096, 300_001, 3_000_000] {
            let mut source = tempfile::tempfile().unwrap();
            let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            source.write_all(&bytes).unwrap();
            let (copied, target) = copy_of(&source);
            assert_eq!(copied, size as u64);
            assert!(bytes_of(&target) == bytes, "{size}");
        }
    }

    #[test]
    fn holes_stay_holes() {
        let mut source = tempfile::tempfile().unwrap();
        source.set_len(64 << 20).unwrap();
        source.seek(SeekFrom::Start(32 << 20)).unwrap();
        source.write_all(b"middle").unwrap();
        let (copied, target) = copy_of(&source);
        assert_eq!(copied, 64 << 20);
        assert_eq!(target.metadata().unwrap().len(), 64 << 20);
        assert!(bytes_of(&target) == bytes_of(&source));
        let blocks = target.metadata().unwrap().blocks();
        if source.metadata().unwrap().blocks() < 1000 {
            assert!(blocks < 1000, "{blocks} blocks are used");
        } else {
            eprintln!("skipped the check of holes: this file system has none");
        }
    }

    #[test]
    fn files_that_the_kernel_will_not_copy_are_read() {
        let source = File::open("/proc/self/status").unwrap();
        let (copied, target) = copy_of(&source);
        assert!(copied > 0);
        assert!(bytes_of(&target).starts_with(b"Name:"));
    }
}
