//! The synthetic interrupt controller. TLFS §11.8

use crate::decide::{Slot, free_then_look};
use crate::hypervisor::PAGE_BITS;
use crate::{Hypervisor, OpenError};
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use hyperv_bindings::tlfs::{
    HV_MESSAGE_PAYLOAD, HV_SINTS, HV_SLOT_LEN, HvFeatureFlags, HvMessageFlags, HvMessageType, HvMsr,
    HvPageFlags, HvScontrolFlags, HvSintFlags,
};
use paravirt_platform::{
    DmaRegion, PAGE_SIZE, PageArc, PageTable, Platform, ProcessorId, RawHandler, SharedMemory, Vector,
};

/// The number of SINTs of a processor.
const SINTS: usize = HV_SINTS as usize;
const SLOT_LEN: usize = HV_SLOT_LEN as usize;
/// The number of 64-bit words of event flags of a SINT.
const FLAG_WORDS: usize = SLOT_LEN / 8;

/// A message that was copied out of its slot.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// The message type.
    pub message_type: HvMessageType,
    /// The length of the payload in bytes.
    pub len: usize,
    /// The payload; bytes after `len` are zero or undefined.
    pub payload: [u8; HV_MESSAGE_PAYLOAD as usize],
}

impl Message {
    /// Returns the payload.
    pub fn bytes(&self) -> &[u8] {
        self.payload.get(..self.len).unwrap_or(&self.payload)
    }
}

/// The SynIC of a virtual processor.
struct VirtualProcessor<P: Platform> {
    index: u32,
    messages: DmaRegion<P>,
    events: DmaRegion<P>,
}

/// The synthetic interrupt controllers of all processors. Dropping disables them.
///
/// A handler that was [bound](Self::bind) must be unbound before this is dropped: dropping masks the SINTs, but does not unbind.
pub struct Synic<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    processors: PageTable<P, Option<VirtualProcessor<P>>>,
}

/// Runs `work` on each processor of the platform.
fn on_each<P: Platform>(
    platform: &P,
    count: usize,
    mut work: impl FnMut(usize) + Send,
) -> Result<(), OpenError> {
    for index in 0..count {
        let id = ProcessorId(u32::try_from(index).map_err(|_| OpenError::Processor)?);
        platform.processors().run_on(id, &mut || work(index)).map_err(|_| OpenError::Processor)?;
    }
    Ok(())
}

