//! Event channels: the two-level tables in the shared page, the handlers that look at them, and the ports of devices.
//!
//! An event sets a bit of the pending table. If its bit of the mask is clear, a bit that selects the word of the table and a flag of the
//! processor are set, and the processor is interrupted, unless they were set before.

use crate::calls::{CallError, Calls};
use crate::detect::Detected;
use crate::hypervisor::Hypervisor;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use core::task::Waker;
use paravirt_device::Arm;
use paravirt_platform::{
    AllocError, Handled, PageArc, PageTable, Platform, ProcessorId, RawHandler, SharedMemory, Vector,
    WakerCell,
};

/// Offsets in the shared page: what each processor has, of which there are 32; the bits of pending events; the mask.
const VCPU_LEN: usize = 64;
const MAX_VCPUS: u32 = 32;
const SELECTOR: usize = 8;
const PENDING: usize = 2048;
const MASK: usize = 2560;
/// Words of 64 bits of a table.
const WORDS: usize = 64;
/// The ports whose events wake a task. Ports are numbered from 1 on, the lowest free one first.
const PORTS: usize = 512;
/// How often a handler looks again for events that came meanwhile.
const ROUNDS: u32 = 8;
/// Signalling by a vector that is delivered past the local APIC, for a hypervisor without a vector for each processor.
const CALLBACK_VECTOR: u64 = 2 << 56;
/// Old versions want some value there even if each processor has a vector.
const CALLBACK_UNUSED: u64 = 1;

/// The tables in the shared page, and the tasks that wait for ports.
struct Tables<P: Platform> {
    shared: SharedMemory,
    cells: PageTable<P, WakerCell>,
}

impl<P: Platform> Tables<P> {
    /// The word of a table with the bit of `port`, and the bit.
    fn bit(&self, table: usize, port: u32) -> Option<(&AtomicU64, u64)> {
        let word = (port as usize).checked_div(64).filter(|word| *word < WORDS)?;
        let offset = table.checked_add(word.checked_mul(8)?)?;
        Some((self.shared.at(offset)?, 1 << (port & 63)))
    }

    fn word(&self, table: usize, word: usize) -> Option<&AtomicU64> {
        self.shared.at(table.checked_add(word.checked_mul(8)?)?)
    }

    /// Masks every port and forgets what is pending, also the selection of words: one that is left over would keep some hypervisors from
    /// ever interrupting for the ports of that word.
    fn clear(&self) {
        for word in 0..WORDS {
            self.word(MASK, word).into_iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
            self.word(PENDING, word).into_iter().for_each(|word| word.store(0, Ordering::SeqCst));
        }
        for vcpu in 0..MAX_VCPUS {
            if let Some((flag, selector)) = self.vcpu(vcpu) {
                selector.store(0, Ordering::SeqCst);
                flag.store(0, Ordering::SeqCst);
            }
        }
    }

    fn vcpu(&self, vcpu: u32) -> Option<(&AtomicU8, &AtomicU64)> {
        let at = (vcpu as usize).checked_mul(VCPU_LEN).filter(|_| vcpu < MAX_VCPUS)?;
        Some((self.shared.at(at)?, self.shared.at(at.checked_add(SELECTOR)?)?))
    }

    /// Wakes the tasks of the ports with events. Each is masked until it is armed again, so that a backend cannot raise one interrupt after
    /// another.
    fn deliver(&self, vcpu: u32) {
        let Some((flag, selector)) = self.vcpu(vcpu) else { return };
        for _ in 0..ROUNDS {
            // The flag first: an event that comes later raises another interrupt.
            flag.swap(0, Ordering::SeqCst);
            let mut words = selector.swap(0, Ordering::SeqCst);
            while words != 0 {
                let word = words.trailing_zeros() as usize;
                words &= words.wrapping_sub(1);
                self.deliver_word(word);
            }
            if flag.load(Ordering::SeqCst) == 0 {
                return;
            }
        }
    }

    fn deliver_word(&self, word: usize) {
        let (Some(pending), Some(mask)) = (self.word(PENDING, word), self.word(MASK, word)) else { return };
        let mut bits = pending.load(Ordering::SeqCst) & !mask.load(Ordering::SeqCst);
        mask.fetch_or(bits, Ordering::SeqCst);
        pending.fetch_and(!bits, Ordering::SeqCst);
        while bits != 0 {
            let port = word.wrapping_mul(64).wrapping_add(bits.trailing_zeros() as usize);
            bits &= bits.wrapping_sub(1);
            self.cells.get(port).into_iter().for_each(WakerCell::wake);
        }
    }
}

/// What the handler of a processor has.
struct Upcall<P: Platform> {
    tables: NonNull<Tables<P>>,
    vcpu: u32,
    vector: Option<Vector>,
}

