//! The port of the adapter: sends commands by the request ring and receives their completions.

use crate::registers::{AdapterCommand, Registers};
use crate::rings::{Request, Rings};
use core::fmt;
use core::task::Waker;
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_pci::Bound;
use paravirt_platform::{AllocError, Direction, PageArc, PageRing, Platform};
use paravirt_scsi::{Address, Cdb, Command, Event, ScsiPort};

/// Flags of a request.
const SCATTER_LIST: u32 = 1 << 0;
const NO_DATA: u32 = 1 << 2;
const TO_HOST: u32 = 1 << 3;
const TO_DEVICE: u32 = 1 << 4;
/// The tag of a command without an order: SIMPLE. SAM-5 §8.6
const SIMPLE: u64 = 0x20;
/// Completions of unknown commands that are passed over in one call, at most.
const MAX_IGNORED: u32 = 256;

/// A command in flight, or a free slot.
struct Slot {
    id: u64,
    len: u32,
    /// The next free slot.
    next: u16,
    in_flight: bool,
    may_be_short: bool,
}

/// The table of commands in flight. The context of a command is its slot plus one: some adapters keep 32 bits of it.
pub(crate) struct Slots<P: Platform> {
    slots: PageRing<P, Slot>,
    free_head: u16,
    free: u16,
}

impl<P: Platform> Slots<P> {
    pub fn new(platform: &P, count: u16) -> Result<Self, AllocError> {
        let slots = PageRing::new(platform, usize::from(count), |index| Slot {
            id: 0,
            len: 0,
            next: (index as u16).wrapping_add(1),
            in_flight: false,
            may_be_short: false,
        })?;
        Ok(Self { slots, free_head: 0, free: count })
    }

    /// Frees all slots, after the adapter has stopped.
    pub fn reset(&mut self) {
        let count = self.slots.iter().len();
        for index in 0..count {
            let slot = self.slots.at_mut(index);
            (slot.next, slot.in_flight) = ((index as u16).wrapping_add(1), false);
        }
        (self.free_head, self.free) = (0, count as u16);
    }

    #[inline(always)]
    fn take(&mut self) -> Option<u16> {
        self.free = self.free.checked_sub(1)?;
        let index = self.free_head;
        self.free_head = self.slots.at(usize::from(index)).next;
        Some(index)
    }

    #[inline(always)]
    fn release(&mut self, index: u16) {
        let next = self.free_head;
        let slot = self.slots.at_mut(usize::from(index));
        (slot.in_flight, slot.next) = (false, next);
        self.free_head = index;
        self.free = self.free.wrapping_add(1);
    }

    /// The slot of a context, if its command is in flight.
    #[inline(always)]
    fn find(&self, context: u64) -> Option<(u16, &Slot)> {
        let index = u16::try_from(context.wrapping_sub(1)).ok()?;
        let slot = self.slots.at(usize::from(index));
        (usize::from(index) < self.slots.iter().len() && slot.in_flight).then_some((index, slot))
    }
}

/// The port of an adapter in service.
pub struct PvscsiPort<P: Platform> {
    pub(crate) rings: Rings<P>,
    pub(crate) registers: PageArc<P, Registers<P>>,
    pub(crate) slots: Slots<P>,
    /// Whether requests that were not announced are transfers, and whether others are.
    has_transfers: bool,
    has_others: bool,
    has_messages: bool,
    /// Whether the adapter says how many requests it waits for.
    has_threshold: bool,
    is_bound: bool,
    has_interrupts_on: bool,
    /// The id of a reset of the bus that has been done.
    reset: Option<u64>,
    /// Completions of commands that were not in flight.
    strays: u64,
}

impl<P: Platform> fmt::Debug for PvscsiPort<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PvscsiPort").field("free", &self.slots.free).finish_non_exhaustive()
    }
}

/// What an adapter that was set up has.
pub(crate) struct Setup {
    pub has_messages: bool,
    pub has_threshold: bool,
    pub bound: Bound,
}

/// Whether a command is a transfer of blocks, whose length is known.
#[inline(always)]
fn is_transfer(cdb: &Cdb) -> bool {
    let [opcode, ..] = *cdb.bytes();
    matches!(opcode, 0x08 | 0x0a | 0x28 | 0x2a | 0x88 | 0x8a | 0xa8 | 0xaa)
}

impl<P: Platform> PvscsiPort<P> {
    pub(crate) fn new(
        registers: PageArc<P, Registers<P>>,
        rings: Rings<P>,
        slots: Slots<P>,
        setup: &Setup,
    ) -> Self {
        Self {
            rings,
            registers,
            slots,
            has_transfers: false,
            has_others: false,
            has_messages: setup.has_messages,
            has_threshold: setup.has_threshold,
            is_bound: setup.bound != Bound::Nothing,
            has_interrupts_on: false,
            reset: None,
            strays: 0,
        }
    }

    /// Builds the request for a command in `slot`.
    #[inline(always)]
    fn request(&self, slot: u16, lun: u64, command: &Command<'_>) -> Option<Request> {
        let Command { address: Address { target, .. }, cdb, memory, len, .. } = command;
        let direction = match memory.direction() {
            Direction::FromDevice => TO_HOST,
            Direction::ToDevice => TO_DEVICE,
        };
        let (data, flags) = match memory.as_slice() {
            [] => (0, NO_DATA),
            [segment] => (segment.addr.0, direction),
            segments => (self.rings.write_list(slot, segments)?.0, direction | SCATTER_LIST),
        };
        let [low, high] = cdb.words();
        Some([
            u64::from(slot).wrapping_add(1),
            data,
            u64::from(*len),
            self.rings.sense_address(slot).0,
            crate::completion::SENSE_LEN as u64 | u64::from(flags) << 32,
            low,
            high,
            u64::from(cdb.len()) | lun << 8,
            SIMPLE << 8 | u64::from(*target) << 24,
        ])
    }

