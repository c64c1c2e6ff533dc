//! Runs `paravirt_fuzz::drivers::virtio_net` under cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paravirt_fuzz::drivers::virtio_net(data));
