//! See `paravirt_fuzz::acpi_tables`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::acpi_tables(data));
