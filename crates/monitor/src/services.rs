//! The host's side of the integration services: heartbeat, time synchronization, shutdown and key-value pairs.

use hyperv_bindings::Guid;
use hyperv_bindings::ic::{
    IC_UNIX_EPOCH, IcHeartbeat, IcHeartbeatState, IcKvpEnumerate, IcKvpHeader, IcKvpOperation, IcKvpPool,
    IcKvpValue, IcKvpValueType, IcMessageType, IcShutdown, IcStatus, IcTime4, IcTimeFlags, IcVersion,
};
use hyperv_bindings::vmbus;
use paravirt_testhost::IcHost;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The time between requests of a service.
const INTERVAL: Duration = Duration::from_secs(2);
/// The reason of a shutdown request: planned, other. Windows' SHTDN_REASON_FLAG_PLANNED
const REASON: u32 = 0x8000_0000;
/// The time that the guest has to shut down, in seconds.
const TIMEOUT: u32 = 60;
/// The length of the display message of a shutdown request, in bytes.
const TEXT: usize = 2048;

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Kind {
    Heartbeat,
    TimeSync,
    Shutdown,
    /// Enumerates the guest's values, then sets one.
    KeyValuePairs,
}

/// One of the services.
pub struct Service {
    kind: Kind,
    pub device: IcHost,
    /// Whether the version is negotiated.
    is_ready: bool,
    /// When the next request is due.
    next: Instant,
    /// The sequence number of the next heartbeat or time message, or the index of the next value.
    sequence: u64,
    /// Whether a request is outstanding.
    is_requested: bool,
    /// Whether all of the guest's values were read.
    is_enumerated: bool,
}

/// Returns all services, each with its interface id.
pub fn all() -> Vec<(Guid, Service)> {
    let service = |kind: Kind, interface: Guid| {
        let device = IcHost::default();
        device.greet(kind.version());
        (
            interface,
            Service {
                kind,
                device,
                is_ready: false,
                next: Instant::now(),
                sequence: 0,
                is_requested: false,
                is_enumerated: false,
            },
        )
    };
    vec![
        service(Kind::Heartbeat, vmbus::HEARTBEAT),
        service(Kind::TimeSync, vmbus::TIME_SYNC),
        service(Kind::Shutdown, vmbus::SHUTDOWN),
        service(Kind::KeyValuePairs, vmbus::KVP),
    ]
}

impl Kind {
    fn version(self) -> IcVersion {
        match self {
            Self::Heartbeat => IcVersion { major: 3, minor: 0 },
            Self::TimeSync => IcVersion { major: 4, minor: 0 },
            Self::Shutdown => IcVersion { major: 3, minor: 2 },
            Self::KeyValuePairs => IcVersion { major: 5, minor: 0 },
        }
    }
}

