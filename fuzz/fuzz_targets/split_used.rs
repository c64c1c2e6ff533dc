//! Runs `paravirt_fuzz::split_used` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::split_used(data));
