use crate::{ProcessorId, WakerCell};
use core::{fmt, ptr::NonNull, task::Waker};

/// An interrupt vector of the platform, allocated by [`Interrupts::bind`]. The platform defines the meaning of the number.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Vector(pub u32);

/// The memory write by which a device raises a message-signalled interrupt (MSI, MSI-X).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// The address that the device writes.
    pub address: u64,
    /// The value that it writes.
    pub data: u32,
}

/// The device that sends a message, as an interrupt controller or an IOMMU tells devices apart.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Requester {
    /// The PCI segment group.
    pub segment: u16,
    /// The requester id: bus, device and function number, from the upper byte down. PCI Express 6.0 §2.2.6.2
    pub id: u16,
}

/// The trigger mode of an interrupt line.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Trigger {
    /// Edge-triggered.
    Edge,
    /// Level-triggered; the line may be shared.
    Level,
}

/// The polarity of an interrupt line.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Polarity {
    /// Asserted when high.
    High,
    /// Asserted when low.
    Low,
}

/// A legacy interrupt line.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct InterruptLine {
    /// The number: on x86 the global system interrupt, or the ISA interrupt in a PCI function's interrupt line register; the INTID of a GIC;
    /// that of another controller as the device tree has it.
    pub number: u32,
    /// The trigger mode.
    pub trigger: Trigger,
    /// The polarity.
    pub polarity: Polarity,
}

/// Whether the device of a handler raised the interrupt.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Handled {
    /// The device raised it.
    Yes,
    /// The device did not raise it; on a shared line another handler has to check its device.
    No,
}

/// An interrupt handler as the platform stores it: two words, called in interrupt context.
#[derive(Copy, Clone, Debug)]
pub struct RawHandler {
    data: NonNull<()>,
    call: unsafe fn(NonNull<()>) -> Handled,
}

// SAFETY: `new` requires data that may be used from any processor.
unsafe impl Send for RawHandler {}
// SAFETY: `new` requires data that may be used from several processors at once.
unsafe impl Sync for RawHandler {}

impl RawHandler {
    /// Creates a handler that calls `call` with `data`.
    ///
    /// `call` runs in interrupt context, on any processor, on several at once: it takes no lock, does not allocate or drop, and returns
    /// quickly.
    pub fn new<T: Sync>(data: NonNull<T>, call: unsafe fn(NonNull<()>) -> Handled) -> Self {
        Self { data: data.cast(), call }
    }

    /// Runs the handler.
    ///
    /// # Safety
    ///
    /// The handler is bound: between [`Interrupts::bind`] and the return of [`Interrupts::unbind`].
    pub unsafe fn call(&self) -> Handled {
        // SAFETY: the data is alive while the handler is bound, by the contract of `bind`.
        unsafe { (self.call)(self.data) }
    }
}

/// Why an interrupt could not be bound or routed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum BindError {
    /// The platform has no interrupts of this kind; the driver polls.
    Unsupported,
    /// There is no free vector; the driver shares one or polls.
    Exhausted,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "no interrupt of this kind",
            Self::Exhausted => "no free interrupt vector",
        })
    }
}

impl core::error::Error for BindError {}

/// Binds interrupt handlers; [`Platform::interrupts`](crate::Platform::interrupts) returns it.
///
/// The default methods are those of a platform without message-signalled interrupts and lines.
///
/// No method is called in interrupt context, and only [`unbind`](Self::unbind) blocks. The drivers call them while they open and
/// drop devices, possibly under a spin lock that no handler takes.
///
/// # Safety
///
/// A handler is called only while it is bound, and [`unbind`](Self::unbind) returns only when it no longer runs on any processor.
pub unsafe trait Interrupts: Send + Sync {
    /// Binds `handler` to an unused vector on `processor` and returns the vector.
    ///
    /// The platform sends the EOI to its interrupt controller after the handler has returned.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the handler is then not bound.
    ///
    /// # Safety
    ///
    /// What `handler` points to lives until [`unbind`](Self::unbind) has returned.
    unsafe fn bind(&self, handler: RawHandler, processor: ProcessorId) -> Result<Vector, BindError>;

