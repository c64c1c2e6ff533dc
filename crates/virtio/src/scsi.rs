//! The SCSI host device: a controller for the disks of `paravirt-scsi`. VIRTIO 1.3 §5.6

use crate::device::{Core, OpenOptions};
use crate::features::Features;
use crate::lane::{Draft, Lane, Live, Outcome, Wish};
use crate::transport::{OpenError, VirtioTransport, read_config};
use core::mem::ManuallyDrop;
use core::task::Waker;
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::{
    Direction, DmaRegion, DmaSlice, Fifo, PageArc, PageTable, Platform, ProcessorId, Segment,
};
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
/// Where the parts of a request are in the memory of its slot. VIRTIO 1.3 §5.6.6.1
const STRIDE: usize = 256;
const REQUEST_LEN: u32 = 51;
const RESPONSE: usize = 64;
/// With 96 bytes of sense data.
const RESPONSE_LEN: usize = 108;
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

type EventLane<P, T> = Lane<P, T, DmaSlice<P>, ()>;

/// What is known of a request under way.
struct Sent {
    id: u64,
    len: u32,
}

/// A request queue, with memory for the requests.
struct Line<P: Platform, T: VirtioTransport> {
    lane: Lane<P, T, DmaSlice<P>, Sent>,
    memory: ManuallyDrop<DmaRegion<P>>,
    /// The device may still use the memory.
    is_held: bool,
}

