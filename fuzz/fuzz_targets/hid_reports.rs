//! Runs `paravirt_fuzz::hid_reports` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::hid_reports(data));
