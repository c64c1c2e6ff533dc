//! The network, over smoltcp: DHCP, ping, HTTP, an echo server, and round trips to an echo server.

mod round_trips;

use super::devices::{CardQueue, Devices};
use super::mount;
use super::options::Options;
use crate::arch::time;
use crate::smp;
use crate::{platform, println};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;
use paravirt_adapters::smoltcp::Device;
use paravirt_device::{Arm, MacAddr, NetDevice, Notify, ReceiveMode};
use paravirt_platform::Instant;
use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{dhcpv4, dns, icmp, tcp};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, Ipv4Address, Ipv4Cidr,
};

const DHCP_TIMEOUT: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const TCP_TIMEOUT: Duration = Duration::from_secs(120);
const TCP_BUFFER: usize = 256 << 10;
const PING_ID: u16 = 0x7061;
const PINGS: u16 = 3;
/// The largest frame that can be received, in bytes.
const LARGEST: usize = 65535 + 14;
/// Maximum number of queue pairs that are used.
const PAIRS: usize = 4;

/// The network stack on one card. The processor halts while it waits.
pub struct Stack {
    device: Box<dyn Phy>,
    interface: Interface,
    sockets: SocketSet<'static>,
    gateway: Option<Ipv4Address>,
    dns: Option<IpAddress>,
}

/// A `Device` with any number of queue pairs.
trait Phy {
    fn interface(&mut self, config: Config) -> Interface;
    fn poll(
        &mut self,
        now: smoltcp::time::Instant,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
    ) -> bool;
    fn arm(&mut self) -> Arm;
    fn next_deadline(&self) -> Instant;
    /// Resets queues whose host has stopped; a fault then shows as a timeout of the work.
    fn expire(&mut self);
}

impl<const N: usize> Phy for Device<'static, CardQueue, N> {
    fn interface(&mut self, config: Config) -> Interface {
        Interface::new(config, self, stack_time())
    }
    fn poll(
        &mut self,
        now: smoltcp::time::Instant,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
    ) -> bool {
        let result = interface.poll(now, self, sockets);
        self.kick();
        result == smoltcp::iface::PollResult::SocketStateChanged
    }
    fn arm(&mut self) -> Arm {
        Device::arm(self)
    }
    fn next_deadline(&self) -> Instant {
        Device::next_deadline(self)
    }
    fn expire(&mut self) {
        let _ = Device::expire(self, time::now());
    }
}

fn stack_time() -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((time::now().as_nanos() / 1000) as i64)
}

