//! See `paravirt_fuzz::storvsp_packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::storvsp_packet(data));
