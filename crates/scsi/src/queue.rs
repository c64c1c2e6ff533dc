//! One queue of a disk: requests made commands. SBC-3

use crate::Cdb;
use crate::core::Core;
use crate::disk::Limits;
use crate::port::{Adapter, Port};
use crate::shared::{Phase, Stage, Unit};
use crate::slot::{Data, Finished, Make, Wanted};
use core::task::Waker;
use paravirt_device::{
    Arm, BlockQueue, Completion, Durability, Fault, Notify, Op, Refused, Rejected, Request, Unmap,
};
use paravirt_platform::{Direction, DmaBuffer, Instant, PageArc, Platform, Segment};

/// Requests without a command that can wait to be completed.
const MOST_LOCAL: usize = 16;

/// A queue of a disk.
pub struct DiskQueue<P: Platform, A: Adapter, B: DmaBuffer> {
    core: PageArc<P, Core<P, A, B>>,
    limits: Limits,
    lane: usize,
    place: usize,
    owner: u16,
    /// Tags of flushes that are done without the host, as there is no cache.
    local: [u64; MOST_LOCAL],
    locals: usize,
    /// No deadline in flight is earlier.
    earliest: Instant,
}

/// A read or a write, until its segments are known.
struct Transfer<'a> {
    limits: &'a Limits,
    blocks: u64,
    lba: u64,
    direction: Direction,
    is_fua: bool,
}

/// The command that reads an optical medium: drives of these know no longer one.
#[cold]
fn optical(lba: u64, count: u32, direction: Direction) -> Result<Cdb, Rejected> {
    match (u32::try_from(lba), u16::try_from(count), direction) {
        (Ok(lba), Ok(count), Direction::FromDevice) => Ok(Cdb::read_10(lba, count)),
        (_, _, Direction::ToDevice) => Err(Rejected::ReadOnly),
        _ => Err(Rejected::Range),
    }
}

impl Make for Transfer<'_> {
    #[inline(always)]
    fn make(self, segments: &[Segment], cdb: &mut Cdb) -> Result<u32, Rejected> {
        let (count, len) = self.limits.check(self.lba, segments, self.blocks)?;
        if self.limits.is_optical {
            *cdb = optical(self.lba, count, self.direction)?;
        } else {
            *cdb = Cdb::transfer(self.direction == Direction::ToDevice, self.lba, count, self.is_fua);
        }
        Ok(len)
    }
}

impl<P: Platform, A: Adapter, B: DmaBuffer> DiskQueue<P, A, B> {
    pub(crate) fn new(
        core: &PageArc<P, Core<P, A, B>>,
        limits: Limits,
        lane: usize,
        place: usize,
    ) -> Option<Self> {
        core.shared.units.get(place)?.hold();
        let owner = u16::try_from(place).ok()?.checked_add(1)?;
        let (core, local) = (core.clone(), [0; MOST_LOCAL]);
        Some(Self { core, limits, lane, place, owner, local, locals: 0, earliest: Instant::NEVER })
    }

    #[inline(always)]
    fn unit(&self) -> Option<&Unit> {
        self.core.shared.units.get(self.place)
    }

    /// The fault that keeps requests out.
    #[inline(always)]
    fn fault(&self) -> Option<Fault> {
        if !self.core.shared.is_running() {
            return self.core.fault();
        }
        if self.unit().is_none_or(Unit::is_gone) { Some(Fault::Removed) } else { None }
    }

    /// Sends the command that `make` makes of the segments of its data, and of how large the medium is.
    #[inline(always)]
    fn send<'a, M: Make>(
        &'a mut self,
        request: (u64, Instant),
        stage: Stage,
        data: Data<B>,
        make: impl FnOnce(&'a Limits, u64) -> M,
    ) -> Result<(), (Rejected, Data<B>)> {
        let (tag, deadline) = request;
        let Self { core, limits, lane, place, owner, earliest, .. } = self;
        let (Some(lane), Some(unit)) = (core.lane(*lane), core.shared.units.get(*place)) else {
            return Err((Rejected::Invalid, data));
        };
        let wanted = Wanted { tag, deadline, address: limits.address, stage, data };
        lane.lock().submit(*owner, wanted, make(limits, unit.blocks()))?;
        *earliest = deadline.min(*earliest);
        Ok(())
    }

    /// Reads or writes `buffer` at `lba`.
    #[inline(always)]
    fn transfer(
        &mut self,
        request: (u64, Instant),
        lba: u64,
        buffer: B,
        direction: Direction,
        durability: Durability,
    ) -> Result<(), (Rejected, Option<B>)> {
        let is_durable = durability == Durability::Durable && self.limits.has_cache;
        let (is_fua, behind) = (is_durable && self.limits.has_fua, is_durable && !self.limits.has_fua);
        let stage = if behind { Stage::FlushBehind } else { Stage::Last };
        let data = Data::Buffer(buffer, direction);
        let sent = self.send(request, stage, data, |limits, blocks| Transfer {
            limits,
            blocks,
            lba,
            direction,
            is_fua,
        });
        sent.map_err(|(reason, data)| match data {
            Data::Buffer(buffer, _) => (reason, Some(buffer)),
            _ => (reason, None),
        })
    }

