//! A model of VMware's network card: registers, a shared area, and a wire.

use super::function::{Function, Interrupt, Model, OnBus, PciFaults};
use crate::Guest;
use paravirt_pci::DeviceBox;
use std::sync::{Arc, Mutex, PoisonError};

const MAGIC: u32 = 0xbabe_fee1;
/// The most descriptors that are looked at for one frame, and at one doorbell.
const MAX_DESCRIPTORS: u32 = 64;
const MAX_WORK: u32 = 4096;
/// The card's own address.
const MAC: [u8; 6] = [0, 0x0c, 0x29, 1, 2, 3];
/// Vectors, and queues of a kind.
const VECTORS: usize = 25;
const MAX_QUEUES: usize = 8;

/// Changes a completion that is about to be written.
type Mutation = Box<dyn FnMut(&mut [u32; 4]) + Send>;

/// Fault injection settings.
#[derive(Default)]
pub struct Vmxnet3Faults {
    /// Revisions beyond the first one, a bit each.
    pub more_revisions: u32,
    /// There is no revision 1.
    pub lacks_revision: bool,
    /// The card is not activated.
    pub refuses: bool,
    /// Sent frames are not completed.
    pub holds: bool,
    /// How many sent frames the card lets wait for the doorbell.
    pub threshold: u32,
    /// The card wants to hear of receive descriptors.
    pub wants_producer: bool,
    /// Received frames skip a descriptor first.
    pub skips: bool,
    /// Changes every transmit completion.
    pub mutate_tx: Option<Mutation>,
    /// Changes every receive completion.
    pub mutate_rx: Option<Mutation>,
}

/// A frame that the guest has sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SentFrame {
    /// Its queue.
    pub queue: usize,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What the card was asked to do: 0 nothing, 2 a checksum, 3 segmentation.
    pub mode: u32,
    /// The length of the headers, or where the checksum begins.
    pub header_len: u32,
    /// The size of a segment, or where the checksum is.
    pub offset: u32,
    /// The tag to insert.
    pub tag: Option<u16>,
}

/// What the card says of a received frame besides its bytes.
#[derive(Copy, Clone, Debug, Default)]
pub struct ReceivedMeta {
    /// The last word of the completion, but for its type and generation.
    pub flags: u32,
    /// The tag that was removed.
    pub tag: Option<u16>,
    /// Segments that were coalesced, and their length, as revision 2 tells them.
    pub coalesced: Option<(u8, u16)>,
    /// The receive queue.
    pub queue: usize,
}

impl ReceivedMeta {
    /// TCP over IPv4 with right sums.
    pub const TCP4: u32 = 1 << 16 | 1 << 18 | 1 << 19 | 1 << 21;
}

/// A ring of the guest: its address and size, the next entry, and its generation.
#[derive(Copy, Clone, Default)]
struct Ring {
    address: u64,
    size: u32,
    next: u32,
    generation: bool,
}

impl Ring {
    fn new(address: u64, size: u32) -> Self {
        Self { address, size, next: 0, generation: true }
    }

    fn at(&self) -> u64 {
        self.address + 16 * u64::from(self.next)
    }

    fn advance(&mut self) {
        self.next += 1;
        if self.next >= self.size {
            (self.next, self.generation) = (0, !self.generation);
        }
    }
}

#[derive(Clone, Default)]
struct Tx {
    descriptor: u64,
    ring: Ring,
    completions: Ring,
    vector: usize,
    /// Indices of frames that are not completed yet.
    held: Vec<u32>,
}

#[derive(Clone, Default)]
struct Rx {
    rings: [Ring; 2],
    completions: Ring,
    vector: usize,
}

struct Host {
    guest: Guest,
    function: Function,
    faults: Vmxnet3Faults,
    mac: [u8; 6],
    chosen: (u32, u32),
    shared: u64,
    result: u32,
    tx: Vec<Tx>,
    rx: Vec<Rx>,
    /// The area of a card that is active.
    active: Option<u64>,
    event_vector: usize,
    is_masked: [bool; VECTORS],
    cause: u32,
    link: u32,
    sent: Vec<SentFrame>,
    doorbells: u32,
    producers: u32,
    activations: u32,
    commands: Vec<u32>,
    pending: Vec<Interrupt>,
}

