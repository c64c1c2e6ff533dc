//! See `paravirt_fuzz::integration_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::integration_message(data));