// SAFETY: the pointer is to tables that several processors may use.
unsafe impl<P: Platform> Send for Upcall<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Upcall<P> {}

impl<P: Platform> Upcall<P> {
    fn handler(upcall: NonNull<Self>) -> RawHandler {
        /// # Safety
        ///
        /// `data` points to a live `Upcall`.
        unsafe fn call<P: Platform>(data: NonNull<()>) -> Handled {
            // SAFETY: the caller guarantees that it is alive, and the tables live as long.
            unsafe {
                let upcall = data.cast::<Upcall<P>>().as_ref();
                upcall.tables.as_ref().deliver(upcall.vcpu);
            }
            Handled::Yes
        }
        RawHandler::new(upcall, call::<P>)
    }
}

/// The event channels of the guest.
pub(crate) struct Events<P: Platform> {
    platform: P,
    upcalls: PageTable<P, Upcall<P>>,
    tables: PageArc<P, Tables<P>>,
    /// Whether each processor has a vector.
    has_vectors: AtomicBool,
}

impl<P: Platform> Events<P> {
    /// Prepares the tables in the page `shared`, which the hypervisor has mapped.
    pub fn new(platform: &P, detected: &Detected, shared: SharedMemory) -> Result<Self, AllocError> {
        let cells = PageTable::new(platform, PORTS, |_| WakerCell::new())?;
        let tables = PageArc::new(platform, Tables { shared, cells })?;
        let count = platform.processors().count().clamp(1, MAX_VCPUS);
        let upcalls = PageTable::new(platform, count as usize, |at| {
            let mut vcpu = at as u32;
            // A processor that does not run has no events.
            let _ = platform
                .processors()
                .run_on(ProcessorId(at as u32), &mut || vcpu = detected.vcpu(platform, at as u32));
            Upcall { tables: tables.as_ptr(), vcpu, vector: None }
        })?;
        Ok(Self { platform: platform.clone(), upcalls, tables, has_vectors: AtomicBool::new(false) })
    }

    /// Masks everything, and makes the hypervisor interrupt the processors. Without an interrupt everything is polled.
    pub fn start(&mut self, calls: &Calls<P>) {
        self.tables.clear();
        self.bind();
        self.signal(calls);
    }

    /// Tells the hypervisor how to interrupt the processors, at first and after the guest was resumed.
    pub fn signal(&self, calls: &Calls<P>) {
        self.tables.clear();
        let mut has_vectors = true;
        for upcall in self.upcalls.iter() {
            let number = self.descriptor(upcall);
            let is_set = number.is_some_and(|number| calls.set_upcall_vector(upcall.vcpu, number).is_ok());
            has_vectors &= is_set;
        }
        self.has_vectors.store(has_vectors, Ordering::Release);
        let first = self.upcalls.first().and_then(|upcall| self.descriptor(upcall));
        let callback = match first {
            Some(_) if has_vectors => CALLBACK_UNUSED,
            Some(number) => CALLBACK_VECTOR | u64::from(number),
            None => return,
        };
        if let Err(error) = calls.set_callback(callback) {
            log::debug!("xen: {error}: the callback is not set");
        }
    }

    fn bind(&mut self) {
        let Self { upcalls, platform, .. } = self;
        for (at, upcall) in (0u32..).zip(upcalls.iter_mut()) {
            if upcall.vector.is_some() {
                continue;
            }
            let handler = Upcall::handler(NonNull::from(&*upcall));
            // SAFETY: the table does not move, and is freed only after `drop` has unbound the vectors.
            upcall.vector = unsafe { platform.interrupts().bind(handler, ProcessorId(at)) }.ok();
        }
    }

    fn descriptor(&self, upcall: &Upcall<P>) -> Option<u8> {
        self.platform.interrupts().descriptor(upcall.vector?)
    }

    /// Whether events interrupt a processor.
    pub fn has_interrupts(&self) -> bool {
        self.upcalls.first().is_some_and(|upcall| self.descriptor(upcall).is_some())
    }

    /// The number by which hypercalls name a processor that has events.
    pub fn vcpu(&self, processor: ProcessorId) -> Option<u32> {
        let upcall = self.upcalls.get(processor.0 as usize)?;
        // With the callback, events interrupt processor 0 alone.
        (self.has_vectors.load(Ordering::Acquire) && upcall.vcpu < MAX_VCPUS).then_some(upcall.vcpu)
    }

    /// The time that the hypervisor tells processor `vcpu`.
    pub fn time_info(&self, vcpu: u32) -> Option<paravirt_pvclock::TimeInfo> {
        const TIME: usize = 32;
        let at = (vcpu as usize).checked_mul(VCPU_LEN).filter(|_| vcpu < MAX_VCPUS)?;
        paravirt_pvclock::TimeInfo::read(&self.tables.shared, at.checked_add(TIME)?)
    }

