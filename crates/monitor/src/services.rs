//! The integration services as this host uses them: asks whether the guest is alive, tells it the time, and ends it.

use hyperv_bindings::Guid;
use hyperv_bindings::ic::{
    IC_UNIX_EPOCH, IcHeartbeat, IcHeartbeatState, IcMessageType, IcShutdown, IcStatus, IcTime4, IcTimeFlags,
    IcVersion,
};
use hyperv_bindings::vmbus;
use paravirt_testhost::IcHost;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use zerocopy::{FromBytes, IntoBytes};

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
}

/// One of the services.
pub struct Service {
    kind: Kind,
    pub device: IcHost,
    is_ready: bool,
    next: Instant,
    sequence: u64,
    is_asked: bool,
}

/// All of them, with their classes.
pub fn all() -> Vec<(Guid, Service)> {
    let service = |kind: Kind, interface: Guid| {
        let device = IcHost::default();
        device.greet(kind.version());
        (
            interface,
            Service { kind, device, is_ready: false, next: Instant::now(), sequence: 0, is_asked: false },
        )
    };
    vec![
        service(Kind::Heartbeat, vmbus::HEARTBEAT),
        service(Kind::TimeSync, vmbus::TIME_SYNC),
        service(Kind::Shutdown, vmbus::SHUTDOWN),
    ]
}

impl Kind {
    fn version(self) -> IcVersion {
        match self {
            Self::Heartbeat => IcVersion { major: 3, minor: 0 },
            Self::TimeSync => IcVersion { major: 4, minor: 0 },
            Self::Shutdown => IcVersion { major: 3, minor: 2 },
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
        }
        self.next = now + BEAT;
        true
    }

    /// When it has something to ask.
    pub fn due(&self) -> Option<Instant> {
        (self.is_ready && self.kind != Kind::Shutdown).then_some(self.next)
    }
}
