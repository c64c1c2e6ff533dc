//! One queue of a disk: requests made commands. SBC-3
//!
//! The commands are in a table of the queue's own. A read or write of one segment is checked and staged there without a lock;
//! [`kick`](BlockQueue::kick) takes the lock of the port once and sends all that is staged, and [`complete`](BlockQueue::complete)
//! takes it once for all replies that there are. Everything else is sent under the lock at once.

use crate::Cdb;
use crate::command::{Completed, Data, PendingCommand, Stage};
use crate::command_table::{CommandTable, Staged};
use crate::controller_shared::ControllerShared;
use crate::inbox::Inbox;
use crate::limits::DiskLimits;
use crate::port_state::PortState;
use crate::state::{Phase, is_open};
use crate::transfer::Transfer;
use crate::transport::ScsiTransport;
use crate::unit::Unit;
use core::fmt;
use core::mem::ManuallyDrop;
use core::task::Waker;
use paravirt_device::{
    Arm, BlockQueue, Completion, Durability, Fault, Notify, Op, Refused, Rejected, Request, Unmap,
};
use paravirt_platform::{Direction, DmaBuffer, Instant, PageArc, Platform};
use spin::{Mutex, MutexGuard};

/// A gate word that no controller in service has.
const CLOSED: u64 = u64::MAX;

/// A queue of a disk. Dropped, it leaves what is in flight to the controller, which drops each buffer when its command completes.
pub struct DiskQueue<P: Platform, T: ScsiTransport, B: DmaBuffer> {
    table: ManuallyDrop<CommandTable<P, B>>,
    limits: DiskLimits,
    shared: PageArc<P, ControllerShared<P, T, B>>,
    port: usize,
    /// The unit, by its index in the table of units.
    unit: usize,
    owner: u16,
    /// The gate word of the controller in service at which the table was synced last: what was staged since then is of the same
    /// generation of the port. [`CLOSED`] where it was not in service.
    gate: u64,
    /// Staged commands were to be sent and did not find room.
    is_flush_due: bool,
    /// Something was sent that the host was not notified of.
    is_kick_due: bool,
    /// No deadline in flight is earlier.
    earliest: Instant,
}

/// Tag and deadline of a request.
#[derive(Copy, Clone)]
struct Meta {
    tag: u64,
    deadline: Instant,
}

impl Meta {
    fn command(self, stage: Stage) -> PendingCommand {
        PendingCommand { tag: self.tag, deadline: self.deadline, stage }
    }
}

type LockedPort<'a, P, T, B> = MutexGuard<'a, PortState<P, <T as ScsiTransport>::Port, B>>;
/// The port, locked, and the table of the queue.
type Locked<'a, P, T, B> = (LockedPort<'a, P, T, B>, &'a mut CommandTable<P, B>);

