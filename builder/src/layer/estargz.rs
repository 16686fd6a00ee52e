//! eStargz: a gzip layer whose files can be fetched one by one (stargz-snapshotter, `docs/estargz.md`).
//!
//! ```text
//! member   .no.prefetch.landmark: header       nothing is to be fetched ahead
//! member   its byte, then headers up to the next file with content
//! member   content of a file, at most CHUNK_BYTES of it, then headers up to the next one
//! ...
//! member   stargz.index.json, the table of contents, and the archive's end
//! footer   an empty member of 51 bytes that says where the table begins
//! ```
//!
//! Every reader of gzip takes it for an ordinary layer with two files more, so its diff_id is another one than that of
//! the same layer without them.
//!
//! Invariants:
//! - content begins at the start of a member, and so does the table;
//! - the bytes depend on the archive, the level and [`CHUNK_BYTES`] alone;
//! - the table is JSON, so a name that is not UTF-8 is refused and not mangled.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::compress::Members;
use super::tar::{Entry, Kind, Reader, TarError, head};
use crate::base::digest::{DiffId, Digest, HashingWriter};

/// Name of the table of contents.
pub const TOC_NAME: &str = "stargz.index.json";
/// Annotation of the layer's descriptor with the table's digest.
pub const TOC_ANNOTATION: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Most bytes of a file in one member: what stargz-snapshotter itself writes.
pub const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 51;

const NO_PREFETCH: &str = ".no.prefetch.landmark";
const LANDMARKS: [&str; 2] = [NO_PREFETCH, ".prefetch.landmark"];
/// More would not make it faster by much, and each has blocks of [`CHUNK_BYTES`] under way.
const MAX_THREADS: usize = 4;
const BLOCK: usize = 512;

/// Why a layer cannot be written so.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EstargzError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    #[error("cannot compress a layer")]
    Write(#[source] io::Error),
    #[error(
        "`{path}` cannot be in an estargz layer: its name or target is not UTF-8; use compression=gzip or zstd"
    )]
    NotUtf8 { path: String },
}

/// What a layer turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Of the archive with the table of contents.
    pub diff_id: DiffId,
    /// Of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size_bytes: u64,
    /// Of the table of contents: value of [`TOC_ANNOTATION`].
    pub toc_digest: Digest,
}

/// Names everything that the bytes depend on besides the archive.
pub fn compressor_id(level: u32) -> String {
    format!("estargz libdeflater=1.26.1 chunk={CHUNK_BYTES} level={level}")
}

/// Writes the archive `tar` as an eStargz blob.
pub fn write<W: Write>(
    tar: impl Read,
    out: W,
    level: u32,
    threads: usize,
) -> Result<(W, Written), EstargzError> {
    let members = Members::new(HashingWriter::new(out), level, threads.min(MAX_THREADS));
    let mut writer = Seekable {
        members: members.map_err(EstargzError::Write)?,
        block: Vec::new(),
        pushed: 0,
        hasher: Sha256::new(),
        entries: Vec::new(),
    };
    let landmark = Entry { mode: 0, size: 1, ..Entry::new(NO_PREFETCH, Kind::File) };
    writer.add(&landmark, &mut &[0xf][..])?;
    let mut reader = Reader::new(tar);
    while let Some(entry) = reader.next_entry()? {
        // An eStargz layer that is written anew has them already.
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        if name == TOC_NAME.as_bytes() || LANDMARKS.iter().any(|landmark| name == landmark.as_bytes()) {
            continue;
        }
        writer.add(&entry, &mut reader)?;
    }
    // So that whoever verifies the archive sees all of it.
    reader.drain()?;
    writer.finish()
}

struct Seekable<W: Write> {
    members: Members<W>,
    /// Of the member that is being filled.
    block: Vec<u8>,
    /// Members before it.
    pushed: usize,
    hasher: Sha256,
    entries: Vec<TocEntry>,
}

