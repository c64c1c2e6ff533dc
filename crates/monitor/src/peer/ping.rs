//! Echo requests to the guest. RFC 792

use super::LEASED;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr};

const IDENT: u16 = 0x7061;
const INTERVAL: Duration = Duration::from_millis(200);
const DATA: &[u8] = b"paravirt-monitor";

/// Pings the guest until it has answered a number of times.
pub struct Ping {
    socket: SocketHandle,
    wanted: u16,
    answered: u16,
    sent: u16,
    next: Instant,
}

impl Ping {
    pub fn new(sockets: &mut SocketSet<'static>, wanted: u16) -> Self {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(IDENT)).expect("a new socket");
        Self { socket: sockets.add(socket), wanted, answered: 0, sent: 0, next: Instant::ZERO }
    }

    /// Counts answers, and sends the next request when it is due. Returns whether one was sent.
    pub fn serve(&mut self, sockets: &mut SocketSet<'_>, now: Instant) -> bool {
        let socket = sockets.get_mut::<icmp::Socket<'_>>(self.socket);
        while let Ok((bytes, _)) = socket.recv() {
            let packet = Icmpv4Packet::new_checked(bytes).ok();
            let answer = packet.as_ref().and_then(|packet| Icmpv4Repr::parse(packet, &all()).ok());
            if let Some(Icmpv4Repr::EchoReply { data: DATA, seq_no, .. }) = answer {
                self.answered += 1;
                println!("monitor: ping {seq_no} answered");
            }
        }
        if self.answered >= self.wanted || now < self.next {
            return false;
        }
        self.next = now + INTERVAL;
        if !socket.can_send() {
            return false;
        }
        let request = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: self.sent, data: DATA };
        self.sent = self.sent.wrapping_add(1);
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[..]), &all());
        socket.send_slice(&bytes, LEASED.into()).is_ok()
    }

    /// Returns when the next request is due; `None` if there is none.
    pub fn delay(&self, now: Instant) -> Option<std::time::Duration> {
        (self.answered < self.wanted).then(|| (self.next.max(now) - now).into())
    }
}

fn all() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}
