//! smoltcp on a network device: its stack answers ARP and a ping of the host.
//!
//! Runs in process, against a model of the device: `cargo run -p paravirt-adapters --features smoltcp --example smoltcp-ping`
#![forbid(unsafe_code)]

use paravirt_adapters::smoltcp::Device;
use paravirt_device::NetDevice;
use paravirt_platform::{DmaSlice, Platform};
use paravirt_testhost::{Guest, NetHost, Ring};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::net::{VirtioNet, config::NetFeatures};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, EthernetFrame, Icmpv4Packet, Icmpv4Repr, IpCidr};
use smoltcp::wire::{IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr};
use std::error::Error;

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const GUEST: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
const DATA: &[u8] = b"are you there?";

/// The host asks who has the guest's address.
fn arp_request() -> Vec<u8> {
    let (ethernet, arp) = ([8, 6], [0, 1, 8, 0, 6, 4, 0, 1]);
    let sender = [&HOST_MAC[..], &HOST.octets()].concat();
    [&[0xff; 6][..], &HOST_MAC, &ethernet, &arp, &sender, &[0; 6], &GUEST.octets()].concat()
}

/// The host sends an echo request to the guest.
fn ping(to: EthernetAddress) -> Vec<u8> {
    let icmp = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 1, data: DATA };
    let (next_header, payload_len, hop_limit) = (IpProtocol::Icmp, icmp.buffer_len(), 64);
    let ip = Ipv4Repr { src_addr: HOST, dst_addr: GUEST, next_header, payload_len, hop_limit };
    let mut bytes = [to.as_bytes(), &HOST_MAC, &[8, 0]].concat();
    let (ip_at, icmp_at) = (bytes.len(), bytes.len() + ip.buffer_len());
    bytes.resize(icmp_at + payload_len, 0);
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[ip_at..]), &checksums);
    icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[icmp_at..]), &checksums);
    bytes
}

fn main() -> Result<(), Box<dyn Error>> {
    let guest = Guest::new();
    let host = NetHost::new(&guest, Ring::Split, NetFeatures::MAC | NetFeatures::MRG_RXBUF);
    let options = OpenOptions::new();
    let mut card = VirtioNet::<Guest, DmaSlice<Guest>>::open(&guest, host.transport(), &options)?;
    let queue = card.take_queue(0).ok_or("queue 0 is taken once")?;
    let mac = EthernetAddress(card.info().mac.0);

    // The adapter owns the queue; the scratch memory holds a copy of a frame that spans several receive buffers.
    let mut scratch = [0; 1514];
    let mut device = Device::new([queue], &card.info(), &mut scratch);
    let now = || Instant::from_micros((guest.now().as_nanos() / 1000) as i64);
    let mut interface = Interface::new(Config::new(mac.into()), &mut device, now());
    interface.update_ip_addrs(|addresses| {
        let _ = addresses.push(IpCidr::new(GUEST.into(), 24));
    });
    let mut sockets = SocketSet::new(vec![]);
    // Gives a frame to the card, lets smoltcp work on it, and returns what the guest sent.
    let mut exchange = |bytes: &[u8]| {
        host.deliver([0; 10], bytes);
        host.work();
        interface.poll(now(), &mut device, &mut sockets);
        device.kick();
        host.work();
        host.take_sent().pop().map(|(_header, frame)| frame).ok_or("the guest sent no answer")
    };

    let answer = exchange(&arp_request())?;
    assert_eq!(EthernetFrame::new_checked(&answer)?.src_addr(), mac);
    println!("{GUEST} is at {mac}");

    let answer = exchange(&ping(mac))?;
    let answer = EthernetFrame::new_checked(&answer)?;
    let answer = Ipv4Packet::new_checked(answer.payload())?;
    let answer = Icmpv4Packet::new_checked(answer.payload())?;
    let answer = Icmpv4Repr::parse(&answer, &ChecksumCapabilities::default())?;
    assert_eq!(answer, Icmpv4Repr::EchoReply { ident: 7, seq_no: 1, data: DATA });
    println!("{GUEST} answers the ping");
    Ok(())
}
