//! Runs `paravirt_fuzz::storvsp_packet` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::storvsp_packet(data));
