//! Runs `paravirt_fuzz::acpi_tables` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::acpi_tables(data));
