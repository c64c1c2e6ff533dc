//! The clock of VMware's hypervisor: detects the hypervisor, and reads the time from the cycle counter.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-vmware --example tsc-clock`
#![forbid(unsafe_code)]

use paravirt_device::Clock;
use paravirt_testhost::{Guest, VmwareHypervisor};
use paravirt_vmware::{TscClock, VMware};
use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    // The host: its cycle counter counts nanoseconds.
    let guest = Guest::new();
    VmwareHypervisor::with_leaves(1_000_000).attach(&guest);

    // The guest.
    let vmware = VMware::detect(&guest).ok_or("this is not VMware's hypervisor")?;
    println!("the cycle counter runs at {:?} Hz", vmware.tsc_hz);
    let clock = TscClock::open(&guest, &vmware).ok_or("the hypervisor does not tell the frequency")?;
    let before = clock.now();
    guest.turn(Duration::from_secs(5));
    let passed = clock.now().as_nanos() - before.as_nanos();
    println!("{passed} ns have passed");
    assert!((5_000_000_000..6_000_000_000).contains(&passed));
    Ok(())
}
