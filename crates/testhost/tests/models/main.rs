//! The models of Hyper-V devices against guests that send anything: violations are recorded, and the models continue.

mod bus;
mod card;
mod storage;

use hyperv_bindings::ic::{
    IcHeader, IcMessageFlags, IcMessageType, IcVersion, KEYBOARD_VERSION, KeyboardMessageType, MOUSE_VERSION,
    MouseMessageType,
};
use hyperv_bindings::ring::{RingPipeHeader, RingPipeType};
use paravirt_testhost::{BufferRange, HostPacket, PacketKind};
use paravirt_testhost::{Guest, IcHost, InputHost, Memory, NetVspHost, Packets, StorHost, VmbusDevice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use zerocopy::IntoBytes;

/// The number of packets of each flood, and the number between two openings.
const PACKETS: usize = 6000;
const OPENING: usize = 200;
/// The page that packets name, and GPADLs: one of memory, one of page numbers out of range.
const PAGE: u64 = 0x103;
const BUFFER: u32 = 1;
const NOWHERE: u32 = 2;

/// A reproducible pseudo-random generator.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number from 0 to `end` (exclusive).
    fn below(&mut self, end: usize) -> usize {
        (self.roll() >> 16) as usize % end
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.roll() as u8).collect()
    }

    /// Returns the bytes unchanged, truncated, with some of them changed, or different ones.
    fn spoil(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self.below(8) {
            0 => bytes.truncate(self.below(bytes.len() + 1)),
            1 => {
                let len = self.below(100);
                bytes = self.bytes(len);
            }
            2..5 => {
                for _ in 0..1 + self.below(4) {
                    let at = self.below(bytes.len().max(1));
                    let byte = [0, 0xff, 0x80, self.roll() as u8][self.below(4)];
                    bytes.iter_mut().skip(at).take(1 + self.below(4)).for_each(|place| *place = byte);
                }
            }
            _ => {}
        }
        bytes
    }
}

/// Records what a device sends.
#[derive(Default)]
struct Sent {
    packets: Vec<Vec<u8>>,
    transfers: usize,
    further: u16,
}

impl Packets for Sent {
    fn in_band(&mut self, payload: &[u8]) {
        self.packets.push(payload.to_vec());
    }
    fn completion(&mut self, _transaction: u64, payload: &[u8]) {
        self.packets.push(payload.to_vec());
    }
    fn transfer(&mut self, _transaction: u64, _set: u16, _ranges: &[BufferRange], _payload: &[u8]) {
        self.transfers += 1;
    }
    fn offer_further(&mut self, count: u16) {
        self.further = count;
    }
    fn memory(&self, gpadl: u32) -> Vec<u64> {
        match gpadl {
            BUFFER => (0x110..0x1d8).collect(),
            NOWHERE => vec![u64::MAX; 200],
            _ => vec![],
        }
    }
}

/// A packet's payload, and the content of the memory that it names.
type Sample = (Vec<u8>, Vec<u8>);

fn words(words: &[u32]) -> Vec<u8> {
    words.as_bytes().to_vec()
}

/// A packet header with one range of `len` bytes at `offset` in the first of these frames.
fn range(len: u32, offset: u32, frames: &[u64]) -> Vec<u8> {
    [&words(&[0, 1, len, offset])[..], frames.as_bytes()].concat()
}

/// Sends a correct packet.
fn send(device: &mut dyn VmbusDevice, memory: &Memory, sample: &Sample) -> Sent {
    let (payload, data) = sample;
    memory.write(PAGE * 4096, data);
    let header = range(data.len() as u32, 0, &[PAGE]);
    let kind = if data.is_empty() { PacketKind::IN_BAND } else { PacketKind::GPA_DIRECT };
    let packet = HostPacket { kind, wants_completion: true, transaction: 1, header: &header, payload };
    let mut sent = Sent::default();
    device.packet(memory, &packet, &mut sent);
    device.poll(memory, &mut sent);
    sent
}

