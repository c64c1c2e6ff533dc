//! Devices that violate the protocol: the driver reports a fault of that device, never panics or hangs, and frees no memory that is
//! in flight.

use paravirt_device::Fault;
use paravirt_platform::{Direction, DmaSlice};
use paravirt_testhost::{Guest, PackedDevice, QueueState, Ring, SplitDevice};
use paravirt_virtio::blk::config as blk;
use paravirt_virtio::net::config as net;
use paravirt_virtio::queue::{AreaRange, Parts, QueueConfig, Quiesced, Ring as _, VirtQueue};
use proptest::prelude::*;

type Queue = VirtQueue<Guest, DmaSlice<Guest>, u32>;

const SIZE: u16 = 8;

fn config(ring: Ring, in_order: bool) -> QueueConfig {
    let mut config = QueueConfig::new(SIZE);
    config.format = ring.format();
    (config.event_idx, config.in_order, config.indirect) = (true, in_order, 4);
    config
}

/// A queue with `count` requests in flight, and the device's view of it.
fn queue(guest: &Guest, ring: Ring, in_order: bool, count: u32) -> (Queue, QueueState) {
    let mut queue = Queue::new(guest, config(ring, in_order)).expect("a queue");
    for i in 0..count {
        let buffer = DmaSlice::alloc(guest, 512).expect("memory");
        queue.submit(Parts::NONE, Some(buffer), Direction::FromDevice, i, |_, _| Ok(())).expect("room");
    }
    let _ = queue.publish();
    let state = QueueState { addresses: queue.addresses(), generation: 1 };
    (queue, state)
}

/// Checks that all buffers in flight are reclaimed, and no memory leaks.
fn check_reclaim(guest: &Guest, mut queue: Queue, in_flight: u32) {
    // SAFETY: the device is this test, and it has stopped.
    let proof = unsafe { Quiesced::new() };
    let mut back = 0;
    while let Some(used) = queue.reclaim_next(Some(&proof)) {
        assert!(used.buffer.is_some_and(|buffer| !buffer.is_in_flight()));
        back += 1;
    }
    assert_eq!(back, in_flight);
    queue.quiesce(&proof);
    drop(queue);
    assert_eq!(guest.pages(), 0, "memory leaked");
}

#[test]
fn forged_used_elements_of_a_split_queue_are_faults() {
    // Index, id, length: ids that are not in flight, lengths beyond the buffer, indices beyond the requests in flight.
    for (index, id, len) in [
        (1, 7, 0),
        (1, 8, 0),
        (1, 0x10000, 0),
        (1, u32::MAX, 0),
        (1, 0, 513),
        (1, 0, u32::MAX),
        (4, 0, 0),
        (0xffff, 0, 0),
    ] {
        let guest = Guest::new();
        let (mut queue, state) = queue(&guest, Ring::Split, false, 3);
        SplitDevice::forge(&guest, &state, index, id, len);
        assert_eq!(queue.pop().expect_err("a fault"), Fault::Protocol, "index {index} id {id} len {len}");
        check_reclaim(&guest, queue, 3);
    }
}

#[test]
fn a_request_is_accepted_once() {
    let guest = Guest::new();
    let (mut queue, state) = queue(&guest, Ring::Split, false, 3);
    SplitDevice::forge(&guest, &state, 1, 1, 512);
    assert_eq!(queue.pop().expect("no fault").expect("a request").slot, 1);
    SplitDevice::forge(&guest, &state, 2, 1, 512);
    assert_eq!(queue.pop().expect_err("a fault"), Fault::Protocol);
    check_reclaim(&guest, queue, 2);
}

#[test]
fn forged_used_descriptors_of_a_packed_queue_are_faults() {
    for (id, len) in [(7, 0), (8, 0), (0xffff, 0), (0, 513), (0, u32::MAX)] {
        let guest = Guest::new();
        let (mut queue, state) = queue(&guest, Ring::Packed, false, 3);
        PackedDevice::new(&guest, &state, true).forge(id, len);
        assert_eq!(queue.pop().expect_err("a fault"), Fault::Protocol, "id {id} len {len}");
        check_reclaim(&guest, queue, 3);
    }
}

#[test]
fn in_order_one_element_returns_a_batch() {
    for ring in [Ring::Split, Ring::Packed] {
        let guest = Guest::new();
        let (mut queue, state) = queue(&guest, ring, true, 4);
        // The device names only the third request: those before it were used, too.
        match ring {
            Ring::Split => {
                guest.write(state.addresses.device.0 + 4, &2u32.to_le_bytes());
                guest.write(state.addresses.device.0 + 8, &100u32.to_le_bytes());
                guest.write(state.addresses.device.0 + 2, &3u16.to_le_bytes());
            }
            Ring::Packed => PackedDevice::new(&guest, &state, true).forge(2, 100),
        }
        let mut seen = vec![];
        while let Some(used) = queue.pop().expect("no fault") {
            seen.push((used.extra, used.len));
        }
        assert_eq!(seen, [(0, 512), (1, 512), (2, 100)], "{ring:?}");
        check_reclaim(&guest, queue, 1);
    }
}

