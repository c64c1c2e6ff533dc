//! See `paravirt_fuzz::gpa_ranges`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::gpa_ranges(data));
