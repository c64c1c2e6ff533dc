//! The services of the kernel: a table of functions.

use ::paravirt_platform::{
    AllocError, BindError, BusAddr, Handled, HyperV, Instant, InterruptLine, Interrupts, MapError, Message,
    PAGE_SIZE, Platform, Polarity, PortIo, ProcessorId, Processors, RawDma, RawHandler, Registers, Requester,
    RunError, Trigger, Vector, Xen,
};
use core::ffi::{c_char, c_void};
use core::num::NonZeroUsize;
use core::ptr::NonNull;

/// Pages for devices to access.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_dma {
    /// The virtual address, aligned to 4096.
    pub cpu: *mut c_void,
    /// The bus address, aligned to 4096: a physical address, without an IOMMU. The pages are contiguous.
    pub bus: u64,
    /// The number of pages of 4096 bytes.
    pub pages: usize,
}

/// A handler of an interrupt, to be kept and passed to `paravirt_handler_call`.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_handler {
    /// The library's own.
    pub words: [*mut c_void; 2],
}

/// A message-signalled interrupt.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_message {
    /// The address that the device writes to.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// The PCI function that sends a message.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_requester {
    /// The PCI segment.
    pub segment: u16,
    /// Bus, device and function: `bus << 8 | device << 3 | function`.
    pub id: u16,
}

/// An interrupt line.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_line {
    /// Its number at the interrupt controller: a global system interrupt with ACPI, an interrupt id with a device tree.
    pub number: u32,
    /// Whether it is level-triggered, else edge-triggered.
    pub is_level: bool,
    /// Whether it is active low, else active high.
    pub is_low: bool,
}

/// The services of the kernel. It stays valid, at the same address, as long as a device or the services exist. Functions that are not
/// marked as required may be null: then there is no such service, and drivers poll, or find no device.
///
/// They are called in task context, from any processor, possibly while a driver holds a spin lock: they do not call the library. `cpuid`,
/// `tsc` and the functions of registers are called by the handlers of VMBus too.
#[repr(C)]
#[derive(Debug)]
pub struct paravirt_platform {
    /// Passed to every function.
    pub context: *mut c_void,
    /// Required. Allocates `pages` contiguous, zeroed pages for devices to access, coherent between processors and devices, and fills
    /// in `out`. Returns whether there was memory.
    pub dma_alloc: Option<extern "C" fn(context: *mut c_void, pages: usize, out: *mut paravirt_dma) -> bool>,
    /// Required. Frees what `dma_alloc` returned.
    pub dma_free: Option<extern "C" fn(context: *mut c_void, region: *const paravirt_dma)>,
    /// Required. Returns the time of a monotonic clock, in nanoseconds, with a resolution of a millisecond or finer.
    pub now: Option<extern "C" fn(context: *mut c_void) -> u64>,
    /// Waits for a moment: called in bounded waits. Default: the processor's hint for spinning.
    pub relax: Option<extern "C" fn(context: *mut c_void)>,
    /// Maps `len` bytes of device registers at the physical address `phys`, uncached, and returns the address of the byte at `phys`;
    /// null if that cannot be done. **Ranges that overlap RAM are refused**: a host may choose the address.
    pub map: Option<extern "C" fn(context: *mut c_void, phys: u64, len: usize) -> *mut c_void>,
    /// Maps a table of the firmware's, for reading; it may be in RAM. Default: `map`.
    pub map_firmware: Option<extern "C" fn(context: *mut c_void, phys: u64, len: usize) -> *mut c_void>,
    /// Ends a mapping.
    pub unmap: Option<extern "C" fn(context: *mut c_void, base: *mut c_void, len: usize)>,

