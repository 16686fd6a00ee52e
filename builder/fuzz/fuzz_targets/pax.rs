//! Any bytes as PAX records: reading never panics, and an attribute survives among them.

#![no_main]

use kiln::layer::tar::pax;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = pax::parse(bytes);
    let mut records = Vec::new();
    pax::append_xattr(&mut records, b"user.fuzz", bytes);
    pax::append(&mut records, b"path", b"name");
    let parsed = pax::parse(&records).expect("our own records");
    assert_eq!(parsed.xattrs.get(&b"user.fuzz"[..]).map(Vec::as_slice), Some(bytes));
    assert_eq!(parsed.path.as_deref(), Some(&b"name"[..]));
});
