//! Reads an archive entry by entry.
//!
//! Invariants:
//! - a PAX `x` header applies to the next file header and never to a GNU `L` or `K` header (GHSA-3cv2-h65g-fgmm):
//!   otherwise two readers disagree where the next header lies;
//! - only regular files have data; what other types state as size is ignored, as Go, GNU tar and Python do;
//! - memory is bounded by the limits of one extended header and one sparse map, whatever sizes are declared.

use std::io::{self, Read};

use super::block::{BLOCK, Block, Dialect, field, number, text};
use super::pax::{self, Records};
use super::sparse::{self, DataMap, Map, OldMap};
use super::{Device, Entry, Kind, TarError, display};
use crate::base::limits::MAX_PAX_BYTES;

/// Reads entries; as a [`Read`] it gives the data of the entry that came last, holes as zeros.
///
/// ```
/// # use kiln::layer::tar::{Entry, Kind, Reader, Writer};
/// let mut writer = Writer::new(Vec::new());
/// writer.append(&Entry { size: 5, ..Entry::new("greeting", Kind::File) }, &b"hello"[..])?;
/// let bytes = writer.finish()?;
///
/// let mut reader = Reader::new(&bytes[..]);
/// let entry = reader.next_entry()?.expect("one entry");
/// assert_eq!(std::io::read_to_string(&mut reader).unwrap(), "hello");
/// assert_eq!(entry.path, b"greeting");
/// # Ok::<(), kiln::layer::tar::TarError>(())
/// ```
pub struct Reader<R> {
    inner: R,
    /// Bytes read from `inner` so far.
    offset: u64,
    data: Data,
    finished: bool,
    end_marker: bool,
}

/// Where the reader stands in the data of an entry.
#[derive(Default)]
struct Data {
    map: Map,
    /// First piece that is not read completely.
    next: usize,
    position: u64,
    /// Bytes of data and of padding that the archive still holds for this entry.
    stored: u64,
    padding: u64,
}

/// What extended headers said since the last entry.
#[derive(Default)]
struct Pending {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

impl<R: Read> Reader<R> {
    /// Reads the uncompressed archive `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, offset: 0, data: Data::default(), finished: false, end_marker: false }
    }

