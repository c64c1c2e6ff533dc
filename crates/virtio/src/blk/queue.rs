//! One queue of a block device: requests on their way and back. VIRTIO 1.3 §5.2.6

use super::Limits;
use crate::lane::{Lane, Live, Outcome};
use crate::queue::{SlotArea, Used};
use crate::transport::VirtioTransport;
use core::sync::atomic::Ordering;
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{
    Arm, BlockQueue, Completion, Durability, Fault, IoError, Notify, Op, Refused, Rejected, Request, Serial,
    Unmap,
};
use paravirt_platform::Fifo;
use paravirt_platform::{AllocError, Direction, DmaBuffer, Instant, PageArc, PageTable, Platform, Segment};

/// Request types. VIRTIO 1.3 §5.2.6
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// VIRTIO 1.3 §5.2.6: blocks that are zeroed may be deallocated.
const ZEROES_UNMAP: u64 = 1;

/// Words of a slot's area: header, range of a discard, status.
const HEADER: usize = 0;
const HEADER_LEN: u32 = 16;
const RANGE: usize = 2;
const RANGE_LEN: u32 = 16;
const STATUS: usize = 4;
/// Where a serial number goes.
const ID: usize = 5;
const ID_LEN: usize = 20;
/// How long the device may take to tell it.
const SERIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// What the status holds until the device has written it.
const STATUS_NONE: u8 = 0xff;

/// Where a word of the area begins.
const fn byte(word: usize) -> u64 {
    (word as u64).wrapping_mul(8)
}

/// What remains to be done when a request comes back.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Stage {
    /// Nothing.
    Last,
    /// A flush, as the write is to be durable.
    FlushBehind,
    /// Nothing; it is that flush, and the buffer of the write is held.
    Flush,
}

pub(super) struct Extra {
    tag: u64,
    deadline: Instant,
    stage: Stage,
}

