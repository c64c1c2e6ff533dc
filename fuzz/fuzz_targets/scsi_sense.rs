//! Runs `paravirt_fuzz::scsi_sense` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::scsi_sense(data));
