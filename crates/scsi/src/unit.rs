//! A unit of a controller.

use crate::identify::Found;
use crate::transport::Address;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use paravirt_platform::WakerCell;

/// Units of a controller.
pub(crate) const MAX_UNITS: usize = 64;

/// Flags of a unit.
mod flag {
    /// A disk was made of it.
    pub const TAKEN: u8 = 1;
    /// Its capacity or protection is to be read again.
    pub const CHANGED: u8 = 2;
    /// The host has removed it.
    pub const GONE: u8 = 4;
    /// Its removal was reported.
    pub const GONE_REPORTED: u8 = 8;
    pub const READ_ONLY: u8 = 16;
    /// It has the reads and writes of 10 bytes only.
    pub const SHORT: u8 = 32;
    /// Its identity has no name, as the unit did not tell it.
    pub const UNCERTAIN: u8 = 64;
}

/// A unit, as its disk, its queues and the controller see it.
pub(crate) struct Unit {
    /// Disks and queues of it: the entry is used again when there are none.
    handles: AtomicU16,
    flags: AtomicU8,
    address: AtomicU32,
    /// A hash of what identifies the unit.
    identity: AtomicU64,
    blocks: AtomicU64,
    pub cell: WakerCell,
}

impl Unit {
    pub const fn new() -> Self {
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

    fn identity(&self) -> u64 {
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

    /// Whether a disk was made of it and it was not removed.
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

    /// Records that it has the reads and writes of 10 bytes only.
    pub fn set_short(&self) {
        self.flags.fetch_or(flag::SHORT, Ordering::AcqRel);
    }

    #[inline(always)]
    pub fn is_short(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & flag::SHORT != 0
    }

    /// Whether this is the unit: a name that cannot be read now, or could not be read then, is not another one.
    pub fn is_same(&self, found: &Found) -> bool {
        if !found.is_certain {
            return true;
        }
        if self.clear(flag::UNCERTAIN) {
            let is_same = self.identity() == found.anonymous;
            self.identity.store(found.hash, Ordering::Relaxed);
            return is_same;
        }
        self.identity() == found.hash
    }

    pub fn set_changed(&self) {
        self.set(flag::CHANGED);
    }

    pub fn take_changed(&self) -> bool {
        self.clear(flag::CHANGED)
    }

    /// Marks it as removed; whether that is new.
    pub fn set_gone(&self) -> bool {
        self.set(flag::GONE)
    }

    /// Whether its removal is to be reported by the controller; once.
    pub fn take_removal(&self) -> bool {
        self.has(flag::TAKEN) && self.has(flag::GONE) && self.set(flag::GONE_REPORTED)
    }

    /// Adds a handle.
    pub fn hold(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Releases a handle.
    pub fn release(&self) {
        self.handles.fetch_sub(1, Ordering::AcqRel);
    }

    /// Takes the entry for a unit, with one handle, where it is free. Not to be called by two at once: the controller does.
    pub fn claim(&self, address: Address, identity: u64, is_certain: bool) -> bool {
        if self.handles.load(Ordering::Acquire) != 0 || self.is_present() {
            return false;
        }
        self.hold();
        let Address { path, target, lun } = address;
        let [high, low] = lun.to_be_bytes();
        self.address.store(u32::from_be_bytes([path, target, high, low]), Ordering::Relaxed);
        self.identity.store(identity, Ordering::Relaxed);
        let certainty = if is_certain { 0 } else { flag::UNCERTAIN };
        self.flags.store(flag::TAKEN | certainty, Ordering::Release);
        true
    }

    /// Whether it neither is gone nor, for a write, read-only. One load.
    #[inline(always)]
    pub fn accepts(&self, is_write: bool) -> bool {
        let refusing = if is_write { flag::GONE | flag::READ_ONLY } else { flag::GONE };
        !self.has(refusing)
    }
}
