//! The grant table, of either version.

use super::{INVALID, NOT_IMPLEMENTED, PAGE, State, XenHost, word16, word64};
use crate::Guest;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// What tells a page of the status from one of the table.
const STATUS: u64 = 1 << 31;
/// The table is in use.
const BUSY: i64 = -16;
/// What is mapped.
const IN_USE: u16 = 3 << 3;

/// The frames that the guest has put the table at.
#[derive(Default)]
pub(super) struct Table {
    pub has_wide: bool,
    is_wide: bool,
    frames: BTreeMap<u64, u64>,
}

impl Table {
    /// Another domain has another table, of version 1.
    pub fn clear(&mut self) {
        *self = Self { has_wide: self.has_wide, ..Self::default() };
    }

    fn at(&self, first: u64, offset: u64) -> Option<u64> {
        Some(self.frames.get(&(first | (offset / PAGE)))? * PAGE + offset % PAGE)
    }

    /// The address of an entry.
    fn entry(&self, reference: u32) -> Option<u64> {
        self.at(0, u64::from(reference) * if self.is_wide { 16 } else { 8 })
    }

    /// The address of the word that tells whether its page is mapped.
    fn status(&self, reference: u32) -> Option<u64> {
        if self.is_wide { self.at(STATUS, u64::from(reference) * 2) } else { self.entry(reference) }
    }

    /// The number of the frame that the entry at `at` has.
    fn frame(&self, guest: &Guest, at: u64) -> u64 {
        match self.is_wide {
            true => word64(guest, at + 8).load(Ordering::Relaxed),
            false => word64(guest, at).load(Ordering::Relaxed) >> 32,
        }
    }
}

impl State {
    /// Changes the version, which clears the table, unless a page is mapped.
    pub(super) fn set_version(&mut self, guest: &Guest, version: u32) -> i64 {
        let is_wide = match version {
            1 => false,
            2 if self.grants.has_wide => true,
            _ => return NOT_IMPLEMENTED,
        };
        if is_wide == self.grants.is_wide {
            return 0;
        }
        let mut status = (8..1 << 16).map_while(|reference| self.grants.status(reference));
        if status.any(|at| word16(guest, at).load(Ordering::SeqCst) & IN_USE != 0) {
            return BUSY;
        }
        self.grants.frames.values().for_each(|frame| guest.write(frame * PAGE, &[0; PAGE as usize]));
        self.grants.frames.retain(|index, _| index & STATUS == 0);
        self.grants.is_wide = is_wide;
        0
    }

    pub(super) fn map_grants(&mut self, guest: &Guest, index: u64, frame: u64) -> i64 {
        if index & STATUS != 0 && (!self.grants.is_wide || self.faults.refuses_status) {
            return INVALID;
        }
        if self.grants.frames.get(&index) != Some(&frame) {
            guest.write(frame * PAGE, &[0; PAGE as usize]);
            // A page that is put elsewhere leaves its place.
            self.grants.frames.retain(|_, other| *other != frame);
            self.grants.frames.insert(index, frame);
        }
        0
    }

    /// The page that a grant gives access to, if it does.
    pub(super) fn page(&mut self, guest: &Guest, reference: u32, writes: bool) -> Option<u64> {
        let found = self.grants.entry(reference).and_then(|at| {
            let flags = word16(guest, at).load(Ordering::SeqCst);
            let domain = word16(guest, at + 2).load(Ordering::Relaxed);
            let is_granted = flags & 3 == 1 && domain == 0 && !(writes && flags & 4 != 0);
            is_granted.then(|| self.grants.frame(guest, at) * PAGE)
        });
        if found.is_none() {
            self.refused += 1;
        }
        found
    }

    /// Marks a granted page as mapped, or as not mapped any more.
    pub(super) fn set_mapped(&self, guest: &Guest, reference: u32, is_mapped: bool) {
        let Some(at) = self.grants.status(reference) else { return };
        match is_mapped {
            true => word16(guest, at).fetch_or(IN_USE, Ordering::SeqCst),
            false => word16(guest, at).fetch_and(!IN_USE, Ordering::SeqCst),
        };
    }
}

impl XenHost {
    /// Grants that are in force, without those of the host.
    pub fn grants_in_force(&self) -> usize {
        let mut count = 0;
        self.guest.with(|guest| {
            let table = &self.lock().grants;
            let is_granted = |at: u64| word16(guest, at).load(Ordering::Relaxed) & 1 != 0;
            count = (0..1 << 16)
                .filter_map(|reference| table.entry(reference))
                .filter(|at| is_granted(*at))
                .count();
        });
        count
    }

    /// Has the page of a grant mapped for good, as a backend can that does not unmap it.
    pub fn keep_mapped(&self, reference: u32) {
        self.guest.with(|guest| self.lock().set_mapped(guest, reference, true));
    }
}
