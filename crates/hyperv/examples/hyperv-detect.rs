//! The Hyper-V hypervisor: detects it by CPUID, reads its clock, and reports a crash of the kernel.
//!
//! Runs in process, against a model of the hypervisor: `cargo run -p paravirt-hyperv --example hyperv-detect`
#![forbid(unsafe_code)]

use core::time::Duration;
use paravirt_device::Clock;
use paravirt_hyperv::{Features, Hypervisor, OpenError, ReferenceClock};
use paravirt_testhost::{Guest, HvHost, HvOffer};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // A machine without the hypervisor: CPUID says so, and no register is accessed.
    let bare = Guest::new();
    assert_eq!(Features::detect(&bare), None);
    assert_eq!(Hypervisor::open(&bare).err(), Some(OpenError::Absent));
    println!("first guest: no Hyper-V");

    // One with it. `open` tells the host the guest's identity and enables the hypercall page.
    let guest = Guest::with(2, true);
    let host = HvHost::new(&guest, HvOffer::default());
    let features = Features::detect(&guest).ok_or("no Hyper-V")?;
    println!("second guest: Hyper-V, {} VMBus", if features.has_vmbus() { "with" } else { "without" });
    assert!(features.has_vmbus());
    let hypervisor = Hypervisor::open(&guest)?;

    // The reference clock is read from a page that the host keeps up to date, without an exit.
    let clock = ReferenceClock::open(&hypervisor)?;
    let before = clock.now();
    guest.turn(Duration::from_millis(5));
    let passed = clock.now().as_nanos() - before.as_nanos();
    println!("the reference clock advanced by {passed} ns");
    assert!(passed >= 5_000_000 - 100, "it counts in units of 100 ns");

    // What a panic handler does: five values and a text for the host's event log.
    let is_reported = hypervisor.report_crash([0xdead, 1, 2, 3, 4], Some("kernel panic: out of coffee"));
    assert!(is_reported);
    let crashes = host.crashes();
    let text = crashes[0].text.as_deref();
    println!("the host has logged: {}", text.unwrap_or_default());
    assert_eq!((crashes[0].values[0], text), (0xdead, Some("kernel panic: out of coffee")));

    // Dropped, everything is disabled again.
    drop((clock, hypervisor));
    assert!(!host.is_in_use());
    Ok(())
}