    fn flush(&mut self, request: (u64, Instant)) -> Result<(), Rejected> {
        if self.limits.has_cache {
            return self
                .send(request, Stage::Last, Data::None, |_, _| Cdb::synchronize_cache())
                .map_err(|(reason, _)| reason);
        }
        let place = self.local.get_mut(self.locals).ok_or(Rejected::Full)?;
        *place = request.0;
        self.locals = self.locals.saturating_add(1);
        Ok(())
    }

    /// Zeroes or discards blocks; `most` is what one request may have.
    fn blocks(
        &mut self,
        request: (u64, Instant),
        (lba, blocks): (u64, u32),
        most: u32,
        data: Data<B>,
        cdb: Cdb,
    ) -> Result<(), Rejected> {
        let unit = self.unit().ok_or(Fault::Removed)?;
        if most == 0 {
            return Err(Rejected::Unsupported);
        }
        if unit.is_read_only() {
            return Err(Rejected::ReadOnly);
        }
        if blocks == 0 || blocks > most {
            return Err(Rejected::Invalid);
        }
        if lba.checked_add(u64::from(blocks)).is_none_or(|end| end > unit.blocks()) {
            return Err(Rejected::Range);
        }
        self.send(request, Stage::Last, data, |_, _| cdb).map_err(|(reason, _)| reason)
    }

    #[inline(always)]
    fn accept(&mut self, request: (u64, Instant), op: Op<B>) -> Result<(), (Rejected, Option<Op<B>>)> {
        // One way for both, so that it is laid out once.
        let (lba, buffer, direction, durability) = match op {
            Op::Read { lba, into } => (lba, into, Direction::FromDevice, Durability::Cached),
            Op::Write { lba, from, durability } => (lba, from, Direction::ToDevice, durability),
            other => return self.accept_other(request, other),
        };
        let is_kept_out = direction == Direction::ToDevice && self.unit().is_some_and(Unit::is_read_only);
        let sent = if is_kept_out {
            Err((Rejected::ReadOnly, Some(buffer)))
        } else {
            self.transfer(request, lba, buffer, direction, durability)
        };
        sent.map_err(|(reason, buffer)| {
            let op = buffer.map(|buffer| match direction {
                Direction::FromDevice => Op::Read { lba, into: buffer },
                Direction::ToDevice => Op::Write { lba, from: buffer, durability },
            });
            (reason, op)
        })
    }

    #[inline(never)]
    fn accept_other(&mut self, request: (u64, Instant), op: Op<B>) -> Result<(), (Rejected, Option<Op<B>>)> {
        match op {
            Op::Flush => self.flush(request).map_err(|reason| (reason, Some(Op::Flush))),
            Op::Discard { lba, blocks } => {
                let most = self.limits.max_discard;
                self.blocks(request, (lba, blocks), most, Data::Unmap { lba, blocks }, Cdb::unmap())
                    .map_err(|reason| (reason, Some(Op::Discard { lba, blocks })))
            }
            Op::WriteZeroes { lba, blocks, unmap } => {
                let may = unmap == Unmap::May && self.limits.zeroes_unmap;
                let data = Data::Own(self.core.zeroes(self.limits.block_size), Direction::ToDevice);
                let cdb = Cdb::write_same(lba, blocks, may);
                self.blocks(request, (lba, blocks), self.limits.max_zeroes, data, cdb)
                    .map_err(|reason| (reason, Some(Op::WriteZeroes { lba, blocks, unmap })))
            }
            other => Err((Rejected::Unsupported, Some(other))),
        }
    }

    /// The next of ours, taking in what came for all.
    #[inline(always)]
    fn next(&mut self) -> Result<Option<Finished<B>>, Fault> {
        let Some(lane) = self.core.lane(self.lane) else { return Err(Fault::Refused) };
        let mut lane = lane.lock();
        if let Some(done) = lane.take(self.owner) {
            return Ok(Some(done));
        }
        let pumped = lane.pump(&self.core.shared, self.owner);
        match (pumped, lane.take(self.owner)) {
            (_, Some(done)) => Ok(Some(done)),
            (Ok(()), None) => Ok(None),
            (Err(fault), None) => Err(fault),
        }
    }

