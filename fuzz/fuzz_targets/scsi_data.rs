//! Runs `paravirt_fuzz::scsi_data` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::scsi_data(data));
