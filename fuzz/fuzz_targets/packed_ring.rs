//! See `paravirt_fuzz::packed_ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::packed_ring(data));
