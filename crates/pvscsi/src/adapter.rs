//! The adapter: set up, reset, and what it says of itself.

use crate::port::{PvscsiPort, Setup, Slots};
use crate::registers::{AdapterCommand, REGISTERS_LEN, Registers};
use crate::rings::{MAX_SEGMENTS, Rings};
use core::fmt;
use core::sync::atomic::Ordering;
use paravirt_device::{Connection, Fault, RingKind, Signalling};
use paravirt_pci::{Bound, DeviceBox, Handlers, InterruptBinding, OpenError, PciSlot, device};
use paravirt_platform::{AllocError, PageArc, Platform, ProcessorId};
use paravirt_scsi::{Limits, Scan, ScsiTransport};

/// Data bytes of one command, at most.
const MAX_BYTES: u32 = 4 << 20;
/// Targets of an adapter that does not say how many it has.
const TARGETS: u16 = 16;
/// The maximum number of targets that is believed.
const MAX_TARGETS: u16 = 256;

/// The configuration page of the controller, and where it is found: its address, its number, and the offsets of its fields.
mod config {
    pub const CONTROLLER_ADDRESS: u64 = 0x2120 << 32;
    pub const CONTROLLER_PAGE: u32 = 0x1958;
    pub const HOST_STATUS: usize = 6;
    pub const SCSI_STATUS: usize = 8;
    pub const TARGETS: usize = 472;
    /// What the statuses are before the page is written: an invalid parameter, and CHECK CONDITION.
    pub const UNWRITTEN: (u16, u16) = (0x1a, 2);
}

/// Options with which an adapter is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct PvscsiOptions {
    /// The maximum number of commands in flight, rounded down to a power of two from 32 to 1024.
    pub queue_size: u16,
}

impl PvscsiOptions {
    /// 256 commands in flight.
    pub const fn new() -> Self {
        Self { queue_size: 256 }
    }

    /// Sets [`queue_size`](Self::queue_size).
    #[must_use]
    pub const fn with_queue_size(self, queue_size: u16) -> Self {
        Self { queue_size, ..self }
    }
}

impl Default for PvscsiOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// An adapter: the transport of a [`Controller`](paravirt_scsi::Controller). It becomes a bus master when the controller opens its port.
pub struct PvscsiAdapter<P: Platform> {
    /// Dropped before the registers, which the handlers use.
    interrupts: InterruptBinding<P>,
    registers: PageArc<P, Registers<P>>,
    /// The rings and the table of commands in flight; `None` while the port is open, and once it did not stop.
    idle: Option<(Rings<P>, Slots<P>)>,
    has_bound: bool,
    entries: usize,
    targets: u16,
}

impl<P: Platform> fmt::Debug for PvscsiAdapter<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PvscsiAdapter")
            .field("entries", &self.entries)
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

/// Opens the adapter in `slot`. Does not wait for the host.
///
/// # Errors
///
/// [`OpenError`]; the function is not in service then.
///
/// # Safety
///
/// No other driver uses the function, and the bridges above forward the addresses in its BARs to it.
pub unsafe fn open<P: Platform>(
    platform: &P,
    slot: &PciSlot<P>,
    options: &PvscsiOptions,
) -> Result<PvscsiAdapter<P>, OpenError> {
    // Old adapters have I/O ports in BAR 0.
    let bar = device::first_memory_bar(slot, REGISTERS_LEN.into()).ok_or(OpenError::Bar)?;
    // SAFETY: by the contract of this function.
    let device = unsafe { device::open(platform, slot, [Some((bar, REGISTERS_LEN)), None]) }?;
    Ok(PvscsiAdapter::new(platform, device, bar, options)?)
}

impl<P: Platform> PvscsiAdapter<P> {
    /// The adapter whose registers are in BAR `bar` of `device`. [`open`] calls this for a PCI function.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform has no memory.
    pub fn new(
        platform: &P,
        device: DeviceBox<P>,
        bar: u8,
        options: &PvscsiOptions,
    ) -> Result<Self, AllocError> {
        let entries = 1usize << options.queue_size.clamp(32, 1024).ilog2();
        let registers = PageArc::new(platform, Registers::new(device, bar))?;
        // What ran before may have left it in service.
        registers.stop();
        let idle = Some((Rings::new(platform, &registers, entries)?, Slots::new(platform, entries as u16)?));
        let interrupts = InterruptBinding::new(platform, 1)?;
        Ok(Self { interrupts, registers, idle, has_bound: false, entries, targets: TARGETS })
    }