    /// Binds `handler` to a free interrupt vector of `processor`, whose interrupts call `paravirt_handler_call`, and writes its number.
    pub bind: Option<
        extern "C" fn(
            context: *mut c_void,
            handler: paravirt_handler,
            processor: u32,
            vector: *mut u32,
        ) -> bool,
    >,
    /// Frees a vector. When it returns, the handler is not running and not called any more. Required with `bind`.
    pub unbind: Option<extern "C" fn(context: *mut c_void, vector: u32)>,
    /// Writes the message that raises `vector`. `from` is the function that sends it, or null.
    pub message: Option<
        extern "C" fn(
            context: *mut c_void,
            vector: u32,
            from: *const paravirt_requester,
            out: *mut paravirt_message,
        ) -> bool,
    >,
    /// Returns how many entries of the MSI-X table of function `from` the kernel has programmed and enabled itself: the library then
    /// leaves table and control register to it, and binds handlers by `bind_entry`. -1 leaves both to the library, as without the function.
    pub own_entries: Option<extern "C" fn(context: *mut c_void, from: *const paravirt_requester) -> i32>,
    /// Binds `handler` to entry `entry` of function `from`, as `bind` does. Required with `own_entries`.
    pub bind_entry: Option<
        extern "C" fn(
            context: *mut c_void,
            from: *const paravirt_requester,
            entry: u16,
            handler: paravirt_handler,
            processor: u32,
            vector: *mut u32,
        ) -> bool,
    >,
    /// Returns the number of vectors that can still be bound. Default: many.
    pub free_vectors: Option<extern "C" fn(context: *mut c_void) -> u32>,
    /// Lets an interrupt line raise `vector`; several vectors may share a line.
    pub route: Option<extern "C" fn(context: *mut c_void, line: paravirt_line, vector: u32) -> bool>,

    /// Returns the number of processors, which have the numbers from 0 on. Default: one.
    pub processors: Option<extern "C" fn(context: *mut c_void) -> u32>,
    /// Returns the number of this processor. Default: 0.
    pub current: Option<extern "C" fn(context: *mut c_void) -> u32>,
    /// Calls `work` with `data` on `processor`, and waits until it has returned. Default: only on this processor.
    pub run_on: Option<
        extern "C" fn(
            context: *mut c_void,
            processor: u32,
            work: extern "C" fn(data: *mut c_void),
            data: *mut c_void,
        ) -> bool,
    >,

    /// Whether the instructions for port I/O, CPUID, the cycle counter and model-specific registers may be executed where the function is
    /// null: true for a kernel on x86-64.
    pub has_instructions: bool,
    /// Port I/O, of which PCI without ECAM needs 32 bits, and ACPI 16 bits.
    pub in32: Option<extern "C" fn(context: *mut c_void, port: u16) -> u32>,
    /// Writes 32 bits to a port.
    pub out32: Option<extern "C" fn(context: *mut c_void, port: u16, value: u32)>,
    /// Reads 16 bits from a port.
    pub in16: Option<extern "C" fn(context: *mut c_void, port: u16) -> u16>,
    /// Writes 16 bits to a port.
    pub out16: Option<extern "C" fn(context: *mut c_void, port: u16, value: u16)>,
    /// Writes EAX, EBX, ECX and EDX of a leaf to `out`.
    pub cpuid: Option<extern "C" fn(context: *mut c_void, leaf: u32, out: *mut u32)>,
    /// Reads the cycle counter.
    pub tsc: Option<extern "C" fn(context: *mut c_void) -> u64>,
    /// Reads a model-specific register.
    pub read_msr: Option<extern "C" fn(context: *mut c_void, index: u32) -> u64>,
    /// Writes a model-specific register.
    pub write_msr: Option<extern "C" fn(context: *mut c_void, index: u32, value: u64)>,

    /// Allocates a page that is executable, at a page boundary, for Hyper-V's calls. Without it, no device on Hyper-V is found.
    pub hypercall_page: Option<extern "C" fn(context: *mut c_void, out: *mut paravirt_dma) -> bool>,
    /// Frees it. Required with `hypercall_page`.
    pub free_hypercall_page: Option<extern "C" fn(context: *mut c_void, page: *const paravirt_dma)>,
    /// Returns the number in the processor's interrupt table (IDT) that `vector` has, 0 if it has none. Without it, VMBus and Xen's
    /// devices are polled.
    pub descriptor: Option<extern "C" fn(context: *mut c_void, vector: u32) -> u8>,

    /// Returns contiguous pages of RAM for Xen to replace with its own, the same ones at each call, which the kernel never frees: 67 at best,
    /// as fewer make fewer and smaller queues. Without it, no device of Xen is found. Needs `has_instructions`.
    pub xen_frames: Option<extern "C" fn(context: *mut c_void, out: *mut paravirt_dma) -> bool>,
}

