//! See `paravirt_fuzz::device_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::device_config(data));
