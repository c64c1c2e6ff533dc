//! The SCSI host device: a controller for the disks of `paravirt-scsi`. VIRTIO 1.3 §5.6

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::queue::{AreaRange, DataPlace, Parts, Ring, VirtQueue};
use crate::request_queue::{BufferQueue, Outcome, QueueBuilder, QueueParams, RequestQueue};
use crate::transport::{OpenError, Transport, read_config};
use core::sync::atomic::AtomicU64;
use core::task::Waker;
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::{DmaSlice, Fifo, PageArc, PageTable, Platform, ProcessorId};
use paravirt_platform::{copy_words_in, copy_words_out};
use paravirt_scsi::{Address, Command, Event, Limits, Scan, ScsiTransport, Sense, Status};

/// Queues ahead of those for requests: for control, which is not used, and for events.
const EVENTS: u16 = 1;
const REQUESTS: u16 = 2;
/// Features. VIRTIO 1.3 §5.6.3
const HOTPLUG: u64 = 1 << 1;
const CHANGE: u64 = 1 << 2;
/// The configuration's fields as `(offset, width)`. VIRTIO 1.3 §5.6.4
const CONFIG_FIELDS: &[(u8, u8)] =
    &[(0, 4), (4, 4), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 4)];
const CONFIG_LEN: usize = 36;
/// Segments of data, at most.
const MOST_SEGMENTS: u16 = 16;
/// Bytes of one command, at most.
const MOST_BYTES: u32 = 4 << 20;
/// Bytes of a slot's area, and where the parts of a request are in it. VIRTIO 1.3 §5.6.6.1
const AREA_LEN: u16 = 256;
const REQUEST_LEN: usize = 51;
const REQUEST: AreaRange = AreaRange::new(0, REQUEST_LEN as u16);
/// With 96 bytes of sense data.
const RESPONSE_LEN: usize = 108;
const RESPONSE: AreaRange = AreaRange::new(64, RESPONSE_LEN as u16);
/// Bytes of an event, and how many wait on the device.
const EVENT_LEN: usize = 16;
const EVENT_COUNT: usize = 8;
/// The most queues that are used.
const MOST_QUEUES: u16 = 16;

/// What the response to a command says. VIRTIO 1.3 §5.6.6.1; pure and total.
///
/// `len` is how many bytes the command transfers. The second value is how many it has transferred, as the device says.
pub fn parse_response(bytes: &[u8; RESPONSE_LEN], len: u32) -> (Status, u32) {
    let [s0, s1, s2, s3, r0, r1, r2, r3, _, _, status, response, sense @ ..] = bytes;
    let residual = u32::from_le_bytes([*r0, *r1, *r2, *r3]);
    let transferred = len.saturating_sub(residual);
    let status = match (response, status) {
        // What is too long or too short tells by its length.
        (0 | 1, 0) => return (Status::Good, transferred),
        (0, 2) => {
            let sense_len = usize::try_from(u32::from_le_bytes([*s0, *s1, *s2, *s3])).unwrap_or(usize::MAX);
            let sense = sense.get(..sense_len).unwrap_or(sense);
            // The length counts where the sense data tell of a success.
            return (Status::Check(if sense.is_empty() { None } else { Sense::parse(sense) }), transferred);
        }
        (0, 8 | 0x28) | (5, _) => Status::Busy,
        (2 | 4, _) => Status::Aborted,
        (3, _) => Status::NoUnit,
        _ => Status::Error,
    };
    (status, 0)
}

/// What a queue keeps with a command in flight.
struct Sent {
    id: u64,
    len: u32,
}

/// A request queue. The data of its requests are kept in flight by the controller.
type CommandQueue<P> = RequestQueue<P, VirtQueue<P, DmaSlice<P>, Sent>>;

/// The event queue.
struct Events<P: Platform> {
    queue: BufferQueue<P, DmaSlice<P>>,
    spare: Fifo<P, DmaSlice<P>>,
}

impl<P: Platform> Events<P> {
    /// Puts what is spare in flight.
    fn refill(&mut self) {
        self.queue.refill(&mut self.spare);
    }

