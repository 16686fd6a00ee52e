//! `cargo fuzz run ignore`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_grammar_fuzz::ignore(data));
