//! A malicious Hyper-V host: the driver reports a fault of that channel or connection, never panics or hangs, and frees no memory
//! that the host may write.

use core::time::Duration;
use hyperv_bindings::Guid;
use paravirt_device::Fault;
use paravirt_hyperv::Hypervisor;
use paravirt_testhost::{Echo, Guest, HvHost, HvOffer, OfferSettings};
use paravirt_vmbus::{ChannelOptions, Offer, Version, Vmbus};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// A guest whose clock runs fast while it waits, so that deadlines expire soon.
fn machine() -> (Guest, HvHost) {
    let guest = Guest::with(2, true);
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_secs(1)));
    let host = HvHost::new(&guest, HvOffer::least());
    for i in 1..4 {
        let settings = OfferSettings { instance: Guid([i; 16]), ..OfferSettings::default() };
        host.add(&guest, settings, Echo);
    }
    (guest, host)
}

/// Uses all operations of the bus, ignoring errors.
fn exercise(guest: &Guest, host: &HvHost) {
    let Ok(hypervisor) = Hypervisor::open(guest) else { return };
    let Ok(vmbus) = Vmbus::connect(&hypervisor, Version::NEWEST) else { return };
    let mut offers: Vec<Offer> = vec![];
    vmbus.offers(&mut |offer| offers.push(*offer));
    let mut buffer = [0; 4096];
    for offer in offers.iter().take(3) {
        let Ok(mut channel) = vmbus.open(offer, &ChannelOptions::default()) else { continue };
        for id in 0..4 {
            let _ = channel.send_in_band(id, true, &[&[1; 64]]);
            channel.kick();
            let _ = channel.arm();
            for _ in 0..10 {
                let Ok(Some(_)) = channel.receive(&mut buffer) else { break };
            }
        }
        host.rescind(guest, offer.channel);
        for _ in 0..20 {
            if vmbus.poll().is_none() {
                break;
            }
        }
    }
    let _ = vmbus.unload();
}

/// Each byte of each message that the host sends is changed in several ways: the guest continues, and its memory is freed, or leaked
/// if the host did not release it.
#[test]
fn every_byte_of_every_message_changed() {
    let lens = Arc::new(Mutex::new(vec![]));
    let (guest, host) = machine();
    let seen = lens.clone();
    host.faults(&guest, |faults| {
        faults.mutate = Some(Box::new(move |bytes| seen.lock().unwrap().push(bytes.len())));
    });
    exercise(&guest, &host);
    assert_eq!((guest.pages(), host.violations().len()), (0, 0));
    let lens = lens.lock().unwrap().clone();
    assert!(lens.len() > 15, "{lens:?}");
    let mut runs = 0;
    for (number, len) in lens.into_iter().enumerate() {
        // The text in the middle of an offer is not parsed: a few of its bytes are enough.
        for at in (0..len).filter(|at| !(64..170).contains(at) || at % 16 == 0) {
            for change in [|byte: u8| byte ^ 1, |byte: u8| byte ^ 0x80, |_: u8| 0xff] {
                let (guest, host) = machine();
                let mut count = 0;
                host.faults(&guest, |faults| {
                    faults.mutate = Some(Box::new(move |bytes| {
                        if count == number {
                            bytes.get_mut(at).into_iter().for_each(|byte| *byte = change(*byte));
                        }
                        count += 1;
                    }));
                });
                exercise(&guest, &host);
                assert!(!host.is_in_use());
                runs += 1;
            }
        }
    }
    assert!(runs > 500);
}

#[test]
fn a_truncated_message_puts_the_connection_out_of_service() {
    let (guest, host) = machine();
    let hypervisor = Hypervisor::open(&guest).unwrap();
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).unwrap();
    let mut offers = vec![];
    vmbus.offers(&mut |offer| offers.push(*offer));
    let mut channel = vmbus.open(&offers[0], &ChannelOptions::default()).unwrap();
    // Unknown messages are ignored.
    host.say(&guest, &[99, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(channel.receive(&mut [0; 64]), Ok(None));
    host.say(&guest, &[1, 0, 0, 0, 0, 0, 0, 0, 5]);
    // The next poll handles it.
    assert!(vmbus.poll().is_none());
    assert_eq!((vmbus.fault(), channel.receive(&mut [0; 64])), (Some(Fault::Protocol), Err(Fault::Protocol)));
    assert!(vmbus.open(&offers[1], &ChannelOptions::default()).is_err());
    drop(channel);
    vmbus.unload().unwrap();
    vmbus.connect_again(Version::NEWEST).unwrap();
    assert_eq!(vmbus.fault(), None);
    drop((vmbus, hypervisor));
    assert_eq!(guest.pages(), 0);
}

#[test]
fn many_invalid_messages_are_read_and_ignored() {
    let (guest, host) = machine();
    let hypervisor = Hypervisor::open(&guest).unwrap();
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).unwrap();
    for i in 0..5000u32 {
        // Offers of channels out of range, and more offers than the table holds.
        let mut bytes = [0; 196];
        bytes[0] = 1;
        bytes[184..188].copy_from_slice(&(i % 3000).to_le_bytes());
        host.say(&guest, &bytes);
        if i % 100 == 0 {
            let _ = vmbus.poll();
        }
    }
    while vmbus.poll().is_some() {}
    drop((vmbus, hypervisor));
    assert_eq!(guest.pages(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the host writes to the ring, the result is packets inside the buffer, or a fault of that channel only.
    #[test]
    fn any_bytes_in_the_ring_are_survived(
        words in prop::collection::vec(any::<u64>(), 1..64),
        control in prop::collection::vec((0usize..4, any::<u32>(), any::<bool>()), 1..6),
        likely in any::<bool>(),
    ) {
        let (guest, host) = machine();
        let hypervisor = Hypervisor::open(&guest).unwrap();
        let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).unwrap();
        let mut offers = vec![];
        vmbus.offers(&mut |offer| offers.push(*offer));
        let mut channel = vmbus.open(&offers[0], &ChannelOptions::default()).unwrap();
        let mut other = vmbus.open(&offers[1], &ChannelOptions::default()).unwrap();
        let mut buffer = [0; 512];
        for (word, value, in_range) in control {
            host.scribble(&guest, 1, |registers: &[AtomicU32; 32], data| {
                for (to, word) in data.iter().zip(&words) {
                    let word = if likely { word & 0x0001_000f_0007_000f | 0x2_0002_0006 } else { *word };
                    to.store(word, Ordering::Relaxed);
                }
                let value = if in_range { value % 1536 * 8 } else { value };
                registers[word].store(value, Ordering::Relaxed);
            });
            for taken in 0.. {
                match channel.receive(&mut buffer) {
                    Ok(Some(packet)) => prop_assert!(packet.payload.len() + packet.header.len() <= 512),
                    Ok(None) | Err(_) => break,
                }
                prop_assert!(taken <= 12288 / 24);
            }
            let _ = channel.arm();
            let _ = channel.send_in_band(1, true, &[&[0; 100]]);
            let _ = channel.await_room(100);
        }
        // The other channel still works.
        other.send_in_band(9, true, &[b"still ok"]).unwrap();
        other.kick();
        prop_assert_eq!(other.wait(&mut buffer, Duration::from_secs(5)).unwrap().payload, b"still ok");
        drop((channel, other, vmbus, hypervisor));
        prop_assert_eq!(guest.pages(), 0);
    }
}
