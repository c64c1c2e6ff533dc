//! Runs `paravirt_fuzz::vmbus_ring` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::vmbus_ring(data));
