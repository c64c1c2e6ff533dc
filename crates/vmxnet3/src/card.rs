//! What the queues of a card and its handlers share without a lock: registers, the memory by which it is set up, and whether it is in
//! service.

use crate::area::Area;
use crate::registers::{CardCommand, Registers};
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use paravirt_device::Fault;
use paravirt_platform::{DmaRegion, PageArc, Platform};

pub(crate) struct Card<P: Platform> {
    pub registers: Registers<P>,
    /// Leaked if the card may still access it.
    area: ManuallyDrop<Area<P>>,
    /// Counts transitions: even while the card is in service. A queue that was set up at the current value may go on.
    gate: AtomicU32,
    /// Why it is out of service, by [`Fault::code`].
    fault: AtomicU8,
    /// Whether the card has stopped, and was not given addresses since.
    is_quiesced: AtomicBool,
    pub pairs: u16,
}

/// Whether a card with this gate is in service.
#[inline(always)]
pub(crate) const fn is_open(gate: u32) -> bool {
    gate & 1 == 0
}

impl<P: Platform> Card<P> {
    /// A card that is out of service, and accesses no memory.
    pub fn new(registers: Registers<P>, area: Area<P>, pairs: u16) -> Self {
        Self {
            registers,
            area: ManuallyDrop::new(area),
            gate: AtomicU32::new(1),
            fault: AtomicU8::new(Fault::Reset.code()),
            is_quiesced: AtomicBool::new(true),
            pairs,
        }
    }

    pub fn area(&self) -> &Area<P> {
        &self.area
    }

    #[inline(always)]
    pub fn gate(&self) -> u32 {
        self.gate.load(Ordering::Acquire)
    }

    /// The fault that keeps it out of service.
    pub fn fault(&self) -> Option<Fault> {
        (!is_open(self.gate())).then(|| Fault::from_code(self.fault.load(Ordering::Acquire)))
    }

    /// Whether the card has stopped: it accesses no memory until it is activated again.
    pub fn is_quiesced(&self) -> bool {
        self.is_quiesced.load(Ordering::Acquire)
    }

    /// Takes the card out of service. The caller holds the lock of its control.
    pub fn close(&self, fault: Fault) {
        self.fault.store(fault.code(), Ordering::Release);
        let gate = self.gate.load(Ordering::Relaxed);
        self.gate.store(gate.wrapping_add(u32::from(is_open(gate))), Ordering::Release);
    }

    /// Puts the card in service again. The caller holds the lock of its control.
    pub fn reopen(&self) {
        let gate = self.gate.load(Ordering::Relaxed);
        self.gate.store(gate.wrapping_add(u32::from(!is_open(gate))), Ordering::Release);
    }

    /// Lets the card access memory. Returns whether it says that it can.
    pub fn start(&self) -> bool {
        self.is_quiesced.store(false, Ordering::Release);
        self.registers.device().set_bus_master(true)
    }

    /// Stops and resets the card. Returns whether it accesses no memory any more.
    pub fn stop(&self) -> bool {
        self.registers.mask_all();
        self.registers.execute(CardCommand::Quiesce);
        self.registers.execute(CardCommand::Reset);
        // Where the shared area is: nowhere.
        self.registers.set_shared_area(0);
        let is_stopped = self.registers.device().set_bus_master(false);
        self.is_quiesced.store(is_stopped, Ordering::Release);
        is_stopped
    }
}

impl<P: Platform> Drop for Card<P> {
    fn drop(&mut self) {
        // SAFETY: it is taken once, here, and not used after.
        let area = unsafe { ManuallyDrop::take(&mut self.area) };
        if !self.is_quiesced() {
            area.leak();
        }
    }
}

/// Memory of a queue, which is leaked if the card may still access it.
pub(crate) struct QueueMemory<P: Platform> {
    region: ManuallyDrop<DmaRegion<P>>,
    card: PageArc<P, Card<P>>,
}

impl<P: Platform> QueueMemory<P> {
    pub fn new(region: DmaRegion<P>, card: &PageArc<P, Card<P>>) -> Self {
        Self { region: ManuallyDrop::new(region), card: card.clone() }
    }

    pub fn region(&self) -> &DmaRegion<P> {
        &self.region
    }
}

impl<P: Platform> Drop for QueueMemory<P> {
    fn drop(&mut self) {
        // SAFETY: it is taken once, here, and not used after.
        let region = unsafe { ManuallyDrop::take(&mut self.region) };
        if !self.card.is_quiesced() {
            region.leak();
        }
    }
}
