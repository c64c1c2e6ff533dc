//! The integration services as this host uses them: asks whether the guest is alive, tells it the time, and ends it.

use hyperv_bindings::Guid;
use hyperv_bindings::ic::{
    IC_UNIX_EPOCH, IcHeartbeat, IcHeartbeatState, IcKvpEnumerate, IcKvpHeader, IcKvpOperation, IcKvpPool,
    IcKvpValue, IcKvpValueType, IcMessageType, IcShutdown, IcStatus, IcTime4, IcTimeFlags, IcVersion,
};
use hyperv_bindings::vmbus;
use paravirt_testhost::IcHost;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const BEAT: Duration = Duration::from_secs(2);
/// What a guest is told of the reason: planned, other. Windows' SHTDN_REASON_FLAG_PLANNED
const REASON: u32 = 0x8000_0000;
/// Seconds that it has.
const TIMEOUT: u32 = 60;
const TEXT: usize = 2048;

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Kind {
    Heartbeat,
    TimeSync,
    Shutdown,
    /// Asks for all that the guest says of itself, then tells it a value.
    Values,
}

/// One of the services.
pub struct Service {
    kind: Kind,
    pub device: IcHost,
    is_ready: bool,
    next: Instant,
    sequence: u64,
    is_asked: bool,
    knows_all: bool,
}

/// All of them, with their classes.
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
                is_asked: false,
                knows_all: false,
            },
        )
    };
    vec![
        service(Kind::Heartbeat, vmbus::HEARTBEAT),
        service(Kind::TimeSync, vmbus::TIME_SYNC),
        service(Kind::Shutdown, vmbus::SHUTDOWN),
        service(Kind::Values, vmbus::KVP),
    ]
}

impl Kind {
    fn version(self) -> IcVersion {
        match self {
            Self::Heartbeat => IcVersion { major: 3, minor: 0 },
            Self::TimeSync => IcVersion { major: 4, minor: 0 },
            Self::Shutdown => IcVersion { major: 3, minor: 2 },
            Self::Values => IcVersion { major: 5, minor: 0 },
        }
    }
}

impl Service {
    /// Takes answers, and asks what is due; whether there is something to be sent.
    pub fn serve(&mut self, now: Instant, must_end: bool) -> bool {
        for answer in self.device.take_answers() {
            match answer.kind {
                IcMessageType::NEGOTIATE => {
                    tell!("{:?} is there", self.kind);
                    (self.is_ready, self.next, self.sequence) = (true, now, 0);
                }
                IcMessageType::HEARTBEAT => {
                    let beat = IcHeartbeat::read_from_prefix(&answer.body).map(|(beat, _)| beat.sequence);
                    let is_next = beat.is_ok_and(|beat| beat == self.sequence.wrapping_add(1));
                    if self.sequence < 2 || !is_next {
                        tell!("heartbeat {} is answered: {is_next}", self.sequence);
                    }
                    self.sequence += 1;
                }
                IcMessageType::SHUTDOWN => {
                    let is_taken = answer.status == IcStatus::SUCCESS.0;
                    tell!("the guest was asked to end: {}", if is_taken { "taken" } else { "refused" });
                }
                IcMessageType::KVP => self.heard(answer.status, &answer.body, now),
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
                // At first the guest sets its clock; later it may look at it.
                time.flags = if self.sequence == 0 { IcTimeFlags::SYNC } else { IcTimeFlags::SAMPLE }.bits();
                self.sequence += 1;
                self.device.ask(IcMessageType::TIME_SYNC, version, time.as_bytes());
            }
            Kind::Shutdown if must_end && !self.is_asked => {
                let head = IcShutdown { reason: REASON, timeout: TIMEOUT, flags: 0 };
                self.is_asked = true;
                self.device.ask(IcMessageType::SHUTDOWN, version, &[head.as_bytes(), &[0; TEXT]].concat());
            }
            Kind::Shutdown => return false,
            Kind::Values if !self.is_asked => {
                self.is_asked = true;
                let question = if self.knows_all { value_told() } else { fact_asked(self.sequence) };
                self.device.ask(IcMessageType::KVP, version, &question);
            }
            Kind::Values => return false,
        }
        self.next = now + BEAT;
        true
    }

    /// The guest has answered about values.
    fn heard(&mut self, status: u32, body: &[u8], now: Instant) {
        let known =
            IcKvpEnumerate::read_from_prefix(body.get(size_of::<IcKvpHeader>()..).unwrap_or_default());
        match known {
            _ if self.knows_all => {
                return tell!("the guest was told a value: {}", status == IcStatus::SUCCESS.0);
            }
            Ok((fact, _)) if status == IcStatus::SUCCESS.0 => {
                let IcKvpValue { key_size, value_size, key, value, .. } = fact.value;
                tell!("the guest says {}={}", text(&key, key_size), text(&value, value_size));
            }
            _ => self.knows_all = true,
        }
        (self.is_asked, self.next) = (false, now);
        self.sequence += 1;
    }

    /// When it has something to ask.
    pub fn due(&self) -> Option<Instant> {
        let asks_when_told =
            matches!(self.kind, Kind::Shutdown) || self.kind == Kind::Values && self.is_asked;
        (self.is_ready && !asks_when_told).then_some(self.next)
    }
}

/// A text of `size` bytes, with the zero at its end.
fn text(bytes: &[u8], size: u32) -> String {
    let bytes = bytes.get(..size as usize).unwrap_or(bytes);
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_string()
}

/// Writes `text` with a zero at its end; how many bytes.
fn put(text: &str, to: &mut [u8]) -> u32 {
    let bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    to[..bytes.len()].copy_from_slice(&bytes);
    bytes.len() as u32
}

/// Tells the guest what its host is.
fn value_told() -> Vec<u8> {
    let mut value = IcKvpValue::new_zeroed();
    value.value_type = IcKvpValueType::STRING;
    value.key_size = put("HostName", &mut value.key);
    value.value_size = put("paravirt-monitor", &mut value.value);
    let pool = IcKvpPool::AUTO_EXTERNAL;
    let header = IcKvpHeader { operation: IcKvpOperation::SET, pool, reserved: 0 };
    [header.as_bytes(), value.as_bytes()].concat()
}

/// Asks for fact `index` of the guest.
fn fact_asked(index: u64) -> Vec<u8> {
    let mut question = IcKvpEnumerate::new_zeroed();
    question.index = index as u32;
    let header = IcKvpHeader { operation: IcKvpOperation::ENUMERATE, pool: IcKvpPool::AUTO, reserved: 0 };
    [header.as_bytes(), question.as_bytes()].concat()
}
