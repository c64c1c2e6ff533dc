//! Events that a host reports by ACPI: the power button, and devices that come and go.

use crate::{Firmware, Physical, with_table};
use core::ops::ControlFlow;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};
use core::task::Waker;
use paravirt_firmware::aml::{self, EventRegister};
use paravirt_firmware::fadt::{self, EventRegisters};
use paravirt_platform::{
    Handled, InterruptLine, MmioRegion, PageArc, Platform, Polarity, ProcessorId, RawHandler, Trigger,
    Vector, WakerCell,
};

/// Events that have not been taken.
pub(crate) const POWER_BUTTON: u8 = 1 << 0;
pub(crate) const HOT_PLUG: u8 = 1 << 1;

/// The power button in the PM1 registers. ACPI 6.5 §4.8.3.1.1
const PM1_POWER_BUTTON: u16 = 1 << 8;
/// The general-purpose event by which QEMU reports hot plug of PCI devices. QEMU, docs/specs/acpi_pci_hotplug
const GPE_HOT_PLUG: u16 = 1 << 1;

/// The registers that say what happened.
enum Source<P: Platform> {
    /// Fixed hardware, in I/O space; with the event of hot plug if AML declares registers for it.
    Fixed { platform: P, registers: EventRegisters, has_hot_plug: bool },
    /// A generic event device of QEMU: 32 bits, cleared by reading.
    Qemu(MmioRegion<P>),
    /// One of Cloud Hypervisor: 8 bits, cleared by reading.
    CloudHypervisor(MmioRegion<P>),
}

/// What the interrupt handler uses.
struct Shared<P: Platform> {
    source: Source<P>,
    pending: AtomicU8,
    cell: WakerCell,
}

impl<P: Platform> Shared<P> {
    /// Reads and clears the registers, and records what happened. Lock-free.
    fn collect(&self) -> Handled {
        let (has_button, has_plug) = match &self.source {
            Source::Fixed { platform, registers, has_hot_plug } => {
                let ports = platform.port_io();
                let take = |port: u16, bit: u16| {
                    // SAFETY: the FADT describes status registers there, whose bits are cleared by writing ones.
                    unsafe {
                        let is_set = ports.in16(port) & bit != 0;
                        if is_set {
                            ports.out16(port, bit);
                        }
                        is_set
                    }
                };
                let gpe0 = registers.gpe0.filter(|_| *has_hot_plug);
                (
                    registers.has_power_button && take(registers.pm1.0, PM1_POWER_BUTTON),
                    gpe0.is_some_and(|(port, _)| take(port, GPE_HOT_PLUG)),
                )
            }
            Source::Qemu(register) => {
                let events = register.read32(0);
                (events & 1 << 1 != 0, events & 1 << 4 != 0)
            }
            Source::CloudHypervisor(register) => {
                let events = register.read8(0);
                (events & 1 << 3 != 0, events & 1 << 2 != 0)
            }
        };
        let events = if has_button { POWER_BUTTON } else { 0 } | if has_plug { HOT_PLUG } else { 0 };
        if events == 0 {
            return Handled::No;
        }
        self.pending.fetch_or(events, Ordering::AcqRel);
        self.cell.wake();
        Handled::Yes
    }

    /// Switches the events on or off that are handled here, and all others off: nothing would clear one that firmware or an earlier kernel
    /// left on, and its interrupt would not end.
    fn set_enabled(&self, is_enabled: bool) {
        let Source::Fixed { platform, registers, has_hot_plug } = &self.source else { return };
        let set = |(port, half): (u16, u16), bit: u16| {
            for word in 0..half / 2 {
                let value = if word == 0 && is_enabled { bit } else { 0 };
                let enable = port.wrapping_add(half).wrapping_add(word.wrapping_mul(2));
                // SAFETY: the FADT describes enable registers there; events affect no memory.
                unsafe { platform.port_io().out16(enable, value) };
            }
        };
        set(registers.pm1, if registers.has_power_button { PM1_POWER_BUTTON } else { 0 });
        let plug = if *has_hot_plug { GPE_HOT_PLUG } else { 0 };
        registers.gpe0.into_iter().for_each(|block| set(block, plug));
    }

    /// Whether the platform has the ports of fixed hardware.
    fn is_there(&self) -> bool {
        match &self.source {
            // SAFETY: the FADT describes a status register there; reading it has no effect.
            Source::Fixed { platform, registers, .. } => unsafe {
                platform.port_io().in16(registers.pm1.0) != u16::MAX
            },
            Source::Qemu(_) | Source::CloudHypervisor(_) => true,
        }
    }
}

