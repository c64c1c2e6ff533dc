//! The advanced interrupt architecture: each processor has a file of interrupts that messages raise (IMSIC), and a controller turns lines
//! into such messages (APLIC). RISC-V AIA specification 1.0
//!
//! Vector n is interrupt n + 1 of a file.

use super::processors;
use crate::interrupts::dispatch;
use crate::smp::{self, MAX_PROCESSORS};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use paravirt_firmware::device_tree::{DeviceTree, Node};
use paravirt_platform::{BindError, InterruptLine, Message, Polarity, Trigger};

/// Registers of a file that are reached through siselect and sireg, and the values that are written there: messages are delivered, of
/// every priority. §3.8
const DELIVERY: u64 = 0x70;
const THRESHOLD: u64 = 0x72;
const ENABLE: u64 = 0xc0;
/// Interrupts of a file: 64 for each pair of registers above.
const FILE_INTERRUPTS: u64 = 256;
/// Registers of the controller of lines. §4.5
const CONTROL: u64 = 0x0000;
const SOURCE: u64 = 0x0004;
const SET_PENDING: u64 = 0x1cdc;
const SET_ENABLED: u64 = 0x1edc;
const CLEAR_ENABLED: u64 = 0x1fdc;
const TARGET: u64 = 0x3004;
/// In its control register: interrupts are delivered, as messages.
const DELIVER_MESSAGES: u32 = 1 << 8 | 1 << 2;
/// Kinds of lines.
const RISING: u32 = 4;
const FALLING: u32 = 5;
const HIGH: u32 = 6;
const LOW: u32 = 7;
const LINES: u32 = 1024;

/// The address of each processor's file, by its place, and the file's number; 0 for none.
static FILES: [AtomicU64; MAX_PROCESSORS] = [const { AtomicU64::new(0) }; MAX_PROCESSORS];
static NUMBERS: [AtomicU32; MAX_PROCESSORS] = [const { AtomicU32::new(0) }; MAX_PROCESSORS];
/// How many interrupts a file has; 0 without AIA.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
/// The registers of the controller of lines; 0 for none.
static CONTROLLER: AtomicU64 = AtomicU64::new(0);
/// The line for which each vector is raised as long as the line is, or 0.
static LEVELS: [AtomicU32; FILE_INTERRUPTS as usize] =
    [const { AtomicU32::new(0) }; FILE_INTERRUPTS as usize];

fn write(offset: u64, value: u32) {
    let base = CONTROLLER.load(Ordering::Relaxed);
    if base != 0 {
        // SAFETY: the device tree declares the registers there.
        unsafe { ((base + offset) as *mut u32).write_volatile(value) }
    }
}

/// Writes a register of this processor's file.
fn write_file(register: u64, value: u64) {
    // SAFETY: the processor has these registers, siselect and sireg, since the machine has a file for it.
    unsafe {
        asm!("csrw 0x150, {}", "csrw 0x151, {}", in(reg) register, in(reg) value, options(nomem, nostack));
    }
}

/// Finds the files, and the controller of lines; returns false if there are none.
pub fn init(tree: DeviceTree<'_>) -> bool {
    let mut is_there = false;
    let files = tree.nodes().filter(|node| node.is_enabled() && node.is_compatible("riscv,imsics"));
    for node in files {
        // The files of another mode of the processors have no such output.
        processors::for_each_output(tree, node, |number, id| {
            let place = processors::place(id);
            if let (Some(place), Some(address)) = (place, file(node, number as u64)) {
                FILES[place].store(address, Ordering::Relaxed);
                NUMBERS[place].store(number as u32, Ordering::Relaxed);
                is_there = true;
            }
        });
        if is_there {
            let known = node.number("riscv,num-ids").unwrap_or(63);
            INTERRUPTS.store(known.min(FILE_INTERRUPTS as u32 - 1), Ordering::Relaxed);
            init_lines(tree, node.number("phandle"));
            return true;
        }
    }
    false
}

