//! Runs `paravirt_fuzz::ring_pair` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::ring_pair(data));
