//! KVM's clock: detects it by CPUID, enables it on every processor, and reads the time without an exit.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-kvm --example kvmclock`
#![forbid(unsafe_code)]

use core::time::Duration;
use paravirt_device::Clock;
use paravirt_kvm::{KvmClock, OpenError};
use paravirt_testhost::{Guest, KvmHost};
use std::error::Error;

/// The first of KVM's CPUID leaves, unless the host offers another hypervisor's interface there.
const LEAVES: u32 = 0x4000_0000;

fn main() -> Result<(), Box<dyn Error>> {
    // A machine without KVM: CPUID says so, and no register is accessed.
    assert_eq!(KvmClock::open(&Guest::new(), LEAVES).err(), Some(OpenError::Absent));
    println!("first guest: no kvmclock");

    let guest = Guest::with(2, false);
    let host = KvmHost::new(&guest);
    let clock = KvmClock::open(&guest, LEAVES)?;
    assert_eq!(host.processors_in_use(), [0, 1]);
    println!("second guest: kvmclock, enabled on 2 processors");

    let before = clock.now();
    guest.turn(Duration::from_secs(3));
    let passed = clock.now().as_nanos() - before.as_nanos();
    println!("{passed} ns passed");
    assert!((3_000_000_000..3_600_000_000_000).contains(&passed));

    // Dropped, it is disabled on every processor before its page is freed.
    drop(clock);
    assert!(host.processors_in_use().is_empty());
    Ok(())
}
