//! The processors: the device tree reports them, and the firmware starts them.

use super::boot::{self, BootInfo};
use super::{interrupts, sbi, traps};
use crate::arch::processor_list::add;
pub use crate::arch::processor_list::{all, ignored};
use core::arch::asm;
use paravirt_firmware::device_tree::{DeviceTree, Node};

/// The number of interrupts from devices at a processor's own controller. RISC-V privileged architecture §10.1.3
const EXTERNAL: u32 = 9;

/// Returns this processor's id.
pub fn id() -> u64 {
    let id: u64;
    // SAFETY: reads a register, which holds the id since the processor's entry.
    unsafe { asm!("mv {}, tp", out(reg) id, options(nomem, nostack, preserves_flags)) }
    id
}

/// Returns the place of a processor among all.
pub fn place(id: u64) -> Option<usize> {
    all().position(|one| one == id)
}

/// Prepares interrupts on a processor that was started.
pub fn init_this() {
    traps::install();
    interrupts::init_processor();
}

fn is_processor(node: &Node<'_>) -> bool {
    node.property("device_type") == Some(b"cpu\0")
}

/// Reads which processors there are.
pub fn init(info: &BootInfo) {
    let Some(tree) = info.tree() else { return };
    let ids = tree.nodes().filter(|node| is_processor(node) && node.is_enabled());
    ids.filter_map(|node| node.registers().next()).for_each(|(id, _)| add(id));
}

/// Calls `add` for each output of an interrupt controller that interrupts a processor for devices, with the number of the output and
/// the processor's id. Linux, bindings/interrupt-controller/sifive,plic-1.0.0.yaml
pub fn for_each_output(tree: DeviceTree<'_>, controller: Node<'_>, mut add: impl FnMut(usize, u64)) {
    let outputs = controller.property("interrupts-extended").unwrap_or_default();
    for (number, output) in outputs.chunks_exact(8).enumerate() {
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| output[at + byte]));
        if word(4) == EXTERNAL
            && let Some(id) = owner(tree, word(0))
        {
            add(number, id);
        }
    }
}

/// Returns the id of the processor whose own interrupt controller has this phandle: its node is below the processor's.
fn owner(tree: DeviceTree<'_>, phandle: u32) -> Option<u64> {
    let mut last = None;
    for node in tree.nodes() {
        if is_processor(&node) {
            last = node.registers().next().map(|(id, _)| id);
        } else if node.number("phandle") == Some(phandle) {
            return last;
        }
    }
    None
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
        sbi::start_processor(id, boot::processor_entry(), top);
    }
}