    /// Binds the interrupt, once: an adapter that has to be polled is polled after a recovery too.
    fn bind(&mut self) -> Bound {
        if core::mem::replace(&mut self.has_bound, true) {
            return self.interrupts.bound();
        }
        let (registers, device) = (self.registers.as_ptr(), self.registers.device());
        let message = Registers::message_handler(registers);
        let handlers = Handlers {
            count: 1,
            each: &|_| (message, ProcessorId(0)),
            shared: message,
            line: Registers::line_handler(registers),
        };
        // SAFETY: the handlers use the registers, which this value keeps until it has dropped the binding.
        unsafe { self.interrupts.bind(device, &handlers) }
    }

    /// Sets the rings up.
    fn start(&mut self, rings: &Rings<P>) -> Result<Setup, Fault> {
        let registers = &self.registers;
        if registers.is_removed() {
            return Err(Fault::Removed);
        }
        if !registers.start() || !registers.execute(AdapterCommand::SetupRings, rings.setup()) {
            return Err(Fault::Refused);
        }
        let messages = registers.try_execute(AdapterCommand::SetupMessageRing, rings.setup_messages());
        // The status says whether it is enabled.
        let threshold = registers.try_execute(AdapterCommand::SetupCallThreshold, [1]);
        let (has_messages, has_threshold) =
            (messages.is_some(), threshold.is_some_and(|is_enabled| is_enabled != 0));
        Ok(Setup { has_messages, has_threshold, bound: self.bind() })
    }

    /// The number of targets, as the configuration page tells it.
    fn read_targets(&self, rings: &Rings<P>) -> Option<u16> {
        let page = rings.answer();
        let status = |at| page.at(at / 2).load(Ordering::Acquire);
        let (host_status, scsi_status) = config::UNWRITTEN;
        page.at(config::HOST_STATUS / 2).store(host_status, Ordering::Relaxed);
        page.at(config::SCSI_STATUS / 2).store(scsi_status, Ordering::Relaxed);
        let words = [rings.answer_address().0, config::CONTROLLER_ADDRESS];
        let words = words.into_iter().flat_map(|word| [word as u32, (word >> 32) as u32]);
        let is_read =
            self.registers.execute(AdapterCommand::Config, words.chain([config::CONTROLLER_PAGE, 0]));
        let is_good = is_read && status(config::HOST_STATUS) == 0 && status(config::SCSI_STATUS) == 0;
        // A count of 65536 or more is not believed either.
        let (low, high) = (status(config::TARGETS), status(config::TARGETS + 2));
        (is_good && high == 0 && (1..=MAX_TARGETS).contains(&low)).then_some(low)
    }
}

// SAFETY: `close` is `Ok` only if the adapter has been reset, after which it knows no request, and is no bus master any more.
unsafe impl<P: Platform> ScsiTransport for PvscsiAdapter<P> {
    type Port = PvscsiPort<P>;

    fn open(&mut self, index: usize, _ports: usize, place: &mut Option<PvscsiPort<P>>) -> Result<(), Fault> {
        if index != 0 {
            return Ok(());
        }
        if !self.registers.stop() {
            return Err(if self.registers.is_removed() { Fault::Removed } else { Fault::Timeout });
        }
        let (mut rings, mut slots) = self.idle.take().ok_or(Fault::Timeout)?;
        rings.reset();
        slots.reset();
        match self.start(&rings) {
            Ok(setup) => {
                self.targets = self.read_targets(&rings).unwrap_or(TARGETS);
                *place = Some(PvscsiPort::new(self.registers.clone(), rings, slots, &setup));
                Ok(())
            }
            Err(fault) => {
                if self.registers.stop() {
                    self.idle = Some((rings, slots));
                }
                Err(fault)
            }
        }
    }

    fn close(&mut self, port: PvscsiPort<P>) -> Result<(), Fault> {
        let PvscsiPort { rings, slots, registers, .. } = port;
        let is_stopped = registers.stop();
        // One of another adapter is not kept.
        if is_stopped && registers.as_ptr() == self.registers.as_ptr() {
            self.idle = Some((rings, slots));
        }
        if is_stopped { Ok(()) } else { Err(Fault::Timeout) }
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::new(MAX_BYTES, MAX_SEGMENTS as u16);
        let signalling = match self.interrupts.bound() {
            Bound::Messages | Bound::SharedMessage => Signalling::Messages,
            Bound::Line => Signalling::Line,
            Bound::Nothing => Signalling::Polled,
        };
        limits.connection = Connection::new(signalling, RingKind::Pvscsi);
        limits
    }

    fn scan(&self) -> Scan {
        Scan::Targets(self.targets)
    }
}

impl<P: Platform> Drop for PvscsiAdapter<P> {
    fn drop(&mut self) {
        self.interrupts.unbind(self.registers.device());
    }
}
