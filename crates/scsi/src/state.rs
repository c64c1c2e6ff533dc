//! The state of a controller that its disks and queues read without a lock.

use crate::transport::Address;
use crate::unit::{MAX_UNITS, Unit};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
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
const DOWN: u8 = 2;

impl Phase {
    const fn code(self) -> u8 {
        match self {
            Self::Running => RUNNING,
            Self::Resetting => RESETTING,
            Self::Down(Fault::Reset) => DOWN,
            Self::Down(Fault::Protocol) => 3,
            Self::Down(Fault::Timeout) => 4,
            Self::Down(Fault::Removed) => 5,
            Self::Down(_) => 6,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            RUNNING => Self::Running,
            RESETTING => Self::Resetting,
            DOWN => Self::Down(Fault::Reset),
            3 => Self::Down(Fault::Protocol),
            4 => Self::Down(Fault::Timeout),
            5 => Self::Down(Fault::Removed),
            _ => Self::Down(Fault::Refused),
        }
    }
}

pub(crate) struct ControllerState<P: Platform> {
    pub platform: P,
    pub units: PageTable<P, Unit>,
    phase: AtomicU8,
    /// The deadline of a reset, in nanoseconds.
    reset_until: AtomicU64,
    scan: AtomicBool,
    /// Counts recoveries.
    epoch: AtomicU32,
    /// Wakes the owner of the controller.
    pub cell: WakerCell,
}

impl<P: Platform> ControllerState<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        Ok(Self {
            platform: platform.clone(),
            units: PageTable::new(platform, MAX_UNITS, |_| Unit::new())?,
            phase: AtomicU8::new(Phase::Down(Fault::Reset).code()),
            reset_until: AtomicU64::new(0),
            scan: AtomicBool::new(true),
            epoch: AtomicU32::new(0),
            cell: WakerCell::new(),
        })
    }

    pub fn now(&self) -> Instant {
        self.platform.now()
    }

    #[inline(always)]
    pub fn phase(&self) -> Phase {
        Phase::from_code(self.phase.load(Ordering::Acquire))
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase.code(), Ordering::Release);
    }

    #[inline(always)]
    pub fn is_running(&self) -> bool {
        self.phase.load(Ordering::Acquire) == RUNNING
    }

    /// Begins a reset; `false` where the controller is not in service.
    pub fn begin_reset(&self, until: Instant) -> bool {
        self.reset_until.store(until.as_nanos(), Ordering::Relaxed);
        self.phase.compare_exchange(RUNNING, RESETTING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends a reset after which everything has completed.
    pub fn end_reset(&self) {
        let _ = self.phase.compare_exchange(RESETTING, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
    }

    pub fn reset_until(&self) -> Instant {
        Instant::from_nanos(self.reset_until.load(Ordering::Relaxed))
    }

    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Wakes whoever waits for events of the units or of the controller.
    pub fn wake_units(&self) {
        self.units.iter().for_each(|unit| unit.cell.wake());
        self.cell.wake();
    }

    /// The unit of `owner`, who is not the controller itself.
    fn unit(&self, owner: u16) -> Option<&Unit> {
        self.units.get(usize::from(owner).checked_sub(1)?)
    }

    /// The capacity or protection of the unit of `owner` may have changed.
    pub fn unit_changed(&self, owner: u16) {
        self.unit(owner).into_iter().for_each(Unit::set_changed);
    }

    /// The unit of `owner` answered that it is not there; the controller scans then.
    pub fn unit_gone(&self, owner: u16, address: Address) {
        if let Some(unit) = self.unit(owner).filter(|unit| unit.address() == address)
            && unit.set_gone()
        {
            self.request_scan();
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

    pub fn is_scan_due(&self) -> bool {
        self.scan.load(Ordering::Acquire)
    }

    /// Adds a unit, with one handle, and says where it is in the table; `None` where the table is full.
    pub fn add_unit(&self, address: Address, identity: u64) -> Option<usize> {
        self.units.iter().position(|unit| unit.claim(address, identity))
    }
}
