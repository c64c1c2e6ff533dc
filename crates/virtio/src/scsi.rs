//! The SCSI host device: the transport of a `paravirt-scsi` controller. VIRTIO 1.3 §5.6

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::queue::{AreaRange, DataPlace, Parts, Ring, VirtQueue};
use crate::request_queue::{BoxedQueue, BufferQueue, Outcome, QueueBuilder, QueueParams, RequestQueue};
use crate::transport::{OpenError, Transport, config_fields, read_config};
use core::fmt;
use core::sync::atomic::AtomicU64;
use core::task::Waker;
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::{
    DmaSlice, Fifo, PageArc, PageTable, Platform, ProcessorId, copy_words_in, copy_words_out,
};
use paravirt_scsi::{Address, Command, Event, Limits, Scan, ScsiTransport, Sense, Status};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The event queue. The driver does not use the control queue, 0. VIRTIO 1.3 §5.6.2
const EVENTS: u16 = 1;
/// The first request queue.
const REQUESTS: u16 = 2;
/// VIRTIO_SCSI_F_HOTPLUG and VIRTIO_SCSI_F_CHANGE: the device reports events. VIRTIO 1.3 §5.6.3
const HOTPLUG: u64 = 1 << 1;
const CHANGE: u64 = 1 << 2;
/// Data segments of one command, at most.
const MAX_SEGMENTS: u16 = 16;
/// Data bytes of one command, at most.
const MAX_BYTES: u32 = 4 << 20;
/// Bytes of a slot's area, which holds the request header and the response.
const AREA_LEN: u16 = 256;
const REQUEST_LEN: usize = size_of::<WireRequest>();
const REQUEST: AreaRange = AreaRange::new(0, REQUEST_LEN as u16);
const RESPONSE_LEN: usize = size_of::<WireResponse>();
const RESPONSE: AreaRange = AreaRange::new(64, RESPONSE_LEN as u16);
/// Bytes of an event buffer, and the number of buffers.
const EVENT_LEN: usize = 16;
const EVENT_COUNT: usize = 8;
/// Request queues that the driver uses, at most.
const MAX_QUEUES: u16 = 16;

/// Bytes of sense data and of a CDB: the configuration's defaults, which the driver does not change. VIRTIO 1.3 §5.6.4
const SENSE_LEN: usize = 96;
const CDB_LEN: usize = 32;

/// The part of `struct virtio_scsi_req_cmd` that the device reads. VIRTIO 1.3 §5.6.6.1
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireRequest {
    lun: [u8; 8],
    id: U64,
    task_attr: u8,
    prio: u8,
    crn: u8,
    cdb: [u8; CDB_LEN],
}

const _: () = assert!(size_of::<WireRequest>() == 51);

/// The part of `struct virtio_scsi_req_cmd` that the device writes. VIRTIO 1.3 §5.6.6.1
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireResponse {
    sense_len: U32,
    residual: U32,
    status_qualifier: U16,
    status: u8,
    response: u8,
    sense: [u8; SENSE_LEN],
}

const _: () = assert!(size_of::<WireResponse>() == 108);

/// The part of `struct virtio_scsi_config` that is read. VIRTIO 1.3 §5.6.4
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireConfig {
    num_queues: U32,
    seg_max: U32,
    max_sectors: U32,
    _cmd_per_lun: U32,
    _event_info_size: U32,
    sense_size: U32,
    cdb_size: U32,
    _max_channel: U16,
    max_target: U16,
    _max_lun: U32,
}

const CONFIG_LEN: usize = size_of::<WireConfig>();
const _: () = assert!(CONFIG_LEN == 36);

/// The fields of the configuration that the driver reads, as `(offset, width)`, in bytes.
const CONFIG_FIELDS: &[(u8, u8)] =
    config_fields!(WireConfig: num_queues, seg_max, max_sectors, sense_size, cdb_size, max_target);

/// Parses the response to a command that transfers `len` bytes. Returns its status and the number of bytes that the device reports
/// as transferred, at most `len`. Pure and total. VIRTIO 1.3 §5.6.6.1
pub fn parse_response(bytes: &[u8; RESPONSE_LEN], len: u32) -> (Status, u32) {
    let response: WireResponse = zerocopy::transmute!(*bytes);
    let transferred = len.saturating_sub(response.residual.get());
    let status = match (response.response, response.status) {
        // OK, or OVERRUN, of which the length tells.
        (0 | 1, 0) => return (Status::Good, transferred),
        // CHECK CONDITION.
        (0, 2) => {
            let sense_len = usize::try_from(response.sense_len.get()).unwrap_or(usize::MAX);
            let sense = response.sense.get(..sense_len).unwrap_or(&response.sense);
            // The sense data may report success: the length counts then.
            return (Status::Check(if sense.is_empty() { None } else { Sense::parse(sense) }), transferred);
        }
        // BUSY and TASK SET FULL.
        (0, 8 | 0x28) | (5, _) => Status::Busy,
        // ABORTED and RESET.
        (2 | 4, _) => Status::Aborted,
        // BAD TARGET.
        (3, _) => Status::NoPath,
        (0, 0x18) => Status::Refused,
        _ => Status::Error,
    };
    (status, 0)
}

