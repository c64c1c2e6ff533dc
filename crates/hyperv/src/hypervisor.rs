use crate::{Features, Isolation};
use core::fmt;
use hyperv_bindings::tlfs::{HvMsr, HvPageFlags, HvPrivilegeFlags};
use paravirt_platform::{AllocError, DmaRegion, PAGE_SIZE, PageArc, Platform, RawDma};

/// The bits below the page address in a register with a page address; reserved bits are preserved.
pub(crate) const PAGE_BITS: u64 = PAGE_SIZE as u64 - 1;
/// The guest's identity: an open-source system (bit 63) of an unassigned type (0x7f), version 1. Hosts use it to work around bugs
/// of known systems. TLFS §2.6
const GUEST_OS_ID: u64 = 1 << 63 | 0x7f << 56 | 1 << 16;

/// Why the hypervisor, or a part of it, could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no hypervisor with this interface.
    Absent,
    /// The hypervisor does not offer what the part needs.
    Unsupported,
    /// The host cannot access the guest's memory: rings and messages would have to be made visible to it, which is not supported.
    Isolated(Isolation),
    /// The platform has no page for hypercalls.
    NoPage,
    /// Firmware has enabled and locked the hypercall page elsewhere.
    Locked,
    /// The hypervisor did not enable the hypercall page.
    Refused,
    /// A processor of the platform is not running.
    Processor,
    /// Out of memory.
    Memory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Isolated(isolation) => {
                return write!(
                    f,
                    "this is a confidential virtual machine ({isolation}), for which memory would have to be shared with the host: not supported"
                );
            }
            Self::Absent => "no hypervisor with the Hyper-V interface",
            Self::Unsupported => "the hypervisor does not offer the feature",
            Self::NoPage => "the platform provides no hypercall page",
            Self::Locked => "the hypercall page is locked by firmware",
            Self::Refused => "the hypervisor refused the hypercall page",
            Self::Processor => "a processor is not running",
            Self::Memory => "out of memory",
        })
    }
}

impl core::error::Error for OpenError {}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// The hypervisor in service: the guest's identity is set, and the hypercall page is enabled. Dropping the last reference clears both.
pub struct Hypervisor<P: Platform> {
    platform: P,
    features: Features,
    /// `None` where calls are made by an instruction.
    page: Option<RawDma>,
    /// For the text of a crash report.
    pub(crate) text: DmaRegion<P>,
}

// SAFETY: the raw pointer is to the hypercall page, which the platform owns and which is executed only.
unsafe impl<P: Platform> Send for Hypervisor<P> {}
// SAFETY: the hypercall page may be called from all processors at once; the other fields are `Sync`.
unsafe impl<P: Platform> Sync for Hypervisor<P> {}

impl<P: Platform> Hypervisor<P> {
    /// Sets the guest's identity and enables the hypercall page.
    ///
    /// Allocates. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; both are cleared then.
    pub fn open(platform: &P) -> Result<PageArc<P, Self>, OpenError> {
        let features = Features::detect(platform).ok_or(OpenError::Absent)?;
        // Ahead of the first hypercall, whose page the host could not fill.
        if let Some(isolation) = features.isolation {
            return Err(OpenError::Isolated(isolation));
        }
        if !features.privileges.contains(HvPrivilegeFlags::HYPERCALL) {
            return Err(OpenError::Unsupported);
        }
        let text = DmaRegion::alloc(platform, PAGE_SIZE)?;
        let page = match platform.hyperv().calls_by_instruction() {
            true => None,
            false => Some(platform.hyperv().hypercall_page().ok_or(OpenError::NoPage)?),
        };
        let this = Self { platform: platform.clone(), features, page, text };
        // SAFETY: both registers are offered. The platform allocated the page of RAM for this purpose.
        unsafe {
            platform.registers().write_msr(HvMsr::GUEST_OS_ID.0, GUEST_OS_ID);
            let Some(page) = page else { return Ok(PageArc::new(platform, this)?) };
            let old = platform.registers().read_msr(HvMsr::HYPERCALL.0);
            if old & HvPageFlags::LOCKED.bits() != 0 {
                return Err(OpenError::Locked);
            }
            let reserved = old & PAGE_BITS & !HvPageFlags::ENABLE.bits();
            platform
                .registers()
                .write_msr(HvMsr::HYPERCALL.0, page.bus.0 | reserved | HvPageFlags::ENABLE.bits());
            if platform.registers().read_msr(HvMsr::HYPERCALL.0) & HvPageFlags::ENABLE.bits() == 0 {
                return Err(OpenError::Refused);
            }
        }
        Ok(PageArc::new(platform, this)?)
    }

    /// Returns the features of the hypervisor.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Returns the platform.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Returns the virtual address of the hypercall page; null where calls are made by an instruction.
    pub(crate) fn page(&self) -> *const u8 {
        self.page.map_or(core::ptr::null(), |page| page.cpu.as_ptr().cast_const())
    }

    /// Returns the VP index of the current processor, by which VMBus identifies processors; `None` if the register is not offered.
    pub fn vp_index(&self) -> Option<u32> {
        if !self.features.privileges.contains(HvPrivilegeFlags::VP_INDEX) {
            return None;
        }
        // SAFETY: the register is offered.
        u32::try_from(unsafe { self.platform.registers().read_msr(HvMsr::VP_INDEX.0) }).ok()
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Returns the reference time in units of 100 ns, read from its register, which costs a VM exit; `None` if it is not offered.
    pub fn reference_count(&self) -> Option<u64> {
        if !self.features.privileges.contains(HvPrivilegeFlags::TIME_REF_COUNT) {
            return None;
        }
        // SAFETY: the register is offered.
        Some(unsafe { self.platform.registers().read_msr(HvMsr::TIME_REF_COUNT.0) })
    }
}

impl<P: Platform> Drop for Hypervisor<P> {
    fn drop(&mut self) {
        // SAFETY: the registers are offered, and there are no more hypercalls: this was the last reference. A locked page does not
        // belong to this guest kernel.
        unsafe {
            if let Some(page) = self.page {
                let old = self.platform.registers().read_msr(HvMsr::HYPERCALL.0);
                if old & !PAGE_BITS == page.bus.0 {
                    self.platform
                        .registers()
                        .write_msr(HvMsr::HYPERCALL.0, old & PAGE_BITS & !HvPageFlags::ENABLE.bits());
                }
            }
            self.platform.registers().write_msr(HvMsr::GUEST_OS_ID.0, 0);
            if let Some(page) = self.page {
                self.platform.hyperv().free_hypercall_page(page);
            }
        }
    }
}

impl<P: Platform> fmt::Debug for Hypervisor<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hypervisor").field("features", &self.features).finish_non_exhaustive()
    }
}