    fn mask(&self, port: u32) {
        if let Some((word, bit)) = self.tables.bit(MASK, port) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Unmasks a port; returns whether an event had come.
    fn unmask(&self, port: u32) -> bool {
        if let Some((word, bit)) = self.tables.bit(MASK, port) {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
        // An event that came while the port was masked raises no interrupt.
        self.tables
            .bit(PENDING, port)
            .is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::SeqCst) & bit != 0)
    }

    /// Ends the interrupts.
    pub fn stop(&mut self, calls: &Calls<P>) {
        for upcall in self.upcalls.iter_mut() {
            if upcall.vector.is_some() {
                // Some hypervisors refuse 0: the handler is unbound in any case, and everything is masked.
                let _ = calls.set_upcall_vector(upcall.vcpu, 0);
            }
        }
        self.tables.clear();
        for upcall in self.upcalls.iter_mut() {
            upcall.vector.take().into_iter().for_each(|vector| self.platform.interrupts().unbind(vector));
        }
    }
}

/// An event channel.
pub struct Port<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    port: u32,
    /// Whether it is closed when this is dropped.
    is_own: bool,
    /// How often the guest had been resumed: in another domain the number is of something else.
    resumed: u32,
}

impl<P: Platform> Port<P> {
    /// Allocates an event channel for domain `remote`, masked. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`CallError`], if there is none.
    pub fn new(hypervisor: &PageArc<P, Hypervisor<P>>, remote: u16) -> Result<Self, CallError> {
        let port = hypervisor.calls().alloc_unbound(remote)?;
        hypervisor.events().mask(port);
        Ok(Self { hypervisor: hypervisor.clone(), port, is_own: true, resumed: hypervisor.resumed() })
    }

    /// An event channel for a virtual interrupt of a processor.
    pub(crate) fn of_virq(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        virq: u32,
        vcpu: u32,
    ) -> Result<Self, CallError> {
        let port = hypervisor.calls().bind_virq(virq, vcpu)?;
        Ok(Self { hypervisor: hypervisor.clone(), port, is_own: true, resumed: hypervisor.resumed() })
    }

    /// An event channel that the domain was started with.
    pub(crate) fn existing(hypervisor: &PageArc<P, Hypervisor<P>>, port: u32) -> Self {
        Self { hypervisor: hypervisor.clone(), port, is_own: false, resumed: hypervisor.resumed() }
    }

    /// Returns its number.
    pub fn number(&self) -> u32 {
        self.port
    }

    /// Sends an event. Callable in interrupt context; costs a hypercall.
    #[inline]
    pub fn notify(&self) {
        // The port is this guest's. An event to a backend that has gone is lost, as it should.
        let _ = self.hypervisor.calls().send(self.port);
    }

    /// Makes it interrupt `processor`, if that has events of its own; otherwise it goes on to interrupt another one.
    pub fn bind_to(&self, processor: ProcessorId) {
        if let Some(vcpu) = self.hypervisor.events().vcpu(processor) {
            let _ = self.hypervisor.calls().bind_vcpu(self.port, vcpu);
        }
    }

    /// Sets the task to wake at the next event after [`arm`](Self::arm), in place of the previous one.
    pub fn register(&self, waker: &Waker) {
        let cell = self.hypervisor.events().tables.cells.get(self.port as usize);
        cell.into_iter().for_each(|cell| cell.register(waker));
    }

    /// Enables the interrupt of the next event; returns whether one had come already. An interrupt disables it. Costs no exit.
    #[inline]
    pub fn arm(&self) -> bool {
        self.hypervisor.events().unmask(self.port)
    }

    /// [Arms](Self::arm), and then looks by `has_work` whether there is something to do already; returns what the caller is to do.
    #[inline]
    pub fn arm_unless(&self, has_work: impl FnOnce() -> bool) -> Arm {
        let raced = self.arm();
        match () {
            () if has_work() || raced => Arm::Pending,
            () if self.is_signalled() => Arm::Armed,
            () => Arm::Unsignalled,
        }
    }

    /// Disables the interrupt.
    pub fn disarm(&self) {
        self.hypervisor.events().mask(self.port);
    }

    /// Whether an event wakes the task.
    pub fn is_signalled(&self) -> bool {
        (self.port as usize) < PORTS && self.hypervisor.events().has_interrupts()
    }
}

impl<P: Platform> Drop for Port<P> {
    fn drop(&mut self) {
        if self.resumed != self.hypervisor.resumed() {
            return;
        }
        self.disarm();
        if self.is_own {
            let _ = self.hypervisor.calls().close(self.port);
        }
    }
}

impl<P: Platform> fmt::Debug for Port<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Port").field(&self.port).finish()
    }
}