impl<P: Platform> Synic<P> {
    /// Enables the SynIC of every processor, with all SINTs masked.
    ///
    /// A host routes messages and events only to processors whose SynIC is enabled, so this comes first.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; all SynICs are disabled then.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Result<Self, OpenError> {
        if !hypervisor.features().has_vmbus() {
            return Err(OpenError::Unsupported);
        }
        let platform = hypervisor.platform();
        let count = usize::try_from(platform.processors().count()).map_err(|_| OpenError::Processor)?.max(1);
        let mut processors = PageTable::new(platform, count, |_| None)?;
        for slot in processors.iter_mut() {
            let page = || DmaRegion::alloc(platform, PAGE_SIZE);
            *slot = Some(VirtualProcessor { index: 0, messages: page()?, events: page()? });
        }
        let mut this = Self { hypervisor: hypervisor.clone(), processors };
        let (shared, table) = (&this.hypervisor, &mut this.processors);
        on_each(platform, count, |index| {
            if let Some(Some(vp)) = table.get_mut(index) {
                vp.index = shared.vp_index().unwrap_or(0);
                // SAFETY: the registers are offered; the hypervisor owns the pages until they are disabled.
                unsafe {
                    set_page(platform, HvMsr::SIMP, vp.messages.bus().0);
                    set_page(platform, HvMsr::SIEFP, vp.events.bus().0);
                    let control =
                        platform.registers().read_msr(HvMsr::SCONTROL.0) | HvScontrolFlags::ENABLE.bits();
                    platform.registers().write_msr(HvMsr::SCONTROL.0, control);
                }
            }
        })?;
        Ok(this)
    }

    /// Returns the hypervisor.
    pub fn hypervisor(&self) -> &PageArc<P, Hypervisor<P>> {
        &self.hypervisor
    }

    /// Returns the number of processors.
    pub fn count(&self) -> u32 {
        u32::try_from(self.processors.len()).unwrap_or(u32::MAX)
    }

    fn vp(&self, processor: ProcessorId) -> Option<&VirtualProcessor<P>> {
        self.processors.get(usize::try_from(processor.0).ok()?)?.as_ref()
    }

    /// Returns the VP index of `processor`.
    pub fn vp_index(&self, processor: ProcessorId) -> Option<u32> {
        self.vp(processor).map(|vp| vp.index)
    }

    /// Returns the processor with VP index 0, to which hosts before VMBus 3.0 send all messages.
    pub fn first(&self) -> Option<ProcessorId> {
        let place = self.processors.iter().position(|vp| vp.as_ref().is_some_and(|vp| vp.index == 0))?;
        Some(ProcessorId(u32::try_from(place).ok()?))
    }

    /// Routes source `sint` of `processor` to `handler`. Returns `None` if the platform has no vector: the SINT is polled then.
    ///
    /// # Errors
    ///
    /// [`OpenError::Processor`].
    ///
    /// # Safety
    ///
    /// The data of `handler` lives, and is accessed through shared references only, until [`unbind`](Self::unbind) has returned for this
    /// source with the vector.
    pub unsafe fn bind(
        &self,
        processor: ProcessorId,
        sint: u32,
        handler: RawHandler,
    ) -> Result<Option<Vector>, OpenError> {
        let platform = self.hypervisor.platform();
        // SAFETY: the caller keeps the data of `handler` until `unbind` has returned, which unbinds the vector.
        let bound = unsafe { platform.interrupts().bind(handler, processor) }.ok();
        let described = bound.and_then(|vector| Some((vector, platform.interrupts().descriptor(vector)?)));
        if let (Some(vector), None) = (bound, described) {
            platform.interrupts().unbind(vector);
        }
        let polling = self.hypervisor.features().features.contains(HvFeatureFlags::SINT_POLLING);
        let value = match described {
            // The platform sends the EOI itself, so that AutoEOI stays off.
            Some((_, descriptor)) => u64::from(descriptor),
            None if polling => HvSintFlags::POLLING.bits() | 0xff,
            None => HvSintFlags::MASKED.bits() | 0xff,
        };
        if let Err(error) = self.write_sint(processor, sint, value) {
            described.into_iter().for_each(|(vector, _)| platform.interrupts().unbind(vector));
            return Err(error);
        }
        Ok(described.map(|(vector, _)| vector))
    }

    /// Masks source `sint` of `processor` and unbinds its vector. Once this returns, the handler no longer runs.
    pub fn unbind(&self, processor: ProcessorId, sint: u32, vector: Option<Vector>) {
        // A processor that is not running raises no interrupt.
        let _ = self.write_sint(processor, sint, HvSintFlags::MASKED.bits() | 0xff);
        vector.into_iter().for_each(|vector| self.hypervisor.platform().interrupts().unbind(vector));
    }

    fn write_sint(&self, processor: ProcessorId, sint: u32, value: u64) -> Result<(), OpenError> {
        const KNOWN: u64 =
            0xff | HvSintFlags::MASKED.bits() | HvSintFlags::AUTO_EOI.bits() | HvSintFlags::POLLING.bits();
        let platform = self.hypervisor.platform();
        let register = HvMsr::SINT0.0.saturating_add(sint.min(HV_SINTS.saturating_sub(1)));
        platform
            .processors()
            .run_on(processor, &mut || {
                // SAFETY: the register is offered with the others of the controller.
                unsafe {
                    let old = platform.registers().read_msr(register);
                    platform.registers().write_msr(register, old & !KNOWN | value);
                }
            })
            .map_err(|_| OpenError::Processor)
    }

    /// Returns whether there is a message in the slot of `sint` of `processor`. One load; callable on any processor in any context.
    #[inline]
    pub fn has_message(&self, processor: ProcessorId, sint: u32) -> bool {
        let base = (sint as usize).wrapping_mul(SLOT_LEN);
        let message_type = self.vp(processor).and_then(|vp| vp.messages.shared().at::<AtomicU32>(base));
        message_type.is_some_and(|kind| kind.load(Ordering::Acquire) != HvMessageType::NONE.0)
    }

    fn slot(&self, processor: ProcessorId, sint: u32) -> Option<MessageSlot<'_>> {
        let base = usize::try_from(sint).ok()?.checked_mul(SLOT_LEN)?;
        MessageSlot::at(self.vp(processor)?.messages.shared(), base)
    }

    /// Copies the message in the slot of `sint` of `processor`, frees the slot, and writes end-of-message (EOM) if another message waits
    /// for it. Call it on `processor`, whose register is written, one call at a time; interrupt context is allowed.
    pub fn take_message(&self, processor: ProcessorId, sint: u32) -> Option<Message> {
        let slot = self.slot(processor, sint)?;
        let message_type = HvMessageType(slot.message_type.load(Ordering::Acquire));
        if message_type == HvMessageType::NONE {
            return None;
        }
        let len = usize::from(slot.size.load(Ordering::Relaxed)).min(HV_MESSAGE_PAYLOAD as usize);
        let mut payload = [0; HV_MESSAGE_PAYLOAD as usize];
        for (word, to) in slot.payload.iter().zip(payload.chunks_exact_mut(8)) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        if free_then_look(&slot) {
            // SAFETY: the register is offered with the others of the SynIC; it affects no guest memory.
            unsafe { self.hypervisor.platform().registers().write_msr(HvMsr::EOM.0, 0) }
        }
        Some(Message { message_type, len, payload })
    }

    /// Clears each set event flag of `sint` on `processor`, then calls `each` with its number, 0 to 2047. Shared memory that the host wrote
    /// before it set the flag is visible in `each`. Lock-free; interrupt context is allowed.
    pub fn take_events(&self, processor: ProcessorId, sint: u32, mut each: impl FnMut(u32)) {
        let Some(vp) = self.vp(processor) else { return };
        let Some(base) = usize::try_from(sint).ok().and_then(|sint| sint.checked_mul(SLOT_LEN)) else {
            return;
        };
        let Some(words) = vp.events.shared().at::<[AtomicU64; FLAG_WORDS]>(base) else { return };
        take_flags(words, &mut each);
    }
}

