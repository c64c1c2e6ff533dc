//! Runs `paravirt_fuzz::socket_packet` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::socket_packet(data));