/// What a request queue keeps with a command in flight.
struct InFlight {
    id: u64,
    len: u32,
}

/// A request queue. The controller owns the data buffers of the commands in flight.
type CommandQueue<P> = RequestQueue<P, VirtQueue<P, DmaSlice<P>, InFlight>>;

/// The event queue.
struct Events<P: Platform> {
    queue: BoxedQueue<P, DmaSlice<P>>,
    spare: Fifo<P, DmaSlice<P>>,
}

impl<P: Platform> Events<P> {
    /// Submits the unused buffers.
    fn refill(&mut self) {
        self.queue.refill(&mut self.spare);
    }

    /// Collects events; returns whether there was any. The controller rescans its units then, whatever the event was.
    fn poll(&mut self) -> bool {
        let mut has_event = false;
        // Bounded by the number of buffers: a device may complete them as fast as they are submitted.
        for _ in 0..EVENT_COUNT {
            let Ok(Some(outcome)) = self.queue.next() else { break };
            has_event |= matches!(outcome, Outcome::Used(_));
            let (Outcome::Used(used) | Outcome::Aborted(used)) = outcome;
            let _ = used.buffer.map(|buffer| self.spare.push(buffer));
        }
        self.refill();
        has_event
    }
}

/// A SCSI host device: the adapter of a [`Controller`](paravirt_scsi::Controller).
pub struct ScsiAdapter<P: Platform> {
    device: PageArc<P, VirtioDevice<P>>,
    queues: PageTable<P, Option<CommandQueue<P>>>,
    events: Option<Events<P>>,
    limits: Limits,
    targets: u16,
}

/// A port of the adapter: a request queue in service. The first port also has the event queue.
pub struct ScsiPort<P: Platform> {
    queue: CommandQueue<P>,
    events: Option<Events<P>>,
    index: usize,
    /// A private copy of the response that was read last.
    response: [u8; RESPONSE_LEN],
}

impl<P: Platform> fmt::Debug for ScsiAdapter<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScsiAdapter")
            .field("limits", &self.limits)
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> fmt::Debug for ScsiPort<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScsiPort").field("index", &self.index).finish_non_exhaustive()
    }
}

impl<P: Platform> ScsiAdapter<P> {
    /// Initialises the device with up to `options.queues` request queues, at most 16, and puts its queues in service.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let device =
            VirtioDevice::open(platform, transport, |_| Features::SUPPORTED.bits() | HOTPLUG | CHANGE)?;
        let bytes: [u8; CONFIG_LEN] = device.with_transport(|t| read_config(t, CONFIG_FIELDS));
        let config: WireConfig = zerocopy::transmute!(bytes);
        let offered = u16::try_from(config.num_queues.get()).unwrap_or(u16::MAX);
        let count = options.queues.clamp(1, MAX_QUEUES).min(offered);
        // Commands and responses are laid out for the default sizes.
        let has_room = config.sense_size.get() >= SENSE_LEN as u32 && config.cdb_size.get() >= CDB_LEN as u32;
        if count == 0 || !has_room {
            return Err(OpenError::Config);
        }
        let max_segments = match u16::try_from(config.seg_max.get()) {
            Ok(0) | Err(_) => MAX_SEGMENTS,
            Ok(max) => max.min(MAX_SEGMENTS),
        };
        let max_bytes = config.max_sectors.get().saturating_mul(512).clamp(4096, MAX_BYTES);
        let limits = Limits::new(max_bytes, max_segments);
        let targets = config.max_target.get().saturating_add(1).min(256);