    /// What is to be done when there is nothing, or the port fails.
    #[cold]
    fn idle(&mut self, failed: Option<Fault>, epoch: u32) -> Result<Option<Completion<B>>, Fault> {
        let core = &self.core;
        match (core.shared.phase(), failed) {
            (Phase::Running | Phase::Resetting, Some(fault)) => drop(core.recover(epoch, fault)),
            (Phase::Resetting, None) => drop(core.continue_reset()),
            _ => {}
        }
        let Some(lane) = core.lane(self.lane) else { return Err(Fault::Refused) };
        let mut lane = lane.lock();
        if let Some(done) = lane.take(self.owner) {
            return Ok(Some(completion(done)));
        }
        match self.fault() {
            // What was sent ahead of it comes back still.
            Some(_) if lane.in_flight(self.owner) > 0 => Ok(None),
            Some(Fault::Reset) | None => Ok(None),
            Some(fault) => Err(fault),
        }
    }
}

fn completion<B>(done: Finished<B>) -> Completion<B> {
    let buffer = match done.data {
        Data::Buffer(buffer, _) | Data::Held(buffer) => Some(buffer),
        _ => None,
    };
    Completion { tag: done.tag, buffer, result: done.result }
}

impl<P: Platform, A: Adapter, B: DmaBuffer> BlockQueue for DiskQueue<P, A, B> {
    type Buffer = B;

    #[inline]
    fn submit(&mut self, request: Request<B>) -> Result<(), Refused<B>> {
        let Request { tag, op, deadline } = request;
        if let Some(fault) = self.fault() {
            return Err(Refused { reason: fault.into(), request: Request { tag, op, deadline } });
        }
        // A buffer comes back with every refusal, so there always is an operation.
        self.accept((tag, deadline), op).map_err(|(reason, op)| Refused {
            reason,
            request: Request { tag, op: op.unwrap_or(Op::Flush), deadline },
        })
    }

    #[inline]
    fn kick(&mut self) {
        if let Some(lane) = self.core.lane(self.lane)
            && let Some(port) = &mut lane.lock().port
        {
            port.kick();
        }
    }

    #[inline]
    fn complete(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if self.locals > 0 {
            self.locals = self.locals.wrapping_sub(1);
            let tag = self.local.first().copied().unwrap_or_default();
            self.local.rotate_left(1);
            return Ok(Some(Completion { tag, buffer: None, result: Ok(()) }));
        }
        let epoch = self.core.shared.epoch();
        match self.next() {
            Ok(Some(done)) => Ok(Some(completion(done))),
            Ok(None) if self.fault().is_none() => Ok(None),
            Ok(None) => self.idle(None, epoch),
            Err(fault) => self.idle(Some(fault), epoch),
        }
    }

    /// Closes all ports of the controller and opens them again: what is in flight on any of its disks comes back as aborted.
    fn reset(&mut self) -> Result<(), Fault> {
        self.core.recover(self.core.shared.epoch(), Fault::Reset)
    }
}

impl<P: Platform, A: Adapter, B: DmaBuffer> Notify for DiskQueue<P, A, B> {
    fn arm(&mut self) -> Arm {
        if self.locals > 0 {
            return Arm::Pending;
        }
        let Some(lane) = self.core.lane(self.lane) else { return Arm::Armed };
        lane.lock().arm(self.owner)
    }

    fn disarm(&mut self) {
        if let Some(lane) = self.core.lane(self.lane) {
            lane.lock().disarm(self.owner);
        }
    }

    fn register(&mut self, waker: &Waker) {
        if let Some(lane) = self.core.lane(self.lane) {
            lane.lock().wakers.register(usize::from(self.owner), waker);
        }
    }

    fn next_deadline(&self) -> Instant {
        let Some(lane) = self.core.lane(self.lane) else { return Instant::NEVER };
        let lane = lane.lock();
        let mine = if lane.in_flight(self.owner) > 0 { self.earliest } else { Instant::NEVER };
        let reset = match self.core.shared.phase() {
            Phase::Resetting => self.core.shared.reset_until(),
            _ => Instant::NEVER,
        };
        mine.min(reset).min(lane.retry_at())
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        self.core.continue_reset()?;
        let Some(lane) = self.core.lane(self.lane) else { return Ok(()) };
        let epoch = self.core.shared.epoch();
        let pumped = lane.lock().pump(&self.core.shared, self.owner);
        if let Err(fault) = pumped {
            return if self.core.shared.is_running() { self.core.recover(epoch, fault) } else { Ok(()) };
        }
        if now >= self.earliest {
            // The bound is of requests that may be long done: look again.
            self.earliest = lane.lock().deadline(self.owner);
            if now >= self.earliest && self.core.shared.is_running() {
                self.core.begin_reset();
            }
        }
        Ok(())
    }
}

impl<P: Platform, A: Adapter, B: DmaBuffer> Drop for DiskQueue<P, A, B> {
    /// What is in flight is dropped as it comes back.
    fn drop(&mut self) {
        if let Some(lane) = self.core.lane(self.lane) {
            lane.lock().abandon(self.owner);
        }
        self.unit().into_iter().for_each(Unit::let_go);
    }
}
