//! What is known of a controller and its units, for all who look.

use crate::port::Address;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use paravirt_device::Fault;
use paravirt_platform::{AllocError, Instant, PageTable, Platform, WakerCell};

/// Units of a controller, at most.
pub(crate) const MOST_UNITS: usize = 64;

/// What remains to be done when a command has been done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Nothing.
    Last,
    /// A flush, as the write is to be durable.
    FlushBehind,
}

/// Whether a controller is in service.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Running,
    /// The bus was reset, and what is under way has until an instant to come back.
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

/// Flags of a unit.
mod flag {
    /// It is a disk of somebody's.
    pub const TAKEN: u8 = 1;
    /// Its capacity or protection is to be asked for.
    pub const CHANGED: u8 = 2;
    /// The host has taken it away.
    pub const GONE: u8 = 4;
    /// And its owner knows.
    pub const GONE_REPORTED: u8 = 8;
    pub const READ_ONLY: u8 = 16;
}

/// A unit, as those who share it see it.
pub(crate) struct Unit {
    /// Handles: a place is used again when there are none.
    handles: AtomicU16,
    flags: AtomicU8,
    address: AtomicU32,
    /// Which unit it is, hashed.
    identity: AtomicU64,
    blocks: AtomicU64,
    pub cell: WakerCell,
}

impl Unit {
    const fn new() -> Self {
        Self {
            handles: AtomicU16::new(0),
            flags: AtomicU8::new(0),
            address: AtomicU32::new(0),
            identity: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            cell: WakerCell::new(),
        }
    }

    pub fn address(&self) -> Address {
        let [path, target, high, low] = self.address.load(Ordering::Relaxed).to_be_bytes();
        Address { path, target, lun: u16::from_be_bytes([high, low]) }
    }

    #[inline(always)]
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    pub fn set_blocks(&self, blocks: u64) {
        self.blocks.store(blocks, Ordering::Relaxed);
    }

    pub fn identity(&self) -> u64 {
        self.identity.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    fn set(&self, flag: u8) -> bool {
        let is_new = self.flags.fetch_or(flag, Ordering::AcqRel) & flag == 0;
        self.cell.wake();
        is_new
    }

    fn clear(&self, flag: u8) -> bool {
        self.flags.fetch_and(!flag, Ordering::AcqRel) & flag != 0
    }

    /// Whether it is there.
    pub fn is_present(&self) -> bool {
        self.has(flag::TAKEN) && !self.has(flag::GONE)
    }

    #[inline(always)]
    pub fn is_gone(&self) -> bool {
        self.has(flag::GONE)
    }

    #[inline(always)]
    pub fn is_read_only(&self) -> bool {
        self.has(flag::READ_ONLY)
    }

    pub fn set_read_only(&self, is_read_only: bool) {
        if is_read_only {
            self.flags.fetch_or(flag::READ_ONLY, Ordering::AcqRel);
        } else {
            self.clear(flag::READ_ONLY);
        }
    }

    pub fn set_changed(&self) {
        self.set(flag::CHANGED);
    }

    pub fn take_changed(&self) -> bool {
        self.clear(flag::CHANGED)
    }

    /// Marks it as taken away; whether that is new.
    pub fn set_gone(&self) -> bool {
        self.set(flag::GONE)
    }

    /// Whether its end is to be reported to whoever has the controller.
    pub fn take_end(&self) -> bool {
        self.has(flag::TAKEN) && self.has(flag::GONE) && self.set(flag::GONE_REPORTED)
    }

    /// One more handle.
    pub fn hold(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn let_go(&self) {
        self.handles.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the lanes, the units and the controller share.
pub(crate) struct Shared<P: Platform> {
    pub platform: P,
    pub units: PageTable<P, Unit>,
    phase: AtomicU8,
    /// When a reset is given up, in nanoseconds.
    reset_until: AtomicU64,
    scan: AtomicBool,
    /// Changes with every recovery.
    epoch: AtomicU32,
    /// Of whoever has the controller.
    pub cell: WakerCell,
}

impl<P: Platform> Shared<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        Ok(Self {
            platform: platform.clone(),
            units: PageTable::new(platform, MOST_UNITS, |_| Unit::new())?,
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

    /// Ends it, as everything came back.
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

    /// Wakes whoever looks for events of units or of the controller.
    pub fn wake_units(&self) {
        self.units.iter().for_each(|unit| unit.cell.wake());
        self.cell.wake();
    }

    /// The unit of `owner`, who is not the controller itself.
    fn unit(&self, owner: u16) -> Option<&Unit> {
        self.units.get(usize::from(owner).checked_sub(1)?)
    }

    pub fn changed(&self, owner: u16) {
        self.unit(owner).into_iter().for_each(Unit::set_changed);
    }

    pub fn gone(&self, owner: u16, address: Address) {
        if let Some(unit) = self.unit(owner).filter(|unit| unit.address() == address)
            && unit.set_gone()
        {
            self.want_scan();
        }
    }

    pub fn want_scan(&self) {
        self.scan.store(true, Ordering::Release);
        self.cell.wake();
    }

    pub fn take_scan(&self) -> bool {
        self.scan.swap(false, Ordering::AcqRel)
    }

    pub fn wants_scan(&self) -> bool {
        self.scan.load(Ordering::Acquire)
    }

    /// Finds a place for a unit, with one handle.
    pub fn add_unit(&self, address: Address, identity: u64) -> Option<usize> {
        let (place, unit) = self
            .units
            .iter()
            .enumerate()
            .find(|(_, unit)| unit.handles.load(Ordering::Acquire) == 0 && !unit.is_present())?;
        unit.hold();
        let Address { path, target, lun } = address;
        let [high, low] = lun.to_be_bytes();
        unit.address.store(u32::from_be_bytes([path, target, high, low]), Ordering::Relaxed);
        unit.identity.store(identity, Ordering::Relaxed);
        unit.flags.store(flag::TAKEN, Ordering::Release);
        Some(place)
    }
}
