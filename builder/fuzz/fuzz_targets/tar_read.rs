//! Any bytes as a tar archive: reading never panics, never reads more data than an entry states, and what was read
//! can be written and read again as the same.

#![no_main]

use std::io::Read;

use kiln::layer::tar::{Entry, Kind, Reader, Writer};
use libfuzzer_sys::fuzz_target;

/// Holes can make a file of any size out of a few bytes.
const MAX_DATA_BYTES: u64 = 1 << 20;

fn read_all(bytes: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Ok(Some(entry)) = reader.next_entry() {
        let mut data = Vec::new();
        let whole = reader.by_ref().take(MAX_DATA_BYTES).read_to_end(&mut data).is_ok();
        assert!(data.len() as u64 <= entry.size);
        assert!(entry.kind == Kind::File || entry.size == 0);
        if whole && data.len() as u64 == entry.size {
            entries.push((entry, data));
        }
    }
    entries
}

fuzz_target!(|bytes: &[u8]| {
    let mut entries = read_all(bytes);
    let mut writer = Writer::new(Vec::new());
    // Names that only a reader accepts: empty ones, and attributes beyond the limit.
    entries.retain(|(entry, data)| {
        let ends_in_slash = entry.path.ends_with(b"/");
        !ends_in_slash && writer.append(entry, &data[..]).is_ok()
    });
    let written = writer.finish().expect("writing to memory");
    assert_eq!(read_all(&written), entries);
});