    /// The next entry, or `None` at the end. Data of the last entry that was not read is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pending = Pending::default();
        self.skip_data()?;
        while !self.finished {
            let at = self.offset;
            let Some(block) = self.header()? else { break };
            match block.type_flag() {
                b'x' => {
                    let data = self.extension(&block, at, "extended header")?;
                    let parsed = pax::parse(&data).map_err(|source| TarError::Pax { offset: at, source })?;
                    pending.records = Some(parsed);
                }
                b'L' => pending.long_name = Some(self.long_text(&block, at)?),
                b'K' => pending.long_link = Some(self.long_text(&block, at)?),
                // Global records (git archive's comment) and volume labels say nothing about files.
                b'g' | b'V' => {
                    let size = unsigned(&block, field::SIZE, at, "size")?;
                    self.begin_data(Map::default(), size);
                    self.skip_data()?;
                }
                _ => return self.entry(&block, at, pending).map(Some),
            }
        }
        if pending.is_empty() { Ok(None) } else { Err(TarError::Truncated { what: "an entry" }) }
    }

    /// Length of the hole at the present position, which is passed by; 0 when there is none or at the end. Lets
    /// an extractor keep holes and not write zeros without end.
    pub fn take_hole(&mut self) -> u64 {
        let hole = self.data.hole();
        self.data.position += hole;
        hole
    }

    /// True when the archive was closed by its two empty blocks. Archives that merely stop after an entry are read
    /// as well, as all other readers do.
    pub fn saw_end_marker(&self) -> bool {
        self.end_marker
    }

    /// Reads what follows the end of the archive, so that a verifying reader below sees every byte, and gives the
    /// inner reader back.
    pub fn drain(mut self) -> Result<R, TarError> {
        self.skip_data()?;
        io::copy(&mut self.inner, &mut io::sink()).map_err(TarError::Read)?;
        Ok(self.inner)
    }

    fn header(&mut self) -> Result<Option<Block>, TarError> {
        let at = self.offset;
        let Some(bytes) = self.block("a header")? else {
            self.finished = true;
            return Ok(None);
        };
        if bytes.iter().all(|b| *b == 0) {
            return match self.block("the end of the archive")? {
                Some(second) if second.iter().any(|b| *b != 0) => Err(TarError::Checksum { offset: at }),
                second => {
                    self.finished = true;
                    self.end_marker = second.is_some();
                    Ok(None)
                }
            };
        }
        let block = Block::new(&bytes);
        if !block.checksum_holds() {
            return Err(TarError::Checksum { offset: at });
        }
        Ok(Some(block))
    }

    fn entry(&mut self, block: &Block, at: u64, pending: Pending) -> Result<Entry, TarError> {
        let records = pending.records.unwrap_or_default();
        let mut path = records.path.clone().or(pending.long_name).unwrap_or_else(|| block.name());
        if let Some(name) = &records.sparse.name {
            path.clone_from(name);
        }
        let flag = block.type_flag();
        let slash = path.ends_with(b"/");
        let kind = match flag {
            // Before ustar a directory was a file with a slash at the end.
            0 | b'0' | b'7' if slash => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(TarError::UnsupportedType { path: display(&path), type_flag: char::from(other) });
            }
        };
        if slash && kind != Kind::File {
            let end = path.iter().rposition(|b| *b != b'/').map_or(0, |n| n + 1);
            path.truncate(end);
        }
        let size = match records.size {
            Some(size) => size,
            None => unsigned(block, field::SIZE, at, "size")?,
        };
        if kind == Kind::Directory && flag != b'5' && size > 0 {
            return Err(TarError::DirectoryWithData { path: display(&path) });
        }
        if kind == Kind::File {
            let map = self.map(block, &records, size).map_err(|failure| failure.at(&path))?;
            // A PAX 1.0 map was read from the data and is not part of what remains.
            let stored = map.segments.iter().map(|(_, length)| length).sum();
            self.begin_data(map, stored);
        } else {
            self.begin_data(Map::default(), 0);
        }
        let link = match kind {
            Kind::Symlink | Kind::HardLink => {
                records.link.or(pending.long_link).unwrap_or_else(|| block.link())
            }
            _ => Vec::new(),
        };
        let (mtime_seconds, mtime_nanoseconds) = match records.mtime {
            Some(time) => time,
            None => (signed(block, field::MTIME, at, "modification time")?, 0),
        };
        Ok(Entry {
            kind,
            mode: mode(block, at)?,
            uid: id(records.uid, block, field::UID, at, "user id")?,
            gid: id(records.gid, block, field::GID, at, "group id")?,
            mtime_seconds,
            mtime_nanoseconds,
            size: self.data.map.size,
            link,
            device: device(block, kind, at)?,
            xattrs: records.xattrs,
            path,
        })
    }

    fn map(&mut self, block: &Block, records: &Records, stored: u64) -> Result<Map, MapFailure> {
        if block.type_flag() == b'S' {
            if block.dialect() != Dialect::Gnu {
                return Err(MapFailure::Reason("type `S` without GNU's magic"));
            }
            let mut map = OldMap::from_header(block)?;
            while map.more {
                let bytes =
                    self.block("a sparse map")?.ok_or(TarError::Truncated { what: "a sparse map" })?;
                map.extend(&bytes)?;
            }
            return Ok(Map::checked(map.segments, map.real_size, stored)?);
        }
        let sparse = &records.sparse;
        match (sparse.major, sparse.minor, &sparse.map) {
            (Some(1), Some(0), _) => {
                let size = sparse.real_size.ok_or("its real size is not stated")?;
                let mut map = DataMap::default();
                let mut left = stored;
                loop {
                    left = left.checked_sub(BLOCK as u64).ok_or("its map is longer than its data")?;
                    let bytes =
                        self.block("a sparse map")?.ok_or(TarError::Truncated { what: "a sparse map" })?;
                    if map.feed(&bytes)? {
                        return Ok(Map::checked(map.segments()?, size, left)?);
                    }
                }
            }
            (None | Some(0), _, Some(numbers)) => {
                let size = sparse.real_size.ok_or("its real size is not stated")?;
                Ok(Map::checked(sparse::pairs(numbers)?, size, stored)?)
            }
            (None, None, None) => Ok(Map::whole(stored)),
            _ => Err(MapFailure::Reason("its format is not known (0.0, 0.1 and 1.0 are)")),
        }
    }

    /// Reads the data of an extension header.
    fn extension(&mut self, block: &Block, at: u64, what: &'static str) -> Result<Vec<u8>, TarError> {
        let size = unsigned(block, field::SIZE, at, "size")?;
        if size > MAX_PAX_BYTES {
            return Err(TarError::TooLarge {
                offset: at,
                what,
                size_bytes: size,
                limit_bytes: MAX_PAX_BYTES,
            });
        }
        self.begin_data(Map::whole(size), size);
        let mut data = Vec::new();
        self.read_to_end(&mut data).map_err(unwrap_io)?;
        self.skip_data()?;
        Ok(data)
    }

    fn long_text(&mut self, block: &Block, at: u64) -> Result<Vec<u8>, TarError> {
        let data = self.extension(block, at, "long name")?;
        let name = text(&data);
        // GNU tar ends the text with one NUL and nothing else.
        if data.len() > name.len() + 1 {
            return Err(TarError::NulInName { offset: at });
        }
        Ok(name.to_vec())
    }

    /// A whole block, or `None` when the stream ends before its first byte.
    fn block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated { what }),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(TarError::Read(e)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn begin_data(&mut self, map: Map, stored: u64) {
        let padding = (BLOCK as u64 - stored % BLOCK as u64) % BLOCK as u64;
        self.data = Data { map, next: 0, position: 0, stored, padding };
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        // Two parts, because their sum may not fit into 64 bits.
        for left in [self.data.stored, self.data.padding] {
            let skipped =
                io::copy(&mut self.inner.by_ref().take(left), &mut io::sink()).map_err(TarError::Read)?;
            self.offset = self.offset.saturating_add(skipped);
            if skipped < left {
                self.finished = true;
                self.data = Data::default();
                return Err(TarError::Truncated { what: "the data of an entry" });
            }
        }
        self.data = Data::default();
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let hole = self.data.hole();
        if hole > 0 {
            let count = usize::try_from(hole).unwrap_or(usize::MAX).min(buf.len());
            if let Some(zeros) = buf.get_mut(..count) {
                zeros.fill(0);
            }
            self.data.position += count as u64;
            return Ok(count);
        }
        let piece = self.data.piece();
        let count = usize::try_from(piece).unwrap_or(usize::MAX).min(buf.len());
        let Some(room) = buf.get_mut(..count).filter(|room| !room.is_empty()) else { return Ok(0) };
        let read = self.inner.read(room)?;
        if read == 0 {
            return Err(TarError::Truncated { what: "the data of an entry" }.into());
        }
        self.offset += read as u64;
        self.data.position += read as u64;
        self.data.stored -= read as u64;
        Ok(read)
    }
}