#[test]
fn in_order_a_batch_that_was_not_published_is_a_fault() {
    let guest = Guest::new();
    let (mut queue, state) = queue(&guest, Ring::Split, true, 4);
    // The element names the third request, but the used index reports one.
    SplitDevice::forge(&guest, &state, 1, 2, 0);
    assert!(queue.pop().expect("the first").is_some());
    assert_eq!(queue.pop().expect_err("a fault"), Fault::Protocol);
    check_reclaim(&guest, queue, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a device writes to its part of a queue, pops end with requests or with a fault, and the rest is reclaimed.
    #[test]
    fn any_bytes_in_the_rings_are_survived(
        packed in any::<bool>(),
        in_order in any::<bool>(),
        noise in proptest::collection::vec(any::<u8>(), 256),
        index in 0u16..12,
    ) {
        let guest = Guest::new();
        let ring = if packed { Ring::Packed } else { Ring::Split };
        let (mut queue, state) = queue(&guest, ring, in_order, 5);
        match ring {
            Ring::Split => {
                guest.write(state.addresses.device.0, &noise[..70]);
                guest.write(state.addresses.device.0 + 2, &index.to_le_bytes());
            }
            Ring::Packed => guest.write(state.addresses.desc.0, &noise[..128]),
        }
        let mut popped = 0;
        while let Ok(Some(used)) = queue.pop() {
            prop_assert!(used.len <= 512);
            popped += 1;
            prop_assert!(popped <= 5);
        }
        let _ = queue.arm();
        check_reclaim(&guest, queue, 5 - popped);
    }

    /// Requests complete with the buffers with which they were submitted, in any order and shape, across the wrap of the rings.
    #[test]
    fn requests_complete_with_their_buffers(
        packed in any::<bool>(),
        indirect in any::<bool>(),
        steps in proptest::collection::vec((1usize..4, any::<bool>(), any::<bool>()), 1..120),
    ) {
        let guest = Guest::new();
        let ring = if packed { Ring::Packed } else { Ring::Split };
        let mut settings = config(ring, false);
        (settings.indirect, settings.area) = (if indirect { 4 } else { 0 }, 64);
        let mut queue = Queue::new(&guest, settings).expect("a queue");
        let state = QueueState { addresses: queue.addresses(), generation: 1 };
        let mut device = paravirt_testhost::AnyDevice::new(&guest, ring, &state, true);
        let mut waiting = vec![];
        let mut sent = std::collections::HashMap::new();
        for (tag, (segments, answer, last_first)) in (0u32..).zip(steps) {
            let mut buffer = DmaSlice::alloc(&guest, 64).expect("memory");
            buffer.bytes_mut().fill(tag as u8);
            let place = buffer.bytes().as_ptr() as usize;
            let extra = [AreaRange::new(0, 8); 2];
            let parts = Parts::around(&extra[..segments - 1], &[]);
            let result = queue.submit(parts, Some(buffer), Direction::ToDevice, tag, |_, _| Ok(()));
            match result {
                Ok(()) => { sent.insert(tag, place); }
                Err(refused) => prop_assert!(!refused.buffer.expect("its buffer").is_in_flight()),
            }
            let _ = queue.publish();
            while let Some(chain) = device.pop() {
                prop_assert_eq!(chain.readable.len() % 8, 0);
                waiting.push(chain);
            }
            if answer && !waiting.is_empty() {
                let chain = if last_first { waiting.pop() } else { Some(waiting.remove(0)) };
                device.push(&chain.expect("a chain"), 0);
                let used = queue.pop().expect("no fault").expect("the request");
                let buffer = used.buffer.expect("its buffer");
                prop_assert_eq!(sent.remove(&used.extra), Some(buffer.bytes().as_ptr() as usize));
                prop_assert!(buffer.bytes().iter().all(|byte| *byte == used.extra as u8));
            }
        }
        check_reclaim(&guest, queue, sent.len() as u32);
    }

    /// A configuration with any content is parsed to valid limits, or refused.
    #[test]
    fn any_configuration_is_survived(bytes in any::<[u8; 60]>(), features in any::<u64>()) {
        if let Some(info) = blk::parse(&bytes, blk::BlkFeatures::from_bits_truncate(features), 14) {
            prop_assert!(info.block_size.is_power_of_two() && info.block_size >= 512);
            prop_assert!(info.max_bytes >= info.block_size && info.max_bytes % info.block_size == 0);
            prop_assert!((1..=14).contains(&info.max_segments));
        }
        let bytes: &[u8; 20] = bytes.first_chunk().expect("20 bytes");
        if let Some(config) = net::parse(bytes, net::NetFeatures::from_bits_truncate(features)) {
            prop_assert!(config.mtu >= 68 && config.pairs >= 1);
        }
    }
}