/// A handle to the kernel's table.
#[derive(Copy, Clone)]
pub(crate) struct Kernel(NonNull<paravirt_platform>);

// SAFETY: the kernel's functions may be called from any processor.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Returns `None` if a required function is missing.
    ///
    /// # Safety
    ///
    /// The table is valid as long as the handle is used.
    pub unsafe fn new(table: *const paravirt_platform) -> Option<Self> {
        let this = Self(NonNull::new(table.cast_mut())?);
        let table = this.table();
        let is_whole = table.dma_alloc.is_some()
            && table.dma_free.is_some()
            && table.now.is_some()
            && table.bind.is_some() == table.unbind.is_some()
            && table.own_entries.is_some() == table.bind_entry.is_some()
            && (table.bind_entry.is_none() || table.unbind.is_some())
            && table.hypercall_page.is_some() == table.free_hypercall_page.is_some();
        is_whole.then_some(this)
    }

    fn table(&self) -> &paravirt_platform {
        // SAFETY: by the contract of `new`.
        unsafe { self.0.as_ref() }
    }

    fn context(&self) -> *mut c_void {
        self.table().context
    }

    fn has_instructions(&self) -> bool {
        self.table().has_instructions
    }
}

fn raw(region: &RawDma) -> paravirt_dma {
    paravirt_dma { cpu: region.cpu.as_ptr().cast(), bus: region.bus.0, pages: region.pages.get() }
}

/// What the kernel returned, if it is aligned.
fn region(dma: &paravirt_dma, pages: NonZeroUsize) -> Option<RawDma> {
    let is_aligned = (dma.cpu as usize | dma.bus as usize) & (PAGE_SIZE - 1) == 0;
    let cpu = NonNull::new(dma.cpu.cast::<u8>()).filter(|_| is_aligned)?;
    Some(RawDma { cpu, bus: BusAddr(dma.bus), pages })
}

const NO_DMA: paravirt_dma = paravirt_dma { cpu: core::ptr::null_mut(), bus: 0, pages: 0 };

// SAFETY: the kernel promises of its functions what the trait demands.
unsafe impl Platform for Kernel {
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        let alloc = self.table().dma_alloc.ok_or(AllocError)?;
        let mut out = NO_DMA;
        if !alloc(self.context(), pages.get(), &raw mut out) {
            return Err(AllocError);
        }
        region(&out, pages).ok_or(AllocError)
    }

    unsafe fn dma_free(&self, region: RawDma) {
        if let Some(free) = self.table().dma_free {
            free(self.context(), &raw(&region));
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.table().now.map_or(0, |now| now(self.context())))
    }

    fn relax(&self) {
        match self.table().relax {
            Some(relax) => relax(self.context()),
            None => core::hint::spin_loop(),
        }
    }

    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        let map = self.table().map.ok_or(MapError)?;
        NonNull::new(map(self.context(), phys, len).cast()).ok_or(MapError)
    }

    unsafe fn map_firmware(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        let map = self.table().map_firmware.or(self.table().map).ok_or(MapError)?;
        NonNull::new(map(self.context(), phys, len).cast()).ok_or(MapError)
    }

    unsafe fn unmap(&self, base: NonNull<u8>, len: usize) {
        if let Some(unmap) = self.table().unmap {
            unmap(self.context(), base.as_ptr().cast(), len);
        }
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

    fn xen(&self) -> &dyn Xen {
        self
    }
}

// SAFETY: the kernel promises of its functions what the trait demands.
unsafe impl Interrupts for Kernel {
    unsafe fn bind(&self, handler: RawHandler, processor: ProcessorId) -> Result<Vector, BindError> {
        let bind = self.table().bind.ok_or(BindError::Unsupported)?;
        // SAFETY: a handler is two words, and is changed back to what it was before it is called.
        let handler = unsafe { core::mem::transmute::<RawHandler, paravirt_handler>(handler) };
        let mut vector = 0;
        if bind(self.context(), handler, processor.0, &raw mut vector) {
            Ok(Vector(vector))
        } else {
            Err(BindError::Exhausted)
        }
    }

    fn descriptor(&self, vector: Vector) -> Option<u8> {
        Some(self.table().descriptor?(self.context(), vector.0)).filter(|number| *number != 0)
    }

