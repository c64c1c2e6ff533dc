//! Memory safety of a queue, from safe code: no sequence of safe calls makes a device write memory that Rust may read.
//!
//! Programs that must not compile are documentation tests of the module `soundness` of this crate.
#![forbid(unsafe_code)]

use paravirt_device::Rejected;
use paravirt_platform::{Direction, DmaSlice, PAGE_SIZE, PageArc};
use paravirt_testhost::{AnyDevice, Guest, QueueState, Ring};
use paravirt_virtio::queue::{AreaRange, Parts, QueueConfig, Ring as _, VirtQueue};

type Queue = VirtQueue<Guest, DmaSlice<Guest>, ()>;

/// The length of a request's buffer in bytes.
const LEN: usize = 512;
/// The byte that the device writes: neither 0, as in fresh memory, nor the pattern of freed memory.
const PATTERN: u8 = 0x55;

fn config(ring: Ring, area: u16) -> QueueConfig {
    let mut config = QueueConfig::new(8);
    (config.format, config.area) = (ring.format(), area);
    config
}

/// A queue with one request in flight, whose buffer the device may write.
fn queue_in_flight(guest: &Guest, ring: Ring) -> Queue {
    let mut queue = Queue::new(guest, config(ring, 0)).unwrap();
    let buffer = DmaSlice::alloc(guest, LEN).unwrap();
    queue.submit(Parts::NONE, Some(buffer), Direction::FromDevice, (), |_, _| Ok(())).unwrap();
    let _ = queue.publish();
    queue
}

/// Allocates all free pages.
fn allocate_all(guest: &Guest) -> Vec<DmaSlice<Guest>> {
    std::iter::from_fn(|| DmaSlice::alloc(guest, PAGE_SIZE).ok()).collect()
}

#[test]
fn a_dropped_queue_whose_addresses_were_handed_out_is_leaked() {
    for ring in [Ring::Split, Ring::Packed] {
        let guest = Guest::new();
        let mut queue = queue_in_flight(&guest, ring);
        let state = QueueState { addresses: queue.addresses(), generation: 1 };
        let mut device = AnyDevice::new(&guest, ring, &state, false);
        let chain = device.pop().expect("the request");
        let [(buffer, _)] = chain.writable[..] else { panic!("{ring:?}: the request has one buffer") };
        drop(queue);
        let fresh = allocate_all(&guest);
        let addresses = [state.addresses.desc.0, state.addresses.driver.0, state.addresses.device.0, buffer];
        for slice in &fresh {
            let pages = slice.bus().0..slice.bus().0 + PAGE_SIZE as u64;
            assert!(
                addresses.iter().all(|address| !pages.contains(address)),
                "{ring:?}: {pages:#x?} is reused"
            );
        }
        // The device writes to the buffer that it knows.
        assert_eq!(chain.write(&guest, &[PATTERN; LEN]), LEN as u32);
        device.push(&chain, LEN as u32);
        for slice in &fresh {
            assert!(slice.bytes().iter().all(|byte| *byte == 0), "{ring:?}: the device wrote fresh memory");
        }
    }
}

#[test]
fn a_dropped_queue_whose_addresses_were_not_handed_out_is_freed() {
    for ring in [Ring::Split, Ring::Packed] {
        let guest = Guest::new();
        let before = guest.pages();
        let queue = Queue::new(&guest, config(ring, 64)).unwrap();
        assert!(guest.pages() > before, "{ring:?}");
        drop(queue);
        assert_eq!(guest.pages(), before, "{ring:?}");
    }
}

#[test]
fn a_request_names_its_own_buffer_and_area_only() {
    for ring in [Ring::Split, Ring::Packed] {
        let guest = Guest::new();
        let mut queue = Queue::new(&guest, config(ring, 64)).unwrap();
        let buffer = DmaSlice::alloc(&guest, LEN).unwrap();
        let address = buffer.bus().0;
        let tail = [AreaRange::new(60, 4)];
        let parts = Parts::around(&[], &tail);
        queue.submit(parts, Some(buffer), Direction::FromDevice, (), |_, _| Ok(())).unwrap();
        let _ = queue.publish();
        let state = QueueState { addresses: queue.addresses(), generation: 1 };
        let chain = AnyDevice::new(&guest, ring, &state, false).pop().expect("the request");
        let [data, (area, 4)] = chain.writable[..] else { panic!("{ring:?}: {:x?}", chain.writable) };
        assert_eq!(data, (address, LEN as u32), "{ring:?}");
        assert_eq!(area % 64, 60, "{ring:?}");
    }
}

#[test]
fn a_range_beyond_the_area_of_a_slot_is_refused() {
    for ring in [Ring::Split, Ring::Packed] {
        let guest = Guest::new();
        for (area, range) in [
            (64, AreaRange::new(61, 4)),
            (64, AreaRange::new(u16::MAX, u16::MAX)),
            (64, AreaRange::new(0, 0)),
            (0, AreaRange::new(0, 1)),
        ] {
            let mut queue = Queue::new(&guest, config(ring, area)).unwrap();
            let range = [range];
            for parts in [Parts::around(&range, &[]), Parts::around(&[], &range)] {
                let buffer = DmaSlice::alloc(&guest, LEN).unwrap();
                let refused =
                    queue.submit(parts, Some(buffer), Direction::FromDevice, (), |_, _| Ok(())).unwrap_err();
                assert_eq!(refused.reason, Rejected::Invalid, "{ring:?} {range:?}");
                // The buffer is returned and not in flight: its bytes can be read.
                assert_eq!(refused.buffer.expect("the buffer").bytes(), [0; LEN], "{ring:?}");
                assert_eq!(queue.in_flight(), 0, "{ring:?}");
            }
        }
    }
}

#[test]
fn a_value_is_changed_only_by_its_only_reference() {
    let guest = Guest::new();
    let mut value = PageArc::new(&guest, 1).unwrap();
    *value.get_mut().unwrap() = 2;
    let mut other = value.clone();
    assert_eq!((value.get_mut(), other.get_mut()), (None, None));
    drop(value);
    assert_eq!(other.get_mut(), Some(&mut 2));
}
