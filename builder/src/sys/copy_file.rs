//! Copying the bytes of one open file to another, by the cheapest way that both file systems offer.
//!
//! Invariants:
//! - the target is empty and positioned at 0 when it comes in, and holds exactly the source's bytes when the
//!   call succeeds;
//! - nothing is ever opened here: callers hand in descriptors;
//! - holes stay holes where the source's file system reports them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use rustix::fs;
use rustix::io::Errno;

/// Bytes moved by one read and write when the kernel cannot do it alone.
const BUFFER_BYTES: usize = 256 * 1024;
/// Files smaller than this have no holes worth asking for.
const SPARSE_FROM_BYTES: u64 = 1024 * 1024;

/// Copies all of `source` to the empty file `target`: a shared extent (`FICLONE`) where possible, else
/// `copy_file_range`, else reading and writing (semantics fact 26). Returns the number of bytes.
pub fn copy_file(source: &File, target: &File) -> io::Result<u64> {
    let size_bytes = source.metadata()?.len();
    if size_bytes > 0 && fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(target.metadata()?.len());
    }
    if size_bytes < SPARSE_FROM_BYTES {
        return copy_range(source, target, 0, u64::MAX);
    }
    let mut copied = 0;
    while let Some((start, end)) = next_data(source, copied)? {
        let length = copy_range(source, target, start, end - start)?;
        copied = start + length;
        if length < end - start {
            // The file became shorter meanwhile.
            return Ok(copied);
        }
    }
    let end = source.metadata()?.len().max(copied);
    target.set_len(end)?;
    Ok(end)
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

/// Copies at most `length` bytes at `start` of both files, less when the source ends before.
fn copy_range(source: &File, target: &File, start: u64, length: u64) -> io::Result<u64> {
    let (mut from, mut to) = (start, start);
    while from - start < length {
        let wanted = usize::try_from((length - (from - start)).min(1 << 30)).unwrap_or(1 << 30);
        match fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            // Some file systems (procfs and friends) answer 0 although there is content.
            Ok(0) if from == start => break,
            Ok(0) => return Ok(from - start),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::XDEV | Errno::PERM | Errno::IO | Errno::OPNOTSUPP | Errno::INVAL)
                if from == start =>
            {
                break;
            }
            Err(e) => return Err(e.into()),
        }
    }
    if from > start {
        return Ok(from - start);
    }
    let (mut reader, mut writer) = (source, target);
    reader.seek(SeekFrom::Start(start))?;
    writer.seek(SeekFrom::Start(start))?;
    let size_bytes = source.metadata()?.len().min(length);
    let size_bytes = usize::try_from(size_bytes).unwrap_or(BUFFER_BYTES);
    let mut buffer = vec![0; size_bytes.saturating_add(1).clamp(4096, BUFFER_BYTES)];
    let mut reader = reader.take(length);
    let mut copied = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let Some(bytes) = buffer.get(..count) else { return Err(io::ErrorKind::InvalidData.into()) };
        writer.write_all(bytes)?;
        copied += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn copy_of(source: &File) -> (u64, File) {
        let target = tempfile::tempfile().unwrap();
        let copied = copy_file(source, &target).unwrap();
        (copied, target)
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
