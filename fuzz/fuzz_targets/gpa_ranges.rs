//! Runs `paravirt_fuzz::gpa_ranges` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::gpa_ranges(data));
