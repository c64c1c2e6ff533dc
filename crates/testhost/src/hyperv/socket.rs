//! The host's side of Hyper-V sockets: listeners, and the host's ends of streams.

use super::bus::{Bus, Controller, OfferSettings, header, read};
use super::devices::{Packets, VmbusDevice};
use super::ic::{framed, unframed};
use super::ring::HostPacket;
use crate::Memory;
use hyperv_bindings::Guid;
use hyperv_bindings::vmbus::{
    SOCKET, VmbusMessageType, VmbusTlConnectRequest, VmbusTlConnectResult, VmbusVersion,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The status of a refused connection: STATUS_CONNECTION_REFUSED.
const REFUSED: u32 = 0xc000_0236;
/// Maximum length of a packet's payload in bytes.
const MAX_PAYLOAD: usize = 4096;

#[derive(Default)]
struct Stream {
    /// Whether received data is sent back.
    is_echo: bool,
    received: Vec<u8>,
    is_ended: bool,
    send: VecDeque<Vec<u8>>,
    violations: Vec<String>,
}

/// The host's end of a socket. A handle: clones are the same end.
#[derive(Clone, Default)]
pub struct SocketEnd(Arc<Mutex<Stream>>);

impl SocketEnd {
    /// Creates an end that echoes received data, and shuts down after the guest.
    pub fn echo() -> Self {
        Self(Arc::new(Mutex::new(Stream { is_echo: true, ..Stream::default() })))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Stream) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues data, which is sent when the channel is served.
    pub fn send(&self, bytes: &[u8]) {
        self.with(|stream| stream.send.extend(bytes.chunks(MAX_PAYLOAD).map(framed)));
    }

    /// Queues a packet that is sent unchanged.
    pub fn send_packet(&self, bytes: &[u8]) {
        self.with(|stream| stream.send.push_back(bytes.to_vec()));
    }

    /// Shuts down the sending direction.
    pub fn finish(&self) {
        self.with(|stream| stream.send.push_back(framed(&[])));
    }

    /// Returns the data received from the guest, and whether the guest has shut down its sending direction.
    pub fn received(&self) -> (Vec<u8>, bool) {
        self.with(|stream| (stream.received.clone(), stream.is_ended))
    }

    /// Returns the protocol violations of the guest so far.
    pub fn violations(&self) -> Vec<String> {
        self.with(|stream| stream.violations.clone())
    }
}

impl VmbusDevice for SocketEnd {
    fn packet(&mut self, _memory: &Memory, packet: &HostPacket<'_>, _out: &mut dyn Packets) {
        self.with(|stream| match unframed(packet.payload) {
            Some(_) if stream.is_ended => stream.violations.push("data after the end of the stream".into()),
            Some([]) => {
                stream.is_ended = true;
                if stream.is_echo {
                    stream.send.push_back(framed(&[]));
                }
            }
            Some(data) => {
                stream.received.extend_from_slice(data);
                if stream.is_echo {
                    stream.send.push_back(framed(data));
                }
            }
            None => stream.violations.push("a malformed packet".into()),
        });
    }

    fn poll(&mut self, _memory: &Memory, out: &mut dyn Packets) {
        self.with(|stream| stream.send.drain(..).for_each(|bytes| out.in_band(&bytes)));
    }
}

/// Returns the service GUID of `port`.
fn service(port: u32) -> Guid {
    let mut service = SOCKET;
    service.0[..4].copy_from_slice(&port.to_le_bytes());
    service
}

impl Bus {
    /// Accepts the next connection of the guest to `port` with `end` as the host's end.
    pub fn listen(&mut self, port: u32, end: SocketEnd) {
        self.listeners.push((service(port), end));
    }

    /// Connects to `port` of the guest and returns the number of the channel.
    pub fn connect(&mut self, synic: &mut dyn Controller, port: u32, end: SocketEnd) -> u32 {
        let mut instance = *b"socket for guest";
        instance[0] = self.sockets as u8;
        self.sockets += 1;
        let settings = OfferSettings {
            interface: service(port),
            instance: Guid(instance),
            socket: Some(true),
            ..OfferSettings::default()
        };
        self.add(synic, settings, Box::new(end))
    }

    /// Handles a connect request of the guest.
    pub(super) fn socket_wanted(&mut self, synic: &mut dyn Controller, bytes: &[u8]) -> Option<()> {
        let silo = 16;
        let has_silo = self.version >= VmbusVersion::WIN10_RS5.0;
        let len = size_of::<VmbusTlConnectRequest>() - if has_silo { 0 } else { silo };
        if bytes.len() < len || self.version < VmbusVersion::WIN10.0 {
            return None;
        }
        let mut whole = bytes[..len].to_vec();
        whole.resize(size_of::<VmbusTlConnectRequest>(), 0);
        let VmbusTlConnectRequest { endpoint_id, service_id, .. } = read(&whole)?;
        match self.listeners.iter().position(|(service, _)| service.0 == service_id) {
            Some(at) => {
                let (interface, end) = self.listeners.remove(at);
                let instance = Guid(endpoint_id);
                let settings =
                    OfferSettings { interface, instance, socket: Some(false), ..OfferSettings::default() };
                self.add(synic, settings, Box::new(end));
            }
            // Older hosts do not respond to a refused connection.
            None if self.version >= VmbusVersion::WIN10_RS3_0.0 => {
                let header = header(VmbusMessageType::TL_CONNECT_RESULT);
                self.say(synic, &VmbusTlConnectResult { header, endpoint_id, service_id, status: REFUSED });
            }
            None => {}
        }
        Some(())
    }
}
