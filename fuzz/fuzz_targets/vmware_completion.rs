//! Runs `paravirt_fuzz::vmware_completion` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::vmware_completion(data));