/// Returns the address of a file. Linux, bindings/interrupt-controller/riscv,imsics.yaml
fn file(node: Node<'_>, mut number: u64) -> Option<u64> {
    let len = 4096u64 << node.number("riscv,guest-index-bits").unwrap_or(0).min(16);
    for (base, all) in node.registers() {
        if number < all / len {
            return Some(base + number * len);
        }
        number -= all / len;
    }
    None
}

/// Finds the controller whose messages go to the files, and switches it on.
fn init_lines(tree: DeviceTree<'_>, files: Option<u32>) {
    let mut all = tree.nodes().filter(|node| node.is_enabled() && node.is_compatible("riscv,aplic"));
    let found = all.find(|node| files.is_some() && node.number("msi-parent") == files);
    if let Some((base, _)) = found.and_then(|node| node.registers().next()) {
        CONTROLLER.store(base, Ordering::Relaxed);
        write(CONTROL, DELIVER_MESSAGES);
    }
}

/// Returns whether the machine has files.
pub fn is_used() -> bool {
    INTERRUPTS.load(Ordering::Relaxed) != 0
}

/// Switches this processor's file on, with all its interrupts.
pub fn init_processor() {
    for word in 0..FILE_INTERRUPTS / 64 {
        write_file(ENABLE + word * 2, u64::MAX);
    }
    write_file(THRESHOLD, 0);
    write_file(DELIVERY, 1);
}

/// Handles the pending interrupts.
pub fn handle() {
    loop {
        let top: u64;
        // SAFETY: takes the interrupt of the highest priority from stopei.
        unsafe { asm!("csrrw {}, 0x15c, zero", out(reg) top, options(nostack)) }
        let Some(vector) = (top as usize >> 16).checked_sub(1) else { return };
        dispatch(vector);
        let line = LEVELS.get(vector).map_or(0, |line| line.load(Ordering::Acquire));
        if line != 0 {
            // Raised again if the line still is. §4.9.2
            write(SET_PENDING, line);
        }
    }
}

/// Raises `vector` for a line, on the first processor.
pub fn route(line: InterruptLine, vector: u32) -> Result<(), BindError> {
    let place = processors::place(smp::id(0)).ok_or(BindError::Unsupported)?;
    let (has_lines, number) = (CONTROLLER.load(Ordering::Relaxed) != 0, line.number);
    let is_line = (1..LINES).contains(&number) && vector < INTERRUPTS.load(Ordering::Relaxed);
    let level = LEVELS.get(vector as usize).filter(|_| has_lines && is_line).ok_or(BindError::Unsupported)?;
    let (kind, raised) = match (line.trigger, line.polarity) {
        (Trigger::Edge, Polarity::High) => (RISING, 0),
        (Trigger::Edge, Polarity::Low) => (FALLING, 0),
        (Trigger::Level, Polarity::High) => (HIGH, number),
        (Trigger::Level, Polarity::Low) => (LOW, number),
    };
    level.store(raised, Ordering::Release);
    let at = u64::from(number - 1) * 4;
    write(SOURCE + at, kind);
    write(TARGET + at, NUMBERS[place].load(Ordering::Relaxed) << 18 | (vector + 1));
    write(SET_ENABLED, number);
    // A line that was raised before it was routed.
    write(SET_PENDING, raised);
    Ok(())
}

/// Ends the interrupts of a line.
pub fn mask(line: u32) {
    write(CLEAR_ENABLED, line);
    LEVELS
        .iter()
        .filter(|level| level.load(Ordering::Relaxed) == line)
        .for_each(|level| level.store(0, Ordering::Release));
}

/// Returns the message that raises `vector` on the processor with this id.
pub fn message(vector: u32, target: u64) -> Option<Message> {
    let address = FILES.get(processors::place(target)?)?.load(Ordering::Relaxed);
    let is_there = address != 0 && vector < INTERRUPTS.load(Ordering::Relaxed);
    is_there.then_some(Message { address, data: vector + 1 })
}