impl Stack {
    /// Brings up card `index` with as many queues as there are processors, and if it `filters`, for frames to one multicast address alone.
    pub fn new(devices: &mut Devices, index: usize, filters: bool) -> Result<Self, String> {
        let count = devices.cards.len();
        let card =
            devices.cards.get_mut(index).ok_or_else(|| format!("there is no net{index}: {count} in all"))?;
        let info = card.device.info();
        let pairs = info.queues.min(smp::count() as u16).min(PAIRS as u16);
        let mut queues = vec![];
        for pair in 0..pairs {
            let mut queue =
                card.device.take_queue(pair).ok_or_else(|| format!("the queues of net{index} are taken"))?;
            queue.register(&platform::waker());
            queues.push(queue);
        }
        if pairs > 1 {
            card.device.set_active_queues(pairs).map_err(|e| e.to_string())?;
        }
        if filters {
            let all_hosts = MacAddr([1, 0, 0x5e, 0, 0, 1]);
            card.device.set_multicast(&[all_hosts]).map_err(|e| e.to_string())?;
            card.device.set_receive_mode(ReceiveMode::Filtered).map_err(|e| e.to_string())?;
        }
        let mut queues = queues.into_iter();
        let mut next = || queues.next().ok_or("a queue is missing");
        let scratch = vec![0; LARGEST].leak();
        let mut device: Box<dyn Phy> = match pairs {
            1 => Box::new(Device::new([next()?], &info, scratch)),
            2 => Box::new(Device::new([next()?, next()?], &info, scratch)),
            3 => Box::new(Device::new([next()?, next()?, next()?], &info, scratch)),
            _ => Box::new(Device::new([next()?, next()?, next()?, next()?], &info, scratch)),
        };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(info.mac.0)));
        config.random_seed = time::now().as_nanos();
        let interface = device.interface(config);
        Ok(Self { device, interface, sockets: SocketSet::new(vec![]), gateway: None, dns: None })
    }

    /// Polls the stack until `done` returns a result, halting in between; returns `None` after `timeout`.
    fn until<R>(&mut self, timeout: Duration, mut done: impl FnMut(&mut Self) -> Option<R>) -> Option<R> {
        let deadline = time::now().saturating_add(timeout);
        loop {
            let changed = self.device.poll(stack_time(), &mut self.interface, &mut self.sockets);
            if let Some(result) = done(self) {
                // Sends what `done` has written.
                self.device.poll(stack_time(), &mut self.interface, &mut self.sockets);
                return Some(result);
            }
            if time::now() >= deadline {
                return None;
            }
            if changed {
                continue;
            }
            let delay = self.interface.poll_delay(stack_time(), &self.sockets);
            let until = delay.map_or(Instant::NEVER, |d| time::now().saturating_add(d.into())).min(deadline);
            let device = &mut self.device;
            let until = until.min(device.next_deadline());
            platform::sleep(until, || device.arm());
            device.expire();
        }
    }

    fn set_address(&mut self, address: Ipv4Cidr, gateway: Option<Ipv4Address>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            let _ = addresses.push(IpCidr::Ipv4(address));
        });
        if let Some(gateway) = gateway {
            let _ = self.interface.routes_mut().add_default_ipv4_route(gateway);
        }
        self.gateway = gateway;
    }

    fn dhcp(&mut self, name: &str) -> Result<(), String> {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        let found = self.until(DHCP_TIMEOUT, |stack| {
            match stack.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
                Some(dhcpv4::Event::Configured(config)) => {
                    Some((config.address, config.router, config.dns_servers.first().copied()))
                }
                _ => None,
            }
        });
        self.sockets.remove(handle);
        let (address, gateway, dns) = found.ok_or_else(|| format!("{name}: no answer to DHCP"))?;
        self.set_address(address, gateway);
        self.dns = dns.map(IpAddress::Ipv4);
        let show = |address: Option<Ipv4Address>| address.map_or("none".into(), |a| a.to_string());
        println!("dhcp={name} ip={address} gateway={} dns={}", show(gateway), show(dns));
        Ok(())
    }

    fn ping(&mut self, to: Ipv4Address) -> Result<(), String> {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(PING_ID)).map_err(|e| e.to_string())?;
        let handle = self.sockets.add(socket);
        for sequence in 0..PINGS {
            let repr = Icmpv4Repr::EchoRequest { ident: PING_ID, seq_no: sequence, data: b"paravirt" };
            let socket = self.sockets.get_mut::<icmp::Socket<'_>>(handle);
            let payload = socket.send(repr.buffer_len(), IpAddress::Ipv4(to)).map_err(|e| e.to_string())?;
            repr.emit(&mut Icmpv4Packet::new_unchecked(payload), &ChecksumCapabilities::default());
            self.until(PING_TIMEOUT, |stack| {
                let socket = stack.sockets.get_mut::<icmp::Socket<'_>>(handle);
                let (payload, _) = socket.recv().ok()?;
                let packet = Icmpv4Packet::new_checked(payload).ok()?;
                match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()? {
                    Icmpv4Repr::EchoReply { seq_no, data: b"paravirt", .. } if seq_no == sequence => Some(()),
                    _ => None,
                }
            })
            .ok_or_else(|| format!("no answer to ping from {to}"))?;
        }
        self.sockets.remove(handle);
        println!("ping={to} answers={PINGS}");
        Ok(())
    }

    fn resolve(&mut self, host: &str) -> Result<IpAddress, String> {
        if let Ok(address) = host.parse() {
            return Ok(IpAddress::Ipv4(address));
        }
        let server = self
            .dns
            .ok_or_else(|| format!("{host}: no name server is known: use dhcp, or give an address"))?;
        let handle = self.sockets.add(dns::Socket::new(&[server], vec![]));
        let context = self.interface.context();
        let query = self
            .sockets
            .get_mut::<dns::Socket<'_>>(handle)
            .start_query(context, host, smoltcp::wire::DnsQueryType::A)
            .map_err(|e| format!("{host}: {e}"))?;
        let found = self.until(DHCP_TIMEOUT, |stack| {
            match stack.sockets.get_mut::<dns::Socket<'_>>(handle).get_query_result(query) {
                Err(dns::GetQueryResultError::Pending) => None,
                result => Some(result),
            }
        });
        self.sockets.remove(handle);
        match found {
            Some(Ok(addresses)) if !addresses.is_empty() => Ok(addresses[0]),
            _ => Err(format!("{host}: not found")),
        }
    }

    /// Adds a TCP socket.
    pub fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// Starts a connection to `server`, from a local port that was not used recently.
    fn connect(&mut self, handle: SocketHandle, server: (IpAddress, u16)) -> Result<(), String> {
        let local = 49152 + (time::now().as_nanos() / 1000 % 16000) as u16;
        let context = self.interface.context();
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(context, server, local).map_err(|e| e.to_string())
    }

    /// Fetches `url` and prints the status, the size and the SHA-256 of the body.
    fn http(&mut self, url: &str) -> Result<(), String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url} does not begin with http://"))?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().map_err(|_| format!("{url}: invalid port"))?),
            None => (authority, 80),
        };
        let address = self.resolve(host)?;
        let handle = self.tcp();
        self.connect(handle, (address, port))?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: paravirt\r\n\r\n");
        let start = time::now();
        let mut response = Response::default();
        let mut sent = 0;
        self.until(TCP_TIMEOUT, |stack| {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if socket.may_send() && sent < request.len() {
                sent += socket.send_slice(&request.as_bytes()[sent..]).unwrap_or(0);
            }
            while socket.can_recv() {
                let _ = socket.recv(|bytes| (bytes.len(), response.push(bytes)));
            }
            (!socket.may_recv() && sent == request.len() || !socket.is_open()).then(|| socket.close())
        })
        .ok_or_else(|| format!("{url}: no answer"))?;
        self.until(Duration::from_secs(1), |stack| {
            (!stack.sockets.get::<tcp::Socket<'_>>(handle).is_open()).then_some(())
        });
        self.sockets.remove(handle);
        let status = response.status().ok_or_else(|| format!("{url}: not an HTTP response"))?;
        let Response { size, hash, length, .. } = response;
        if length.is_some_and(|length| length != size) {
            return Err(format!("{url}: received {size} of {} bytes", length.unwrap_or(0)));
        }
        println!("http=done size={size} micros={}", time::now().since(start).as_micros());
        println!("same http={path} status={status} size={size} sha256={}", mount::hex(&hash.finalize()));
        Ok(())
    }

    /// Serves one connection: sends back what it receives.
    fn echo(&mut self, port: u16) -> Result<(), String> {
        let handle = self.tcp();
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).listen(port).map_err(|e| e.to_string())?;
        println!("echo=listening port={port}");
        let mut total = 0;
        let mut was_active = false;
        self.until(TCP_TIMEOUT, |stack| {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            was_active |= socket.may_recv();
            while socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let mut chunk = [0; 4096];
                let len = room.min(chunk.len());
                let count = socket.recv_slice(&mut chunk[..len]).unwrap_or(0);
                total += socket.send_slice(&chunk[..count]).unwrap_or(0);
                if count == 0 {
                    break;
                }
            }
            if was_active && !socket.may_recv() && socket.recv_queue() == 0 {
                socket.close();
            }
            (was_active && !socket.is_open() || socket.state() == tcp::State::TimeWait).then_some(())
        })
        .ok_or_else(|| format!("echo: no connection to port {port}, or it was not closed in time"))?;
        self.sockets.remove(handle);
        println!("echo=done port={port} bytes={total}");
        Ok(())
    }
}

