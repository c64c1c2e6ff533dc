//! Runs `paravirt_fuzz::pci_caps` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::pci_caps(data));
