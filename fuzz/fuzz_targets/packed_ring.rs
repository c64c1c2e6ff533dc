//! Runs `paravirt_fuzz::packed_ring` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::packed_ring(data));
