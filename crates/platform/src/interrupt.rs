use crate::{ProcessorId, WakerCell};
use core::{fmt, ptr::NonNull, task::Waker};

/// An interrupt vector of the platform: what [`Interrupts::bind`] gave out. Its number means what the platform
/// wants it to mean.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Vector(pub u32);

/// The memory write by which a device raises a message-signalled interrupt (MSI, MSI-X).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Where the device writes.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// How a line signals.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Trigger {
    /// On a change.
    Edge,
    /// As long as it is asserted; it may be shared.
    Level,
}

/// Which level asserts a line.
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
    /// Its number: on x86 the global system interrupt, or the ISA interrupt that a PCI function's interrupt line
    /// register names.
    pub number: u32,
    /// How it signals.
    pub trigger: Trigger,
    /// Which level asserts it.
    pub polarity: Polarity,
}

/// Whether a handler found its device to be the cause.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Handled {
    /// It was.
    Yes,
    /// It was not; on a shared line another handler has to look.
    No,
}

/// A handler as the platform keeps it: two words, called from interrupt context.
#[derive(Copy, Clone, Debug)]
pub struct RawHandler {
    data: NonNull<()>,
    call: unsafe fn(NonNull<()>) -> Handled,
}

// SAFETY: `new` asks for data that may be used from any processor.
unsafe impl Send for RawHandler {}
// SAFETY: `new` asks for data that may be used from several processors at once.
unsafe impl Sync for RawHandler {}

impl RawHandler {
    /// The handler that calls `call` with `data`.
    ///
    /// `call` runs in interrupt context, on any processor, several at once: it takes no lock, does not allocate
    /// or drop, and returns soon.
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

/// Binding of interrupt handlers: what [`Platform::interrupts`](crate::Platform::interrupts) gives.
///
/// The defaults are those of a platform without message-signalled interrupts and lines.
///
/// No method is called in interrupt context, and only [`unbind`](Self::unbind) blocks. The drivers call them while they open and
/// drop devices, possibly under a spin lock that no handler takes.
///
/// # Safety
///
/// A handler is called only while it is bound, and [`unbind`](Self::unbind) returns only when it runs on no
/// processor any more.
pub unsafe trait Interrupts: Send + Sync {
    /// Binds `handler` to a vector of its own on `processor` and returns that vector.
    ///
    /// The platform ends the interrupt at its controller (EOI) itself, after the handler.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the handler is then not bound.
    ///
    /// # Safety
    ///
    /// What `handler` points to lives until [`unbind`](Self::unbind) has returned.
    unsafe fn bind(&self, handler: RawHandler, processor: ProcessorId) -> Result<Vector, BindError>;

    /// Ends the binding: blocks until the handler runs nowhere, and it is not called again. Handlers return soon and take no lock.
    fn unbind(&self, vector: Vector);

    /// The message by which a device raises `vector`; `None` where the platform has no message-signalled
    /// interrupts.
    fn message(&self, vector: Vector) -> Option<Message> {
        let _ = vector;
        None
    }

    /// Routes an interrupt line to `vector`, unmasked. Several vectors may have the same line: each handler is called.
    ///
    /// # Errors
    ///
    /// [`BindError::Unsupported`] where there is no such line.
    fn route(&self, line: InterruptLine, vector: Vector) -> Result<(), BindError> {
        let _ = (line, vector);
        Err(BindError::Unsupported)
    }
}

/// The interrupt half of a queue: it wakes whoever waits, and does nothing else.
#[derive(Debug, Default)]
pub struct InterruptCell {
    waker: WakerCell,
}

impl InterruptCell {
    /// A cell with nobody waiting.
    pub const fn new() -> Self {
        Self { waker: WakerCell::new() }
    }

    /// Registers who is to be woken, in place of who was.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Wakes who is registered. Lock-free.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// The handler that wakes this cell and nothing else.
    pub fn handler(cell: NonNull<Self>) -> RawHandler {
        /// # Safety
        ///
        /// `data` points to an `InterruptCell` that is alive.
        unsafe fn call(data: NonNull<()>) -> Handled {
            // SAFETY: the caller promises that it is a cell that is alive.
            unsafe { data.cast::<InterruptCell>().as_ref() }.wake();
            Handled::Yes
        }
        RawHandler::new(cell, call)
    }
}
