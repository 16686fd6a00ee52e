//! `cargo fuzz run expand`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_grammar_fuzz::expand(data));
