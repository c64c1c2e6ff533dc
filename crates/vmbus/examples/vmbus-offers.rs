//! VMBus: connects to the host, lists its offers, and exchanges a packet on a channel.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-vmbus --example vmbus-offers`
#![forbid(unsafe_code)]

use core::time::Duration;
use hyperv_bindings::vmbus::{KVP, SCSI};
use paravirt_hyperv::Hypervisor;
use paravirt_testhost::{Echo, Guest, HvHost, HvOffer, OfferSettings};
use paravirt_vmbus::{ChannelOptions, Guid, Version, Vmbus};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // The host: two devices, which send back the packets that they receive.
    let guest = Guest::with(1, true);
    let host = HvHost::new(&guest, HvOffer::least());
    for (interface, instance) in [(SCSI, 1), (KVP, 2)] {
        let settings = OfferSettings { instance: Guid([instance; 16]), ..OfferSettings::new(interface) };
        host.add(&guest, settings, Echo);
    }

    // Proposes the versions from the newest down, and waits for all offers.
    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    println!("connected with version {}", vmbus.version());
    let mut offers = vec![];
    vmbus.offers(&mut |offer| offers.push(*offer));
    for offer in &offers {
        println!("channel {}: {offer}", offer.channel);
    }
    let classes: Vec<_> = offers.iter().map(|offer| offer.class()).collect();
    assert_eq!(classes, [Some("SCSI"), Some("KVP")]);

    // A channel: two rings in memory that the host was told of. The packet asks for a completion.
    let mut channel = vmbus.open(&offers[0], &ChannelOptions::default())?;
    channel.send_in_band(7, true, &[b"8 bytes."])?;
    channel.kick();
    let mut buffer = [0; 64];
    let answer = channel.wait(&mut buffer, Duration::from_secs(1))?;
    println!("completion of transaction {}: {}", answer.transaction, answer.payload.escape_ascii());
    assert_eq!((answer.transaction, answer.payload), (7, &b"8 bytes."[..]));

    // Dropped, the channel is closed and its rings are freed once the host has released them.
    drop(channel);
    assert_eq!(host.gpadls(), (0, 0));
    assert!(host.violations().is_empty());
    Ok(())
}