    /// Whether something has happened: whatever it is, the controller looks again which units there are.
    fn take(&mut self) -> bool {
        let mut came = false;
        // No more than wait on the device: it could go on for ever.
        for _ in 0..EVENT_COUNT {
            let Ok(Some(outcome)) = self.queue.next() else { break };
            came |= matches!(outcome, Outcome::Used(_));
            let (Outcome::Used(used) | Outcome::Aborted(used)) = outcome;
            let _ = used.buffer.map(|buffer| self.spare.push(buffer));
        }
        self.refill();
        came
    }
}

/// A SCSI host device: what a [`Controller`](paravirt_scsi::Controller) is made of.
pub struct ScsiAdapter<P: Platform> {
    device: PageArc<P, VirtioDevice<P>>,
    queues: PageTable<P, Option<CommandQueue<P>>>,
    events: Option<Events<P>>,
    limits: Limits,
    targets: u8,
}

/// A request queue in service; the first one brings the events along.
pub struct ScsiPort<P: Platform> {
    queue: CommandQueue<P>,
    events: Option<Events<P>>,
    index: usize,
    /// The response that was read last.
    response: [u8; RESPONSE_LEN],
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

impl<P: Platform> ScsiAdapter<P> {
    /// Takes the device into service, with up to as many request queues as `options` say.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let device =
            VirtioDevice::open(platform, transport, |_| Features::SUPPORTED.bits() | HOTPLUG | CHANGE)?;
        let bytes: [u8; CONFIG_LEN] = device.with_transport(|t| read_config(t, CONFIG_FIELDS));
        let offered = u16::try_from(word(&bytes, 0)).unwrap_or(u16::MAX);
        let count = options.queues.clamp(1, MOST_QUEUES).min(offered);
        let is_known = word(&bytes, 20) >= 96 && word(&bytes, 24) >= 32;
        if count == 0 || !is_known {
            return Err(OpenError::Config);
        }
        let max_segments = match u16::try_from(word(&bytes, 4)) {
            Ok(0) | Err(_) => MOST_SEGMENTS,
            Ok(most) => most.min(MOST_SEGMENTS),
        };
        let max_bytes = word(&bytes, 8).saturating_mul(512).clamp(4096, MOST_BYTES);
        let limits = Limits::new(max_bytes, max_segments);
        let last_target = word(&bytes, 28) >> 16;
        let targets = u8::try_from(last_target.saturating_add(1)).unwrap_or(u8::MAX);

        let event_params = QueueParams::new(EVENTS, EVENT_COUNT as u16);
        let event_builder: QueueBuilder<P, VirtQueue<P, DmaSlice<P>, ()>> =
            QueueBuilder::new(&device, &event_params)?;
        let mut builders = Fifo::new(platform, usize::from(count))?;
        for index in 0..count {
            // The head of a request and of its response, beside the data.
            let indirect = max_segments.saturating_add(2);
            let index = index.saturating_add(REQUESTS);
            let params =
                QueueParams { indirect, area: AREA_LEN, ..QueueParams::new(index, options.queue_size) };
            // There is room for all of them.
            let _ = builders.push(QueueBuilder::new(&device, &params)?);
        }
        let processors = options.processors.max(1);
        device.start(|place| {
            // Behind that of the events.
            let place = (place as u32).saturating_sub(1);
            ProcessorId(place.checked_rem(processors).unwrap_or(0))
        })?;
        let spare = BufferQueue::<P, DmaSlice<P>>::pool(platform, EVENT_COUNT as u16, EVENT_LEN)?;
        let events = Some(Events { queue: event_builder.build()?, spare });
        let queues = PageTable::try_new(platform, usize::from(count), |_| {
            let Some(builder) = builders.pop() else { return Ok(None) };
            let builder: QueueBuilder<P, VirtQueue<P, DmaSlice<P>, Sent>> = builder;
            let mut queue = builder.build()?;
            queue.queue_mut().ignore_lengths();
            Ok::<_, OpenError>(Some(queue))
        })?;
        Ok(Self { device, queues, events, limits, targets })
    }

    /// Lets what is not handed out report in after a reset, so that the device starts again.
    fn drain(&mut self) {
        for queue in self.queues.iter_mut().flatten() {
            while let Ok(Some(_)) = queue.next() {}
        }
        if let Some(events) = &mut self.events {
            events.take();
        }
    }
}

// SAFETY: `close` is `Ok` only where the device has been reset and has read back as reset: it then accesses no memory of any queue.
unsafe impl<P: Platform> ScsiTransport for ScsiAdapter<P> {
    type Port = ScsiPort<P>;

