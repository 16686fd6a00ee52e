//! Tests: bytes do not depend on threads or writes, and every format is recognised and read.

use std::io::{Read as _, Write as _};

use super::*;
use crate::base::digest::Digest;
use crate::layer::tar::{Entry, Kind, Writer};

/// Bytes that compress somewhat, the same on every machine.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = Vec::with_capacity(size + 64);
    while out.len() < size {
        let word = next();
        let text = format!("line {} of {:x}\n", word % 1000, word >> 48);
        out.extend_from_slice(text.as_bytes());
    }
    out.truncate(size);
    out
}

fn compressed(data: &[u8], compression: Compression, threads: usize, write_bytes: usize) -> Vec<u8> {
    let mut compressor = Compressor::new(Vec::new(), compression, threads).unwrap();
    for (at, chunk) in data.chunks(write_bytes).enumerate() {
        compressor.write_all(chunk).unwrap();
        if at % 3 == 0 {
            compressor.flush().unwrap();
        }
    }
    compressor.finish().unwrap()
}

fn decompressed(data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompressor(data)?.read_to_end(&mut out)?;
    Ok(out)
}

#[test]
fn bytes_depend_on_nothing_but_the_input() {
    let data = sample(5 * BLOCK_BYTES + 12_345);
    for compression in [Compression::Gzip { level: 2 }, Compression::DEFAULT_GZIP, Compression::DEFAULT_ZSTD]
    {
        let first = compressed(&data, compression, 1, data.len());
        for (threads, write_bytes) in [(1, 1000), (2, 8192), (3, 1_000_003), (4, data.len())] {
            let again = compressed(&data, compression, threads, write_bytes);
            assert!(first == again, "{compression:?} with {threads} threads, writes of {write_bytes}");
        }
        assert!(decompressed(&first).unwrap() == data);
    }
}

/// When one of these changes, so must [`Compression::compressor_id`], or stored digests would lie.
#[test]
fn bytes_are_pinned() {
    let data = sample(2 * BLOCK_BYTES + 7);
    for (compression, id, digest) in [
        (
            Compression::DEFAULT_GZIP,
            "gzip libdeflater=1.26.1 block=1048576 dense=1 level=4",
            "sha256:ed46e3590b67d3ce993ec790dc41aa3d3172bdf08c730d8b2c40bdf08f8ce97e",
        ),
        (
            Compression::DEFAULT_ZSTD,
            "zstd zstd=0.14.3 mt job=4194304 checksum level=3",
            "sha256:1c5d2be88bd4ebe5958fe1294f9c6eda5767512dda63f191474a8a79cbca7cd6",
        ),
    ] {
        assert_eq!(compression.compressor_id(), id);
        assert_eq!(Digest::of(&compressed(&data, compression, 2, 65_536)).to_string(), digest, "{id}");
    }
}

/// zstd's threads take more at a time than the sample of [`bytes_are_pinned`] has.
#[test]
fn jobs_are_pinned() {
    let bytes = compressed(&sample(9 * BLOCK_BYTES), Compression::DEFAULT_ZSTD, 2, 65_536);
    let digest = "sha256:78e8d3b6529a5bc3b2efe1cec742200283ee959ca5c1dfb6b4980c0569ac5248";
    assert_eq!(Digest::of(&bytes).to_string(), digest);
}

#[test]
fn blocks_of_every_size() {
    for size in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES] {
        let data = sample(size);
        for compression in [Compression::None, Compression::Gzip { level: 1 }, Compression::Zstd { level: 1 }]
        {
            let bytes = compressed(&data, compression, 2, 300_000);
            assert!(decompressed(&bytes).unwrap() == data, "{compression:?} {size}");
        }
    }
    assert_eq!(sniff(&compressed(b"", Compression::DEFAULT_GZIP, 1, 1)), Format::Gzip);
}

#[test]
fn dropping_a_compressor_ends_its_threads() {
    let mut compressor = Compressor::new(Vec::new(), Compression::DEFAULT_GZIP, 2).unwrap();
    compressor.write_all(&sample(3 * BLOCK_BYTES)).unwrap();
    drop(compressor);
}

#[test]
fn errors_of_the_writer_arrive() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut compressor = Compressor::new(Full, Compression::Gzip { level: 1 }, 2).unwrap();
    let result =
        compressor.write_all(&sample(9 * BLOCK_BYTES)).and_then(|()| compressor.finish().map(|_| ()));
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn levels_are_checked() {
    assert!(Compression::Gzip { level: 0 }.check().is_err());
    assert!(Compression::Gzip { level: 13 }.check().is_err());
    assert!(Compression::Zstd { level: 23 }.check().is_err());
    let error = Compressor::new(Vec::new(), Compression::Gzip { level: 99 }, 1).err().unwrap();
    assert!(error.to_string().contains("choose 1 to 12"), "{error}");
}

fn every_format(data: &[u8]) -> Vec<(Format, Vec<u8>)> {
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(data).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(data).unwrap();
    vec![
        (Format::Plain, data.to_vec()),
        (Format::Gzip, compressed(data, Compression::DEFAULT_GZIP, 1, 1 << 16)),
        (Format::Zstd, compressed(data, Compression::DEFAULT_ZSTD, 1, 1 << 16)),
        (Format::Bzip2, bzip2.finish().unwrap()),
        (Format::Xz, xz.finish().unwrap()),
    ]
}

#[test]
fn every_format_is_recognised_and_read() {
    let mut writer = Writer::new(Vec::new());
    let entry = Entry { size: 300_000, ..Entry::new("f", Kind::File) };
    writer.append(&entry, &sample(300_000)[..]).unwrap();
    let tar = writer.finish().unwrap();
    for (format, bytes) in every_format(&tar) {
        assert_eq!(sniff(&bytes), format);
        assert!(decompressed(&bytes).unwrap() == tar, "{format:?}");
        assert!(is_archive(&bytes[..]), "{format:?}");
        if format != Format::Plain {
            let twice = [&bytes[..], &bytes[..]].concat();
            assert!(decompressed(&twice).unwrap() == [&tar[..], &tar[..]].concat(), "{format:?}");
            let error = decompressed(&bytes[..bytes.len() - 10]).unwrap_err();
            assert!(error.to_string().contains(format.name()), "{format:?}: {error}");
        }
    }
    for (format, bytes) in every_format(b"just text\n") {
        assert!(!is_archive(&bytes[..]), "{format:?}");
    }
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &every_format(&tar)[2].1].concat();
    assert!(is_archive(&skippable[..]));
    assert_eq!(sniff(b"BZh9 is a text"), Format::Plain);
    assert_eq!(sniff(b""), Format::Plain);
}