impl<W: Write> Seekable<HashingWriter<W>> {
    fn add(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), EstargzError> {
        let listed = TocEntry::of(entry)?;
        self.put(&head(entry)?)?;
        if entry.kind != Kind::File || entry.size == 0 {
            self.entries.push(listed);
            return Ok(());
        }
        let first = self.entries.len();
        let mut whole = Sha256::new();
        let mut done = 0;
        let chunk_bytes = CHUNK_BYTES as u64;
        while done < entry.size {
            self.cut()?;
            let size = (entry.size - done).min(chunk_bytes);
            let read = data.by_ref().take(size).read_to_end(&mut self.block).map_err(EstargzError::Read)?;
            if (read as u64) < size {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                return Err(TarError::ShortData { path, missing_bytes: size - read as u64 }.into());
            }
            whole.update(&self.block);
            let chunk = TocEntry {
                member: Some(self.pushed),
                chunk_offset: done,
                // Zero means "to the end".
                chunk_size: if done + size < entry.size { size } else { 0 },
                chunk_digest: Some(Digest::of(&self.block)),
                ..TocEntry::default()
            };
            self.entries.push(if done == 0 {
                TocEntry {
                    member: chunk.member,
                    chunk_size: chunk.chunk_size,
                    chunk_digest: chunk.chunk_digest,
                    ..listed.clone()
                }
            } else {
                TocEntry { name: listed.name.clone(), kind: "chunk", ..chunk }
            });
            done += size;
        }
        if let Some(listed) = self.entries.get_mut(first) {
            listed.digest = Some(Digest::from_bytes(whole.finalize().into()));
        }
        let rest = usize::try_from(entry.size % BLOCK as u64).unwrap_or(0);
        if rest > 0 {
            self.put(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EstargzError> {
        // Many entries without content must not make one member without end.
        if self.block.len() > CHUNK_BYTES {
            self.cut()?;
        }
        self.block.extend_from_slice(bytes);
        Ok(())
    }

    /// Ends the member.
    fn cut(&mut self) -> Result<(), EstargzError> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.hasher.update(&self.block);
        let block = std::mem::take(&mut self.block);
        self.block = self.members.push(block).map_err(EstargzError::Write)?;
        self.pushed += 1;
        Ok(())
    }

    fn finish(mut self) -> Result<(W, Written), EstargzError> {
        self.cut()?;
        let offsets = self.members.wait().map_err(EstargzError::Write)?;
        for entry in &mut self.entries {
            entry.offset = entry.member.and_then(|member| offsets.get(member).copied()).unwrap_or(0);
        }
        let table = Toc { version: 1, entries: &self.entries };
        let json = serde_json::to_vec(&table).expect("invariant: plain structs always serialise");
        let toc_offset = self.members.written_bytes();
        let listed = Entry { mode: 0o444, size: json.len() as u64, ..Entry::new(TOC_NAME, Kind::File) };
        let mut last = head(&listed)?;
        last.extend_from_slice(&json);
        last.resize(last.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
        self.hasher.update(&last);
        self.members.push_last(&last).map_err(EstargzError::Write)?;
        let mut out = self.members.finish().map_err(EstargzError::Write)?;
        out.write_all(&footer(toc_offset)).map_err(EstargzError::Write)?;
        let (mut out, digest, size_bytes) = out.finish();
        out.flush().map_err(EstargzError::Write)?;
        let diff_id = DiffId(Digest::from_bytes(self.hasher.finalize().into()));
        Ok((out, Written { diff_id, digest, size_bytes, toc_digest: Digest::of(&json) }))
    }
}

/// An empty gzip member with the table's place in its extra field.
fn footer(toc_offset: u64) -> Vec<u8> {
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
    footer.extend_from_slice(format!("{toc_offset:016x}STARGZ").as_bytes());
    // A last stored block of no bytes; checksum and size of nothing.
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    footer
}

#[derive(Serialize)]
struct Toc<'a> {
    version: u32,
    entries: &'a [TocEntry],
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty", rename = "modtime")]
    modified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_minor: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<Digest>,
    /// The member that holds the content; its place is known when it has been written.
    #[serde(skip)]
    member: Option<usize>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TocEntry {
    fn of(entry: &Entry) -> Result<Self, EstargzError> {
        let text = |bytes: &[u8]| {
            let refused =
                || EstargzError::NotUtf8 { path: String::from_utf8_lossy(&entry.path).into_owned() };
            String::from_utf8(bytes.to_vec()).map_err(|_| refused())
        };
        let mut name = text(&entry.path)?;
        if entry.kind == Kind::Directory && !name.ends_with('/') {
            name.push('/');
        }
        let is_device = matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice);
        let xattrs = entry.xattrs.iter().map(|(name, value)| Ok((text(name)?, base64(value))));
        Ok(Self {
            name,
            kind: match entry.kind {
                Kind::File => "reg",
                Kind::Directory => "dir",
                Kind::Symlink => "symlink",
                Kind::HardLink => "hardlink",
                Kind::CharDevice => "char",
                Kind::BlockDevice => "block",
                Kind::Fifo => "fifo",
            },
            size: entry.size,
            modified: Timestamp::from_second(entry.mtime_seconds)
                .map_or_else(|_| String::new(), |t| t.to_string()),
            link_name: text(&entry.link)?,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            dev_major: is_device.then_some(entry.device.major),
            dev_minor: is_device.then_some(entry.device.minor),
            xattrs: xattrs.collect::<Result<_, EstargzError>>()?,
            ..Self::default()
        })
    }
}

/// Go's form of bytes in JSON.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            text.push(char::from(if place > group.len() { b'=' } else { ALPHABET[digit as usize] }));
        }
    }
    text
}