impl<P: Platform, T: VirtioTransport> Drop for Line<P, T> {
    fn drop(&mut self) {
        if !self.is_held {
            // SAFETY: it is dropped once, here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// The event queue.
struct Events<P: Platform, T: VirtioTransport> {
    lane: EventLane<P, T>,
    spare: Fifo<P, DmaSlice<P>>,
}

impl<P: Platform, T: VirtioTransport> Events<P, T> {
    /// Gives the device what is spare.
    fn refill(&mut self) {
        while self.lane.fault().is_none()
            && self.lane.queue().has_room(1)
            && let Some(buffer) = self.spare.pop()
        {
            let sent = self.lane.submit(&[], Some(buffer), Direction::FromDevice, &[], (), |_, _| Ok(()));
            if let Err(refused) = sent {
                let _ = refused.buffer.map(|buffer| self.spare.push(buffer));
                break;
            }
        }
        self.lane.kick();
    }

    /// Whether something has happened: whatever it is, the controller looks again which units there are.
    fn take(&mut self) -> bool {
        let mut came = false;
        // No more than wait on the device: it could go on for ever.
        for _ in 0..EVENT_COUNT {
            let Ok(Some(outcome)) = self.lane.next() else { break };
            came |= matches!(outcome, Outcome::Used(_));
            let (Outcome::Used(used) | Outcome::Aborted(used)) = outcome;
            let _ = used.buffer.map(|buffer| self.spare.push(buffer));
        }
        self.refill();
        came
    }
}

/// A SCSI host device: what a [`Controller`](paravirt_scsi::Controller) is made of.
pub struct ScsiAdapter<P: Platform, T: VirtioTransport> {
    core: PageArc<P, Core<P, T>>,
    lines: PageTable<P, Option<Line<P, T>>>,
    events: Option<Events<P, T>>,
    limits: Limits,
    targets: u8,
}

/// A request queue in service; the first one brings the events along.
pub struct ScsiPort<P: Platform, T: VirtioTransport> {
    line: Line<P, T>,
    events: Option<Events<P, T>>,
    index: usize,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

impl<P: Platform, T: VirtioTransport> ScsiAdapter<P, T> {
    /// Takes the device into service, with up to as many request queues as `options` say.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: T, options: &OpenOptions) -> Result<Self, OpenError> {
        let core = Core::open(platform, transport, |_| Features::SUPPORTED.bits() | HOTPLUG | CHANGE)?;
        let bytes: [u8; CONFIG_LEN] = core.with_transport(|t| read_config(t, CONFIG_FIELDS));
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

        let event_wish = Wish { index: EVENTS, size: EVENT_COUNT as u16, indirect: 0, slot_areas: false };
        let event_draft: Draft<P, T, DmaSlice<P>, ()> = Draft::new(&core, &event_wish)?;
        let mut drafts = Fifo::new(platform, usize::from(count))?;
        for index in 0..count {
            // The head of a request and of its response, beside the data.
            let indirect = max_segments.saturating_add(2);
            let index = index.saturating_add(REQUESTS);
            let wish = Wish { index, size: options.queue_size, indirect, slot_areas: false };
            // There is room for all of them.
            let _ = drafts.push(Draft::new(&core, &wish)?);
        }
        let processors = options.processors.max(1);
        Core::start(&core, |place| {
            // Behind that of the events.
            let place = (place as u32).saturating_sub(1);
            ProcessorId(place.checked_rem(processors).unwrap_or(0))
        })?;
        let mut spare = Fifo::new(platform, EVENT_COUNT)?;
        DmaSlice::alloc_many(platform, EVENT_COUNT, EVENT_LEN, |slice| {
            let _ = spare.push(slice);
        })?;
        let events = Some(Events { lane: event_draft.into_lane()?, spare });
        let lines = PageTable::try_new(platform, usize::from(count), |_| {
            let Some(draft) = drafts.pop() else { return Ok(None) };
            let draft: Draft<P, T, DmaSlice<P>, Sent> = draft;
            let memory = DmaRegion::alloc(platform, usize::from(draft.size()).saturating_mul(STRIDE))?;
            let mut lane = draft.into_lane()?;
            lane.ignore_lengths();
            Ok::<_, OpenError>(Some(Line { lane, memory: ManuallyDrop::new(memory), is_held: false }))
        })?;
        Ok(Self { core, lines, events, limits, targets })
    }

    /// Lets what is not handed out report in after a reset, so that the device starts again.
    fn drain(&mut self) {
        for line in self.lines.iter_mut().flatten() {
            while let Ok(Some(_)) = line.lane.next() {}
        }
        if let Some(events) = &mut self.events {
            events.take();
        }
    }
}

// SAFETY: `close` is `Ok` only where the device has been reset and has read back as reset: it then accesses no memory of any queue.
unsafe impl<P: Platform, T: VirtioTransport> ScsiTransport for ScsiAdapter<P, T> {
    type Port = ScsiPort<P, T>;

    fn open(&mut self, index: usize, _ports: usize) -> Result<Option<ScsiPort<P, T>>, Fault> {
        self.drain();
        let Some(slot) = self.lines.get_mut(index) else { return Ok(None) };
        let Some(line) = slot.take() else { return Ok(None) };
        if let Some(fault) = line.lane.fault() {
            *slot = Some(line);
            return Err(fault);
        }
        let mut events = if index == 0 { self.events.take() } else { None };
        if let Some(events) = &mut events {
            events.refill();
        }
        Ok(Some(ScsiPort { line, events, index }))
    }

    /// Resets the device, with the first port that is closed.
    fn close(&mut self, port: ScsiPort<P, T>) -> Result<(), Fault> {
        let ScsiPort { mut line, events, index } = port;
        let _ = line.lane.reset_device();
        let has_let_go = self.core.quiesced().is_some();
        line.is_held = !has_let_go;
        while let Ok(Some(_)) = line.lane.next() {}
        if let Some(slot) = self.lines.get_mut(index) {
            *slot = Some(line);
        }
        if events.is_some() {
            self.events = events;
        }
        self.drain();
        if has_let_go { Ok(()) } else { Err(Fault::Timeout) }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn scan(&self) -> Scan {
        Scan::Targets(self.targets)
    }
}

/// The head of a request. VIRTIO 1.3 §5.6.6.1
fn request(id: u64, address: Address, cdb: &[u8; 16]) -> [u8; REQUEST_LEN as usize] {
    let mut bytes = [0; REQUEST_LEN as usize];
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
unsafe impl<P: Platform, T: VirtioTransport> paravirt_scsi::ScsiPort for ScsiPort<P, T> {
    fn send(&mut self, id: u64, command: &Command<'_>) -> Result<(), Rejected> {
        let Line { lane, memory, .. } = &mut self.line;
        if let Some(fault) = lane.fault() {
            return Err(fault.into());
        }
        if !lane.queue().has_room(1) {
            return Err(Rejected::Full);
        }
        let slot = usize::from(lane.queue().next_slot());
        let at = slot.checked_mul(STRIDE).ok_or(Rejected::Invalid)?;
        let head = request(id, command.address, command.cdb.bytes());
        memory.shared().copy_in(at, &head).ok_or(Rejected::Invalid)?;
        // Nothing is taken for an answer that was not written.
        memory.shared().copy_in(at.saturating_add(RESPONSE), &UNWRITTEN).ok_or(Rejected::Invalid)?;
        let base = memory.bus().offset(at as u64);
        let request = Segment { addr: base, len: REQUEST_LEN };
        let response = Segment { addr: base.offset(RESPONSE as u64), len: RESPONSE_LEN as u32 };
        let mut read = [request; MOST_SEGMENTS as usize + 1];
        let mut written = [response; MOST_SEGMENTS as usize + 1];
        let data = command.memory.as_slice();
        let (to, other) = match command.memory.direction() {
            Direction::ToDevice => (&mut read, 0),
            Direction::FromDevice => (&mut written, data.len()),
        };
        let room = to.get_mut(1..=data.len()).ok_or(Rejected::Invalid)?;
        room.copy_from_slice(data);
        let reads = data.len().saturating_sub(other).saturating_add(1);
        let (read, written) = (read.get(..reads), written.get(..other.saturating_add(1)));
        let (Some(read), Some(written)) = (read, written) else { return Err(Rejected::Invalid) };
        let sent = Sent { id, len: command.len };
        lane.submit(read, None, Direction::ToDevice, written, sent, |_, _| Ok(()))
            .map_err(|refused| refused.reason)
    }

    /// Not asked of the device: a reset of it, which comes next, does as much.
    fn reset_bus(&mut self, _id: u64) -> Result<(), Rejected> {
        Err(Rejected::Unsupported)
    }

    fn kick(&mut self) {
        self.line.lane.kick();
    }

    fn receive(&mut self) -> Result<Option<Event>, Fault> {
        let Line { lane, memory, .. } = &mut self.line;
        match lane.pop() {
            Live::Yes(Some(used)) => {
                let at = usize::from(used.slot).saturating_mul(STRIDE).saturating_add(RESPONSE);
                let mut bytes = UNWRITTEN;
                memory.shared().copy_out(at, &mut bytes).ok_or(Fault::Protocol)?;
                let (status, transferred) = parse_response(&bytes, used.extra.len);
                Ok(Some(Event::Reply { id: used.extra.id, status, transferred }))
            }
            Live::Yes(None) => {
                let came = self.events.as_mut().is_some_and(Events::take);
                Ok(came.then_some(Event::Rescan))
            }
            Live::No => Err(lane.fault().unwrap_or(Fault::Reset)),
        }
    }

    fn arm(&mut self) -> Arm {
        let events = self.events.as_mut().map_or(Arm::Armed, |events| events.lane.arm());
        match (self.line.lane.arm(), events) {
            (Arm::Armed, Arm::Armed) => Arm::Armed,
            _ => Arm::Pending,
        }
    }

    fn disarm(&mut self) {
        self.line.lane.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.line.lane.register(waker);
        self.events.iter().for_each(|events| events.lane.register(waker));
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
