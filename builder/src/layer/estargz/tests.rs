//! Tests of eStargz: the table is read as a snapshotter reads it, by the footer, and every chunk is verified.

use serde_json::Value;

use super::*;
use crate::layer::tar::Writer;

fn archive(big: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let dir = Entry { mtime_seconds: 1_500_000_000, ..Entry::new("d", Kind::Directory) };
    writer.append_empty(&dir).unwrap();
    let mut small = Entry { size: 5, uid: 7, mode: 0o4755, ..Entry::new("d/small", Kind::File) };
    small.xattrs.insert(b"user.note".to_vec(), b"\x00\xffab".to_vec());
    writer.append(&small, &b"hello"[..]).unwrap();
    writer.append_empty(&Entry::new("d/empty", Kind::File)).unwrap();
    writer.append(&Entry { size: big.len() as u64, ..Entry::new("d/big", Kind::File) }, big).unwrap();
    let link = |path: &str, kind, target: &[u8]| Entry { link: target.to_vec(), ..Entry::new(path, kind) };
    writer.append_empty(&link("d/soft", Kind::Symlink, b"small")).unwrap();
    writer.append_empty(&link("d/hard", Kind::HardLink, b"d/small")).unwrap();
    writer.append_empty(&Entry { mode: 0, ..Entry::new("d/.wh.gone", Kind::File) }).unwrap();
    writer.finish().unwrap()
}

fn big() -> Vec<u8> {
    // Not a multiple of anything, and not all the same.
    (0..CHUNK_BYTES as u32 * 2 + 1234).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// The table of contents, found through the footer.
fn table(blob: &[u8]) -> (Vec<u8>, Value) {
    let footer = &blob[blob.len() - FOOTER_BYTES..];
    assert_eq!(&footer[..4], [0x1f, 0x8b, 8, 4]);
    assert_eq!(&footer[10..16], [26, 0, b'S', b'G', 22, 0]);
    let text = std::str::from_utf8(&footer[16..38]).unwrap();
    let offset = u64::from_str_radix(text.strip_suffix("STARGZ").unwrap(), 16).unwrap() as usize;
    assert_eq!(gunzip(footer), b"");
    let tar = gunzip(&blob[offset..blob.len() - FOOTER_BYTES]);
    let mut reader = Reader::new(&tar[..]);
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(entry.path, b"stargz.index.json");
    let mut json = Vec::new();
    reader.read_to_end(&mut json).unwrap();
    assert!(reader.next_entry().unwrap().is_none(), "the table is the last entry");
    let value = serde_json::from_slice(&json).unwrap();
    (json, value)
}

/// What a member that begins at `offset` holds.
fn member(blob: &[u8], offset: u64) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&blob[offset as usize..]).read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn every_chunk_is_where_the_table_says() {
    let big = big();
    let (blob, written) = write(&archive(&big)[..], Vec::new(), 6, 2).unwrap();
    assert_eq!((written.size_bytes, written.digest), (blob.len() as u64, Digest::of(&blob)));
    assert_eq!(written.diff_id.0, Digest::of(&gunzip(&blob)));
    let (json, table) = table(&blob);
    assert_eq!(written.toc_digest, Digest::of(&json));
    assert_eq!(table["version"], 1);
    let entries = table["entries"].as_array().unwrap();
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in entries {
        let Some(digest) = entry["chunkDigest"].as_str() else { continue };
        let mut data = member(&blob, entry["offset"].as_u64().unwrap());
        let name = entry["name"].as_str().unwrap();
        let content = contents.entry(name.to_owned()).or_default();
        assert_eq!(entry["chunkOffset"].as_u64().unwrap_or(0), content.len() as u64);
        let whole = match entry["type"].as_str().unwrap() {
            "reg" => entry["size"].as_u64().unwrap(),
            _ => big.len() as u64,
        };
        let rest = whole - content.len() as u64;
        data.truncate(entry["chunkSize"].as_u64().unwrap_or(rest) as usize);
        assert_eq!(Digest::of(&data).to_string(), digest, "{entry}");
        content.extend(data);
    }
    assert_eq!(contents["d/small"], b"hello");
    assert!(contents["d/big"] == big);
    assert_eq!(contents[".no.prefetch.landmark"], [0xf]);
    assert_eq!(entries.iter().filter(|entry| entry["type"] == "chunk").count(), 2);
    let one = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap();
    assert_eq!(one("d/big")["digest"], Digest::of(&big).to_string());
    assert_eq!(one("d/")["modtime"], "2017-07-14T02:40:00Z");
    assert_eq!(one("d/small")["mode"], 0o4755);
    assert_eq!(one("d/small")["xattrs"]["user.note"], "AP9hYg==");
    assert_eq!((&one("d/soft")["type"], &one("d/soft")["linkName"]), (&"symlink".into(), &"small".into()));
    assert_eq!((&one("d/hard")["type"], &one("d/hard")["linkName"]), (&"hardlink".into(), &"d/small".into()));
}

#[test]
fn the_bytes_do_not_depend_on_threads_and_writing_anew_changes_nothing() {
    let tar = archive(&big());
    let (one, first) = write(&tar[..], Vec::new(), 6, 1).unwrap();
    let (four, second) = write(&tar[..], Vec::new(), 6, 4).unwrap();
    assert!(one == four);
    assert_eq!(first, second);
    let (again, third) = write(&gunzip(&one)[..], Vec::new(), 6, 2).unwrap();
    assert!(one == again);
    assert_eq!(first, third);
}

#[test]
fn an_ordinary_reader_sees_the_archive_and_two_files_more() {
    let tar = archive(b"x");
    let (blob, _) = write(&tar[..], Vec::new(), 1, 1).unwrap();
    let names = |tar: &[u8]| {
        let mut reader = Reader::new(tar);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        names
    };
    let mut expected = names(&tar);
    expected.insert(0, NO_PREFETCH.to_owned());
    expected.push(TOC_NAME.to_owned());
    assert_eq!(names(&gunzip(&blob)), expected);
}

#[test]
fn names_that_json_cannot_hold_are_refused() {
    let mut writer = Writer::new(Vec::new());
    writer.append_empty(&Entry::new(&b"bad\xff"[..], Kind::File)).unwrap();
    let tar = writer.finish().unwrap();
    let error = write(&tar[..], Vec::new(), 6, 1).unwrap_err();
    assert!(matches!(error, EstargzError::NotUtf8 { .. }), "{error:?}");
}
