//! See `paravirt_fuzz::input_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::input_message(data));
