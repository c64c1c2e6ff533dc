//! Grants: which pages other domains may access.

mod table;

use crate::hypervisor::Hypervisor;
use core::fmt;
use core::sync::atomic::Ordering;
use paravirt_platform::{AllocError, BusAddr, PageArc, Platform};
pub(crate) use table::{Grants, GrantsError};

/// What another domain may do with a page.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// A row of entries of the grant table, for pages that one other domain may access.
///
/// Granting and revoking take no lock and no exit. Entries that are still mapped when this is dropped are not used again.
pub struct GrantRange<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    first: u32,
    count: u32,
    domain: u16,
}

impl<P: Platform> GrantRange<P> {
    /// Takes `count` entries for pages that `domain` may access. Takes a lock. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there are not so many in a row.
    pub fn new(hypervisor: &PageArc<P, Hypervisor<P>>, domain: u16, count: u32) -> Result<Self, AllocError> {
        let first = hypervisor.grants().take(count as usize).ok_or(AllocError)?;
        Ok(Self { hypervisor: hypervisor.clone(), first, count, domain })
    }

    /// Returns the number of entry `index`, by which the other domain names it.
    #[inline(always)]
    pub fn reference(&self, index: u32) -> u32 {
        self.first.wrapping_add(index)
    }

    /// Sets the domain that may access the pages from now on, after a backend has changed.
    pub fn set_domain(&mut self, domain: u16) {
        self.domain = domain;
    }

    /// The number of an entry; for an index out of range, of the first one.
    #[inline(always)]
    fn checked(&self, index: u32) -> u32 {
        self.reference(if index < self.count { index } else { 0 })
    }

    /// Lets the other domain access the page at `page` by entry `index`. One beyond 16 TiB has no place in a table of
    /// version 1 and stays the guest's: the backend fails the request.
    ///
    /// # Safety
    ///
    /// Until [`revoke`](Self::revoke) returns true for the entry, the whole page of 4096 bytes is the other domain's to access like this.
    #[inline(always)]
    pub unsafe fn grant(&self, index: u32, page: BusAddr, access: Access) {
        self.hypervisor.grants().grant(self.checked(index), self.domain, page, access);
    }

    /// Ends the access by entry `index`. Returns whether the page is the guest's alone again: false if the other domain has it mapped still.
    #[inline(always)]
    #[must_use]
    pub fn revoke(&self, index: u32) -> bool {
        self.hypervisor.grants().revoke(self.checked(index))
    }

    /// Ends the access by every entry. Returns how many pages the other domain has mapped still; the others are the guest's alone again.
    #[must_use]
    pub fn revoke_all(&self) -> u32 {
        (0..self.count).filter(|index| !self.revoke(*index)).count() as u32
    }

    /// Counts pages that are lost to the guest, as they, or some of them, are mapped still.
    #[cold]
    pub fn count_lost(&self, pages: u32) {
        self.hypervisor.grants().lost.fetch_add(pages.into(), Ordering::Relaxed);
    }
}

impl<P: Platform> Drop for GrantRange<P> {
    fn drop(&mut self) {
        for index in 0..self.count {
            if self.revoke(index) {
                self.hypervisor.grants().give_back(self.reference(index));
            }
        }
    }
}

impl<P: Platform> fmt::Debug for GrantRange<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantRange")
            .field("first", &self.first)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}
