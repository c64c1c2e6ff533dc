//! The implementation of `paravirt`'s platform traits: memory, interrupts, processors, ports and time for the drivers.

use crate::arch::cpu::{self, without_interrupts};
use crate::arch::{self, time};
use crate::{interrupts, memory, smp};
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::task::{RawWaker, RawWakerVTable, Waker};
use core::time::Duration;
use paravirt_device::Arm;
use paravirt_platform::{
    AllocError, BindError, Instant, InterruptLine, Interrupts, MapError, Message, Platform, ProcessorId,
    Processors, RawDma, RawHandler, Requester, RunError, Vector,
};
use spin::Mutex;

/// The platform handle that drivers hold.
#[derive(Copy, Clone, Debug)]
pub struct Machine;

/// The hardware's id of the processor that each vector is delivered to.
static TARGETS: Mutex<[u64; 256]> = Mutex::new([0; 256]);

// SAFETY: pages are zeroed RAM, mapped one to one, and used by the caller only until they are freed; all processors read the same
// clock.
unsafe impl Platform for Machine {
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        memory::alloc(pages)
    }
    unsafe fn dma_free(&self, region: RawDma) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { memory::free(region) }
    }
    fn now(&self) -> Instant {
        time::now()
    }
    /// Mappings are never removed: a range that is mapped again gets the same address.
    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        memory::map(phys, len)
    }
    unsafe fn map_firmware(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        memory::map_firmware(phys, len)
    }
    fn interrupts(&self) -> &dyn Interrupts {
        self
    }
    fn processors(&self) -> &dyn Processors {
        self
    }
    #[cfg(target_arch = "x86_64")]
    fn port_io(&self) -> &dyn paravirt_platform::PortIo {
        self
    }
    #[cfg(target_arch = "x86_64")]
    fn registers(&self) -> &dyn paravirt_platform::Registers {
        self
    }
    #[cfg(target_arch = "x86_64")]
    fn hyperv(&self) -> &dyn paravirt_platform::HyperV {
        self
    }
    #[cfg(target_arch = "x86_64")]
    fn xen(&self) -> &dyn paravirt_platform::Xen {
        self
    }
}

// SAFETY: a vector calls its handler only while it is bound, and `unbind` waits until none runs.
unsafe impl Interrupts for Machine {
    unsafe fn bind(&self, handler: RawHandler, processor: ProcessorId) -> Result<Vector, BindError> {
        let vector = interrupts::bind(handler)?;
        let target = smp::id(processor.0.min(smp::count() - 1));
        without_interrupts(|| TARGETS.lock()[vector.0 as usize & 0xff] = target);
        Ok(vector)
    }
    fn message(&self, vector: Vector, from: Option<Requester>) -> Option<Message> {
        let target = without_interrupts(|| TARGETS.lock()[vector.0 as usize & 0xff]);
        arch::interrupts::message(vector, target, from)
    }
    fn free_vectors(&self) -> u32 {
        interrupts::free_vectors()
    }
    #[cfg(target_arch = "x86_64")]
    fn descriptor(&self, vector: Vector) -> Option<u8> {
        u8::try_from(vector.0).ok()
    }
    fn route(&self, line: InterruptLine, vector: Vector) -> Result<(), BindError> {
        interrupts::route(line, vector)
    }
    fn unbind(&self, vector: Vector) {
        interrupts::unbind(vector);
    }
}

impl Processors for Machine {
    fn count(&self) -> u32 {
        smp::count()
    }
    fn current(&self) -> ProcessorId {
        ProcessorId(smp::current())
    }
    fn run_on(&self, processor: ProcessorId, work: &mut (dyn FnMut() + Send)) -> Result<(), RunError> {
        smp::run_on(processor, work)
    }
}

/// Returns a waker that interrupts the processor on which it was made, so that it leaves [`sleep`].
pub fn waker() -> Waker {
    const TABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &TABLE), wake, wake, |_| {});
    fn wake(data: *const ()) {
        interrupts::wake(data as usize as u32);
    }
    let processor = smp::current() as usize as *const ();
    // SAFETY: the data is a processor number, not a pointer, and the functions use it as a number.
    unsafe { Waker::from_raw(RawWaker::new(processor, &TABLE)) }
}

/// How long to sleep between two polls of what no interrupt signals.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Halts until an interrupt or until `until`, unless `arm`, called with interrupts disabled, returns [`Arm::Pending`] or another
/// processor has queued a job, which is run. Halts only for a short time if `arm` says that no interrupt comes. Returns with
/// interrupts enabled.
pub fn sleep(until: Instant, arm: impl FnOnce() -> Arm) {
    cpu::disable_interrupts();
    if smp::run_pending_job() {
        return;
    }
    let arm = arm();
    if arm == Arm::Pending {
        cpu::enable_interrupts();
        return;
    }
    let now = time::now();
    let until = if arm == Arm::Unsignalled { until.min(now.saturating_add(POLL_INTERVAL)) } else { until };
    if until <= now {
        cpu::enable_interrupts();
        return;
    }
    cpu::set_timer((until != Instant::NEVER).then(|| until.since(now).as_nanos() as u64));
    cpu::enable_interrupts_and_wait();
    if until != Instant::NEVER {
        cpu::set_timer(None);
    }
}