impl Service {
    /// Handles responses of the guest and queues the requests that are due; returns whether a request was queued.
    pub fn serve(&mut self, now: Instant, shutdown_requested: bool) -> bool {
        for answer in self.device.take_answers() {
            match answer.kind {
                IcMessageType::NEGOTIATE => {
                    log_line!("{:?} service negotiated", self.kind);
                    (self.is_ready, self.next, self.sequence) = (true, now, 0);
                }
                IcMessageType::HEARTBEAT => {
                    let beat = IcHeartbeat::read_from_prefix(&answer.body).map(|(beat, _)| beat.sequence);
                    let is_next = beat.is_ok_and(|beat| beat == self.sequence.wrapping_add(1));
                    if self.sequence < 2 || !is_next {
                        log_line!("heartbeat {} answered: {is_next}", self.sequence);
                    }
                    self.sequence += 1;
                }
                IcMessageType::SHUTDOWN => {
                    let is_accepted = answer.status == IcStatus::SUCCESS.0;
                    log_line!("shutdown request {}", if is_accepted { "accepted" } else { "refused" });
                }
                IcMessageType::KVP => self.on_kvp(answer.status, &answer.body, now),
                _ => {}
            }
        }
        if !self.is_ready || now < self.next {
            return false;
        }
        let version = self.kind.version();
        match self.kind {
            Kind::Heartbeat => {
                let beat =
                    IcHeartbeat { sequence: self.sequence, state: IcHeartbeatState::UNKNOWN, reserved: 0 };
                self.device.ask(IcMessageType::HEARTBEAT, version, beat.as_bytes());
            }
            Kind::TimeSync => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let mut time = IcTime4 {
                    parent_time: IC_UNIX_EPOCH + (unix.as_nanos() / 100) as u64,
                    ..FromBytes::read_from_bytes(&[0; size_of::<IcTime4>()]).expect("zeros")
                };
                // The first message sets the guest's clock; later ones are samples.
                time.flags = if self.sequence == 0 { IcTimeFlags::SYNC } else { IcTimeFlags::SAMPLE }.bits();
                self.sequence += 1;
                self.device.ask(IcMessageType::TIME_SYNC, version, time.as_bytes());
            }
            Kind::Shutdown if shutdown_requested && !self.is_requested => {
                let head = IcShutdown { reason: REASON, timeout: TIMEOUT, flags: 0 };
                self.is_requested = true;
                self.device.ask(IcMessageType::SHUTDOWN, version, &[head.as_bytes(), &[0; TEXT]].concat());
            }
            Kind::Shutdown => return false,
            Kind::KeyValuePairs if !self.is_requested => {
                self.is_requested = true;
                let request =
                    if self.is_enumerated { set_request() } else { enumerate_request(self.sequence) };
                self.device.ask(IcMessageType::KVP, version, &request);
            }
            Kind::KeyValuePairs => return false,
        }
        self.next = now + INTERVAL;
        true
    }

    /// Handles the response to a key-value request.
    fn on_kvp(&mut self, status: u32, body: &[u8], now: Instant) {
        let response =
            IcKvpEnumerate::read_from_prefix(body.get(size_of::<IcKvpHeader>()..).unwrap_or_default());
        match response {
            _ if self.is_enumerated => {
                return log_line!("value accepted by the guest: {}", status == IcStatus::SUCCESS.0);
            }
            Ok((fact, _)) if status == IcStatus::SUCCESS.0 => {
                let IcKvpValue { key_size, value_size, key, value, .. } = fact.value;
                log_line!("the guest reports {}={}", text(&key, key_size), text(&value, value_size));
            }
            _ => self.is_enumerated = true,
        }
        (self.is_requested, self.next) = (false, now);
        self.sequence += 1;
    }

    /// Returns when the next request is due, if that depends on time only.
    pub fn due(&self) -> Option<Instant> {
        let waits_for_event =
            self.kind == Kind::Shutdown || self.kind == Kind::KeyValuePairs && self.is_requested;
        (self.is_ready && !waits_for_event).then_some(self.next)
    }
}

/// Decodes UTF-16 text of `size` bytes, including the terminating zero.
fn text(bytes: &[u8], size: u32) -> String {
    let bytes = bytes.get(..size as usize).unwrap_or(bytes);
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_string()
}

/// Encodes `text` as UTF-16 with a terminating zero; returns the length in bytes.
fn put(text: &str, to: &mut [u8]) -> u32 {
    let bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    to[..bytes.len()].copy_from_slice(&bytes);
    bytes.len() as u32
}

/// Returns the request that sets the host's name.
fn set_request() -> Vec<u8> {
    let mut value = IcKvpValue::new_zeroed();
    value.value_type = IcKvpValueType::STRING;
    value.key_size = put("HostName", &mut value.key);
    value.value_size = put("paravirt-monitor", &mut value.value);
    let pool = IcKvpPool::AUTO_EXTERNAL;
    let header = IcKvpHeader { operation: IcKvpOperation::SET, pool, reserved: 0 };
    [header.as_bytes(), value.as_bytes()].concat()
}

/// Returns the request for value `index` of the guest.
fn enumerate_request(index: u64) -> Vec<u8> {
    let mut request = IcKvpEnumerate::new_zeroed();
    request.index = index as u32;
    let header = IcKvpHeader { operation: IcKvpOperation::ENUMERATE, pool: IcKvpPool::AUTO, reserved: 0 };
    [header.as_bytes(), request.as_bytes()].concat()
}