    fn unbind(&self, vector: Vector) {
        if let Some(unbind) = self.table().unbind {
            unbind(self.context(), vector.0);
        }
    }

    fn message(&self, vector: Vector, from: Option<Requester>) -> Option<Message> {
        let from = from.map(|Requester { segment, id }| paravirt_requester { segment, id });
        let from = from.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        let mut out = paravirt_message { address: 0, data: 0 };
        let is_done = self.table().message?(self.context(), vector.0, from, &raw mut out);
        is_done.then_some(Message { address: out.address, data: out.data })
    }

    fn own_entries(&self, from: Requester) -> Option<u16> {
        let from = paravirt_requester { segment: from.segment, id: from.id };
        u16::try_from(self.table().own_entries?(self.context(), &raw const from)).ok()
    }

    unsafe fn bind_entry(
        &self,
        from: Requester,
        entry: u16,
        handler: RawHandler,
        processor: ProcessorId,
    ) -> Result<Vector, BindError> {
        let bind = self.table().bind_entry.ok_or(BindError::Unsupported)?;
        let from = paravirt_requester { segment: from.segment, id: from.id };
        // SAFETY: as in `bind`.
        let handler = unsafe { core::mem::transmute::<RawHandler, paravirt_handler>(handler) };
        let mut vector = 0;
        if bind(self.context(), &raw const from, entry, handler, processor.0, &raw mut vector) {
            Ok(Vector(vector))
        } else {
            Err(BindError::Exhausted)
        }
    }

    fn free_vectors(&self) -> u32 {
        self.table().free_vectors.map_or(u32::MAX, |free| free(self.context()))
    }

    fn route(&self, line: InterruptLine, vector: Vector) -> Result<(), BindError> {
        let route = self.table().route.ok_or(BindError::Unsupported)?;
        let line = paravirt_line {
            number: line.number,
            is_level: line.trigger == Trigger::Level,
            is_low: line.polarity == Polarity::Low,
        };
        if route(self.context(), line, vector.0) { Ok(()) } else { Err(BindError::Unsupported) }
    }
}

/// Calls the bound handler of a vector, in interrupt context. Returns whether its device raised the interrupt: a kernel calls all
/// handlers that share a line, and acknowledges the interrupt afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_handler_call(handler: paravirt_handler) -> bool {
    // SAFETY: it came from a `RawHandler`, by the contract of the crate.
    let handler = unsafe { core::mem::transmute::<paravirt_handler, RawHandler>(handler) };
    // SAFETY: it is bound.
    unsafe { handler.call() == Handled::Yes }
}

impl Processors for Kernel {
    fn count(&self) -> u32 {
        self.table().processors.map_or(1, |count| count(self.context()).max(1))
    }

    fn current(&self) -> ProcessorId {
        ProcessorId(self.table().current.map_or(0, |current| current(self.context())))
    }

    fn run_on(&self, processor: ProcessorId, work: &mut (dyn FnMut() + Send)) -> Result<(), RunError> {
        extern "C" fn call(data: *mut c_void) {
            // SAFETY: `data` is the closure below, which the caller waits for.
            unsafe { (*data.cast::<&mut (dyn FnMut() + Send)>())() }
        }
        let Some(run_on) = self.table().run_on else {
            if processor != self.current() {
                return Err(RunError);
            }
            work();
            return Ok(());
        };
        let mut work = work;
        let data = (&raw mut work).cast();
        if run_on(self.context(), processor.0, call, data) { Ok(()) } else { Err(RunError) }
    }
}

/// Implements access to a register by the kernel's function, or by the instruction.
macro_rules! instruction {
    ($kernel:ident, $function:ident($($argument:expr),*), $own:expr, $absent:expr) => {
        match $kernel.table().$function {
            Some(function) => function($kernel.context() $(, $argument)*),
            None if $kernel.has_instructions() => $own,
            None => $absent,
        }
    };
}

// SAFETY: the kernel promises of its functions what the trait demands, and the instructions have the widths of the methods.
unsafe impl PortIo for Kernel {
    unsafe fn in32(&self, port: u16) -> u32 {
        // SAFETY: by the contract of this function.
        instruction!(self, in32(port), unsafe { instructions::in32(port) }, u32::MAX)
    }