    /// Unbinds the handler: blocks until it runs on no processor, and it is not called again. Handlers return soon and take no lock.
    fn unbind(&self, vector: Vector);

    /// Returns the message with which a device raises `vector`; `None` if it has none, and the device is to use its line. `from` is the
    /// device, by which an interrupt translation service or interrupt remapping finds what the message means; `None` if the device is on no
    /// PCI bus.
    fn message(&self, vector: Vector, from: Option<Requester>) -> Option<Message> {
        let _ = (vector, from);
        None
    }

    /// Returns the vector's number in the interrupt descriptor table (16 to 255), on 64-bit ARM the interrupt's number at the GIC, by which
    /// a hypervisor raises it itself: Hyper-V's synthetic interrupt sources, Xen's event channels. `None` if it has none: what the
    /// hypervisor signals is then polled.
    fn descriptor(&self, vector: Vector) -> Option<u8> {
        let _ = vector;
        None
    }

    /// Returns how many entries of the MSI-X table of PCI function `from` the kernel has programmed and enabled itself, as kernels do that
    /// have a PCI layer of their own: the drivers then write neither the table nor the control register, and bind handlers to entries by
    /// [`bind_entry`](Self::bind_entry). `None`, as by default, leaves both to the drivers, which ask for
    /// [`message`](Self::message)s.
    fn own_entries(&self, from: Requester) -> Option<u16> {
        let _ = from;
        None
    }

    /// Binds `handler` to entry `entry` of the MSI-X table of PCI function `from`, less than what [`own_entries`](Self::own_entries)
    /// returned for it, and returns a vector to unbind it by. `processor` is where the interrupt would best
    /// be handled.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the handler is then not bound.
    ///
    /// # Safety
    ///
    /// As for [`bind`](Self::bind).
    unsafe fn bind_entry(
        &self,
        from: Requester,
        entry: u16,
        handler: RawHandler,
        processor: ProcessorId,
    ) -> Result<Vector, BindError> {
        let _ = (from, entry, handler, processor);
        Err(BindError::Unsupported)
    }

    /// Returns the number of vectors that can still be bound; [`u32::MAX`] if the platform does not count them.
    ///
    /// A device takes a vector for each queue only if at least as many stay free, so that the first devices with many queues do not leave
    /// the others without interrupts.
    fn free_vectors(&self) -> u32 {
        u32::MAX
    }

    /// Routes an interrupt line to `vector` and unmasks it. Several vectors may share a line: each handler is called.
    ///
    /// # Errors
    ///
    /// [`BindError::Unsupported`] if there is no such line.
    fn route(&self, line: InterruptLine, vector: Vector) -> Result<(), BindError> {
        let _ = (line, vector);
        Err(BindError::Unsupported)
    }
}

/// The interrupt handler of a queue: it wakes the registered task, and does nothing else.
#[derive(Debug, Default)]
pub struct InterruptCell {
    waker: WakerCell,
}

impl InterruptCell {
    /// Creates a cell without a registered task.
    pub const fn new() -> Self {
        Self { waker: WakerCell::new() }
    }

    /// Registers the task to wake, replacing the previous one.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Wakes the registered task. Lock-free.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Returns the handler that wakes this cell.
    pub fn handler(cell: NonNull<Self>) -> RawHandler {
        /// # Safety
        ///
        /// `data` points to a live `InterruptCell`.
        unsafe fn call(data: NonNull<()>) -> Handled {
            // SAFETY: the caller guarantees that `data` points to a live cell.
            unsafe { data.cast::<InterruptCell>().as_ref() }.wake();
            Handled::Yes
        }
        RawHandler::new(cell, call)
    }
}