    fn open(&mut self, index: usize, _ports: usize) -> Result<Option<ScsiPort<P>>, Fault> {
        self.drain();
        let Some(slot) = self.queues.get_mut(index) else { return Ok(None) };
        let Some(queue) = slot.take() else { return Ok(None) };
        if let Some(fault) = queue.fault() {
            *slot = Some(queue);
            return Err(fault);
        }
        let mut events = if index == 0 { self.events.take() } else { None };
        if let Some(events) = &mut events {
            events.refill();
        }
        Ok(Some(ScsiPort { queue, events, index, response: UNWRITTEN }))
    }

    /// Resets the device, with the first port that is closed.
    fn close(&mut self, port: ScsiPort<P>) -> Result<(), Fault> {
        let ScsiPort { mut queue, events, index, .. } = port;
        let _ = queue.reset_device();
        let is_quiesced = self.device.quiesced().is_some();
        while let Ok(Some(_)) = queue.next() {}
        if let Some(slot) = self.queues.get_mut(index) {
            *slot = Some(queue);
        }
        if events.is_some() {
            self.events = events;
        }
        self.drain();
        if is_quiesced { Ok(()) } else { Err(Fault::Timeout) }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn scan(&self) -> Scan {
        Scan::Targets(self.targets)
    }
}

/// Lines of an area from `offset` on, which begins a line, of 64 bytes each.
fn area_lines<P: Platform>(
    queue: &VirtQueue<P, DmaSlice<P>, Sent>,
    slot: u16,
    offset: u16,
) -> impl Iterator<Item = &[AtomicU64; 8]> {
    (usize::from(offset / 64)..).map_while(move |line| queue.area_line(slot, line))
}

/// Copies `bytes` to the area of `slot` at `offset`, which begins a line.
fn copy_to_area<P: Platform>(
    queue: &VirtQueue<P, DmaSlice<P>, Sent>,
    slot: u16,
    offset: u16,
    bytes: &[u8],
) -> Result<(), Rejected> {
    let mut lines = area_lines(queue, slot, offset);
    for chunk in bytes.chunks(64) {
        copy_words_in(lines.next().ok_or(Rejected::Invalid)?, chunk);
    }
    Ok(())
}

/// Copies the area of `slot` at `offset`, which begins a line, to `bytes`.
fn copy_from_area<P: Platform>(
    queue: &VirtQueue<P, DmaSlice<P>, Sent>,
    slot: u16,
    offset: u16,
    bytes: &mut [u8],
) {
    for (line, chunk) in area_lines(queue, slot, offset).zip(bytes.chunks_mut(64)) {
        let mut words = [0; 64];
        copy_words_out(line, &mut words);
        chunk.iter_mut().zip(words).for_each(|(to, from)| *to = from);
    }
}

/// The head of a request. VIRTIO 1.3 §5.6.6.1
fn request(id: u64, address: Address, cdb: &[u8; 16]) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    let [high, low] = address.lun.to_be_bytes();
    // One level, flat addressing. SAM-5 §4.7
    let lun = [1, address.target, 0x40 | high, low, 0, 0, 0, 0];
    let simple_and_no_priority = [0, 0, 0];
    let all = lun.into_iter().chain(id.to_le_bytes()).chain(simple_and_no_priority).chain(*cdb);
    bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    bytes
}

// SAFETY: memory of a command goes to the device's queue alone, in the direction of its `DmaSegments`; a descriptor chain that the
// queue refuses is not seen by the device. An id is returned only for a chain that the device has used, which the queue accepts once.
unsafe impl<P: Platform> paravirt_scsi::ScsiPort for ScsiPort<P> {
    fn send(&mut self, id: u64, command: &Command<'_>) -> Result<(), Rejected> {
        if let Some(fault) = self.queue.fault() {
            return Err(fault.into());
        }
        let head = request(id, command.address, command.cdb.bytes());
        let parts = Parts { head: &[REQUEST], tail: &[RESPONSE], place: DataPlace::AfterTail };
        let sent = Sent { id, len: command.len };
        self.queue.queue_mut().submit_segments(parts, command.memory, sent, |queue, slot| {
            copy_to_area(queue, slot, REQUEST.offset, &head)?;
            // Nothing is taken for an answer that was not written.
            copy_to_area(queue, slot, RESPONSE.offset, &UNWRITTEN)
        })
    }