/// Opens a device repeatedly, initializes it with `begin`, and sends mutated samples.
fn flood(device: &mut dyn VmbusDevice, begin: &[Sample], samples: &[Sample], mut each: impl FnMut()) {
    let guest = Guest::new();
    let memory = guest.memory();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for number in 0..PACKETS {
        if number % OPENING == 0 {
            device.close();
            device.open();
            begin.iter().for_each(|sample| drop(send(device, memory, sample)));
        }
        each();
        let (payload, data) = &samples[dice.below(samples.len())];
        let (payload, data) = (dice.spoil(payload), dice.spoil(data));
        memory.write(PAGE * 4096, &data[..data.len().min(4096)]);
        let mut header = range(data.len() as u32, 0, &[PAGE]);
        match dice.below(8) {
            0 => header = dice.spoil(&header),
            1 => header = range(5000, 4000, &[PAGE, dice.roll(), PAGE]),
            2 => header = range(1, 4095, &[(1 << 52) - 1 + dice.roll() % 2]),
            _ => {}
        }
        let kind = match dice.below(8) {
            0 => PacketKind(dice.below(16) as u16),
            1 => PacketKind::COMPLETION,
            _ if data.is_empty() => PacketKind::IN_BAND,
            _ => PacketKind::GPA_DIRECT,
        };
        let transaction = dice.below(64) as u64;
        let wants_completion = dice.below(8) > 0;
        let packet = HostPacket { kind, wants_completion, transaction, header: &header, payload: &payload };
        let mut sent = Sent::default();
        device.packet(memory, &packet, &mut sent);
        device.poll(memory, &mut sent);
    }
}

/// Checks that there were more violations than are recorded.
fn check_truncated(violations: &[String]) {
    assert_eq!(violations.len(), 100, "{violations:?}");
}

/// Adds the pipe header to a message.
fn framed(message: &[u8]) -> Sample {
    let header = RingPipeHeader { pipe_type: RingPipeType::DATA, byte_count: message.len() as u32 };
    ([header.as_bytes(), message].concat(), vec![])
}

#[test]
fn integration_models_survive_any_messages() {
    let header = IcHeader {
        framework_version: IcVersion { major: 3, minor: 0 },
        message_type: IcMessageType::HEARTBEAT,
        message_version: IcVersion { major: 3, minor: 0 },
        message_size: 16,
        status_low: 0,
        status_high: 0,
        transaction_id: 1,
        flags: (IcMessageFlags::TRANSACTION | IcMessageFlags::RESPONSE).bits(),
        reserved: 0,
    };
    let service = IcHost::default();
    service.greet(IcVersion { major: 3, minor: 0 });
    let samples = [framed(&[header.as_bytes(), &[0; 16]].concat()), framed(&[])];
    flood(&mut service.clone(), &[], &samples, || {});
    check_truncated(&service.violations());
    assert!(service.take_answers().len() > 100);
}

#[test]
fn input_models_survive_any_messages() {
    let keyboard = InputHost::keyboard();
    let samples = [
        (words(&[KeyboardMessageType::PROTOCOL_REQUEST.0, KEYBOARD_VERSION]), vec![]),
        (words(&[KeyboardMessageType::SET_LED_INDICATORS.0, 5]), vec![]),
    ];
    flood(&mut keyboard.clone(), &samples, &samples, || keyboard.keystroke(0x1e, 0));
    check_truncated(&keyboard.violations());
    assert!(keyboard.leds().is_some());
    let mouse = InputHost::mouse();
    let samples = [
        framed(&words(&[MouseMessageType::PROTOCOL_REQUEST.0, 4, MOUSE_VERSION])),
        framed(&words(&[MouseMessageType::DEVICE_INFO_ACK.0, 0])),
    ];
    flood(&mut mouse.clone(), &samples, &samples, || mouse.report(1, 2, 3, 4));
    check_truncated(&mouse.violations());
    assert!(mouse.is_ready());
}

#[test]
fn violations_are_readable_after_a_panic() {
    let (storage, card) = (StorHost::new(), NetVspHost::new());
    let panics = [
        catch_unwind(AssertUnwindSafe(|| storage.fault_config(|_| panic!("of a test")))),
        catch_unwind(AssertUnwindSafe(|| card.fault_config(|_| panic!("of a test")))),
    ];
    assert!(panics.iter().all(Result::is_err));
    assert_eq!((storage.violations(), card.violations()), (vec![], vec![]));
}
