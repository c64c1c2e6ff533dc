//! A virtio network card: sends a frame from a slot of the driver, and receives one.
//!
//! Runs in process, against a model of the device: `cargo run -p paravirt-virtio --example virtio-net`
#![forbid(unsafe_code)]

use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
use paravirt_platform::DmaSlice;
use paravirt_testhost::{Guest, NetHost, Ring};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::net::VirtioNet;
use paravirt_virtio::net::config::NetFeatures;
use std::error::Error;

/// A broadcast Ethernet frame with a type for experiments and `payload`, padded to the minimum length.
fn frame(source: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0xff; 6][..], &source, &[0x88, 0xb5], payload].concat();
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

fn main() -> Result<(), Box<dyn Error>> {
    let guest = Guest::new();
    let host = NetHost::new(&guest, Ring::Packed, NetFeatures::all());

    let options = OpenOptions::new();
    let mut card = VirtioNet::<Guest, DmaSlice<Guest>>::open(&guest, host.transport(), &options)?;
    let info = card.info();
    println!("card {} with an MTU of {} bytes", info.mac, info.mtu);
    let mut queue = card.take_queue(0).ok_or("queue 0 is taken once")?;

    // Send: reserve a slot, write the frame there, commit. One kick for all frames that were committed.
    let sent = frame(info.mac.0, b"hello, host");
    let (_, tx) = queue.split();
    assert!(tx.reserve(sent.len()), "a new queue has room");
    tx.slot()[..sent.len()].copy_from_slice(&sent);
    tx.commit(sent.len(), TxMeta::default())?;
    tx.kick();
    host.work();
    let (_header, arrived) = host.take_sent().pop().ok_or("no frame arrived")?;
    assert_eq!(arrived, sent);
    println!("sent {} bytes", sent.len());

    // Receive: poll, look at the first frame, pop it to return its buffer to the device.
    let reply = frame([2, 0, 0, 0, 0, 1], b"hello, guest");
    host.deliver([0; 10], &reply);
    host.work();
    queue.poll()?;
    let (rx, _) = queue.split();
    let received = rx.front().ok_or("no frame was received")?;
    let bytes = rx.segment(0).ok_or("a frame has a segment")?;
    assert_eq!(bytes, reply);
    println!("received {} bytes: {}", received.len, bytes[14..26].escape_ascii());
    rx.pop();
    Ok(())
}
