//! The other processors: the MADT reports them, and a trampoline below 1 MiB starts them.

use super::boot::{self, BootInfo};
use super::interrupts::PerProcessor;
use super::{acpi, apic, paging};
use crate::smp::wait_for;
use alloc::boxed::Box;
use core::time::Duration;

/// The preferred address of the trampoline. If firmware uses the page, the first page of RAM in [`LOW`] is used instead.
const TRAMPOLINE: u64 = 0x8000;
/// Conventional memory without its first page.
const LOW: core::ops::Range<u64> = 0x1000..0xa_0000;

/// Returns this processor's APIC id.
pub fn id() -> u64 {
    u64::from(apic::id())
}

/// Iterates over the APIC ids of all processors.
pub fn all() -> impl Iterator<Item = u64> {
    acpi::processors().into_iter().flatten().map(u64::from)
}

/// Returns the number of processors that are not in [`all`].
pub fn ignored() -> usize {
    acpi::ignored_processors()
}

/// Prepares interrupts on a processor that was started.
pub fn init_this() {
    Box::leak(Box::new(PerProcessor::new())).install();
    let _ = apic::init();
}

/// Starts processors.
pub struct Starter {
    /// The address of the trampoline.
    trampoline: u64,
}

impl Starter {
    /// Puts the trampoline into RAM below 1 MiB; `None` if there is none.
    pub fn new(info: &BootInfo) -> Option<Self> {
        let is_ram =
            |page: u64| info.ram().iter().any(|range| range.start <= page && page + 4096 <= range.end);
        let mut pages = core::iter::once(TRAMPOLINE).chain(LOW.step_by(4096));
        let Some(trampoline) = pages.find(|page| is_ram(*page)) else {
            log::warn!("no free RAM below 1 MiB for the trampoline: other processors are not started");
            return None;
        };
        let (code, cr3_at) = boot::trampoline();
        // SAFETY: the page is unused RAM below 1 MiB, mapped one to one.
        unsafe {
            (trampoline as *mut u8).copy_from_nonoverlapping(code.as_ptr(), code.len());
            ((trampoline as usize + cr3_at) as *mut u32).write_unaligned(paging::root() as u32);
        }
        Some(Self { trampoline })
    }

    /// Starts the processor with this APIC id, on the stack that ends at `top`.
    pub fn start(&self, id: u64, top: u64, is_running: &dyn Fn() -> bool) {
        let id = id as u32;
        // SAFETY: one processor is started at a time, and it reads the value while it starts.
        unsafe { (&raw mut boot::processor_stack).write_volatile(top) }
        apic::send_init(id);
        wait_for(Duration::from_millis(10), || false);
        for _ in 0..2 {
            apic::send_startup(id, (self.trampoline >> 12) as u8);
            if wait_for(Duration::from_millis(200), is_running) {
                break;
            }
        }
    }
}
