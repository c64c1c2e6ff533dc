//! Xen's network card: receives a frame, and sends it back to where it came from.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-netfront --example netfront-echo`
#![forbid(unsafe_code)]

use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
use paravirt_netfront::{NetFront, NetFrontOptions};
use paravirt_platform::DmaSlice;
use paravirt_testhost::{Guest, XenHost, XenReceived};
use paravirt_xen::{Hypervisor, Store, bus};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let guest = Guest::with(1, true);
    let host = XenHost::new(&guest);
    host.add_card(0, &[]);

    // The guest finds its devices in xenstore.
    let store = Store::open(&Hypervisor::open(&guest)?)?;
    let mut found = None;
    bus::devices(&store, |address| found = Some(address))?;
    let address = found.ok_or("no device")?;
    let mut card = NetFront::<_, DmaSlice<Guest>>::open(&store, address, &NetFrontOptions::new())?;
    println!("card {address}, {}, with an MTU of {}", card.info().mac, card.info().mtu);
    let mut queue = card.take_queue(0).ok_or("queue 0 is taken once")?;

    // Somebody sends a frame.
    let mut frame = [0u8; 60];
    frame[..6].copy_from_slice(&card.info().mac.0);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[14..19].copy_from_slice(b"hello");
    assert!(host.receive(0, &frame, &XenReceived::default()));

    queue.poll()?;
    let (rx, tx) = queue.split();
    let received = rx.segment(0).ok_or("a frame")?;
    let len = received.len();
    if !tx.reserve(len) {
        return Err("the transmit queue is full".into());
    }
    // To the sender, and from here.
    let slot = &mut tx.slot()[..len];
    slot[..6].copy_from_slice(&received[6..12]);
    slot[6..12].copy_from_slice(&received[..6]);
    slot[12..].copy_from_slice(&received[12..]);
    tx.commit(len, TxMeta::new())?;
    rx.pop();
    tx.kick();

    let sent = host.take_sent(0);
    assert_eq!((&sent[0].bytes[..6], &sent[0].bytes[14..19]), (&[2, 0, 0, 0, 0, 1][..], &b"hello"[..]));
    println!("answered {} bytes", sent[0].bytes.len());
    Ok(())
}
