//! Runs `paravirt_fuzz::dynamic_memory` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::dynamic_memory(data));
