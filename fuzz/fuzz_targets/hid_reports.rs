//! See `paravirt_fuzz::hid_reports`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::hid_reports(data));
