//! Where bytes begin to differ: in a layer's archive, and in single files.
//!
//! Invariants: every layer is read at most once for each question, however many files differ.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use super::{CompareError, Image, LayerPlace};
use crate::layer::tar::{Kind, Reader, TarError};
use crate::layer::tree::{Place, TreeError};

/// Places of one file's bytes in the first and in the second image.
pub(super) type Pair = (Place, Place);

const CHUNK_BYTES: usize = 64 * 1024;

/// The first byte in which layer `number` differs.
pub(super) fn first_in_layer(
    a: &Image<'_>,
    b: &Image<'_>,
    number: usize,
) -> Result<Option<LayerPlace>, CompareError> {
    let (mut one, mut other) = (a.layer(number)?, b.layer(number)?);
    let offset = first_difference(&mut one, |buffer, _| fill(&mut other, buffer));
    let Some(offset) = offset.map_err(|source| a.unreadable(number, source))? else { return Ok(None) };
    let (entry, data_offset) = entry_at(a, number, offset)?;
    Ok(Some(LayerPlace { offset, entry, data_offset }))
}

/// The entry that a byte of an archive is in, and the byte's offset in its data.
fn entry_at(
    image: &Image<'_>,
    number: usize,
    offset: u64,
) -> Result<(Option<String>, Option<u64>), CompareError> {
    let position = Cell::new(0);
    let mut reader = Reader::new(Counting { inner: image.layer(number)?, position: &position });
    let fail = |source: TarError| CompareError::Layer {
        image: image.name.clone(),
        number,
        source: TreeError::Tar(source),
    };
    // Name, start and size of the data of the entry before.
    let mut before: Option<(String, u64, u64)> = None;
    loop {
        let next = reader.next_entry().map_err(fail)?;
        if let Some((name, start, size)) = before.take()
            && offset < start + size.next_multiple_of(512)
        {
            return Ok((Some(name), Some(offset - start).filter(|within| *within < size)));
        }
        let Some(entry) = next else { return Ok((None, None)) };
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        if offset < position.get() {
            return Ok((Some(name), None));
        }
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        before = Some((name, position.get(), size));
    }
}

struct Counting<'a, R> {
    inner: R,
    position: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.position.set(self.position.get() + read as u64);
        Ok(read)
    }
}

/// For each pair the offset of the first byte that differs. The first image's files go to a temporary file, so that
/// either image is read once from bottom to top.
pub(super) fn first_in_files(
    a: &Image<'_>,
    b: &Image<'_>,
    pairs: &[Pair],
) -> Result<Vec<Option<u64>>, CompareError> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let mut spool = tempfile::tempfile().map_err(CompareError::Spool)?;
    let mut kept: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    let mut end = 0;
    let wanted: BTreeMap<Place, ()> = pairs.iter().map(|(place, _)| (*place, ())).collect();
    visit(a, wanted.keys().copied(), &mut |place, data| {
        spool.seek(SeekFrom::Start(end)).map_err(CompareError::Spool)?;
        let mut out = io::BufWriter::with_capacity(256 * 1024, &spool);
        let copied = io::copy(data, &mut out).map_err(|source| a.unreadable(place.0, source))?;
        out.flush().map_err(CompareError::Spool)?;
        drop(out);
        kept.insert(place, (end, copied));
        end += copied;
        Ok::<(), CompareError>(())
    })?;
    let mut offsets = vec![None; pairs.len()];
    let mut users: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
    for (index, (_, place)) in pairs.iter().enumerate() {
        users.entry(*place).or_default().push(index);
    }
    visit(b, users.keys().copied(), &mut |place, data| {
        // Names of one file in the second image may be names of several in the first one.
        let indexes = &users[&place];
        let mut second = tempfile::tempfile().map_err(CompareError::Spool)?;
        let mut source: Box<dyn Read + '_> = if indexes.len() > 1 {
            io::copy(data, &mut second).map_err(|source| b.unreadable(place.0, source))?;
            Box::new(io::empty())
        } else {
            Box::new(data)
        };
        for index in indexes {
            let Some((start, size)) = kept.get(&pairs[*index].0).copied() else { continue };
            let stored = |buffer: &mut [u8], at: u64| stored(&spool, start, size, buffer, at);
            let found = if indexes.len() > 1 {
                second.seek(SeekFrom::Start(0)).map_err(CompareError::Spool)?;
                first_difference(&mut second, stored)
            } else {
                first_difference(&mut source, stored)
            };
            offsets[*index] = found.map_err(|source| b.unreadable(place.0, source))?;
        }
        Ok::<(), CompareError>(())
    })?;
    Ok(offsets)
}

/// Bytes of a file that was put aside.
fn stored(spool: &File, start: u64, size: u64, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let left = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
    let buffer = buffer.get_mut(..left).unwrap_or_default();
    spool.read_exact_at(buffer, start + at)?;
    Ok(left)
}

/// Shows the data of some entries, layer by layer in the order in which the layers have them.
pub(in crate::build) fn visit<E: From<CompareError>>(
    image: &Image<'_>,
    places: impl Iterator<Item = Place>,
    show: &mut dyn FnMut(Place, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut wanted: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (layer, entry) in places {
        wanted.entry(layer).or_default().push(entry);
    }
    for (layer, mut entries) in wanted {
        entries.sort_unstable();
        let mut entries = entries.into_iter().peekable();
        let mut reader = Reader::new(image.layer(layer)?);
        let mut number = 0;
        while entries.peek().is_some() {
            let next = reader.next_entry().map_err(|source| CompareError::Layer {
                image: image.name.clone(),
                number: layer,
                source: TreeError::Tar(source),
            })?;
            if next.is_none() {
                break;
            }
            if entries.next_if_eq(&number).is_some() {
                show((layer, number), &mut reader)?;
            }
            number += 1;
        }
    }
    Ok(())
}

/// Compares a stream with another one, of which `other` fills a buffer from an offset on.
fn first_difference(
    one: &mut dyn Read,
    mut other: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<Option<u64>> {
    let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut offset = 0;
    loop {
        let (a, b) = (fill(one, &mut left)?, other(&mut right, offset)?);
        let (left, right) = (left.get(..a).unwrap_or_default(), right.get(..b).unwrap_or_default());
        if let Some(at) = left.iter().zip(right).position(|(a, b)| a != b) {
            return Ok(Some(offset + at as u64));
        }
        if a != b {
            return Ok(Some(offset + a.min(b) as u64));
        }
        if a == 0 {
            return Ok(None);
        }
        offset += a as u64;
    }
}

/// Reads until the buffer is full or nothing is left.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