/// A refused read or write: why, and its buffer.
type RefusedBuffer<B> = (Rejected, B);

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> DiskQueue<P, T, B> {
    /// A queue of `depth` commands on port `port`; `None` where there is no memory for it, or commands of a queue before it are
    /// still in flight.
    pub(crate) fn new(
        shared: &PageArc<P, ControllerShared<P, T, B>>,
        limits: DiskLimits,
        port: usize,
        unit: usize,
        depth: u16,
    ) -> Option<Self> {
        let owner = u16::try_from(unit).ok()?.checked_add(1)?;
        let platform = &shared.state.platform;
        let table = CommandTable::new(platform, owner, limits.address, depth).ok()?;
        let inbox = Inbox::new(platform, depth).ok()?;
        if !shared.port(port)?.lock().add_owner(owner, inbox) {
            return None;
        }
        shared.state.units.get(unit)?.hold();
        Some(Self {
            table: ManuallyDrop::new(table),
            limits,
            shared: shared.clone(),
            port,
            unit,
            owner,
            gate: CLOSED,
            is_flush_due: false,
            is_kick_due: false,
            earliest: Instant::NEVER,
        })
    }

    /// The fault that keeps requests out.
    #[inline(always)]
    fn fault(&self) -> Option<Fault> {
        if !self.shared.state.is_running() {
            return self.shared.fault();
        }
        let unit = self.shared.state.units.get(self.unit);
        if unit.is_none_or(Unit::is_gone) { Some(Fault::Removed) } else { None }
    }

    /// Accepts a read or write.
    #[inline(always)]
    fn transfer(
        &mut self,
        meta: Meta,
        lba: u64,
        mut buffer: B,
        direction: Direction,
        durability: Durability,
    ) -> Result<(), RefusedBuffer<B>> {
        let is_write = direction == Direction::ToDevice;
        let Some(unit) = self.shared.state.units.get(self.unit) else {
            return Err((Fault::Removed.into(), buffer));
        };
        let (blocks, is_short) = (unit.blocks(), unit.is_short());
        // The gate word that is kept is one of a controller in service.
        if self.shared.state.gate() != self.gate || !unit.accepts(is_write) {
            if let Err(reason) = self.pass_gate(is_write) {
                return Err((reason, buffer));
            }
        }
        if !self.table.has_room() {
            return Err((Rejected::Full, buffer));
        }
        let is_durable = durability == Durability::Durable && self.limits.has_cache;
        let is_fua = is_durable && self.limits.has_fua;
        let stage = if is_durable && !self.limits.has_fua { Stage::FlushBehind } else { Stage::Last };
        let segment = match buffer.submit(direction) {
            Ok(memory) => match memory.as_slice() {
                [one] if !self.limits.is_optical => Ok(*one),
                _ => Err(None),
            },
            Err(error) => Err(Some(Rejected::Buffer(error))),
        };
        let segment = match segment {
            Ok(segment) => segment,
            Err(Some(reason)) => return Err((reason, buffer)),
            Err(None) => {
                // SAFETY: it was submitted above, and no device was told of it.
                unsafe { buffer.reclaim() };
                let limits = self.limits;
                let build = Transfer { limits: &limits, is_short, blocks, lba, direction, is_fua };
                return self.transfer_now(meta, stage, buffer, build);
            }
        };
        let count = match self.limits.check_one(lba, segment.len, blocks) {
            Ok(count) => count,
            Err(reason) => {
                // SAFETY: it was submitted above, and no device was told of it.
                unsafe { buffer.reclaim() };
                return Err((reason, buffer));
            }
        };
        let Meta { tag, deadline } = meta;
        let cdb = Cdb::transfer(is_write, lba, count, is_fua).known_to(is_short);
        let command = Staged { tag, deadline, stage, buffer, direction, segment, cdb };
        let staged = self.table.stage(command);
        self.earliest = deadline.min(self.earliest);
        staged.map_err(|mut buffer| {
            // SAFETY: it was submitted above, and no device was told of it.
            unsafe { buffer.reclaim() };
            (Rejected::Full, buffer)
        })
    }

    /// Sends a read or write of several segments, behind what is staged.
    #[inline(never)]
    fn transfer_now(
        &mut self,
        meta: Meta,
        stage: Stage,
        buffer: B,
        build: Transfer<'_>,
    ) -> Result<(), RefusedBuffer<B>> {
        let direction = build.direction;
        self.is_kick_due = true;
        let Some((mut port, table)) = self.lock() else { return Err((Rejected::Invalid, buffer)) };
        let is_flushed = port.flush(table);
        let sent = port.send_buffer(table, meta.command(stage), (buffer, direction), build);
        drop(port);
        self.is_flush_due |= !is_flushed;
        self.earliest = meta.deadline.min(self.earliest);
        sent
    }

    /// Checks whether the controller and the unit accept a request, after syncing the table: a recovery aborts what was submitted
    /// before it, and not what is submitted afterwards.
    #[cold]
    fn pass_gate(&mut self, is_write: bool) -> Result<(), Rejected> {
        let gate = self.shared.state.gate();
        if let Some(fault) = self.fault() {
            return Err(fault.into());
        }
        if !is_open(gate) {
            return Err(Fault::Reset.into());
        }
        self.sync();
        let unit = self.shared.state.units.get(self.unit).ok_or(Fault::Removed)?;
        match (unit.is_gone(), is_write && unit.is_read_only()) {
            (true, _) => Err(Fault::Removed.into()),
            (_, true) => Err(Rejected::ReadOnly),
            _ => Ok(()),
        }
    }

    /// Ends what is in the table of a port that has been closed.
    fn sync(&mut self) {
        // Read first: what happens meanwhile is found next time.
        let gate = self.shared.state.gate();
        if let Some((port, table)) = self.lock() {
            port.sync(table);
        }
        self.gate = if is_open(gate) { gate } else { CLOSED };
    }

    /// Sends a command without a buffer, behind what is staged.
    fn send(&mut self, meta: Meta, data: Data<B>, cdb: Cdb) -> Result<(), Rejected> {
        self.is_kick_due = true;
        let (mut port, table) = self.lock().ok_or(Rejected::Invalid)?;
        let is_flushed = port.flush(table);
        let sent = port.send(table, meta.command(Stage::Last), data, cdb);
        drop(port);
        self.is_flush_due |= !is_flushed;
        self.earliest = meta.deadline.min(self.earliest);
        sent
    }

    fn flush(&mut self, meta: Meta) -> Result<(), Rejected> {
        match self.limits.has_cache {
            true => self.send(meta, Data::None, Cdb::synchronize_cache()),
            false => self.table.complete_at_once(meta.tag),
        }
    }

    /// Zeroes or discards blocks; `most` is what one request may have.
    fn blocks(
        &mut self,
        meta: Meta,
        (lba, blocks): (u64, u32),
        most: u32,
        data: Data<B>,
        cdb: Cdb,
    ) -> Result<(), Rejected> {
        let unit = self.shared.state.units.get(self.unit).ok_or(Fault::Removed)?;
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
        self.send(meta, data, cdb)
    }

    /// Accepts an operation without a buffer.
    #[inline(never)]
    fn accept_other(&mut self, meta: Meta, op: &Op<B>) -> Result<(), Rejected> {
        if let Some(fault) = self.fault() {
            return Err(fault.into());
        }
        match *op {
            Op::Flush => self.flush(meta),
            Op::Discard { lba, blocks } => {
                let most = self.limits.max_discard;
                self.blocks(meta, (lba, blocks), most, Data::Unmap { lba, blocks }, Cdb::unmap())
            }
            Op::WriteZeroes { lba, blocks, unmap } => {
                let may = unmap == Unmap::May && self.limits.zeroes_unmap;
                let data = Data::Own(self.shared.zeroes(self.limits.block_size), Direction::ToDevice);
                let cdb = Cdb::write_same(lba, blocks, may);
                self.blocks(meta, (lba, blocks), self.limits.max_zeroes, data, cdb)
            }
            _ => Err(Rejected::Unsupported),
        }
    }

    /// Asks the controller to abort what is late, one command at a time; false where that does not help.
    #[cold]
    fn abort_late(&mut self, now: Instant) -> bool {
        let until = now.saturating_add(self.shared.reset_timeout());
        let Some((mut port, table)) = self.lock() else { return false };
        port.port.as_mut().is_some_and(|port| table.abort_late(port, now, until))
    }

    fn lock(&mut self) -> Option<Locked<'_, P, T, B>> {
        let Self { shared, port, table, .. } = self;
        Some((shared.port(*port).map(Mutex::lock)?, table))
    }

    /// Receives successful replies, and takes the first completion.
    #[inline(always)]
    fn complete_good(&mut self) -> Option<Completion<B>> {
        if self.is_flush_due {
            return None;
        }
        let Self { shared, port, table, .. } = self;
        let at = shared.port(*port)?.lock().receive_good(&shared.state, table)?;
        let (tag, data) = table.release(at)?;
        Some(Completion::new(tag, data.into_buffer(), Ok(())))
    }

    /// Receives everything that there is, and sends what found no room before.
    fn receive(&mut self) -> Result<(), Fault> {
        let Self { shared, port, table, is_flush_due, .. } = self;
        let Some(port) = shared.port(*port) else { return Err(Fault::Refused) };
        let mut port = port.lock();
        let received = port.receive(&shared.state, table);
        if *is_flush_due && received.is_ok() {
            *is_flush_due = !port.flush(table);
            port.kick();
        }
        received
    }

    /// Takes a completion after receiving everything that there is.
    #[inline(never)]
    fn complete_any(&mut self) -> Result<Option<Completion<B>>, Fault> {
        let epoch = self.shared.state.epoch();
        let received = self.receive();
        if let Some(done) = self.table.pop_done() {
            return Ok(Some(completion(done)));
        }
        match received {
            Ok(()) if self.fault().is_none() => Ok(None),
            received => self.recover(received.err(), epoch),
        }
    }

    /// Goes on with the recovery of the controller where nothing has completed, or the port failed.
    #[cold]
    fn recover(&mut self, failed: Option<Fault>, epoch: u32) -> Result<Option<Completion<B>>, Fault> {
        let shared = &self.shared;
        match (shared.state.phase(), failed) {
            (Phase::Running | Phase::Resetting, Some(fault)) => drop(shared.recover(epoch, fault)),
            (Phase::Resetting, None) => drop(shared.continue_reset()),
            _ => {}
        }
        let state = &self.shared.state;
        let Some(port) = self.shared.port(self.port) else { return Err(Fault::Refused) };
        port.lock().collect(state, &mut self.table);
        if let Some(done) = self.table.pop_done() {
            return Ok(Some(completion(done)));
        }
        match self.fault() {
            // Commands sent ahead of it still complete.
            Some(_) if self.table.in_flight() > 0 => Ok(None),
            Some(Fault::Reset) | None => Ok(None),
            Some(fault) => Err(fault),
        }
    }
}

