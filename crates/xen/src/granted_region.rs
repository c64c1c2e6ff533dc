//! Pages that are granted to a backend for their life.

use crate::grants::{Access, GrantRange};
use crate::hypervisor::Hypervisor;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use paravirt_device::Fault;
use paravirt_platform::{AllocError, DmaRegion, PAGE_SIZE, PageArc, Platform};

/// A region whose pages one other domain may access at any time, each by a grant of its own.
///
/// When it is dropped, the grants are revoked and the pages freed; they are leaked, and counted as lost, if the other domain has one mapped
/// still.
pub struct GrantedRegion<P: Platform> {
    grants: GrantRange<P>,
    memory: ManuallyDrop<DmaRegion<P>>,
    access: Access,
}

impl<P: Platform> GrantedRegion<P> {
    /// Allocates at least `len` bytes, in whole pages, and grants them to `domain`. Takes a lock. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory or of grants.
    pub fn alloc(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        domain: u16,
        len: usize,
        access: Access,
    ) -> Result<Self, AllocError> {
        let memory = DmaRegion::alloc(hypervisor.platform(), len)?;
        let pages = memory.len().checked_div(PAGE_SIZE).unwrap_or(0) as u32;
        let grants = GrantRange::new(hypervisor, domain, pages)?;
        let this = Self { grants, memory: ManuallyDrop::new(memory), access };
        this.grant();
        Ok(this)
    }

    /// Returns the number of pages.
    pub fn pages(&self) -> u32 {
        self.memory.len().checked_div(PAGE_SIZE).unwrap_or(0) as u32
    }

    /// Returns the number by which the other domain names page `page`.
    #[inline(always)]
    pub fn reference(&self, page: u32) -> u32 {
        self.grants.reference(page)
    }

    fn grant(&self) {
        for page in 0..self.pages() {
            let address = self.memory.bus().offset(u64::from(page).wrapping_mul(PAGE_SIZE as u64));
            // SAFETY: the page belongs to the region, whose memory is `SharedMemory`, or by its pointer as its user answers for it, and is
            // freed only once the grant was revoked.
            unsafe { self.grants.grant(page, address, self.access) };
        }
    }

    /// Grants the pages to `domain` instead, after the backend in the last one has let go of them.
    ///
    /// # Errors
    ///
    /// [`Fault::Timeout`] if it has not.
    pub fn restart(&mut self, domain: u16) -> Result<(), Fault> {
        // A grant that is in force names the last domain.
        if self.grants.revoke_all() != 0 {
            return Err(Fault::Timeout);
        }
        self.grants.set_domain(domain);
        self.grant();
        Ok(())
    }
}

impl<P: Platform> Deref for GrantedRegion<P> {
    type Target = DmaRegion<P>;
    #[inline(always)]
    fn deref(&self) -> &DmaRegion<P> {
        &self.memory
    }
}

impl<P: Platform> Drop for GrantedRegion<P> {
    fn drop(&mut self) {
        if self.grants.revoke_all() == 0 {
            // SAFETY: it is dropped once, here, and not used after. The other domain has let go of every page.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        } else {
            self.grants.count_lost(self.pages());
        }
    }
}

impl<P: Platform> fmt::Debug for GrantedRegion<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantedRegion").field("grants", &self.grants).finish_non_exhaustive()
    }
}
