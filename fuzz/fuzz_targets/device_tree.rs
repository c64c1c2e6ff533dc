//! Runs `paravirt_fuzz::device_tree` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::device_tree(data));
