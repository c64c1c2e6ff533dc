//! The implementation of `paravirt`'s platform traits: memory, interrupts, processors, ports and time for the drivers.

use crate::arch::{apic, interrupts, smp, time};
use crate::memory;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::task::{RawWaker, RawWakerVTable, Waker};
use core::time::Duration;
use paravirt_device::Arm;
use paravirt_platform::{
    AllocError, BindError, HyperV, Instant, InterruptLine, Interrupts, MapError, Message, Platform, PortIo,
    ProcessorId, Processors, RawDma, RawHandler, Registers, RunError, Vector,
};
use spin::Mutex;
use x86_64::instructions::port::Port;

/// The platform handle that drivers hold.
#[derive(Copy, Clone, Debug)]
pub struct Machine;

/// The APIC id of the processor that each vector is delivered to.
static TARGETS: Mutex<[u8; 256]> = Mutex::new([0; 256]);
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;

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
    fn port_io(&self) -> &dyn PortIo {
        self
    }
    fn registers(&self) -> &dyn Registers {
        self
    }
    fn hyperv(&self) -> &dyn HyperV {
        self
    }
}

// SAFETY: the instructions have the widths that the methods promise.
unsafe impl PortIo for Machine {
    unsafe fn in32(&self, port: u16) -> u32 {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { Port::new(port).read() }
    }
    unsafe fn out32(&self, port: u16, value: u32) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { Port::new(port).write(value) }
    }
    unsafe fn in16(&self, port: u16) -> u16 {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { Port::new(port).read() }
    }
    unsafe fn out16(&self, port: u16, value: u16) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { Port::new(port).write(value) }
    }
}

// SAFETY: a vector calls its handler only while it is bound, and `unbind` waits until none runs.
unsafe impl Interrupts for Machine {
    unsafe fn bind(&self, handler: RawHandler, processor: ProcessorId) -> Result<Vector, BindError> {
        let vector = interrupts::bind(handler)?;
        let target = smp::apic_id(processor.0.min(smp::count() - 1));
        // An MSI address has 8 bits for the APIC id; larger ids are replaced by the first processor's.
        let target = u8::try_from(target).or(u8::try_from(smp::apic_id(0)));
        x86_64::instructions::interrupts::without_interrupts(|| {
            TARGETS.lock()[vector.0 as usize & 0xff] = target.unwrap_or(0);
        });
        Ok(vector)
    }
    fn message(&self, vector: Vector) -> Option<Message> {
        let target =
            x86_64::instructions::interrupts::without_interrupts(|| TARGETS.lock()[vector.0 as usize & 0xff]);
        Some(Message { address: MESSAGE_ADDRESS | u64::from(target) << 12, data: vector.0 })
    }
    fn free_vectors(&self) -> u32 {
        interrupts::free_vectors()
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

// SAFETY: the kernel runs in ring 0, where the instructions are allowed.
unsafe impl Registers for Machine {}

// SAFETY: RAM is mapped one to one and executable, and the kernel does not write to an allocated page.
unsafe impl HyperV for Machine {
    fn hypercall_page(&self) -> Option<RawDma> {
        memory::alloc(NonZeroUsize::MIN).ok()
    }
    unsafe fn free_hypercall_page(&self, page: RawDma) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { memory::free(page) }
    }
    fn descriptor(&self, vector: Vector) -> Option<u8> {
        u8::try_from(vector.0).ok()
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
    x86_64::instructions::interrupts::disable();
    if smp::run_pending_job() {
        return;
    }
    let arm = arm();
    if arm == Arm::Pending {
        x86_64::instructions::interrupts::enable();
        return;
    }
    let now = time::now();
    let until = if arm == Arm::Unsignalled { until.min(now.saturating_add(POLL_INTERVAL)) } else { until };
    if until <= now {
        x86_64::instructions::interrupts::enable();
        return;
    }
    apic::set_timer((until != Instant::NEVER).then(|| until.since(now).as_nanos() as u64));
    x86_64::instructions::interrupts::enable_and_hlt();
    if until != Instant::NEVER {
        apic::set_timer(None);
    }
}
