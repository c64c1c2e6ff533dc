//! The translation service of a GICv3 (ITS): it finds the interrupt that a message means by the device that sends it. Arm IHI 0069 §5, §12.19

use crate::arch::cpu::without_interrupts;
use crate::memory;
use crate::smp::MAX_PROCESSORS;
use core::arch::asm;
use core::num::NonZeroUsize;
use paravirt_platform::{Message, PAGE_SIZE, Requester};
use spin::Mutex;

/// The first INTID of its interrupts, and how many bits all INTIDs have.
pub const FIRST: u32 = 8192;
const ID_BITS: u32 = 14;
/// The vectors that a device can raise, by the value of its message.
const EVENT_BITS: u64 = 8;
/// Registers of the service.
const CONTROL: u64 = 0x00;
const TYPE: u64 = 0x08;
const COMMANDS: u64 = 0x80;
const WRITE: u64 = 0x88;
const READ: u64 = 0x90;
const TABLES: u64 = 0x100;
/// Where devices write their messages.
const TRANSLATER: u64 = 0x1_0040;
/// In a table's register: which kind of table it is.
const DEVICES: u64 = 1;
const COLLECTIONS: u64 = 4;
/// In registers that name memory: it is valid, cached, and shared by processors.
const VALID: u64 = 1 << 63;
const CACHED: u64 = 7 << 59 | 1 << 10;
/// Registers of a redistributor, and their kind of memory.
const REDISTRIBUTOR_CONTROL: u64 = 0x00;
const CONFIGURATION: u64 = 0x70;
const PENDING: u64 = 0x78;
const REDISTRIBUTOR_CACHED: u64 = 7 << 7 | 1 << 10;
const PENDING_IS_ZERO: u64 = 1 << 62;
/// In the configuration of an interrupt: a priority that is not masked, a bit that is always set, and that it is enabled.
const ENABLED: u8 = 0xa3;
/// Commands.
const SYNC: u64 = 0x05;
const MAP_DEVICE: u64 = 0x08;
const MAP_COLLECTION: u64 = 0x09;
const MAP_EVENT: u64 = 0x0a;
const INVALIDATE: u64 = 0x0c;
const DISCARD: u64 = 0x0f;
const COMMAND_LEN: u64 = 32;
/// Memory that the service reads is aligned to this.
const ALIGN: u64 = 64 << 10;
const MAX_DEVICES: usize = 64;
/// The identifiers of devices have as many bits as requester ids.
const DEVICE_ENTRIES: u64 = 1 << 16;

/// The service.
struct Service {
    base: u64,
    /// The queue of commands, one page.
    queue: u64,
    next: u64,
    /// The configuration of the interrupts.
    configuration: u64,
    /// Whether processors are named by the address of their redistributor, not by their number.
    by_address: bool,
    /// The length of an entry of a device's table.
    entry_len: u64,
    /// The devices that have a table, and their mapped events, a bit each.
    devices: [Option<(u16, [u64; 4])>; MAX_DEVICES],
    /// The redistributors, by the processor's number.
    redistributors: [u64; MAX_PROCESSORS],
}

static SERVICE: Mutex<Option<Service>> = Mutex::new(None);

fn read(at: u64) -> u64 {
    // SAFETY: the device tree declares the registers there, which are mapped one to one.
    unsafe { (at as *const u64).read_volatile() }
}

fn write(at: u64, value: u64) {
    // SAFETY: as in `read`; the memory that is named is never freed.
    unsafe { (at as *mut u64).write_volatile(value) }
}

/// Sets the lowest bit of a control register, which has 32 bits.
fn enable(at: u64) {
    // SAFETY: as in `write`.
    unsafe { (at as *mut u32).write_volatile(1) }
}

fn barrier() {
    // SAFETY: orders accesses.
    unsafe { asm!("dsb sy", options(nostack)) }
}

/// Allocates zeroed memory that is never freed.
fn allocate(len: u64) -> Option<u64> {
    let pages = NonZeroUsize::new((len + ALIGN) as usize / PAGE_SIZE)?;
    Some(memory::alloc(pages).ok()?.bus.0.next_multiple_of(ALIGN))
}

