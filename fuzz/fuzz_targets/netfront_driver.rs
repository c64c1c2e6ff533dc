//! Runs `paravirt_fuzz::drivers::netfront_driver` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::drivers::netfront_driver(data));
