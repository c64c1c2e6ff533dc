//! See `paravirt_fuzz::scsi_sense`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::scsi_sense(data));
