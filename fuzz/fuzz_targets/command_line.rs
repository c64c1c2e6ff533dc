//! Runs `paravirt_fuzz::command_line` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::command_line(data));