/// A model of VMware's network card. A handle: clones are the same card.
#[derive(Clone)]
pub struct Vmxnet3Host(Arc<Mutex<Host>>);

impl Vmxnet3Host {
    /// A card of revision 1 whose link is up.
    pub fn new(guest: &Guest) -> Self {
        let host = Host {
            guest: guest.clone(),
            function: Function::default(),
            faults: Vmxnet3Faults::default(),
            mac: MAC,
            chosen: (0, 0),
            shared: 0,
            result: 0,
            tx: vec![],
            rx: vec![],
            active: None,
            event_vector: 0,
            is_masked: [true; VECTORS],
            cause: 0,
            link: 10_000 << 16 | 1,
            sent: vec![],
            doorbells: 0,
            producers: 0,
            activations: 0,
            commands: vec![],
            pending: vec![],
        };
        Self(Arc::new(Mutex::new(host)))
    }

    /// The card as its driver sees it.
    pub fn device(&self) -> DeviceBox<Guest> {
        let guest = self.with(|host| host.guest.clone());
        OnBus::boxed(&guest, self.clone())
    }

    fn with<R>(&self, work: impl FnOnce(&mut Host) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As `with`, and then delivers the interrupts that `work` has raised.
    fn act<R>(&self, work: impl FnOnce(&mut Host) -> R) -> R {
        let (guest, interrupts, result) = self.with(|host| {
            let result = work(host);
            (host.guest.clone(), std::mem::take(&mut host.pending), result)
        });
        interrupts.into_iter().for_each(|interrupt| interrupt.deliver(&guest));
        result
    }

    /// Changes the fault injection settings.
    pub fn faults(&self, change: impl FnOnce(&mut Vmxnet3Faults)) {
        self.with(|host| change(&mut host.faults));
    }

    /// Changes how the card behaves on its bus.
    pub fn pci(&self, change: impl FnOnce(&mut PciFaults)) {
        self.with(|host| change(&mut host.function.faults));
    }

    /// The frames that the guest has sent since the last call.
    pub fn take_sent(&self) -> Vec<SentFrame> {
        self.with(|host| std::mem::take(&mut host.sent))
    }

    /// Delivers a frame on queue 0; returns whether the guest had room for it.
    pub fn receive(&self, bytes: &[u8]) -> bool {
        self.receive_with(bytes, ReceivedMeta::default())
    }

    /// As [`receive`](Self::receive), with metadata.
    pub fn receive_with(&self, bytes: &[u8], meta: ReceivedMeta) -> bool {
        self.act(|host| host.deliver(bytes, meta))
    }

    /// Completes the frames that are held.
    pub fn release(&self) {
        self.act(|host| {
            for queue in 0..host.tx.len() {
                for index in std::mem::take(&mut host.tx[queue].held) {
                    host.complete_tx(queue, index);
                }
            }
        });
    }

    /// Changes the link: up, and the speed in Mbit/s.
    pub fn set_link(&self, is_up: bool, speed: u16) {
        self.act(|host| {
            host.link = u32::from(speed) << 16 | u32::from(is_up);
            host.event(4);
        });
    }

    /// Stops a transmit queue of an active card with an error.
    pub fn fail_queue(&self, queue: usize, error: u32) {
        self.act(|host| {
            let Some(at) = host.tx.get(queue).map(|tx| tx.descriptor) else { return };
            host.guest.write(at + 80, &[1]);
            host.guest.write(at + 84, &error.to_le_bytes());
            host.event(2);
        });
    }

    /// Doorbells of transmit queues, and writes of receive producers, so far.
    pub fn doorbells(&self) -> (u32, u32) {
        self.with(|host| (host.doorbells, host.producers))
    }

    /// How often the card was activated.
    pub fn activations(&self) -> u32 {
        self.with(|host| host.activations)
    }

    /// The revision and the version of the other interface that the guest has chosen, a bit each.
    pub fn chosen(&self) -> (u32, u32) {
        self.with(|host| host.chosen)
    }

    /// The card's address.
    pub fn mac(&self) -> [u8; 6] {
        self.with(|host| host.mac)
    }

    /// Commands since the last call.
    pub fn take_commands(&self) -> Vec<u32> {
        self.with(|host| std::mem::take(&mut host.commands))
    }

    /// `len` bytes of the shared area at `offset`.
    pub fn area(&self, offset: u64, len: usize) -> Vec<u8> {
        self.with(|host| host.guest.read(host.active.expect("an active card") + offset, len))
    }

    /// The bytes to which the word at `offset` of the shared area points.
    pub fn behind(&self, offset: u64, len: usize) -> Vec<u8> {
        let address = u64::from_le_bytes(self.area(offset, 8).try_into().expect("8 bytes"));
        self.with(|host| host.guest.read(address, len))
    }
}

impl Host {
    fn word(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.guest.read(at, 4).try_into().expect("4 bytes"))
    }

