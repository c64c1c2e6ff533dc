//! The state of a controller that its disks and queues read without a lock.

use crate::transport::Address;
use crate::unit::{MAX_UNITS, Unit};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use paravirt_device::Fault;
use paravirt_platform::{AllocError, Instant, PageTable, Platform, WakerCell};

/// Whether a controller is in service.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Running,
    /// The bus was reset, and commands in flight have until a deadline to complete.
    Resetting,
    /// Out of service, or being opened again ([`Fault::Reset`]).
    Down(Fault),
}

const RUNNING: u8 = 0;
const RESETTING: u8 = 1;

/// Bits of a gate word with the phase.
const PHASE_BITS: u32 = 8;
const PHASE_MASK: u64 = (1 << PHASE_BITS) - 1;

/// Whether a gate word lets commands through.
#[inline(always)]
pub(crate) const fn is_open(gate: u64) -> bool {
    gate as u8 == RUNNING
}

impl Phase {
    const fn code(self) -> u8 {
        match self {
            Self::Running => RUNNING,
            Self::Resetting => RESETTING,
            Self::Down(fault) => RESETTING.saturating_add(fault.code()),
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            RUNNING => Self::Running,
            RESETTING => Self::Resetting,
            down => Self::Down(Fault::from_code(down.saturating_sub(RESETTING))),
        }
    }
}

pub(crate) struct ControllerState<P: Platform> {
    pub platform: P,
    pub units: PageTable<P, Unit>,
    /// The phase in the low byte, and above it the epoch, which counts recoveries: one load says whether a queue may go on.
    gate: AtomicU64,
    /// The deadline of a reset, in nanoseconds.
    reset_until: AtomicU64,
    scan: AtomicBool,
    /// Replies to commands that were not in flight.
    strays: AtomicU64,
    /// Wakes the owner of the controller.
    pub cell: WakerCell,
}

impl<P: Platform> ControllerState<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        Ok(Self {
            platform: platform.clone(),
            units: PageTable::new(platform, MAX_UNITS, |_| Unit::new())?,
            gate: AtomicU64::new(Phase::Down(Fault::Reset).code() as u64),
            reset_until: AtomicU64::new(0),
            scan: AtomicBool::new(true),
            strays: AtomicU64::new(0),
            cell: WakerCell::new(),
        })
    }

    pub fn now(&self) -> Instant {
        self.platform.now()
    }

    /// Phase and epoch in one: where it is the same as before and [`is_open`], the controller has been in service in between.
    #[inline(always)]
    pub fn gate(&self) -> u64 {
        self.gate.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub fn phase(&self) -> Phase {
        Phase::from_code(self.gate() as u8)
    }

    /// Changes the phase, where it is `from` if that is given; whether it was changed.
    fn change_phase(&self, from: Option<Phase>, to: Phase) -> bool {
        let change = |gate: u64| {
            let is_from = from.is_none_or(|from| gate as u8 == from.code());
            is_from.then_some(gate & !PHASE_MASK | u64::from(to.code()))
        };
        self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }

    pub fn set_phase(&self, phase: Phase) {
        self.change_phase(None, phase);
    }

    #[inline(always)]
    pub fn is_running(&self) -> bool {
        is_open(self.gate())
    }

    /// Begins a reset; `false` where the controller is not in service.
    pub fn begin_reset(&self, until: Instant) -> bool {
        self.reset_until.store(until.as_nanos(), Ordering::Relaxed);
        self.change_phase(Some(Phase::Running), Phase::Resetting)
    }

    /// Ends a reset after which everything has completed.
    pub fn end_reset(&self) {
        self.change_phase(Some(Phase::Resetting), Phase::Running);
    }

    pub fn reset_until(&self) -> Instant {
        Instant::from_nanos(self.reset_until.load(Ordering::Relaxed))
    }

    /// Counts recoveries.
    pub fn epoch(&self) -> u32 {
        (self.gate() >> PHASE_BITS) as u32
    }

    pub fn next_epoch(&self) {
        self.gate.fetch_add(1 << PHASE_BITS, Ordering::AcqRel);
    }

    /// Wakes the tasks that wait for events of the units or of the controller.
    pub fn wake_units(&self) {
        self.units.iter().for_each(|unit| unit.cell.wake());
        self.cell.wake();
    }

    /// Whether there is a unit at `address`.
    pub fn has_unit(&self, address: Address) -> bool {
        self.units.iter().any(|unit| unit.is_present() && unit.address() == address)
    }

    /// The unit of `owner`, who is not the controller itself.
    fn unit(&self, owner: u16) -> Option<&Unit> {
        self.units.get(usize::from(owner).checked_sub(1)?)
    }

    /// The capacity or protection of the unit of `owner` may have changed.
    pub fn unit_changed(&self, owner: u16) {
        self.unit(owner).into_iter().for_each(Unit::set_changed);
    }

    /// The unit of `owner` refused a read or write of 16 bytes: it gets those of 10 from now on.
    pub fn unit_is_short(&self, owner: u16) {
        self.unit(owner).into_iter().for_each(Unit::set_short);
    }

    /// The unit of `owner` answered that it is not there; the controller scans then.
    pub fn unit_gone(&self, owner: u16, address: Address) {
        if let Some(unit) = self.unit(owner).filter(|unit| unit.address() == address) {
            if unit.set_gone() {
                self.request_scan();
            }
        }
    }

    /// Releases the handle that a dropped queue of the unit of `owner` kept until its last command completed.
    pub fn release_owner(&self, owner: u16) {
        self.unit(owner).into_iter().for_each(Unit::release);
    }

    /// Makes the controller look again which units there are.
    pub fn request_scan(&self) {
        self.scan.store(true, Ordering::Release);
        self.cell.wake();
    }

    pub fn take_scan(&self) -> bool {
        self.scan.swap(false, Ordering::AcqRel)
    }

    /// Counts a reply that names no command in flight: the host repeated it, or made it up. No memory depends on it.
    #[cold]
    pub fn count_stray(&self, id: u64) {
        if self.strays.fetch_add(1, Ordering::Relaxed) == 0 {
            log::warn!("scsi: reply to command {id:#x}, which is not in flight: ignored, as further ones");
        }
    }

    pub fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }

    pub fn is_scan_due(&self) -> bool {
        self.scan.load(Ordering::Acquire)
    }

    /// Adds a unit, with one handle, and says where it is in the table; `None` where the table is full.
    pub fn add_unit(&self, address: Address, identity: u64, is_certain: bool) -> Option<usize> {
        self.units.iter().position(|unit| unit.claim(address, identity, is_certain))
    }
}
