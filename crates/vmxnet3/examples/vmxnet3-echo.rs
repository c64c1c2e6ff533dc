//! VMware's network card: receives a frame, and sends it back to where it came from.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-vmxnet3 --example vmxnet3-echo`
#![forbid(unsafe_code)]

use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
use paravirt_platform::DmaSlice;
use paravirt_testhost::{Guest, Vmxnet3Host};
use paravirt_vmxnet3::{Vmxnet3, Vmxnet3Options};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let guest = Guest::with(1, true);
    let host = Vmxnet3Host::new(&guest);

    // The guest. A kernel opens the card of a PCI function with `paravirt_vmxnet3::open`.
    let mut card = Vmxnet3::<_, DmaSlice<Guest>>::new(&guest, host.device(), &Vmxnet3Options::default())?;
    println!("card {} with an MTU of {}", card.info().mac, card.info().mtu);
    let mut queue = card.take_queue(0).ok_or("queue 0 is taken once")?;

    // Somebody sends a frame.
    let mut frame = [0u8; 60];
    frame[..6].copy_from_slice(&card.info().mac.0);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[14..19].copy_from_slice(b"hello");
    assert!(host.receive(&frame));

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

    let sent = host.take_sent();
    assert_eq!((&sent[0].bytes[..6], &sent[0].bytes[14..19]), (&[2, 0, 0, 0, 0, 1][..], &b"hello"[..]));
    println!("answered {} bytes", sent[0].bytes.len());
    Ok(())
}
