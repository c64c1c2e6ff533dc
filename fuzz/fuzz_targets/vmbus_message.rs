//! Runs `paravirt_fuzz::vmbus_message` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::vmbus_message(data));
