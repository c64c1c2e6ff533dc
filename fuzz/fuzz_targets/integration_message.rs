//! Runs `paravirt_fuzz::integration_message` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::integration_message(data));