/// Prepares the service; returns false if there is no memory for it.
pub fn init(base: u64) -> bool {
    let prepare = || {
        let (queue, configuration) = (allocate(PAGE_SIZE as u64)?, allocate(u64::from(FIRST))?);
        let kind = read(base + TYPE);
        for table in (0..8).map(|index| base + TABLES + index * 8) {
            let has = read(table);
            let entry_len = (has >> 48 & 31) + 1;
            let len = match has >> 56 & 7 {
                DEVICES => DEVICE_ENTRIES.min(2 << (kind >> 13 & 31)) * entry_len,
                COLLECTIONS => PAGE_SIZE as u64,
                _ => continue,
            };
            let pages = len.div_ceil(PAGE_SIZE as u64).min(256);
            write(table, VALID | CACHED | allocate(pages * PAGE_SIZE as u64)? | (pages - 1));
        }
        write(base + COMMANDS, VALID | CACHED | queue);
        write(base + WRITE, 0);
        barrier();
        enable(base + CONTROL);
        Some(Service {
            base,
            queue,
            next: 0,
            configuration,
            by_address: kind & 1 << 19 != 0,
            entry_len: (kind >> 4 & 15) + 1,
            devices: [None; MAX_DEVICES],
            redistributors: [0; MAX_PROCESSORS],
        })
    };
    let service = prepare();
    let is_there = service.is_some();
    *SERVICE.lock() = service;
    is_there
}

/// Prepares the part of the processor with this number, whose redistributor is at `frame`.
pub fn init_processor(frame: u64, number: u16) {
    without_interrupts(|| {
        let mut locked = SERVICE.lock();
        let Some(service) = &mut *locked else { return };
        let Some(pending) = allocate(ALIGN) else { return };
        write(frame + CONFIGURATION, service.configuration | REDISTRIBUTOR_CACHED | u64::from(ID_BITS - 1));
        write(frame + PENDING, pending | REDISTRIBUTOR_CACHED | PENDING_IS_ZERO);
        barrier();
        enable(frame + REDISTRIBUTOR_CONTROL);
        if let Some(slot) = service.redistributors.get_mut(usize::from(number)) {
            *slot = frame;
        }
        let target = service.target(number);
        service.command([MAP_COLLECTION, 0, VALID | target | u64::from(number), 0]);
        service.command([SYNC, 0, target, 0]);
    });
}

impl Service {
    /// The name of a processor in commands.
    fn target(&self, number: u16) -> u64 {
        match self.redistributors.get(usize::from(number)) {
            Some(frame) if self.by_address => *frame & !0xffff,
            _ => u64::from(number) << 16,
        }
    }

    /// Gives the service a command, and waits until it has taken it.
    fn command(&mut self, words: [u64; 4]) {
        for (index, word) in (0..).zip(words) {
            write(self.queue + self.next + index * 8, word);
        }
        self.next = (self.next + COMMAND_LEN) % PAGE_SIZE as u64;
        barrier();
        write(self.base + WRITE, self.next);
        let is_taken = (0..1_000_000).any(|_| read(self.base + READ) == self.next);
        if !is_taken {
            log::warn!("its: a command was not taken");
        }
    }

    /// Gives a device a table of its events, unless it has one; `None` if there is no room.
    fn add_device(&mut self, device: u16) -> Option<()> {
        if self.devices.iter().flatten().any(|(known, _)| *known == device) {
            return Some(());
        }
        let free = self.devices.iter().position(Option::is_none)?;
        let table = allocate(self.entry_len << EVENT_BITS)?;
        self.command([MAP_DEVICE | u64::from(device) << 32, EVENT_BITS - 1, VALID | table, 0]);
        self.devices[free] = Some((device, [0; 4]));
        Some(())
    }

    /// Marks an event of a device as mapped; returns whether it was.
    fn mark_mapped(&mut self, device: u16, event: u32) -> bool {
        let Some((_, events)) = self.devices.iter_mut().flatten().find(|(known, _)| *known == device) else {
            return false;
        };
        let (word, bit) = (&mut events[event as usize >> 6 & 3], 1 << (event & 63));
        let was_mapped = *word & bit != 0;
        *word |= bit;
        was_mapped
    }
}

/// Returns the message with which the device `from` raises `vector` on the processor with this number.
pub fn message(vector: u32, processor: u16, from: Requester) -> Option<Message> {
    without_interrupts(|| {
        let mut locked = SERVICE.lock();
        let service = locked.as_mut().filter(|_| from.segment == 0 && vector >> EVENT_BITS == 0)?;
        service.add_device(from.id)?;
        // SAFETY: the table has a byte for each interrupt, and vectors are fewer.
        unsafe { ((service.configuration + u64::from(vector)) as *mut u8).write_volatile(ENABLED) }
        barrier();
        let (device, event) = (u64::from(from.id) << 32, u64::from(vector));
        // An event that was mapped for another processor is not mapped again otherwise.
        if service.mark_mapped(from.id, vector) {
            service.command([DISCARD | device, event, 0, 0]);
        }
        service.command([
            MAP_EVENT | device,
            event | u64::from(FIRST + vector) << 32,
            u64::from(processor),
            0,
        ]);
        service.command([INVALIDATE | device, event, 0, 0]);
        let target = service.target(processor);
        service.command([SYNC, 0, target, 0]);
        Some(Message { address: service.base + TRANSLATER, data: vector })
    })
}
