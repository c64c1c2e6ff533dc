//! See `paravirt_fuzz::socket_packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::socket_packet(data));