#[inline(always)]
fn completion<B>(done: Completed<B>) -> Completion<B> {
    Completion::new(done.tag, done.data.into_buffer(), done.result)
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> BlockQueue for DiskQueue<P, T, B> {
    type Buffer = B;

    #[inline]
    fn submit(&mut self, request: Request<B>) -> Result<(), Refused<B>> {
        let Request { tag, op, deadline, .. } = request;
        let meta = Meta { tag, deadline };
        // One way for reads and writes, so that it is laid out once.
        let (lba, buffer, direction, durability) = match op {
            Op::Read { lba, into } => (lba, into, Direction::FromDevice, Durability::Cached),
            Op::Write { lba, from, durability } => (lba, from, Direction::ToDevice, durability),
            op => {
                return self
                    .accept_other(meta, &op)
                    .map_err(|reason| Refused::new(reason, Request::new(tag, op).with_deadline(deadline)));
            }
        };
        self.transfer(meta, lba, buffer, direction, durability).map_err(|(reason, buffer)| {
            let op = match direction {
                Direction::FromDevice => Op::Read { lba, into: buffer },
                Direction::ToDevice => Op::Write { lba, from: buffer, durability },
            };
            Refused::new(reason, Request::new(tag, op).with_deadline(deadline))
        })
    }

    /// Sends what is staged, and notifies the host once.
    #[inline]
    fn kick(&mut self) {
        if !self.table.has_staged() && !self.is_kick_due {
            return;
        }
        let Self { shared, port, table, is_flush_due, is_kick_due, .. } = self;
        let Some(port) = shared.port(*port) else { return };
        let mut port = port.lock();
        *is_flush_due = !port.flush(table);
        *is_kick_due = false;
        port.kick();
    }

    #[inline]
    fn complete(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if let Some(done) = self.table.pop_done() {
            return Ok(Some(completion(done)));
        }
        match self.complete_good() {
            Some(done) => Ok(Some(done)),
            None => self.complete_any(),
        }
    }

    /// Closes all ports of the controller and opens them again: what is in flight on any of its disks completes as aborted.
    fn reset(&mut self) -> Result<(), Fault> {
        let reset = self.shared.recover(self.shared.state.epoch(), Fault::Reset);
        self.sync();
        reset
    }
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> Notify for DiskQueue<P, T, B> {
    fn arm(&mut self) -> Arm {
        let owner = self.owner;
        let is_flush_due = self.is_flush_due;
        let Some((mut port, table)) = self.lock() else { return Arm::Armed };
        port.sync(table);
        if table.has_done() {
            return Arm::Pending;
        }
        let is_flushed = !is_flush_due || port.flush(table);
        if is_flush_due {
            port.kick();
        }
        let arm = port.arm(owner);
        drop(port);
        self.is_flush_due = !is_flushed;
        arm
    }

    fn disarm(&mut self) {
        let owner = self.owner;
        if let Some((mut port, _)) = self.lock() {
            port.disarm(owner);
        }
    }

    fn register(&mut self, waker: &Waker) {
        let owner = self.owner;
        if let Some((port, _)) = self.lock() {
            port.wakers.register(usize::from(owner), waker);
        }
    }

    fn next_deadline(&self) -> Instant {
        let mine = if self.table.in_flight() > 0 { self.earliest } else { Instant::NEVER };
        let reset = match self.shared.state.phase() {
            Phase::Resetting => self.shared.state.reset_until(),
            _ => Instant::NEVER,
        };
        mine.min(reset).min(self.table.retry_at())
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        self.shared.continue_reset()?;
        let epoch = self.shared.state.epoch();
        if let Err(fault) = self.receive() {
            let is_running = self.shared.state.is_running();
            return if is_running { self.shared.recover(epoch, fault) } else { Ok(()) };
        }
        if now >= self.earliest {
            // The bound is of requests that may be long done: look again.
            self.earliest = self.table.deadline();
            if now >= self.earliest && self.shared.state.is_running() {
                if self.abort_late(now) {
                    self.earliest = self.table.deadline();
                } else {
                    self.shared.begin_reset();
                }
            }
        }
        Ok(())
    }
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> fmt::Debug for DiskQueue<P, T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskQueue")
            .field("unit", &self.limits.address)
            .field("port", &self.port)
            .field("in_flight", &self.table.in_flight())
            .finish_non_exhaustive()
    }
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> Drop for DiskQueue<P, T, B> {
    /// What is in flight is dropped as it completes.
    fn drop(&mut self) {
        // SAFETY: the table is taken once, here, and not used after.
        let table = unsafe { ManuallyDrop::take(&mut self.table) };
        let state = &self.shared.state;
        let is_kept = self.shared.port(self.port).is_some_and(|port| port.lock().remove_owner(state, table));
        if !is_kept {
            state.units.get(self.unit).into_iter().for_each(Unit::release);
        }
    }
}
