//! The network peer of the guest: a router at 10.0.2.2 that leases 10.0.2.15, answers pings, echoes TCP and UDP on port 7 and
//! serves files on port 80.

mod ping;
mod web;

use paravirt_testhost::WireFrame;
use ping::Ping;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, HardwareAddress, IpCidr, IpEndpoint, Ipv4Address,
};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;
use web::Web;

const ADDRESS: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
const LEASED: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
const MASK: Ipv4Address = Ipv4Address::new(255, 255, 255, 0);
const MAC: EthernetAddress = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);
const LEASE_SECONDS: u32 = 86_400;
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const ECHO: u16 = 7;
/// Maximum number of concurrent connections of each service.
const CONNECTIONS: usize = 8;
const BUFFER: usize = 256 << 10;
const FRAME: usize = 1514;

/// The wire between guest and router: frames in both directions.
#[derive(Default)]
struct Wire {
    from_guest: VecDeque<Vec<u8>>,
    to_guest: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, work: F) -> R {
        let mut frame = vec![0; len];
        let result = work(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;
    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.from_guest.pop_front()?;
        Some((Received(frame), Sending(&mut self.to_guest)))
    }
    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.to_guest))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

/// The router, with its servers.
pub struct Peer {
    start: std::time::Instant,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    lease: SocketHandle,
    echo: SocketHandle,
    echoes: Vec<SocketHandle>,
    web: Web,
    ping: Option<Ping>,
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    tcp::Socket::new(buffer(), buffer())
}

fn udp_socket(port: u16) -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; BUFFER]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).expect("the port is not 0");
    socket
}

impl Peer {
    /// Creates a router that serves the files in `root`, and that pings the guest until it has answered `pings` times.
    pub fn new(root: Option<PathBuf>, pings: u16) -> Self {
        let mut wire = Wire::default();
        let mut interface =
            Interface::new(Config::new(HardwareAddress::Ethernet(MAC)), &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ADDRESS.into(), 24)).expect("room for one address");
        });
        let mut sockets = SocketSet::new(vec![]);
        let lease = sockets.add(udp_socket(DHCP_SERVER));
        let echo = sockets.add(udp_socket(ECHO));
        let echoes = (0..CONNECTIONS).map(|_| sockets.add(tcp_socket())).collect();
        let web = Web::new(root, (0..CONNECTIONS).map(|_| sockets.add(tcp_socket())));
        let ping = (pings > 0).then(|| Ping::new(&mut sockets, pings));
        let start = std::time::Instant::now();
        Self { start, wire, interface, sockets, lease, echo, echoes, web, ping }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }

    /// Handles frames from the guest; returns the frames for it.
    pub fn serve(&mut self, frames: Vec<WireFrame>) -> Vec<Vec<u8>> {
        self.wire.from_guest.extend(frames.into_iter().map(|frame| frame.bytes));
        loop {
            let now = self.now();
            let result = self.interface.poll(now, &mut self.wire, &mut self.sockets);
            self.lease();
            self.echo();
            self.web.serve(&mut self.sockets);
            let is_sent = self.ping.as_mut().is_some_and(|ping| ping.serve(&mut self.sockets, now));
            if is_sent {
                continue;
            }
            if result == PollResult::None && self.wire.from_guest.is_empty() {
                return self.wire.to_guest.drain(..).collect();
            }
        }
    }

    /// Returns when the router has to be polled even if no frame arrives.
    pub fn delay(&mut self) -> Option<Duration> {
        let now = self.now();
        let delay = self.interface.poll_delay(now, &self.sockets).map(Into::into);
        let ping = self.ping.as_ref().and_then(|ping| ping.delay(now));
        delay.into_iter().chain(ping).min()
    }

    /// Serves the echo ports.
    fn echo(&mut self) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.echo);
        while socket.can_send() {
            let Ok((data, from)) = socket.recv().map(|(data, from)| (data.to_vec(), from)) else { break };
            // Without room the datagram is dropped.
            let _ = socket.send_slice(&data, from);
        }
        for handle in &self.echoes {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                socket.listen(ECHO).expect("the port is not 0");
            }
            while socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let Ok(data) =
                    socket.recv(|data| (data.len().min(room), data[..data.len().min(room)].to_vec()))
                else {
                    break;
                };
                if socket.send_slice(&data).is_err() {
                    break;
                }
            }
            if socket.may_send() && !socket.may_recv() && !socket.can_recv() {
                socket.close();
            }
        }
    }

    /// Answers DHCP requests.
    fn lease(&mut self) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.lease);
        while let Ok((data, _)) = socket.recv() {
            let packet = DhcpPacket::new_checked(data).ok();
            let Some(request) = packet.as_ref().and_then(|packet| DhcpRepr::parse(packet).ok()) else {
                continue;
            };
            let message_type = match request.message_type {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                DhcpMessageType::Request if request.requested_ip.is_none_or(|address| address == LEASED) => {
                    DhcpMessageType::Ack
                }
                DhcpMessageType::Request => DhcpMessageType::Nak,
                _ => continue,
            };
            let is_leased = message_type != DhcpMessageType::Nak;
            let reply = DhcpRepr {
                message_type,
                transaction_id: request.transaction_id,
                secs: 0,
                client_hardware_address: request.client_hardware_address,
                client_ip: Ipv4Address::UNSPECIFIED,
                your_ip: if is_leased { LEASED } else { Ipv4Address::UNSPECIFIED },
                server_ip: ADDRESS,
                router: is_leased.then_some(ADDRESS),
                subnet_mask: is_leased.then_some(MASK),
                relay_agent_ip: Ipv4Address::UNSPECIFIED,
                broadcast: request.broadcast,
                requested_ip: None,
                client_identifier: None,
                server_identifier: Some(ADDRESS),
                parameter_request_list: None,
                dns_servers: None,
                max_size: None,
                lease_duration: is_leased.then_some(LEASE_SECONDS),
                renew_duration: None,
                rebind_duration: None,
                additional_options: &[],
            };
            let mut bytes = vec![0; reply.buffer_len()];
            if reply.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).is_ok() {
                let everyone = IpEndpoint::new(Ipv4Address::BROADCAST.into(), DHCP_CLIENT);
                // Without room the reply is dropped; the guest repeats its request.
                let _ = socket.send_slice(&bytes, everyone);
            }
        }
    }
}