/// A queue of a virtio block device.
pub struct BlkQueue<P: Platform, T: VirtioTransport, B: DmaBuffer> {
    lane: Lane<P, T, B, Extra>,
    limits: PageArc<P, Limits>,
    /// The buffers of durable writes whose flush is on the way, by slot of the flush.
    held: PageTable<P, Option<B>>,
    /// Tags of requests that are done without the host.
    local: Fifo<P, u64>,
    /// No deadline in flight is earlier.
    earliest: Instant,
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer> BlkQueue<P, T, B> {
    pub(super) fn new(
        lane: Lane<P, T, B, Extra>,
        limits: PageArc<P, Limits>,
        size: u16,
    ) -> Result<Self, AllocError> {
        let platform = lane.core().platform();
        let size = usize::from(size);
        let held = PageTable::new(platform, size, |_| None)?;
        let local = Fifo::new(platform, size)?;
        Ok(Self { lane, limits, held, local, earliest: Instant::NEVER })
    }

    #[inline(always)]
    fn check_writable(&self) -> Result<(), Rejected> {
        if self.limits.is_read_only.load(Ordering::Relaxed) { Err(Rejected::ReadOnly) } else { Ok(()) }
    }

    /// Prepares the area of the next slot; the segments of the header, of the range that follows it, and of the status.
    #[inline(always)]
    fn prepare(&self, kind: u32, sector: u64, range: Option<[u64; 2]>) -> Option<[Segment; 3]> {
        let queue = self.lane.queue();
        // The next slot is nobody's only while there is a free one.
        if !queue.has_room(1) {
            return None;
        }
        let (area, base): (&SlotArea, _) = queue.area(queue.next_slot())?;
        area[HEADER].store(u64::from(kind), Ordering::Relaxed);
        area[HEADER + 1].store(sector, Ordering::Relaxed);
        area[STATUS].store(u64::from(STATUS_NONE), Ordering::Relaxed);
        if let Some([sector, rest]) = range {
            area[RANGE].store(sector, Ordering::Relaxed);
            area[RANGE + 1].store(rest, Ordering::Relaxed);
        }
        Some([
            Segment { addr: base, len: HEADER_LEN },
            Segment { addr: base.offset(byte(RANGE)), len: RANGE_LEN },
            Segment { addr: base.offset(byte(STATUS)), len: 1 },
        ])
    }

    /// Reads or writes `buffer` at `lba`.
    #[inline(always)]
    fn transfer(
        &mut self,
        kind: u32,
        lba: u64,
        buffer: B,
        extra: Extra,
    ) -> Result<(), (Rejected, Option<B>)> {
        let sector = lba << (self.limits.sector_shift & 31);
        let Some([header, _, status]) = self.prepare(kind, sector, None) else {
            return Err((Rejected::Full, Some(buffer)));
        };
        let limits = &*self.limits;
        let direction = if kind == kind::IN { Direction::FromDevice } else { Direction::ToDevice };
        self.lane
            .submit(&[header], Some(buffer), direction, &[status], extra, |body, _| {
                limits.check_transfer(lba, body)
            })
            .map_err(|refused| (refused.reason, refused.buffer))
    }

    /// Sends a request without a buffer.
    fn command(&mut self, kind: u32, range: Option<[u64; 2]>, extra: Extra) -> Result<(), Rejected> {
        let [header, range_segment, status] = self.prepare(kind, 0, range).ok_or(Rejected::Full)?;
        let prefix = [header, range_segment];
        let prefix = if range.is_some() { &prefix[..] } else { &prefix[..1] };
        self.lane
            .submit(prefix, None, Direction::ToDevice, &[status], extra, |_, _| Ok(()))
            .map_err(|refused| refused.reason)
    }

    fn flush(&mut self, extra: Extra) -> Result<(), Rejected> {
        if self.limits.has_cache {
            self.command(kind::FLUSH, None, extra)
        } else {
            self.local.push(extra.tag).map_err(|_| Rejected::Full)
        }
    }

    fn blocks(
        &mut self,
        kind: u32,
        lba: u64,
        blocks: u32,
        max: u32,
        flags: u64,
        extra: Extra,
    ) -> Result<(), Rejected> {
        self.check_writable()?;
        if blocks == 0 || blocks > max {
            return Err(if max == 0 { Rejected::Unsupported } else { Rejected::Invalid });
        }
        self.limits.check_range(lba, u64::from(blocks))?;
        let shift = self.limits.sector_shift & 31;
        let sectors = blocks.checked_shl(shift).ok_or(Rejected::Invalid)?;
        self.command(kind, Some([lba << shift, u64::from(sectors) | (flags << 32)]), extra)
    }

    /// How the request in `slot` went, as the device says.
    #[inline(always)]
    fn status(&self, slot: u16) -> Result<(), IoError> {
        let status = self
            .lane
            .queue()
            .area(slot)
            .map_or(STATUS_NONE, |(area, _)| area[STATUS].load(Ordering::Relaxed) as u8);
        match status {
            0 => Ok(()),
            2 => Err(IoError::Unsupported),
            _ => Err(IoError::Device),
        }
    }

    /// Sends the flush behind a durable write that came back as `buffer`; hands the buffer back where that cannot be.
    fn flush_behind(&mut self, tag: u64, deadline: Instant, buffer: Option<B>) -> Result<(), Option<B>> {
        let slot = usize::from(self.lane.queue().next_slot());
        if self.command(kind::FLUSH, None, Extra { tag, deadline, stage: Stage::Flush }).is_err() {
            return Err(buffer);
        }
        if let Some(held) = self.held.get_mut(slot) {
            *held = buffer;
        }
        self.lane.kick();
        Ok(())
    }

    /// Goes on with a durable write that came back, or with the flush behind it; `None` where more is to come.
    fn staged(&mut self, used: Used<B, Extra>, result: Result<(), IoError>) -> Option<Completion<B>> {
        let Extra { tag, deadline, stage } = used.extra;
        let (buffer, result) = match stage {
            Stage::Last => (used.buffer, result),
            Stage::Flush => (self.held.get_mut(usize::from(used.slot)).and_then(Option::take), result),
            Stage::FlushBehind if result.is_ok() => match self.flush_behind(tag, deadline, used.buffer) {
                Ok(()) => return None,
                // There is room for it where the write was; if not, the write is not known to be durable.
                Err(buffer) => (buffer, Err(IoError::Device)),
            },
            Stage::FlushBehind => (used.buffer, result),
        };
        Some(Completion { tag, buffer, result })
    }

    /// Gives back what was in flight at a reset.
    #[cold]
    fn recover(&mut self) -> Result<Option<Completion<B>>, Fault> {
        while let Some(outcome) = self.lane.next()? {
            let (result, used) = match outcome {
                Outcome::Used(used) => (self.status(used.slot), used),
                Outcome::Aborted(used) => (Err(IoError::Aborted), used),
            };
            if let Some(done) = self.staged(used, result) {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    /// The device's serial number, asked for before the queue is handed out. VIRTIO 1.3 §5.2.6
    pub(super) fn serial(&mut self) -> Option<Serial> {
        let [header, _, status] = self.prepare(kind::GET_ID, 0, None)?;
        let id = Segment { addr: header.addr.offset(byte(ID)), len: ID_LEN as u32 };
        let platform = self.lane.core().platform().clone();
        let deadline = platform.now().saturating_add(SERIAL_TIMEOUT);
        let extra = Extra { tag: 0, deadline, stage: Stage::Last };
        self.lane.submit(&[header], None, Direction::ToDevice, &[id, status], extra, |_, _| Ok(())).ok()?;
        self.lane.kick();
        while platform.now() < deadline {
            match self.lane.next().ok()? {
                Some(Outcome::Used(used)) => {
                    self.status(used.slot).ok()?;
                    let (area, _) = self.lane.queue().area(used.slot)?;
                    let mut bytes = [0; 24];
                    for (to, word) in bytes.chunks_exact_mut(8).zip(area.iter().skip(ID)) {
                        to.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
                    }
                    return Some(Serial::new(bytes.get(..ID_LEN)?));
                }
                Some(Outcome::Aborted(_)) => return None,
                None => platform.relax(),
            }
        }
        let _ = self.lane.reset_device();
        None
    }
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer> Notify for BlkQueue<P, T, B> {
    fn arm(&mut self) -> Arm {
        if !self.local.is_empty() { Arm::Pending } else { self.lane.arm() }
    }

    fn disarm(&mut self) {
        self.lane.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.lane.register(waker);
    }

    fn next_deadline(&self) -> Instant {
        if self.lane.queue().in_flight() == 0 { Instant::NEVER } else { self.earliest }
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if now < self.earliest {
            return Ok(());
        }
        // The bound is of requests that may be long done: look again.
        self.earliest =
            self.lane.queue().extras().map(|extra| extra.deadline).min().unwrap_or(Instant::NEVER);
        if now < self.earliest || self.earliest == Instant::NEVER {
            return Ok(());
        }
        self.lane.reset_device()
    }
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer> BlockQueue for BlkQueue<P, T, B> {
    type Buffer = B;

    #[inline]
    fn submit(&mut self, request: Request<B>) -> Result<(), Refused<B>> {
        let Request { tag, op, deadline } = request;
        if let Some(fault) = self.lane.fault() {
            return Err(Refused { reason: fault.into(), request: Request { tag, op, deadline } });
        }
        let extra = |stage| Extra { tag, deadline, stage };
        let refused = match op {
            Op::Read { lba, into } => match self.transfer(kind::IN, lba, into, extra(Stage::Last)) {
                Ok(()) => None,
                Err((reason, buffer)) => Some((reason, buffer.map(|into| Op::Read { lba, into }))),
            },
            Op::Write { lba, from, durability } => {
                let behind = durability == Durability::Durable && self.limits.has_cache;
                let stage = if behind { Stage::FlushBehind } else { Stage::Last };
                let sent = match self.check_writable() {
                    Ok(()) => self.transfer(kind::OUT, lba, from, extra(stage)),
                    Err(reason) => Err((reason, Some(from))),
                };
                match sent {
                    Ok(()) => None,
                    Err((reason, buffer)) => {
                        Some((reason, buffer.map(|from| Op::Write { lba, from, durability })))
                    }
                }
            }
            Op::Flush => self.flush(extra(Stage::Last)).err().map(|reason| (reason, Some(Op::Flush))),
            Op::Discard { lba, blocks } => self
                .blocks(kind::DISCARD, lba, blocks, self.limits.max_discard, 0, extra(Stage::Last))
                .err()
                .map(|reason| (reason, Some(Op::Discard { lba, blocks }))),
            Op::WriteZeroes { lba, blocks, unmap } => {
                let flags = if unmap == Unmap::May && self.limits.can_unmap { ZEROES_UNMAP } else { 0 };
                self.blocks(
                    kind::WRITE_ZEROES,
                    lba,
                    blocks,
                    self.limits.max_zeroes,
                    flags,
                    extra(Stage::Last),
                )
                .err()
                .map(|reason| (reason, Some(Op::WriteZeroes { lba, blocks, unmap })))
            }
        };
        match refused {
            None => {
                self.earliest = self.earliest.min(deadline);
                Ok(())
            }
            // The queue hands a buffer that it was given back whenever it refuses, so there always is an operation.
            Some((reason, op)) => {
                Err(Refused { reason, request: Request { tag, op: op.unwrap_or(Op::Flush), deadline } })
            }
        }
    }

    #[inline]
    fn kick(&mut self) {
        self.lane.kick();
    }

    #[inline]
    fn complete(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if let Some(tag) = self.local.pop() {
            return Ok(Some(Completion { tag, buffer: None, result: Ok(()) }));
        }
        loop {
            let used = match self.lane.pop() {
                Live::Yes(Some(used)) => used,
                Live::Yes(None) => return Ok(None),
                Live::No => return self.recover(),
            };
            let result = self.status(used.slot);
            match used.extra.stage {
                Stage::Last => {
                    return Ok(Some(Completion { tag: used.extra.tag, buffer: used.buffer, result }));
                }
                _ => {
                    if let Some(done) = self.staged(used, result) {
                        return Ok(Some(done));
                    }
                }
            }
        }
    }

    fn reset(&mut self) -> Result<(), Fault> {
        self.lane.reset_device()
    }
}