/// An HTTP response while it is received: the head is stored, the body is hashed.
#[derive(Default)]
struct Response {
    head: alloc::vec::Vec<u8>,
    in_body: bool,
    /// Bytes of the body so far.
    size: u64,
    /// The value of `Content-Length`.
    length: Option<u64>,
    hash: Sha256,
}

impl Response {
    /// Appends received bytes.
    fn push(&mut self, bytes: &[u8]) {
        if self.in_body {
            self.hash.update(bytes);
            self.size += bytes.len() as u64;
            return;
        }
        self.head.extend_from_slice(bytes);
        if let Some(at) = self.head.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = self.head.split_off(at + 4);
            self.in_body = true;
            self.length = core::str::from_utf8(&self.head).ok().and_then(|head| {
                let mut lines = head.lines().filter_map(|line| line.split_once(':'));
                lines.find(|(key, _)| key.eq_ignore_ascii_case("content-length"))?.1.trim().parse().ok()
            });
            self.push(&body);
        }
    }

    /// Returns the status code, if the head is complete and valid.
    fn status(&self) -> Option<u16> {
        let line = core::str::from_utf8(&self.head).ok().filter(|_| self.in_body)?.lines().next()?;
        line.strip_prefix("HTTP/")?.split(' ').nth(1)?.parse().ok()
    }
}

/// Runs the network parts that `options` select: DHCP on every card, the others on one.
pub fn run(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if !options.uses_network() {
        return Ok(());
    }
    for index in 0..devices.cards.len() {
        if index != options.nic && options.dhcp {
            Stack::new(devices, index, false)?.dhcp(&format!("net{index}"))?;
        }
    }
    let mut stack = Stack::new(devices, options.nic, options.filters)?;
    if options.dhcp {
        stack.dhcp(&format!("net{}", options.nic))?;
    }
    if let Some(address) = options.address {
        stack.set_address(address, options.gateway);
    }
    if let Some(to) = options.ping {
        let to = to.or(stack.gateway).ok_or("ping: there is no gateway: give an address")?;
        stack.ping(to)?;
    }
    if let Some((address, port)) = options.round_trips {
        stack.round_trips(address, port)?;
    }
    if let Some(url) = &options.http {
        stack.http(url)?;
    }
    if let Some(port) = options.echo {
        stack.echo(port)?;
    }
    Ok(())
}
