//! Runs `paravirt_fuzz::nvsp_message` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::nvsp_message(data));
