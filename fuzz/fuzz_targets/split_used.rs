//! See `paravirt_fuzz::split_used`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::split_used(data));
