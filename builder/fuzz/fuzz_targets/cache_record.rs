//! Any bytes as the record of a cached step: reading never panics, and what is read is written and read the same.

#![no_main]

use kiln::cache::record::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = Record::parse(bytes) {
        assert_eq!(Record::parse(&record.to_bytes()).expect("our own record"), record);
    }
});
