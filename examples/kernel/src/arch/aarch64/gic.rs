//! The interrupt controller: a GICv2, with a frame for messages (v2m) where there is one, or a GICv3, with its translation service (ITS)
//! where there is one. Arm IHI 0048, IHI 0069

use super::{its, processors, time};
use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use paravirt_firmware::device_tree::{DeviceTree, Node};
use paravirt_platform::{Message, Requester};

/// Registers of the distributor.
const CONTROL: u64 = 0x000;
const GROUP: u64 = 0x080;
const SET_ENABLE: u64 = 0x100;
const CLEAR_ENABLE: u64 = 0x180;
const PRIORITY: u64 = 0x400;
const TARGETS: u64 = 0x800;
const CONFIG: u64 = 0xc00;
const SOFTWARE: u64 = 0xf00;
const ROUTER: u64 = 0x6000;
/// In the control register of a GICv3: affinity routing, and both groups.
const V3_CONTROL: u32 = 1 << 4 | 3;
/// Registers of a GICv2's interface of a processor.
const PROCESSOR_CONTROL: u64 = 0x00;
const PROCESSOR_MASK: u64 = 0x04;
const PROCESSOR_ACKNOWLEDGE: u64 = 0x0c;
const PROCESSOR_END: u64 = 0x10;
/// Registers of a GICv3's redistributor: two frames of 64 KiB, or four.
const WAKER: u64 = 0x14;
const TYPE: u64 = 0x08;
const SECOND_FRAME: u64 = 0x1_0000;
const IS_ASLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
const IS_LAST: u64 = 1 << 4;
const HAS_FOUR_FRAMES: u64 = 1 << 1;
/// Registers of the frame for messages. Arm BSA, appendix I
const MESSAGE_TYPE: u64 = 0x008;
const MESSAGE_SET: u64 = 0x040;
/// A priority that is not masked.
const USUAL: u8 = 0xa0;

/// The version: 2, 3, or 0 for no controller.
static VERSION: AtomicU32 = AtomicU32::new(0);
static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
/// The interface of each processor of a GICv2, or the redistributors of a GICv3.
static INTERFACE: AtomicU64 = AtomicU64::new(0);
/// The frame for messages, its first INTID, and how many it has.
static FRAME: AtomicU64 = AtomicU64::new(0);
static FIRST_MESSAGE: AtomicU32 = AtomicU32::new(0);
static MESSAGES: AtomicU32 = AtomicU32::new(0);
/// The bit of each processor of a GICv2, by the lowest byte of its affinity.
static BITS: [AtomicU8; 8] = [const { AtomicU8::new(0) }; 8];

fn read(base: &AtomicU64, offset: u64) -> u32 {
    // SAFETY: the device tree declares the registers there; they are mapped one to one.
    unsafe { ((base.load(Ordering::Relaxed) + offset) as *const u32).read_volatile() }
}

fn write(base: &AtomicU64, offset: u64, value: u32) {
    // SAFETY: as in `read`.
    unsafe { ((base.load(Ordering::Relaxed) + offset) as *mut u32).write_volatile(value) }
}

fn write8(base: &AtomicU64, offset: u64, value: u8) {
    // SAFETY: as in `read`.
    unsafe { ((base.load(Ordering::Relaxed) + offset) as *mut u8).write_volatile(value) }
}

/// A controller, and where its registers are.
pub struct Controller {
    /// 2, or 3.
    pub version: u32,
    pub distributor: u64,
    /// The interface of each processor of a GICv2, or the redistributors of a GICv3.
    pub interface: u64,
    /// The frame for messages of a GICv2.
    pub frame: Option<u64>,
    /// The translation service of a GICv3.
    pub service: Option<u64>,
}

/// Finds the controller that a device tree describes.
pub fn find(tree: DeviceTree<'_>) -> Option<Controller> {
    let registers = |node: Node<'_>| {
        let mut ranges = node.registers().map(|(base, _)| base);
        Some((ranges.next()?, ranges.next()?))
    };
    let find = |names: &[&str]| {
        tree.nodes().find(|node| node.is_enabled() && names.iter().any(|name| node.is_compatible(name)))
    };
    let old = find(&["arm,cortex-a15-gic", "arm,gic-400"]);
    let (version, (distributor, interface)) = match find(&["arm,gic-v3"]) {
        Some(node) => (3, registers(node)?),
        None => (2, registers(old?)?),
    };
    let first = |name| find(&[name]).and_then(|node| node.registers().next()).map(|(base, _)| base);
    let (frame, service) = (first("arm,gic-v2m-frame"), first("arm,gic-v3-its"));
    Some(Controller { version, distributor, interface, frame, service })
}