/// Clears the set flags in `words`, and calls `each` with their numbers.
pub(crate) fn take_flags(words: &[AtomicU64], each: &mut dyn FnMut(u32)) {
    for (place, word) in (0u32..).zip(words) {
        if word.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let mut set = word.swap(0, Ordering::AcqRel);
        while set != 0 {
            each(place.wrapping_mul(64).wrapping_add(set.trailing_zeros()));
            set &= set.wrapping_sub(1);
        }
    }
}

/// # Safety
///
/// The register is offered and holds the address of a page; the hypervisor owns `page` until the register is cleared.
unsafe fn set_page<P: Platform>(platform: &P, register: HvMsr, page: u64) {
    // SAFETY: the caller guarantees that the register is offered, and that the hypervisor owns the page at `page` until the register
    // is cleared.
    unsafe {
        let reserved = platform.registers().read_msr(register.0) & PAGE_BITS & !HvPageFlags::ENABLE.bits();
        platform.registers().write_msr(register.0, page | reserved | HvPageFlags::ENABLE.bits());
    }
}

impl<P: Platform> Drop for Synic<P> {
    fn drop(&mut self) {
        let platform = self.hypervisor.platform();
        for (index, slot) in self.processors.iter_mut().enumerate() {
            let mut work = || {
                // SAFETY: the registers are offered. The order is that of the TLFS: the SINTs, the pages, the controller.
                unsafe {
                    for sint in 0..SINTS {
                        let register = HvMsr::SINT0.0.saturating_add(sint as u32);
                        let old = platform.registers().read_msr(register);
                        if old & HvSintFlags::MASKED.bits() == 0 {
                            platform.registers().write_msr(register, old | HvSintFlags::MASKED.bits());
                        }
                    }
                    for register in [HvMsr::SIMP.0, HvMsr::SIEFP.0] {
                        let old = platform.registers().read_msr(register);
                        platform
                            .registers()
                            .write_msr(register, old & PAGE_BITS & !HvPageFlags::ENABLE.bits());
                    }
                    let control = platform.registers().read_msr(HvMsr::SCONTROL.0);
                    platform
                        .registers()
                        .write_msr(HvMsr::SCONTROL.0, control & !HvScontrolFlags::ENABLE.bits());
                }
            };
            let id = ProcessorId(u32::try_from(index).unwrap_or(u32::MAX));
            if platform.processors().run_on(id, &mut work).is_err() {
                if let Some(vp) = slot.take() {
                    // The hypervisor may still write the pages.
                    log::warn!(
                        "hyper-v: processor {index} is not running: its SynIC stays enabled, two pages are leaked"
                    );
                    vp.messages.leak();
                    vp.events.leak();
                }
            }
        }
    }
}

/// A slot of a message page.
struct MessageSlot<'a> {
    message_type: &'a AtomicU32,
    size: &'a AtomicU8,
    flags: &'a AtomicU8,
    payload: &'a [AtomicU64; HV_MESSAGE_PAYLOAD as usize / 8],
}

impl<'a> MessageSlot<'a> {
    fn at(page: &'a SharedMemory, base: usize) -> Option<Self> {
        Some(Self {
            message_type: page.at(base)?,
            size: page.at(base.checked_add(4)?)?,
            flags: page.at(base.checked_add(5)?)?,
            payload: page.at(base.checked_add(16)?)?,
        })
    }
}

impl Slot for MessageSlot<'_> {
    fn clear(&self) {
        self.message_type.store(HvMessageType::NONE.0, Ordering::Release);
    }
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
    fn is_pending(&self) -> bool {
        self.flags.load(Ordering::Acquire) & HvMessageFlags::PENDING.bits() != 0
    }
}

impl<P: Platform> fmt::Debug for Synic<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Synic").field("processors", &self.processors.len()).finish_non_exhaustive()
    }
}