        let event_params = QueueParams::new(EVENTS, EVENT_COUNT as u16);
        let event_builder: QueueBuilder<P, VirtQueue<P, DmaSlice<P>, ()>> =
            QueueBuilder::new(&device, &event_params)?;
        let mut builders = Fifo::new(platform, usize::from(count))?;
        for index in 0..count {
            // Request header and response, in addition to the data.
            let indirect = max_segments.saturating_add(2);
            let index = index.saturating_add(REQUESTS);
            let params =
                QueueParams { indirect, area: AREA_LEN, ..QueueParams::new(index, options.queue_size) };
            // The queue was allocated with this capacity.
            let _ = builders.push(QueueBuilder::new(&device, &params)?);
        }
        let processors = options.processors.max(1);
        device.start(|place| {
            // The event queue comes first.
            let place = (place as u32).saturating_sub(1);
            ProcessorId(place.checked_rem(processors).unwrap_or(0))
        })?;
        let spare = BufferQueue::<P, DmaSlice<P>>::pool(platform, EVENT_COUNT as u16, EVENT_LEN)?;
        let events = Some(Events { queue: event_builder.build_boxed()?, spare });
        let queues = PageTable::try_new(platform, usize::from(count), |_| {
            let Some(builder) = builders.pop() else { return Ok(None) };
            let builder: QueueBuilder<P, VirtQueue<P, DmaSlice<P>, InFlight>> = builder;
            let mut queue = builder.build()?;
            queue.queue_mut().ignore_lengths();
            Ok::<_, OpenError>(Some(queue))
        })?;
        Ok(Self { device, queues, events, limits, targets })
    }

    /// Polls the queues that no port owns: after a reset, the device restarts once every queue was polled.
    fn drain(&mut self) {
        for queue in self.queues.iter_mut().flatten() {
            while let Ok(Some(_)) = queue.next() {}
        }
        if let Some(events) = &mut self.events {
            events.poll();
        }
    }
}

// SAFETY: `close` is `Ok` only where the device has been reset and has read back as reset: it then accesses no memory of any queue.
unsafe impl<P: Platform> ScsiTransport for ScsiAdapter<P> {
    type Port = ScsiPort<P>;

    fn open(&mut self, index: usize, _ports: usize, place: &mut Option<ScsiPort<P>>) -> Result<(), Fault> {
        self.drain();
        let Some(slot) = self.queues.get_mut(index) else { return Ok(()) };
        if let Some(fault) = slot.as_ref().and_then(RequestQueue::fault) {
            return Err(fault);
        }
        let Some(queue) = slot.take() else { return Ok(()) };
        let mut events = if index == 0 { self.events.take() } else { None };
        if let Some(events) = &mut events {
            events.refill();
        }
        *place = Some(ScsiPort { queue, events, index, response: UNWRITTEN });
        Ok(())
    }

    /// Resets the device, which aborts the commands of all ports.
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
        let mut limits = self.limits;
        limits.connection = self.device.connection();
        limits
    }

    fn scan(&self) -> Scan {
        Scan::Targets(self.targets)
    }
}

/// The lines of a slot's area, of 64 bytes each, from byte `offset`, a multiple of 64.
fn area_lines<P: Platform>(
    queue: &VirtQueue<P, DmaSlice<P>, InFlight>,
    slot: u16,
    offset: u16,
) -> impl Iterator<Item = &[AtomicU64; 8]> {
    (usize::from(offset / 64)..).map_while(move |line| queue.area_line(slot, line))
}

