//! Runs `paravirt_fuzz::aml` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::aml(data));
