//! The other processors: the device tree or ACPI reports them, and PSCI starts them.

use super::boot::{self, BootInfo};
use super::{exceptions, gic, power};
use crate::arch::processor_list;
pub use crate::arch::processor_list::{all, ignored};
use core::arch::asm;
use paravirt_firmware::device_tree::DeviceTree;

/// The affinity fields of MPIDR.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Returns this processor's affinity.
pub fn id() -> u64 {
    let id: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) id, options(nomem, nostack)) }
    id & AFFINITY
}

/// Adds a processor with this affinity, which firmware reports.
pub fn add(id: u64) {
    processor_list::add(id & AFFINITY);
}

/// Adds the processors of a device tree.
pub fn add_all(tree: DeviceTree<'_>) {
    let nodes = tree.nodes().filter(|node| node.property("device_type") == Some(b"cpu\0"));
    nodes.filter_map(|node| node.registers().next()).for_each(|(id, _)| add(id));
}

/// Prepares interrupts on a processor that was started.
pub fn init_this() {
    exceptions::install();
    gic::init_processor();
}

/// Starts processors.
pub struct Starter;

impl Starter {
    /// The processors are known already.
    pub fn new(_info: &BootInfo) -> Option<Self> {
        Some(Self)
    }

    /// Starts a processor, on the stack that ends at `top`.
    pub fn start(&self, id: u64, top: u64, _is_running: &dyn Fn() -> bool) {
        power::start_processor(id, boot::processor_entry(), top);
    }
}