/// # Safety
///
/// `data` points to a live `Shared` of this platform.
unsafe fn on_interrupt<P: Platform>(data: NonNull<()>) -> Handled {
    // SAFETY: by the contract of this function.
    unsafe { data.cast::<Shared<P>>().as_ref() }.collect()
}

/// The events of the machine.
pub(crate) struct AcpiEvents<P: Platform> {
    platform: P,
    shared: PageArc<P, Shared<P>>,
    vector: Option<Vector>,
}

impl<P: Platform> AcpiEvents<P> {
    /// Finds the event registers that ACPI describes, and switches their events and their interrupt on; `None` if there are none that
    /// are known here.
    pub fn open(platform: &P, memory: &Physical<'_, P>, firmware: &Firmware<'_>) -> Option<Self> {
        let (mut fixed, mut device, mut has_hot_plug) = (None, None, false);
        firmware.acpi_tables(memory, |table| {
            // A table that cannot be read has no events.
            let _ = match &table.signature {
                b"FACP" => with_table(memory, &table, |bytes| fixed = fixed.or(fadt::event_registers(bytes))),
                b"DSDT" | b"SSDT" => with_table(memory, &table, |bytes| {
                    has_hot_plug |= aml::region(bytes, aml::HOT_PLUG_REGION).is_some();
                    device = device.or_else(|| aml::event_device(bytes));
                }),
                _ => Ok(()),
            };
            ControlFlow::Continue(())
        });
        // SAFETY: AML describes the event register there.
        let map = |base, len| unsafe { MmioRegion::map(platform, base, len) }.ok();
        let (source, line) = match (fixed, device) {
            (_, Some(device)) => {
                let source = match device.register {
                    EventRegister::Qemu(base) => Source::Qemu(map(base, 4)?),
                    EventRegister::CloudHypervisor(base) => Source::CloudHypervisor(map(base, 1)?),
                    _ => return None,
                };
                (source, device.line)
            }
            (Some(registers), None) => {
                let (number, trigger) = (registers.interrupt, Trigger::Level);
                let line = InterruptLine { number, trigger, polarity: Polarity::Low };
                (Source::Fixed { platform: platform.clone(), registers, has_hot_plug }, line)
            }
            (None, None) => return None,
        };
        let shared = Shared { source, pending: AtomicU8::new(0), cell: WakerCell::new() };
        if !shared.is_there() {
            return None;
        }
        if matches!(shared.source, Source::Fixed { .. }) {
            // What is left from before this boot is no news.
            shared.collect();
            shared.pending.store(0, Ordering::Relaxed);
        }
        let shared = PageArc::new(platform, shared).ok()?;
        let mut this = Self { platform: platform.clone(), shared, vector: None };
        this.bind(line);
        this.shared.set_enabled(true);
        // An edge that came before the interrupt was bound does not come again.
        this.shared.collect();
        Some(this)
    }

    fn bind(&mut self, line: InterruptLine) {
        let interrupts = self.platform.interrupts();
        let handler = RawHandler::new(self.shared.as_ptr(), on_interrupt::<P>);
        // SAFETY: the handler's data lives until `drop` has unbound it.
        let Ok(vector) = (unsafe { interrupts.bind(handler, ProcessorId(0)) }) else { return };
        match interrupts.route(line, vector) {
            Ok(()) => self.vector = Some(vector),
            Err(_) => interrupts.unbind(vector),
        }
    }

    /// Takes the events in `which` that have happened.
    pub fn take(&self, which: u8) -> bool {
        if self.vector.is_none() {
            self.shared.collect();
        }
        self.shared.pending.fetch_and(!which, Ordering::AcqRel) & which != 0
    }

    /// Returns whether an event in `which` has happened that was not taken.
    pub fn is_pending(&self, which: u8) -> bool {
        self.shared.pending.load(Ordering::Acquire) & which != 0
    }

    /// Returns whether an interrupt wakes the registered task.
    pub fn is_signalled(&self) -> bool {
        self.vector.is_some()
    }

    pub fn register(&self, waker: &Waker) {
        self.shared.cell.register(waker);
    }
}

impl<P: Platform> Drop for AcpiEvents<P> {
    fn drop(&mut self) {
        self.shared.set_enabled(false);
        self.vector.take().into_iter().for_each(|vector| self.platform.interrupts().unbind(vector));
    }
}