    /// Makes all requests visible to the adapter, and has it look at them, those too that it lets wait.
    fn kick_all(&mut self) {
        (self.has_transfers, self.has_others) = (false, false);
        self.rings.publish();
        self.registers.kick_all();
    }

    /// Counts a completion of no command in flight: the host repeated it, or made it up. No memory depends on it.
    #[cold]
    fn count_stray(&mut self, context: u64) {
        if self.strays == 0 {
            log::warn!(
                "pvscsi: completion of command {context:#x}, which is not in flight: ignored, as further ones"
            );
        }
        self.strays = self.strays.saturating_add(1);
    }
}

// SAFETY: memory of a command goes to the adapter's request ring alone, in the direction of its `DmaSegments`; the adapter does not know of
// a request that was refused, which is not written to the ring. An id is returned only if the adapter has written a completion with the
// context of a command in flight, which is accepted once.
unsafe impl<P: Platform> ScsiPort for PvscsiPort<P> {
    #[inline(always)]
    fn send(&mut self, id: u64, command: &Command<'_>) -> Result<(), Rejected> {
        let Address { path, lun, .. } = command.address;
        // One level: by peripheral device, or flat where the number is too large for that. SAM-5 §4.7
        let lun = match lun {
            0..=0xff => u64::from(lun) << 8,
            0x100..=0x3fff => u64::from(0x40 | lun >> 8) | u64::from(lun & 0xff) << 8,
            _ => return Err(Rejected::Invalid),
        };
        if path != 0 {
            return Err(Rejected::Invalid);
        }
        let Some(index) = self.slots.take() else { return Err(Rejected::Full) };
        let Some(request) = self.request(index, lun, command) else {
            self.slots.release(index);
            return Err(Rejected::Invalid);
        };
        let is_transfer = is_transfer(command.cdb);
        let slot = self.slots.slots.at_mut(usize::from(index));
        (slot.id, slot.len, slot.in_flight, slot.may_be_short) = (id, command.len, true, !is_transfer);
        self.rings.push(&request);
        self.has_transfers |= is_transfer;
        self.has_others |= !is_transfer;
        Ok(())
    }

    fn abort(&mut self, id: u64, address: Address) -> Result<(), Rejected> {
        let slots = self.slots.slots.iter().enumerate();
        let is_it = |(_, slot): &(usize, &Slot)| slot.in_flight && slot.id == id;
        let Some((index, _)) = slots.into_iter().find(is_it) else { return Err(Rejected::Invalid) };
        let context = (index as u32).wrapping_add(1);
        // The adapter knows what it is asked about.
        self.kick_all();
        match self.registers.execute(AdapterCommand::Abort, [context, 0, u32::from(address.target), 0]) {
            true => Ok(()),
            false => Err(Rejected::Unsupported),
        }
    }

    fn reset_bus(&mut self, id: u64) -> Result<(), Rejected> {
        self.kick_all();
        if !self.registers.execute(AdapterCommand::ResetBus, []) {
            return Err(Rejected::Unsupported);
        }
        // The adapter has done it when the register was written.
        self.reset = Some(id);
        Ok(())
    }

    #[inline(always)]
    fn kick(&mut self) {
        if !self.has_transfers && !self.has_others {
            return;
        }
        if self.has_others {
            return self.kick_all();
        }
        self.has_transfers = false;
        self.rings.publish();
        if !self.has_threshold || self.rings.is_kick_due() {
            self.registers.kick_transfers();
        }
    }

    #[inline(always)]
    fn receive_good(&mut self) -> Option<(u64, u32)> {
        let completion = self.rings.peek().ok()??;
        let (index, slot) = self.slots.find(completion.context)?;
        let good = (slot.id, completion.good(slot.len)?);
        self.rings.advance();
        self.slots.release(index);
        Some(good)
    }

    fn receive(&mut self) -> Result<Option<Event>, Fault> {
        for _ in 0..MAX_IGNORED {
            let Some(completion) = self.rings.peek()? else {
                if self.registers.device().is_gone() {
                    return Err(Fault::Removed);
                }
                if let Some(id) = self.reset.take() {
                    return Ok(Some(Event::Reply {
                        id,
                        status: paravirt_scsi::Status::Good,
                        transferred: 0,
                    }));
                }
                let has_message = self.has_messages && self.rings.take_messages();
                return Ok(has_message.then_some(Event::Rescan));
            };
            self.rings.advance();
            let Some((index, slot)) = self.slots.find(completion.context) else {
                self.count_stray(completion.context);
                continue;
            };
            let sense = self.rings.take_sense(index);
            let (status, transferred) = completion.status(slot.len, slot.may_be_short, &sense);
            let id = slot.id;
            self.slots.release(index);
            return Ok(Some(Event::Reply { id, status, transferred }));
        }
        // The rest at the next call: no host keeps the driver here.
        Ok(None)
    }

    fn arm(&mut self) -> Arm {
        if self.is_bound && !core::mem::replace(&mut self.has_interrupts_on, true) {
            self.registers.set_interrupts(true, self.has_messages);
        }
        match () {
            () if self.rings.has_completion() || self.reset.is_some() => Arm::Pending,
            () if self.has_messages && self.rings.has_message() => Arm::Pending,
            () if self.is_bound => Arm::Armed,
            () => Arm::Unsignalled,
        }
    }

    fn disarm(&mut self) {
        if core::mem::replace(&mut self.has_interrupts_on, false) {
            self.registers.set_interrupts(false, false);
        }
    }

    fn register(&mut self, waker: &Waker) {
        self.registers.cell.register(waker);
    }
}