/// Prepares the controller and this processor. Returns what the kernel calls it.
pub fn init(controller: &Controller) -> &'static str {
    let Controller { version, distributor, interface, frame, service } = *controller;
    DISTRIBUTOR.store(distributor, Ordering::Relaxed);
    INTERFACE.store(interface, Ordering::Relaxed);
    VERSION.store(version, Ordering::Release);
    if let (2, Some(frame)) = (version, frame) {
        FRAME.store(frame, Ordering::Relaxed);
        let kind = read(&FRAME, MESSAGE_TYPE);
        FIRST_MESSAGE.store(kind >> 16 & 0x3ff, Ordering::Relaxed);
        MESSAGES.store(kind & 0x3ff, Ordering::Relaxed);
    }
    write(&DISTRIBUTOR, CONTROL, if version == 3 { V3_CONTROL } else { 1 });
    let has_service = version == 3 && service.is_some_and(its::init);
    init_processor();
    match (version, MESSAGES.load(Ordering::Relaxed)) {
        (2, 0) => "gic-v2",
        (2, _) => "gic-v2m",
        _ if has_service => "gic-v3-its",
        _ => "gic-v3",
    }
}

fn is_v3() -> bool {
    VERSION.load(Ordering::Acquire) == 3
}

/// Prepares this processor's part: the interrupts of the timer and from other processors.
pub fn init_processor() {
    if is_v3() {
        return init_v3_processor();
    }
    let bit = read(&DISTRIBUTOR, TARGETS) as u8;
    BITS[processors::id() as usize & 7].store(bit, Ordering::Relaxed);
    for id in [0, time::INTERRUPT] {
        write8(&DISTRIBUTOR, PRIORITY + u64::from(id), USUAL);
        write(&DISTRIBUTOR, SET_ENABLE, 1 << id);
    }
    write(&INTERFACE, PROCESSOR_MASK, 0xff);
    write(&INTERFACE, PROCESSOR_CONTROL, 1);
}

fn init_v3_processor() {
    // SAFETY: the processor has these registers, since the machine has a GICv3.
    unsafe {
        asm!("msr S3_0_C12_C12_5, {}", "isb", in(reg) 1u64, options(nomem, nostack));
        asm!("msr S3_0_C4_C6_0, {}", in(reg) 0xffu64, options(nomem, nostack));
        asm!("msr S3_0_C12_C12_7, {}", "isb", in(reg) 1u64, options(nomem, nostack));
    }
    let this = processors::id();
    let Some((frame, number)) = redistributor(this) else {
        return log::error!("gic: there is no redistributor for processor {this:#x}");
    };
    let base = AtomicU64::new(frame);
    write(&base, WAKER, read(&base, WAKER) & !IS_ASLEEP);
    while read(&base, WAKER) & CHILDREN_ASLEEP != 0 {
        core::hint::spin_loop();
    }
    let own = AtomicU64::new(frame + SECOND_FRAME);
    write(&own, GROUP, u32::MAX);
    for id in [0, time::INTERRUPT] {
        write8(&own, PRIORITY + u64::from(id), USUAL);
        write(&own, SET_ENABLE, 1 << id);
    }
    its::init_processor(frame, number);
}

/// Returns the address of the redistributor of the processor with this affinity, and the processor's number there.
fn redistributor(affinity: u64) -> Option<(u64, u16)> {
    let mut frame = INTERFACE.load(Ordering::Relaxed);
    loop {
        let base = AtomicU64::new(frame);
        let kind = u64::from(read(&base, TYPE)) | u64::from(read(&base, TYPE + 4)) << 32;
        // The affinity is in four bytes there.
        if kind >> 32 == (affinity & 0xff_ffff | affinity >> 8 & 0xff00_0000) {
            return Some((frame, (kind >> 8) as u16));
        }
        if kind & IS_LAST != 0 {
            return None;
        }
        frame += if kind & HAS_FOUR_FRAMES != 0 { 0x4_0000 } else { 0x2_0000 };
    }
}