    /// Not asked of the device: a reset of it, which comes next, does as much.
    fn reset_bus(&mut self, _id: u64) -> Result<(), Rejected> {
        Err(Rejected::Unsupported)
    }

    fn kick(&mut self) {
        self.queue.kick();
    }

    fn receive(&mut self) -> Result<Option<Event>, Fault> {
        if self.queue.fault().is_some() {
            // What is in flight is given back when the port is closed.
            return Err(self.queue.fault().unwrap_or(Fault::Reset));
        }
        match self.queue.queue_mut().pop() {
            Ok(Some(used)) => {
                copy_from_area(self.queue.queue(), used.slot, RESPONSE.offset, &mut self.response);
                let (status, transferred) = parse_response(&self.response, used.extra.len);
                Ok(Some(Event::Reply { id: used.extra.id, status, transferred }))
            }
            Ok(None) => {
                let came = self.events.as_mut().is_some_and(Events::take);
                Ok(came.then_some(Event::Rescan))
            }
            Err(fault) => {
                self.queue.fail(fault);
                Err(self.queue.fault().unwrap_or(fault))
            }
        }
    }

    fn arm(&mut self) -> Arm {
        let events = self.events.as_mut().map_or(Arm::Armed, |events| events.queue.arm());
        match (self.queue.arm(), events) {
            (Arm::Armed, Arm::Armed) => Arm::Armed,
            _ => Arm::Pending,
        }
    }

    fn disarm(&mut self) {
        self.queue.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.queue.register(waker);
        self.events.iter().for_each(|events| events.queue.register(waker));
    }
}

/// A response that the device has not written: no status, and none that there is.
const UNWRITTEN: [u8; RESPONSE_LEN] = [0xff; RESPONSE_LEN];

#[cfg(test)]
mod tests {
    use super::*;
    use paravirt_scsi::Disposition;

    #[test]
    fn responses_mean_what_the_standard_says() {
        let answer = |response: u8, status: u8, residual: u32| {
            let mut bytes = [0; RESPONSE_LEN];
            bytes[4..8].copy_from_slice(&residual.to_le_bytes());
            (bytes[10], bytes[11]) = (status, response);
            parse_response(&bytes, 4096)
        };
        assert_eq!(answer(0, 0, 0), (Status::Good, 4096));
        assert_eq!(answer(0, 0, 96), (Status::Good, 4000));
        assert_eq!(answer(1, 0, u32::MAX), (Status::Good, 0));
        assert_eq!(answer(3, 0, 0).0, Status::NoUnit);
        assert_eq!((answer(0, 8, 0).0, answer(5, 0, 0).0), (Status::Busy, Status::Busy));
        assert_eq!((answer(2, 0, 0).0, answer(4, 0, 0).0), (Status::Aborted, Status::Aborted));
        assert_eq!((answer(9, 0, 0).0, answer(0, 0x18, 0).0), (Status::Error, Status::Error));
        assert_eq!(parse_response(&UNWRITTEN, 4096).0, Status::Error);
        let mut bytes = [0; RESPONSE_LEN];
        (bytes[0], bytes[10]) = (18, 2);
        assert_eq!(parse_response(&bytes, 0).0, Status::Check(None));
        (bytes[12], bytes[14], bytes[24]) = (0x70, 6, 0x2a);
        let Status::Check(Some(sense)) = parse_response(&bytes, 0).0 else { panic!("no sense") };
        assert!(matches!(sense.disposition(), Disposition::Retry(_)));
        // More sense than there is room for.
        bytes[..4].fill(0xff);
        assert!(matches!(parse_response(&bytes, 0).0, Status::Check(Some(_))));
    }

    #[test]
    fn a_request_is_as_the_device_wants_it() {
        let address = Address { path: 0, target: 7, lun: 0x123 };
        let bytes = request(0x0102_0304_0506_0708, address, &[9; 16]);
        assert_eq!(bytes[..8], [1, 7, 0x41, 0x23, 0, 0, 0, 0]);
        assert_eq!((bytes[8], bytes[15], bytes[18], bytes[19], bytes[34], bytes[35]), (8, 1, 0, 9, 9, 0));
    }
}