impl Data {
    /// Bytes of the hole at the present position.
    fn hole(&mut self) -> u64 {
        match self.current() {
            Some((offset, _)) => offset.saturating_sub(self.position),
            None => self.map.size - self.position,
        }
    }

    /// Bytes of the piece that the present position lies in.
    fn piece(&mut self) -> u64 {
        self.current().map_or(0, |(offset, length)| offset + length - self.position)
    }

    /// The piece that the present position lies in or before.
    fn current(&mut self) -> Option<sparse::Segment> {
        while let Some((offset, length)) = self.map.segments.get(self.next) {
            if offset + length > self.position {
                return Some((*offset, *length));
            }
            self.next += 1;
        }
        None
    }
}

/// Why a sparse map cannot be had; the path is added later.
enum MapFailure {
    Reason(&'static str),
    Tar(TarError),
}

impl MapFailure {
    fn at(self, path: &[u8]) -> TarError {
        match self {
            Self::Reason(reason) => TarError::Sparse { path: display(path), reason },
            Self::Tar(error) => error,
        }
    }
}

impl From<&'static str> for MapFailure {
    fn from(reason: &'static str) -> Self {
        Self::Reason(reason)
    }
}

impl From<TarError> for MapFailure {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// The error behind an [`io::Error`] that [`Reader::read`] made.
fn unwrap_io(error: io::Error) -> TarError {
    error.downcast::<TarError>().unwrap_or_else(TarError::Read)
}

type Field = std::ops::Range<usize>;

fn signed(block: &Block, range: Field, at: u64, field: &'static str) -> Result<i64, TarError> {
    let bytes = block.bytes().get(range).unwrap_or_default();
    number(bytes).ok_or(TarError::Number { offset: at, field })
}

fn unsigned(block: &Block, range: Field, at: u64, field: &'static str) -> Result<u64, TarError> {
    let value = signed(block, range, at, field)?;
    u64::try_from(value).map_err(|_| TarError::Range { offset: at, field, value })
}

fn mode(block: &Block, at: u64) -> Result<u32, TarError> {
    // Bits above the twelve say the type once more in some archives.
    let mode = unsigned(block, field::MODE, at, "mode")? & 0o7777;
    u32::try_from(mode).map_err(|_| TarError::Number { offset: at, field: "mode" })
}

fn id(
    record: Option<u64>,
    block: &Block,
    range: Field,
    at: u64,
    field: &'static str,
) -> Result<u32, TarError> {
    let value = match record {
        Some(id) => id,
        None => unsigned(block, range, at, field)?,
    };
    u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or(TarError::Range {
        offset: at,
        field,
        value: i64::try_from(value).unwrap_or(i64::MAX),
    })
}

fn device(block: &Block, kind: Kind, at: u64) -> Result<Device, TarError> {
    if !matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
        return Ok(Device::default());
    }
    if block.dialect() == Dialect::V7 {
        return Err(TarError::Number { offset: at, field: "device number" });
    }
    let part = |range, field| {
        let value = unsigned(block, range, at, field)?;
        u32::try_from(value).map_err(|_| TarError::Range { offset: at, field, value: value.cast_signed() })
    };
    Ok(Device { major: part(field::MAJOR, "device major")?, minor: part(field::MINOR, "device minor")? })
}