/// Takes the pending interrupt of the highest priority; returns its INTID, and what to pass to [`end`].
pub fn acknowledge() -> (u32, u32) {
    if !is_v3() {
        let taken = read(&INTERFACE, PROCESSOR_ACKNOWLEDGE);
        return (taken & 0x3ff, taken);
    }
    let id: u64;
    // SAFETY: as in `init_v3_processor`.
    unsafe { asm!("mrs {}, S3_0_C12_C12_0", "dsb sy", out(reg) id, options(nostack)) }
    (id as u32 & 0xff_ffff, id as u32)
}

/// Ends an interrupt that [`acknowledge`] returned.
pub fn end(taken: u32) {
    if !is_v3() {
        return write(&INTERFACE, PROCESSOR_END, taken);
    }
    // SAFETY: as in `init_v3_processor`.
    unsafe { asm!("msr S3_0_C12_C12_1, {}", "isb", in(reg) u64::from(taken), options(nostack)) }
}

/// Delivers an interrupt of a device to the first processor.
pub fn enable(id: u32, is_edge: bool) {
    enable_for(id, is_edge, crate::smp::id(0));
}

/// Delivers an interrupt of a device to the processor with this affinity.
fn enable_for(id: u32, is_edge: bool, target: u64) {
    let (word, bit) = (u64::from(id / 32 * 4), 1u32 << (id % 32));
    let config = CONFIG + u64::from(id / 16 * 4);
    let edge = 2u32 << (id % 16 * 2);
    let before = read(&DISTRIBUTOR, config) & !edge;
    write(&DISTRIBUTOR, config, before | if is_edge { edge } else { 0 });
    write8(&DISTRIBUTOR, PRIORITY + u64::from(id), USUAL);
    if is_v3() {
        write(&DISTRIBUTOR, GROUP + word, read(&DISTRIBUTOR, GROUP + word) | bit);
        let router = ROUTER + u64::from(id) * 8;
        write(&DISTRIBUTOR, router, target as u32);
        write(&DISTRIBUTOR, router + 4, (target >> 32) as u32);
    } else {
        write8(&DISTRIBUTOR, TARGETS + u64::from(id), BITS[target as usize & 7].load(Ordering::Relaxed));
    }
    write(&DISTRIBUTOR, SET_ENABLE + word, bit);
}

/// Ends the delivery of an interrupt.
pub fn disable(id: u32) {
    write(&DISTRIBUTOR, CLEAR_ENABLE + u64::from(id / 32 * 4), 1 << (id % 32));
}

/// Raises the interrupt `id`, below 16, of the processor with this affinity.
pub fn send(target: u64, id: u32) {
    if !is_v3() {
        let bit = BITS[target as usize & 7].load(Ordering::Relaxed);
        // SAFETY: orders writes: what was written for the other processor is there before it is woken.
        unsafe { asm!("dsb ishst", options(nostack)) }
        return write(&DISTRIBUTOR, SOFTWARE, u32::from(bit) << 16 | id);
    }
    let [first, second, third, ..] = target.to_le_bytes();
    let upper = u64::from(second) << 16 | u64::from(third) << 32 | (target >> 32 & 0xff) << 48;
    let value = upper | u64::from(id) << 24 | u64::from(first >> 4) << 44 | 1 << (first & 15);
    // SAFETY: as in `init_v3_processor`.
    unsafe { asm!("dsb ish", "msr S3_0_C12_C11_5, {}", "isb", in(reg) value, options(nostack)) }
}

/// Returns the vector whose message raises the interrupt `id`, if one does.
pub fn message_vector(id: u32) -> Option<usize> {
    if id >= its::FIRST {
        return Some((id - its::FIRST) as usize);
    }
    let vector = id.checked_sub(FIRST_MESSAGE.load(Ordering::Relaxed))?;
    (vector < MESSAGES.load(Ordering::Relaxed)).then_some(vector as usize)
}

/// Returns the message with which the device `from` raises `vector` on the processor with this affinity.
pub fn message(vector: u32, target: u64, from: Option<Requester>) -> Option<Message> {
    if is_v3() {
        return its::message(vector, redistributor(target)?.1, from?);
    }
    if vector >= MESSAGES.load(Ordering::Relaxed) {
        return None;
    }
    let id = FIRST_MESSAGE.load(Ordering::Relaxed) + vector;
    enable_for(id, true, target);
    Some(Message { address: FRAME.load(Ordering::Relaxed) + MESSAGE_SET, data: id })
}
