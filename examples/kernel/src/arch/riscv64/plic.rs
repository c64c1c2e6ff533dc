//! The platform-level interrupt controller (PLIC), which has lines alone. RISC-V PLIC specification 1.0

use super::processors;
use crate::interrupts::dispatch;
use crate::smp::{self, MAX_PROCESSORS};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use paravirt_firmware::device_tree::DeviceTree;
use paravirt_platform::BindError;

/// Registers, and the distances between those of contexts: a processor's part for one mode.
const PRIORITY: u64 = 0;
const ENABLE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
const THRESHOLD: u64 = 0x20_0000;
const CLAIM: u64 = 0x20_0004;
const CONTEXT_STRIDE: u64 = 0x1000;
/// The lines that can be routed.
const LINES: usize = 256;

/// The address of its registers.
static BASE: AtomicU64 = AtomicU64::new(0);
/// The context of each processor, by its place, plus 1; or 0.
static CONTEXTS: [AtomicU32; MAX_PROCESSORS] = [const { AtomicU32::new(0) }; MAX_PROCESSORS];
/// The vector of each line, plus 1; or 0.
static ROUTED: [AtomicU32; LINES] = [const { AtomicU32::new(0) }; LINES];

fn register(offset: u64) -> *mut u32 {
    (BASE.load(Ordering::Relaxed) + offset) as *mut u32
}

fn read(offset: u64) -> u32 {
    // SAFETY: the device tree declares the registers there.
    unsafe { register(offset).read_volatile() }
}

fn write(offset: u64, value: u32) {
    // SAFETY: as in `read`.
    unsafe { register(offset).write_volatile(value) }
}

/// Finds the controller; returns false if there is none.
pub fn init(tree: DeviceTree<'_>) -> bool {
    let is_one = |name| tree.nodes().find(|node| node.is_enabled() && node.is_compatible(name));
    let Some(node) = is_one("sifive,plic-1.0.0").or_else(|| is_one("riscv,plic0")) else { return false };
    let Some((base, _)) = node.registers().next() else { return false };
    BASE.store(base, Ordering::Relaxed);
    processors::for_each_output(tree, node, |context, id| {
        if let Some(slot) = processors::place(id).and_then(|place| CONTEXTS.get(place)) {
            slot.store(context as u32 + 1, Ordering::Relaxed);
        }
    });
    true
}

/// The context of the processor with this id.
fn context(id: u64) -> Option<u64> {
    let slot = CONTEXTS.get(processors::place(id)?)?;
    slot.load(Ordering::Relaxed).checked_sub(1).map(u64::from)
}

/// Takes interrupts of every priority on this processor.
pub fn init_processor() {
    if let Some(context) = context(processors::id()) {
        write(THRESHOLD + context * CONTEXT_STRIDE, 0);
    }
}

/// Handles the pending interrupts.
pub fn handle() {
    let Some(context) = context(processors::id()) else { return };
    let claim = CLAIM + context * CONTEXT_STRIDE;
    loop {
        let line = read(claim);
        if line == 0 {
            return;
        }
        let vector = ROUTED.get(line as usize).and_then(|slot| slot.load(Ordering::Acquire).checked_sub(1));
        vector.into_iter().for_each(|vector| dispatch(vector as usize));
        write(claim, line);
    }
}

/// Delivers a line to the first processor.
fn enable(line: u32) {
    let Some(context) = context(smp::id(0)) else { return };
    let (at, bit) = (ENABLE + context * ENABLE_STRIDE + u64::from(line / 32 * 4), 1 << (line % 32));
    write(at, read(at) | bit);
    write(PRIORITY + u64::from(line) * 4, 1);
}

/// Raises `vector` for a line.
pub fn route(line: u32, vector: u32) -> Result<(), BindError> {
    let slot = ROUTED.get(line as usize).ok_or(BindError::Unsupported)?;
    slot.store(vector + 1, Ordering::Release);
    enable(line);
    Ok(())
}

/// Ends the interrupts of a line. It stays enabled, without a priority: the end of one that is being handled would be ignored otherwise.
pub fn mask(line: u32) {
    write(PRIORITY + u64::from(line) * 4, 0);
    ROUTED.get(line as usize).into_iter().for_each(|slot| slot.store(0, Ordering::Release));
}
