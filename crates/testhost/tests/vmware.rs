//! VMware's hypervisor against the model.

use paravirt_device::Clock;
use paravirt_testhost::{Guest, HvHost, HvOffer, KvmHost, VmwareHypervisor};
use paravirt_vmware::{TscClock, VMware};
use std::time::Duration;

fn detect(hypervisor: VmwareHypervisor) -> Option<(bool, Option<u64>)> {
    let guest = Guest::new();
    hypervisor.attach(&guest);
    VMware::detect(&guest).map(|found| (found.has_leaves, found.tsc_hz))
}

#[test]
fn it_is_detected_by_its_leaves_or_its_port() {
    let leaves = VmwareHypervisor::with_leaves(2_400_000);
    assert_eq!(detect(leaves), Some((true, Some(2_400_000_000))));
    // The leaves do not tell the frequency, but the port.
    let mut older = VmwareHypervisor::with_leaves(0);
    assert_eq!(detect(older), Some((true, None)));
    older.hz = Some(5_000_000_000);
    assert_eq!(detect(older), Some((true, Some(5_000_000_000))));
    assert_eq!(detect(VmwareHypervisor::with_port(None)), Some((false, None)));
    assert_eq!(detect(VmwareHypervisor::with_port(Some(3_000_000_000))), Some((false, Some(3_000_000_000))));
    // A frequency that cannot be.
    assert_eq!(detect(VmwareHypervisor::with_port(Some(3))), Some((false, None)));
    let mut nothing = VmwareHypervisor::with_port(None);
    nothing.has_port = false;
    assert_eq!(detect(nothing), None);
}

#[test]
fn other_hypervisors_are_not_taken_for_it() {
    let guest = Guest::new();
    KvmHost::new(&guest);
    assert_eq!(VMware::detect(&guest), None);
    let guest = Guest::new();
    let _host = HvHost::new(&guest, HvOffer::least());
    assert_eq!(VMware::detect(&guest), None);
}

#[test]
fn the_clock_follows_the_cycle_counter() {
    for (khz, factor) in [(1_000_000, 1.0), (2_500_000, 0.4), (333_333, 3.000003)] {
        let guest = Guest::new();
        VmwareHypervisor::with_leaves(khz).attach(&guest);
        let vmware = VMware::detect(&guest).unwrap();
        let clock = TscClock::open(&guest, &vmware).unwrap();
        let before = clock.now();
        // The counter of the model counts nanoseconds.
        guest.turn(Duration::from_secs(3600));
        let passed = clock.now().as_nanos() - before.as_nanos();
        let expected = 3600e9 * factor;
        assert!((passed as f64 - expected).abs() < 2e9, "{passed} of {expected}");
    }
    let guest = Guest::new();
    VmwareHypervisor::with_port(None).attach(&guest);
    assert!(TscClock::open(&guest, &VMware::detect(&guest).unwrap()).is_none());
}
