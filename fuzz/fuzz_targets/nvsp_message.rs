//! See `paravirt_fuzz::nvsp_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::nvsp_message(data));