    fn long(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.guest.read(at, 8).try_into().expect("8 bytes"))
    }

    fn command(&mut self, command: u32) {
        self.commands.push(command);
        self.result = 0;
        match command {
            0xcafe_0000 => self.result = if self.activate().is_some() { 0 } else { 1 },
            0xcafe_0001 | 0xcafe_0002 => {
                self.active = None;
                (self.tx, self.rx) = (vec![], vec![]);
                self.is_masked = [true; VECTORS];
            }
            0xf00d_0002 => self.result = self.link,
            _ => {}
        }
    }

    fn activate(&mut self) -> Option<()> {
        let area = self.shared;
        if self.faults.refuses || !self.function.is_bus_master || self.word(area) != MAGIC {
            return None;
        }
        let counts = self.guest.read(area + 62, 2);
        let [tx, rx] = [usize::from(counts[0]), usize::from(counts[1])];
        let vectors = usize::from(self.guest.read(area + 81, 1)[0]);
        if !(1..=MAX_QUEUES).contains(&tx) || rx != tx || vectors == 0 || vectors > VECTORS {
            return None;
        }
        self.event_vector = usize::from(self.guest.read(area + 82, 1)[0]);
        let base = self.long(area + 40);
        let vector = |host: &Self, at: u64| usize::from(host.guest.read(at + 72, 1)[0]);
        self.tx = (0..tx as u64)
            .map(|index| {
                let at = base + 256 * index;
                self.guest.write(at + 4, &self.faults.threshold.to_le_bytes());
                Tx {
                    descriptor: at,
                    ring: Ring::new(self.long(at + 16), self.word(at + 56)),
                    completions: Ring::new(self.long(at + 32), self.word(at + 64)),
                    vector: vector(self, at),
                    held: vec![],
                }
            })
            .collect();
        self.rx = (0..rx as u64)
            .map(|index| {
                let at = base + 256 * (tx as u64 + index);
                self.guest.write(at, &[u8::from(self.faults.wants_producer)]);
                Rx {
                    rings: [
                        Ring::new(self.long(at + 16), self.word(at + 56)),
                        Ring::new(self.long(at + 24), self.word(at + 60)),
                    ],
                    completions: Ring::new(self.long(at + 32), self.word(at + 64)),
                    vector: vector(self, at),
                }
            })
            .collect();
        let is_size = |size: u32| (32..=8192).contains(&size) && size % 32 == 0;
        let sizes = self.tx.iter().flat_map(|tx| [tx.ring.size, tx.completions.size]);
        let all_good = sizes.chain(self.rx.iter().map(|rx| rx.completions.size)).all(is_size);
        let vectors_good = self.tx.iter().map(|tx| tx.vector).chain(self.rx.iter().map(|rx| rx.vector));
        if !all_good || vectors_good.into_iter().chain([self.event_vector]).any(|vector| vector >= vectors) {
            return None;
        }
        self.active = Some(area);
        // As QEMU's, it has its own address again.
        self.mac = MAC;
        self.activations += 1;
        Some(())
    }

    /// Raises a vector, which is masked then.
    fn raise(&mut self, vector: usize) {
        self.cause |= 1;
        if !std::mem::replace(&mut self.is_masked[vector], true) {
            self.pending.extend(self.function.interrupt(vector as u16));
        }
    }

    fn event(&mut self, bits: u32) {
        let Some(area) = self.active else { return };
        let events = self.word(area + 696) | bits;
        self.guest.write(area + 696, &events.to_le_bytes());
        self.raise(self.event_vector);
    }

    /// Sends what the guest has published on a queue.
    fn serve(&mut self, queue: usize) {
        for _ in 0..MAX_WORK {
            if self.active.is_none() || !self.function.is_bus_master || queue >= self.tx.len() {
                return;
            }
            let Some((frame, last)) = self.next_frame(queue) else { return };
            self.sent.push(frame);
            match self.faults.holds {
                true => self.tx[queue].held.push(last),
                false => self.complete_tx(queue, last),
            }
        }
    }

    /// The next frame of a queue, and the index of its last descriptor; `None` if not all of it is there.
    fn next_frame(&mut self, queue: usize) -> Option<(SentFrame, u32)> {
        let mut ring = self.tx[queue].ring;
        let mut frame = SentFrame { queue, bytes: vec![], mode: 0, header_len: 0, offset: 0, tag: None };
        for piece in 0..MAX_DESCRIPTORS {
            let (address, third, fourth) =
                (self.long(ring.at()), self.word(ring.at() + 8), self.word(ring.at() + 12));
            if (third >> 14 & 1 != 0) != ring.generation {
                return None;
            }
            let len = match third & 0x3fff {
                0 => 1 << 14,
                len => len,
            };
            if piece == 0 {
                frame.mode = fourth >> 10 & 3;
                (frame.header_len, frame.offset) = (fourth & 0x3ff, third >> 18);
                frame.tag = (fourth >> 15 & 1 != 0).then_some((fourth >> 16) as u16);
            }
            frame.bytes.extend(self.guest.read(address, len as usize));
            let index = ring.next;
            ring.advance();
            if fourth >> 12 & 1 != 0 {
                self.tx[queue].ring = ring;
                return Some((frame, index));
            }
        }
        None
    }

    fn complete_tx(&mut self, queue: usize, index: u32) {
        let mut ring = self.tx[queue].completions;
        let mut words = [index, 0, 0, if ring.generation { 1 << 31 } else { 0 }];
        if let Some(mutate) = &mut self.faults.mutate_tx {
            mutate(&mut words);
        }
        self.write_completion(&mut ring, &words);
        self.tx[queue].completions = ring;
        self.raise(self.tx[queue].vector);
    }

    fn write_completion(&mut self, ring: &mut Ring, words: &[u32; 4]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.guest.write(ring.at(), &bytes);
        ring.advance();
    }

    /// Takes the next descriptor of a receive ring: its address, length and index.
    fn take_descriptor(&mut self, queue: usize, which: usize) -> Option<(u64, usize, u32)> {
        let ring = &self.rx[queue].rings[which];
        let word = self.word(ring.at() + 8);
        if (word >> 31 != 0) != ring.generation {
            return None;
        }
        let found = (self.long(ring.at()), (word & 0x3fff) as usize, ring.next);
        self.rx[queue].rings[which].advance();
        Some(found)
    }

    fn deliver(&mut self, bytes: &[u8], meta: ReceivedMeta) -> bool {
        let queue = meta.queue;
        if self.active.is_none() || !self.function.is_bus_master || queue >= self.rx.len() {
            return false;
        }
        if self.faults.skips {
            let _ = self.take_descriptor(queue, 0);
        }
        let (mut rest, mut which) = (bytes, 0);
        loop {
            let Some((address, room, index)) = self.take_descriptor(queue, which) else { return false };
            let (now, later) = rest.split_at(rest.len().min(room));
            self.guest.write(address, now);
            let id = (queue + if which == 0 { 0 } else { self.tx.len() }) as u32;
            let is_last = later.is_empty();
            let mut ring = self.rx[queue].completions;
            let tag = meta.tag.map_or(0, |tag| 1 << 15 | u32::from(tag) << 16);
            // Only the first completion of a frame tells how it was coalesced.
            let coalesced = meta.coalesced.filter(|_| which == 0);
            let kind = if coalesced.is_some() { 4 } else { 3 };
            let generation = if ring.generation { 1 << 31 } else { 0 };
            let (segments, mss) = coalesced.unwrap_or_default();
            let mut words = [
                index | u32::from(is_last) << 14 | u32::from(which == 0) << 15 | id << 16,
                u32::from(segments),
                now.len() as u32 | if is_last { tag } else { 0 },
                if is_last { meta.flags } else { 0 } | u32::from(mss) | kind << 24 | generation,
            ];
            if let Some(mutate) = &mut self.faults.mutate_rx {
                mutate(&mut words);
            }
            self.write_completion(&mut ring, &words);
            self.rx[queue].completions = ring;
            (rest, which) = (later, 1);
            if is_last {
                self.raise(self.rx[queue].vector);
                return true;
            }
        }
    }

    fn read(&mut self, bar: u8, offset: usize) -> u32 {
        let [a, b, c, d, e, f] = self.mac;
        match (bar, offset) {
            (1, 0x00) => self.faults.more_revisions | u32::from(!self.faults.lacks_revision),
            (1, 0x08) => 1,
            (1, 0x20) => self.result,
            (1, 0x28) => u32::from_le_bytes([a, b, c, d]),
            (1, 0x30) => u32::from_le_bytes([e, f, 0, 0]),
            (1, 0x38) => std::mem::take(&mut self.cause),
            _ => 0,
        }
    }

    fn write(&mut self, bar: u8, offset: usize, value: u32) {
        match (bar, offset) {
            // A card that is not active ignores its doorbells and masks, as QEMU's does.
            (0, _) if self.active.is_none() => {}
            (0, 0x000..0x0c8) => {
                if let Some(mask) = self.is_masked.get_mut(offset / 8) {
                    *mask = value & 1 != 0;
                }
            }
            (0, 0x600..0x640) => {
                self.doorbells += 1;
                self.serve((offset - 0x600) / 8);
            }
            (0, 0x800..0x840 | 0xa00..0xa40) => self.producers += 1,
            (1, 0x00) => self.chosen.0 = value,
            (1, 0x08) => self.chosen.1 = value,
            (1, 0x10) => self.shared = self.shared & !0xffff_ffff | u64::from(value),
            (1, 0x18) => self.shared = self.shared & 0xffff_ffff | u64::from(value) << 32,
            (1, 0x20) => self.command(value),
            (1, 0x28) => self.mac[..4].copy_from_slice(&value.to_le_bytes()),
            (1, 0x30) => self.mac[4..].copy_from_slice(&value.to_le_bytes()[..2]),
            (1, 0x40) => {
                if let Some(area) = self.active {
                    let events = self.word(area + 696) & !value;
                    self.guest.write(area + 696, &events.to_le_bytes());
                }
            }
            _ => {}
        }
    }
}

impl Model for Vmxnet3Host {
    fn function<R>(&self, work: impl FnOnce(&mut Function) -> R) -> R {
        self.with(|host| work(&mut host.function))
    }

    fn read(&self, bar: u8, offset: usize) -> u32 {
        self.with(|host| host.read(bar, offset))
    }

    fn write(&self, bar: u8, offset: usize, value: u32) {
        self.act(|host| host.write(bar, offset, value));
    }
}
