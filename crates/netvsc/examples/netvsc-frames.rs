//! Hyper-V's network card (NetVSP): finds it on VMBus, sends a frame and receives one.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-netvsc --example netvsc-frames`
#![forbid(unsafe_code)]

use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
use paravirt_hyperv::Hypervisor;
use paravirt_netvsc::{INTERFACE, NetOptions, NetVsc};
use paravirt_platform::DmaSlice;
use paravirt_testhost::{Guest, HvHost, NetVspHost};
use paravirt_vmbus::{Version, Vmbus};
use std::error::Error;

/// A broadcast Ethernet frame with a type for experiments and `payload`, padded to the minimum length.
fn frame(source: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0xff; 6][..], &source, &[0x88, 0xb5], payload].concat();
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

fn main() -> Result<(), Box<dyn Error>> {
    let wire = NetVspHost::new();
    let guest = Guest::with(1, true);
    let (host, channel) = HvHost::with_device(&guest, INTERFACE, wire.clone());

    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    let mut offer = None;
    vmbus.offers(&mut |found| {
        if found.interface == INTERFACE {
            offer = Some(*found);
        }
    });
    let offer = offer.ok_or("the host offers no network card")?;
    let mut card = NetVsc::<Guest, DmaSlice<Guest>>::open(&guest, &vmbus, &offer, &NetOptions::default())?;
    let info = card.info();
    println!("card {} with an MTU of {} bytes", info.mac, info.mtu);
    let mut queue = card.take_queue(0).ok_or("queue 0 is taken once")?;

    // Send: reserve a slot in the send buffer, write the frame there, commit. One kick for all frames that were committed.
    let sent = frame(info.mac.0, b"hello, host");
    let (_, tx) = queue.split();
    assert!(tx.reserve(sent.len()), "a new queue has room");
    tx.slot()[..sent.len()].copy_from_slice(&sent);
    tx.commit(sent.len(), TxMeta::default())?;
    tx.kick();
    assert_eq!(wire.take_sent(), [sent]);
    println!("sent a frame");

    // Receive: poll, look at the first frame, pop it. Once all frames of a packet were popped, the host gets its completion.
    let reply = frame([2, 0, 0, 0, 0, 1], b"hello, guest");
    wire.receive(&reply);
    host.work(&guest, channel);
    queue.poll()?;
    let (rx, _) = queue.split();
    let received = rx.front().ok_or("no frame was received")?;
    let bytes = rx.segment(0).ok_or("a frame has a segment")?;
    assert_eq!(bytes, reply);
    println!("received {} bytes: {}", received.len, bytes[14..26].escape_ascii());
    rx.pop();
    assert!(wire.violations().is_empty());
    Ok(())
}