    unsafe fn out32(&self, port: u16, value: u32) {
        // SAFETY: by the contract of this function.
        instruction!(self, out32(port, value), unsafe { instructions::out32(port, value) }, ());
    }

    unsafe fn in16(&self, port: u16) -> u16 {
        // SAFETY: by the contract of this function.
        instruction!(self, in16(port), unsafe { instructions::in16(port) }, u16::MAX)
    }

    unsafe fn out16(&self, port: u16, value: u16) {
        // SAFETY: by the contract of this function.
        instruction!(self, out16(port, value), unsafe { instructions::out16(port, value) }, ());
    }
}

/// Port I/O by instructions.
#[cfg(target_arch = "x86_64")]
mod instructions {
    use core::arch::asm;

    pub unsafe fn in32(port: u16) -> u32 {
        let value;
        // SAFETY: the caller may read the port.
        unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
        value
    }

    pub unsafe fn out32(port: u16, value: u32) {
        // SAFETY: the caller may write the port.
        unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
    }

    pub unsafe fn in16(port: u16) -> u16 {
        let value;
        // SAFETY: the caller may read the port.
        unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) };
        value
    }

    pub unsafe fn out16(port: u16, value: u16) {
        // SAFETY: the caller may write the port.
        unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
    }
}

/// Other processors have no ports.
#[cfg(not(target_arch = "x86_64"))]
mod instructions {
    pub unsafe fn in32(_port: u16) -> u32 {
        u32::MAX
    }

    pub unsafe fn out32(_port: u16, _value: u32) {}

    pub unsafe fn in16(_port: u16) -> u16 {
        u16::MAX
    }

    pub unsafe fn out16(_port: u16, _value: u16) {}
}

/// The defaults of the trait, which execute the instructions.
struct Own;

// SAFETY: the defaults of the trait.
unsafe impl Registers for Own {}

// SAFETY: the kernel promises of its functions what the trait demands; otherwise the defaults of the trait.
unsafe impl Registers for Kernel {
    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        match self.table().cpuid {
            Some(cpuid) => {
                let mut out = [0; 4];
                cpuid(self.context(), leaf, out.as_mut_ptr());
                out
            }
            None if self.has_instructions() => Own.cpuid(leaf),
            None => [0; 4],
        }
    }

    fn tsc(&self) -> u64 {
        instruction!(self, tsc(), Own.tsc(), 0)
    }

    unsafe fn read_msr(&self, index: u32) -> u64 {
        // SAFETY: by the contract of this function.
        instruction!(self, read_msr(index), unsafe { Own.read_msr(index) }, 0)
    }

    unsafe fn write_msr(&self, index: u32, value: u64) {
        // SAFETY: by the contract of this function.
        instruction!(self, write_msr(index, value), unsafe { Own.write_msr(index, value) }, ());
    }
}

// SAFETY: the kernel promises of its functions what the trait demands.
unsafe impl HyperV for Kernel {
    fn hypercall_page(&self) -> Option<RawDma> {
        let mut out = NO_DMA;
        let is_there = self.table().hypercall_page?(self.context(), &raw mut out);
        region(&out, NonZeroUsize::MIN).filter(|_| is_there)
    }

    unsafe fn free_hypercall_page(&self, page: RawDma) {
        if let Some(free) = self.table().free_hypercall_page {
            free(self.context(), &raw(&page));
        }
    }
}

// SAFETY: the kernel promises of its function what the trait demands.
unsafe impl Xen for Kernel {
    fn shared_frames(&self) -> Option<RawDma> {
        let mut out = NO_DMA;
        let is_there = self.has_instructions() && self.table().xen_frames?(self.context(), &raw mut out);
        region(&out, NonZeroUsize::new(out.pages)?).filter(|_| is_there)
    }
}

/// Copies `len` bytes of text at `text`, which may be null if `len` is 0.
///
/// # Safety
///
/// The bytes are valid for `'a`.
pub(crate) unsafe fn bytes_at<'a>(text: *const c_char, len: usize) -> &'a [u8] {
    if text.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: by the contract of this function.
    unsafe { core::slice::from_raw_parts(text.cast(), len) }
}
