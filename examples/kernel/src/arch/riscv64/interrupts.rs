//! Interrupts by a PLIC, or by the advanced interrupt architecture (AIA), which takes messages.

use super::boot::BootInfo;
use super::{aia, plic, sbi, time};
use crate::interrupts::count_timer;
use core::arch::asm;
use paravirt_platform::{BindError, InterruptLine, Message, Requester, Vector};

/// The vectors that are bound to devices.
pub const DEVICE_VECTORS: core::ops::Range<usize> = 0..255;
/// Causes of interrupts, and bits of sip. RISC-V privileged architecture §10.1.8
const SOFTWARE: u64 = 1;
const TIMER: u64 = 5;

/// Finds the controller, and prepares it and this processor. Returns what the kernel calls it.
pub fn init(info: &BootInfo) -> Option<&'static str> {
    let tree = info.tree()?;
    let name = if aia::init(tree) {
        "aia"
    } else if plic::init(tree) {
        "plic"
    } else {
        return None;
    };
    init_processor();
    Some(name)
}

/// Prepares this processor's part.
pub fn init_processor() {
    if aia::is_used() { aia::init_processor() } else { plic::init_processor() }
}

/// Handles an interrupt; called by the entry code.
pub fn handle(cause: u64) {
    match cause {
        // SAFETY: ends the interrupt.
        SOFTWARE => unsafe { asm!("csrc sip, {}", in(reg) 1 << SOFTWARE, options(nostack)) },
        TIMER => {
            time::set_timer(None);
            count_timer();
        }
        _ if aia::is_used() => aia::handle(),
        _ => plic::handle(),
    }
}

/// Raises `vector` for a line.
pub fn route(line: InterruptLine, vector: u32) -> Result<(), BindError> {
    if aia::is_used() { aia::route(line, vector) } else { plic::route(line.number, vector) }
}

/// Ends the interrupts of a line.
pub fn mask(line: InterruptLine) {
    if aia::is_used() { aia::mask(line.number) } else { plic::mask(line.number) }
}

/// Wakes the processor with this id from its wait.
pub fn send_wake(id: u64) {
    sbi::send_interrupt(id);
}

/// Returns the message that raises `vector` on the processor with this id; `None` without AIA.
pub fn message(vector: Vector, target: u64, _from: Option<Requester>) -> Option<Message> {
    aia::message(vector.0, target)
}