/// Copies `bytes` to the area of `slot` at byte `offset`, a multiple of 64.
fn copy_to_area<P: Platform>(
    queue: &VirtQueue<P, DmaSlice<P>, InFlight>,
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

/// Copies from the area of `slot` at byte `offset`, a multiple of 64, to `bytes`.
fn copy_from_area<P: Platform>(
    queue: &VirtQueue<P, DmaSlice<P>, InFlight>,
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

/// Encodes the header of a request. VIRTIO 1.3 §5.6.6.1
fn request(id: u64, address: Address, cdb: &[u8; 16]) -> [u8; REQUEST_LEN] {
    let [high, low] = address.lun.to_be_bytes();
    let mut request = WireRequest {
        // One level, flat addressing. SAM-5 §4.7
        lun: [1, address.target, 0x40 | high, low, 0, 0, 0, 0],
        id: id.into(),
        // A simple task without priority.
        task_attr: 0,
        prio: 0,
        crn: 0,
        cdb: [0; CDB_LEN],
    };
    request.cdb.iter_mut().zip(cdb).for_each(|(to, from)| *to = *from);
    zerocopy::transmute!(request)
}

// SAFETY: memory of a command goes to the device's queue alone, in the direction of its `DmaSegments`; a descriptor chain that the
// queue refuses is not seen by the device. An id is returned only for a chain that the device has used, which the queue accepts
// once.
unsafe impl<P: Platform> paravirt_scsi::ScsiPort for ScsiPort<P> {
    fn send(&mut self, id: u64, command: &Command<'_>) -> Result<(), Rejected> {
        if let Some(fault) = self.queue.fault() {
            return Err(fault.into());
        }
        let head = request(id, command.address, command.cdb.bytes());
        let parts = Parts { head: &[REQUEST], tail: &[RESPONSE], place: DataPlace::AfterTail };
        let sent = InFlight { id, len: command.len };
        self.queue.queue_mut().submit_segments(parts, command.memory, sent, |queue, slot| {
            copy_to_area(queue, slot, REQUEST.offset, &head)?;
            // A response that the device does not write is an error.
            copy_to_area(queue, slot, RESPONSE.offset, &UNWRITTEN)
        })
    }

    /// Unsupported: the controller resets the device instead, by closing the port.
    fn reset_bus(&mut self, _id: u64) -> Result<(), Rejected> {
        Err(Rejected::Unsupported)
    }

    fn kick(&mut self) {
        self.queue.kick();
    }

    fn receive(&mut self) -> Result<Option<Event>, Fault> {
        if self.queue.fault().is_some() {
            // Commands in flight are aborted when the port is closed.
            return Err(self.queue.fault().unwrap_or(Fault::Reset));
        }
        match self.queue.queue_mut().pop() {
            Ok(Some(used)) => {
                copy_from_area(self.queue.queue(), used.slot, RESPONSE.offset, &mut self.response);
                let (status, transferred) = parse_response(&self.response, used.extra.len);
                Ok(Some(Event::Reply { id: used.extra.id, status, transferred }))
            }
            Ok(None) => {
                let has_event = self.events.as_mut().is_some_and(Events::poll);
                Ok(has_event.then_some(Event::Rescan))
            }
            Err(fault) => {
                self.queue.fail(fault);
                Err(self.queue.fault().unwrap_or(fault))
            }
        }
    }

    fn arm(&mut self) -> Arm {
        let events = self.events.as_mut().map_or(Arm::Armed, |events| events.queue.arm());
        self.queue.arm().and(events)
    }

    fn disarm(&mut self) {
        self.queue.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.queue.register(waker);
        self.events.iter().for_each(|events| events.queue.register(waker));
    }
}

/// The content of a response that the device has not written: no valid response code.
const UNWRITTEN: [u8; RESPONSE_LEN] = [0xff; RESPONSE_LEN];

#[cfg(test)]
mod tests {
    use super::*;
    use paravirt_scsi::Disposition;

    #[test]
    fn a_response_maps_to_its_status() {
        let answer = |response: u8, status: u8, residual: u32| {
            let mut bytes = [0; RESPONSE_LEN];
            bytes[4..8].copy_from_slice(&residual.to_le_bytes());
            (bytes[10], bytes[11]) = (status, response);
            parse_response(&bytes, 4096)
        };
        assert_eq!(answer(0, 0, 0), (Status::Good, 4096));
        assert_eq!(answer(0, 0, 96), (Status::Good, 4000));
        assert_eq!(answer(1, 0, u32::MAX), (Status::Good, 0));
        assert_eq!(answer(3, 0, 0).0, Status::NoPath);
        assert_eq!((answer(0, 8, 0).0, answer(5, 0, 0).0), (Status::Busy, Status::Busy));
        assert_eq!((answer(2, 0, 0).0, answer(4, 0, 0).0), (Status::Aborted, Status::Aborted));
        assert_eq!((answer(9, 0, 0).0, answer(0, 0x18, 0).0), (Status::Error, Status::Refused));
        assert_eq!(parse_response(&UNWRITTEN, 4096).0, Status::Error);
        let mut bytes = [0; RESPONSE_LEN];
        (bytes[0], bytes[10]) = (18, 2);
        assert_eq!(parse_response(&bytes, 0).0, Status::Check(None));
        (bytes[12], bytes[14], bytes[24]) = (0x70, 6, 0x2a);
        let Status::Check(Some(sense)) = parse_response(&bytes, 0).0 else { panic!("no sense") };
        assert!(matches!(sense.disposition(), Disposition::Retry(_)));
        // A sense length beyond the response.
        bytes[..4].fill(0xff);
        assert!(matches!(parse_response(&bytes, 0).0, Status::Check(Some(_))));
    }

    #[test]
    fn a_request_header_is_encoded_at_its_offsets() {
        let address = Address { path: 0, target: 7, lun: 0x123 };
        let bytes = request(0x0102_0304_0506_0708, address, &[9; 16]);
        assert_eq!(bytes[..8], [1, 7, 0x41, 0x23, 0, 0, 0, 0]);
        assert_eq!((bytes[8], bytes[15], bytes[18], bytes[19], bytes[34], bytes[35]), (8, 1, 0, 9, 9, 0));
    }
}
