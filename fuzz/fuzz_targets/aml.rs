//! See `paravirt_fuzz::aml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::aml(data));
